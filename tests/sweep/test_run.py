"""Laws of the runner: what is done is kept, failures stop only what needs them, a kill loses nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from suture.errors import UserError
from suture.pipeline.job import Context, Job
from suture.sweep.run import JobError, JobResult, run_jobs
from sweep.toys import toy


def states(results: tuple[JobResult, ...]) -> dict[str, str]:
    return {r.job.name: r.state for r in results}


def times_begun(job: Job) -> int:
    return (job.out.parent / f"{job.out.name}.log").read_text().count("begun")


def test_making_a_job_runs_nothing(tmp_path: Path) -> None:
    job = toy(tmp_path, "a", 1)
    assert not job.is_done
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_after_those_they_need_and_are_kept(tmp_path: Path, workers: int) -> None:
    a, b = toy(tmp_path, "a", 1), toy(tmp_path, "b", 2)
    c = toy(tmp_path, "c", 3, a, b)
    told: list[tuple[int, int]] = []
    context = Context(tell=lambda _what, done, total, _note: told.append((done, total)))
    assert states(run_jobs([a, b, c], context, workers=workers)) == dict.fromkeys("abc", "made")
    assert (c.out / "value").read_text() == "1 2 3"
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert states(run_jobs([a, b, c])) == dict.fromkeys("abc", "kept")
    assert [times_begun(job) for job in (a, b, c)] == [1, 1, 1]


def test_other_settings_or_inputs_are_no_reason_to_keep(tmp_path: Path) -> None:
    a = toy(tmp_path, "a", 1)
    b = toy(tmp_path, "b", 2, a)
    run_jobs([a, b])
    changed = toy(tmp_path, "a", 7)
    after = toy(tmp_path, "b", 2, changed)
    refused, waiting = run_jobs([changed, after])
    assert (refused.state, waiting.state) == ("failed", "not run")
    assert "is finished already, with value 1" in str(refused.error)
    assert states(run_jobs([changed, after], Context(overwrite=True))) == {"a": "made", "b": "made"}
    assert (after.out / "value").read_text() == "7 2", "its input is another now"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_stops_only_what_needs_it_and_is_tried_again(tmp_path: Path, workers: int) -> None:
    bad, bug = toy(tmp_path, "bad", 1, fails="user"), toy(tmp_path, "bug", 2, fails="bug")
    good = toy(tmp_path, "good", 3)
    needs = toy(tmp_path, "needs", 4, good, bad)
    results = run_jobs([bad, bug, good, needs], workers=workers)
    assert states(results) == {"bad": "failed", "bug": "failed", "good": "made", "needs": "not run"}
    assert str(results[0].error) == "value = 1: is wrong; mend it"
    assert isinstance(results[0].error, UserError), "what it was, wherever it was raised"
    assert isinstance(results[1].error, AssertionError if workers == 1 else JobError)
    assert workers == 1 or "AssertionError" in str(results[1].error)
    assert str(results[3].error) == "needs what failed: bad"
    mended = toy(tmp_path, "bad", 1)
    again = run_jobs([mended, good, toy(tmp_path, "needs", 4, good, mended)])
    assert states(again) == {"bad": "made", "good": "kept", "needs": "made"}


def test_the_job_of_a_killed_worker_is_tried_again_and_takes_nobody_with_it(tmp_path: Path) -> None:
    victim = toy(tmp_path, "victim", 1, killed_once=True)
    others = [toy(tmp_path, f"other{n}", n, seconds=0.1) for n in range(3)]
    after = toy(tmp_path, "after", 9, victim)
    results = run_jobs([victim, *others, after], workers=2)
    assert set(states(results).values()) == {"made"}
    assert times_begun(victim) == 2
    assert [times_begun(job) for job in others] == [1, 1, 1]


def test_mistakes_are_refused_before_anything_runs(tmp_path: Path) -> None:
    a = toy(tmp_path, "a", 1)
    with pytest.raises(UserError, match="workers = 0"):
        run_jobs([a], workers=0)
    with pytest.raises(UserError, match="is the output of two jobs"):
        run_jobs([a, toy(tmp_path, "a", 2)])
    assert not list(tmp_path.iterdir())


def test_a_runner_and_a_worker_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """A short campaign; `python scripts/kill_campaign.py --kills 20` is the long one, `--real` that on real sweeps."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "kill_campaign.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, script, "--kills", "2", "--seed", "3"], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert sum(found["kills"].values()) >= 1
    assert found["done_after"][-1] == 48
