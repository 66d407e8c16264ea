"""Laws of a run's log: it is there however the run ends, it grows where one goes on, and no result depends on it."""

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from suture.cli import console
from suture.pipeline import artifact, log
from suture.pipeline.job import silent


def make(path: Path, *lines: str, **options: object) -> Path:
    with artifact.create(path, stage="probe", settings={"k": 3}, **options) as draft:  # pyright: ignore[reportArgumentType]
        (draft.folder / "data.txt").write_text("hello")
        for line in lines:
            log.note(line)
    return path


def lines_of(folder: Path) -> list[str]:
    """Without their times, which every line begins with."""
    stamped = (folder / log.LOG).read_text(encoding="utf-8").splitlines()
    assert all(line[:20].endswith("Z") and line[20:22] == "  " for line in stamped)
    return [line[22:] for line in stamped]


def test_it_says_what_was_made_from_what_with_which_versions_and_how_long_it_took(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    made = make(tmp_path / "made", parents=[first], command="suture probe made --k 3")
    begun, versions, command, inputs, ended = lines_of(made)
    assert begun == "probe made: begun"
    assert f"suture {artifact.package_version()}" in versions
    assert f"Python {sys.version.split()[0]}" in versions
    assert "torch " in versions
    assert (command, inputs) == ("command: suture probe made --k 3", f"made from: {first}")
    assert ended.startswith("finished, after 0:0")


def test_no_result_depends_on_it(tmp_path: Path) -> None:
    """Not in the manifest, so that whatever was made from it is still made from it, and it may change or go."""
    made = make(tmp_path / "a")
    assert [file.name for file in artifact.verify(made).files] == ["data.txt"]
    child = make(tmp_path / "b", parents=[made])
    (made / log.LOG).write_text("changed")
    artifact.verify(made)
    assert artifact.is_made(child, stage="probe", settings={"k": 3}, parents=[made])
    (made / log.LOG).unlink()
    artifact.verify(made)
    assert artifact.is_made(child, stage="probe", settings={"k": 3}, parents=[made])


class PowerCutError(Exception):
    """What ends a run in the middle."""


def cut_short(path: Path, error: BaseException, **options: bool) -> None:
    with artifact.create(path, stage="probe", settings={"k": 3}, **options):
        log.note("half way")
        raise error


def test_a_resumed_run_goes_on_in_the_log_of_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        cut_short(tmp_path / "a", PowerCutError("no power"), resumable=True)
    with pytest.raises(KeyboardInterrupt):
        cut_short(tmp_path / "a", KeyboardInterrupt(), resume=True, resumable=True)
    said = [line for line in lines_of(make(tmp_path / "a", resume=True)) if not line.startswith("versions")]
    assert [line.partition(", after")[0] for line in said] == [
        "probe a: begun", "half way", "failed: PowerCutError: no power",
        "probe a: gone on with", "half way", "interrupted",
        "probe a: gone on with", "finished",
    ]  # fmt: skip


def test_a_run_that_begins_anew_has_a_log_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        cut_short(tmp_path / "a", PowerCutError("no power"), resumable=True)
    assert "half way" not in lines_of(make(tmp_path / "a"))


def test_a_killed_run_has_what_it_said_until_then(tmp_path: Path) -> None:
    """Killed as by the system for want of memory: no line waits in a buffer."""
    program = (
        "import os, signal; from pathlib import Path; from suture.pipeline import artifact, log\n"
        f"with artifact.create(Path({str(tmp_path / 'a')!r}), stage='probe', settings={{}}):\n"
        "    log.told('rows', 5, 10); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=dict(os.environ)).returncode == -signal.SIGKILL
    assert lines_of(tmp_path / "a.partial")[-1] == "rows: 5/10"


def test_progress_leaves_milestones(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "a", stage="probe", settings={}):
        for done in range(1_001):
            log.told("rows", done, 1_000, f"fvu {done}")
            log.told("steps", done, 1_000)
    rows = [line for line in lines_of(tmp_path / "a") if line.startswith("rows")]
    assert rows == [f"rows: {done:,}/1,000 fvu {done}" for done in range(0, 1_001, 100)]


def test_a_thing_that_is_slow_leaves_them_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 7))
    monkeypatch.setattr(log.time, "monotonic", lambda: float(next(clock)))
    with artifact.create(tmp_path / "a", stage="probe", settings={}):
        for done in range(20):
            log.told("rows", done, 1_000)
    assert [line for line in lines_of(tmp_path / "a") if line.startswith("rows")] == [
        "rows: 0/1,000", "rows: 9/1,000", "rows: 18/1,000",
    ]  # fmt: skip


def test_what_people_are_told_is_in_it_also_where_they_want_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with artifact.create(tmp_path / "a", stage="probe", settings={}), console.progress() as advance:
            advance("rows", 1, 2, "fvu 0.5")
            console.say("one thing")
            silent("nobody hears", 1, 2)

    assert console.answer(["--quiet", "probe"], work, interrupted="", named=str) == 0
    assert capsys.readouterr().err == ""
    assert lines_of(tmp_path / "a")[2:-1] == ["rows: 1/2 fvu 0.5", "one thing", "nobody hears: 1/2"]


def test_warnings_are_in_it_and_still_reach_whoever_they_reached(tmp_path: Path) -> None:
    heard = logging.getLogger("suture.heard")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = warnings.showwarning
        with artifact.create(tmp_path / "a", stage="probe", settings={}):
            warnings.warn("a strange number", RuntimeWarning, stacklevel=1)
            heard.warning("%s is damaged", "it")
            heard.info("nothing")
        assert warnings.showwarning is before
        warnings.warn("afterwards", RuntimeWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["a strange number", "afterwards"]
    said = lines_of(tmp_path / "a")[2:-1]
    assert said == [
        f"warning: RuntimeWarning: a strange number (test_log.py:{caught[0].lineno})", "warning: it is damaged",
    ]  # fmt: skip
    assert not any(isinstance(handler, log._Ear) for handler in logging.getLogger().handlers)


def test_a_warning_that_nobody_else_hears_is_still_on_stderr(tmp_path: Path) -> None:
    program = (
        "import logging; from pathlib import Path; from suture.pipeline import artifact\n"
        f"with artifact.create(Path({str(tmp_path)!r}) / 'a', stage='probe', settings={{}}):\n"
        "    logging.getLogger('suture.x').warning('it is damaged')\n"
        "    logging.getLogger().addHandler(logging.NullHandler())\n"
        "    logging.getLogger('suture.x').warning('heard by another')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr == "it is damaged\n"


def test_results_written_at_once_each_have_their_own(tmp_path: Path) -> None:
    """As `train_many` writes them; ended in the order in which they began."""
    one = artifact.create(tmp_path / "one", stage="probe", settings={})
    two = artifact.create(tmp_path / "two", stage="probe", settings={})
    one.__enter__()
    two.__enter__()
    log.note("for both")
    one.__exit__(None, None, None)
    log.note("for two")
    two.__exit__(None, None, None)
    log.note("for nobody")
    assert log._open.get() == ()
    assert lines_of(tmp_path / "one")[2:-1] == ["for both"]
    assert lines_of(tmp_path / "two")[2:-1] == ["for both", "for two"]


def test_a_log_that_cannot_be_written_does_not_end_the_work(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "a", stage="probe", settings={}) as draft:
        for own in log._open.get():
            own._stream.close()  # as a disk that is gone
        log.note("unheard")
        (draft.folder / "data.txt").write_text("hello")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["files"][0]["name"] == "data.txt"
