"""A run that is killed, finds the disk full, a NaN or no store, and goes on, ends in the bytes of an unbroken one."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from children import child, dying_at, ended_well
from suture.activations.batches import Batch, batches
from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, DiskSpaceError, NumericalError
from suture.pipeline import artifact
from suture.pipeline.settings import from_flat
from suture.training.checkpoint import load_checkpoint
from suture.training.run import TrainProgress
from suture.training.settings import TrainSettings
from suture.training.train import train

BATCH = 64
SMALL = {"features": 32, "k": 3, "batch_size": BATCH, "learning_rate": 4e-3, "precision": "float32"} | {
    "validate_every": 4, "dead_after": 300, "k_aux": 5, "device": "cpu",
}  # fmt: skip
CASES = {
    # features die at once and AuxK revives them; nearly all time is spent saving
    "topk": {"sparsity": "topk", "model_dropout": 0.2, "checkpoint_every": 1},
    "batchtopk": {"sparsity": "batchtopk", "k_start": 2.0, "checkpoint_every": 3},
}


def options_of(n_steps: int, **changes: Any) -> dict[str, Any]:
    return SMALL | {"rows": n_steps * BATCH} | changes


def settings_of(n_steps: int, **changes: Any) -> TrainSettings:
    return from_flat(TrainSettings, options_of(n_steps, **changes))


def command(out: Path, store: Store, n_steps: int, *flags: str, **changes: Any) -> list[str]:
    words = ["train", str(out), "--store", str(store.path)]
    for name, value in options_of(n_steps, **changes).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, *flags]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics but for the clock's."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "rows_per_second"} for line in lines]


def assert_same(found: Path, expected: Path) -> None:
    """Finished, undamaged, nothing of the way there left, every number the same."""
    artifact.verify(found)
    names = {f.name for f in found.iterdir()}
    written = {"dictionary.json", "dictionary.safetensors", "moments.safetensors", "evaluation.json", "metrics.jsonl"}
    assert names == {"manifest.json", "run.log", *written}
    assert not artifact.partial_path(found).exists()
    assert not found.with_name(found.name + ".replaced").exists()
    one, two = Dictionary.load(found).state_dict(), Dictionary.load(expected).state_dict()
    assert one.keys() == two.keys()
    assert "threshold" in one
    for name, tensor in two.items():
        assert torch.equal(one[name], tensor), f"{found.name}: {name}"
    assert lines_of(found) == lines_of(expected)
    assert artifact.read_json(found / "evaluation.json") == artifact.read_json(expected / "evaluation.json")


# --- SIGKILL ----------------------------------------------------------------------------------------------------------

N_STEPS = 24
N_KILLS = 3


def kill_by_the_clock(store: Store, folder: Path) -> None:
    """Killed after random times; a run that is done before it could be killed is followed by another."""
    chance = random.Random(0)
    for name, changes in CASES.items():
        settings = settings_of(N_STEPS, **changes)
        began = time.monotonic()
        assert ended_well(child(lambda: train(folder / f"{name}-unbroken", store, settings)))  # noqa: B023
        seconds = time.monotonic() - began
        kills, run = 0, 0
        while kills < N_KILLS:
            run += 1
            done = False
            while not done:
                pid = child(lambda: train(folder / f"{name}-{run}", store, settings, resume=True))  # noqa: B023
                if kills < N_KILLS:
                    time.sleep(chance.uniform(0.0, 0.5) * seconds)
                    os.kill(pid, signal.SIGKILL)  # a child that is done waits for its parent, and is not disturbed
                done = ended_well(pid)
                kills += not done


def kill_at_every_moment(store: Store, folder: Path) -> None:
    """While saving: each child is killed one moment later than the one before. While finishing: each at its own."""
    for name, changes in list(CASES.items())[:1]:  # what is saved is saved in the same way for all
        settings = settings_of(4, **changes)
        assert ended_well(child(lambda: train(folder / f"{name}-unbroken", store, settings)))  # noqa: B023
        moment = 1
        while not ended_well(
            dying_at(moment, lambda: train(folder / f"{name}-saving", store, settings, resume=True))  # noqa: B023
        ):
            moment += 1
    settings = settings_of(4, **CASES["topk"])
    began = folder / "began.partial"

    def stop(p: TrainProgress) -> None:
        if p.step == settings.n_steps:
            os.kill(os.getpid(), signal.SIGKILL)

    assert not ended_well(child(lambda: train(folder / "began", store, settings, on_progress=stop)))
    moment, done = 0, False
    while not done:
        moment += 1
        out = folder / f"topk-finishing-{moment}"
        shutil.copytree(began, artifact.partial_path(out))
        done = ended_well(dying_at(moment, lambda: train(out, store, settings, resume=True)))  # noqa: B023
        assert done or ended_well(child(lambda: train(out, store, settings, resume=True)))  # noqa: B023
    shutil.rmtree(began)


@pytest.mark.parametrize("how", [kill_by_the_clock, kill_at_every_moment], ids=lambda f: f.__name__)
def test_a_killed_run_ends_like_an_unbroken_one(
    how: Callable[[Store, Path], None], unequal_store: Store, tmp_path: Path
) -> None:
    """In a process of its own: one that has run in parallel must not be copied."""
    words = [sys.executable, __file__, how.__name__, str(unequal_store.path), str(tmp_path)]
    helpers = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280, env=os.environ | helpers)
    assert done.returncode == 0, done.stderr
    found = sorted(f.name for f in tmp_path.iterdir())
    assert len(found) >= 2 * len(CASES)
    for name in found:
        assert_same(tmp_path / name, tmp_path / f"{name.split('-')[0]}-unbroken")


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", ["topk", "batchtopk"])
@pytest.mark.parametrize("where", ["_select", "_result"])
def test_ctrl_c_within_a_step_waits_for_its_end(
    where: str, sparsity: str, unequal_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the cut-off moved or the weights did: half a step could not be gone on from."""
    from suture.training.step import TrainingState

    settings = settings_of(20, sparsity=sparsity, checkpoint_every=50)
    train(tmp_path / "unbroken", unequal_store, settings)
    real, calls = getattr(TrainingState, where), 0

    def interrupted(self: TrainingState, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(self, *args)
        if calls in (7, 20):
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(TrainingState, where, interrupted)
    out = tmp_path / "out"
    for step in (7, 20):  # the last one too: nothing is left to do then but to finish
        with pytest.raises(KeyboardInterrupt):
            train(out, unequal_store, settings, resume=True)
        found = load_checkpoint(artifact.partial_path(out))
        assert found is not None
        assert found.step == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(out, unequal_store, settings, resume=True)
    assert_same(out, tmp_path / "unbroken")


def test_a_second_ctrl_c_does_not_wait_and_half_a_step_is_not_saved(
    unequal_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suture.training.adam import Adam

    settings = settings_of(20, checkpoint_every=5)
    train(tmp_path / "unbroken", unequal_store, settings)
    real, calls = Adam.update, 0

    def interrupted(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        real(*args, **kwargs)
        if calls == 8 * 4 + 2:  # in the ninth step two of four parameters have moved
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Adam, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(out, unequal_store, settings)
    found = load_checkpoint(artifact.partial_path(out))
    assert found is not None
    assert found.step == 5
    train(out, unequal_store, settings, resume=True)
    assert_same(out, tmp_path / "unbroken")


def test_ctrl_c_during_the_final_evaluation_loses_no_step(
    unequal_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(10, checkpoint_every=50)
    train(tmp_path / "unbroken", unequal_store, settings)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Dictionary, "write", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(out, unequal_store, settings)
    found = load_checkpoint(artifact.partial_path(out))
    assert found is not None
    assert found.step == 10
    train(out, unequal_store, settings, resume=True)
    assert_same(out, tmp_path / "unbroken")


# --- a full disk ------------------------------------------------------------------------------------------------------


@contextmanager
def files_at_most(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond (Python ignores the signal, so that writing fails)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("n_bytes", "what", "changes"),
    [
        (9_000, "a checkpoint", {"checkpoint_every": 5}),
        (5_000, "the result", {"checkpoint_every": 50}),
        (1_500, "a line of metrics", {"checkpoint_every": 50}),
    ],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on(
    n_bytes: int, what: str, changes: dict[str, int], unequal_store: Store, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, n_steps = tmp_path / "out", 22
    assert run(command(tmp_path / "unbroken", unequal_store, n_steps, **changes)) == 0
    interrupt_at(12, monkeypatch, lambda: run(command(out, unequal_store, n_steps, **changes)), expected=130)
    capsys.readouterr()
    with files_at_most(n_bytes):
        assert run(command(out, unequal_store, n_steps, "--resume", **changes)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]  # after the lines of progress
    assert last.startswith(f"suture: dictionary = {artifact.partial_path(out)}: has no room for {what}")
    assert last.endswith("free some disk, then go on with --resume")
    assert said.err.count("suture:") == 1
    found = load_checkpoint(artifact.partial_path(out))
    assert found is not None
    assert found.step >= 12
    assert run(command(out, unequal_store, n_steps, "--resume", **changes)) == 0
    assert_same(out, tmp_path / "unbroken")


@pytest.mark.parametrize("what", ["a checkpoint", "the result", "a line of metrics"])
def test_a_disk_that_is_really_full(what: str, unequal_store: Store, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be made where mounting is permitted")
    try:
        changes = {"checkpoint_every": 1} if what == "a checkpoint" else {"checkpoint_every": 50}
        settings = settings_of(24, **changes, validate_every=1)
        train(tmp_path / "unbroken", unequal_store, settings)
        room = {"a checkpoint": 24, "the result": 14, "a line of metrics": 0}[what] * 1024

        def fill(p: TrainProgress) -> None:
            if p.step == (24 if what == "the result" else 6):
                free = shutil.disk_usage(disk).free
                (disk / "filler").write_bytes(b"\0" * (free - room))

        with pytest.raises(DiskSpaceError, match=f"has no room for {what} .*No space left on device"):
            train(disk / "out", unequal_store, settings, on_progress=fill)
        (disk / "filler").unlink()
        assert (what == "a checkpoint") == (load_checkpoint(disk / "out.partial") is not None)
        train(disk / "out", unequal_store, settings, resume=True)
        assert_same(disk / "out", tmp_path / "unbroken")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- NaN --------------------------------------------------------------------------------------------------------------


def changed_batches(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Batch], Batch]) -> None:
    """Feed every batch, with its number, through `change`."""

    def changed(*args: Any, start: int = 0, **kwargs: Any) -> Iterator[Batch]:
        for number, batch in enumerate(batches(*args, start=start, **kwargs), start=start):
            yield change(number, batch)

    monkeypatch.setattr("suture.training.feed.batches", changed)


def interrupt_at(number: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], *, expected: object) -> None:
    def stop(n: int, batch: Batch) -> Batch:
        if n == number:
            raise KeyboardInterrupt
        return batch

    with monkeypatch.context() as patch:
        changed_batches(patch, stop)
        assert work() == expected


@pytest.mark.parametrize(
    ("factor", "noticed"),
    [
        (1e25, "made the loss NaN or infinite at step 18"),
        # the loss is finite, the square of its gradient is not
        (1e12, r"made weights or their moments NaN or infinite by step (18|20)"),
    ],
)
@pytest.mark.parametrize("checkpoint_every", [1, 5])
def test_no_nan_is_ever_saved(
    factor: float, noticed: str, checkpoint_every: int, unequal_store: Store, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    changed_batches(
        monkeypatch, lambda n, b: Batch(activations=b.activations * factor, model=b.model) if n == 17 else b
    )
    settings = settings_of(22, checkpoint_every=checkpoint_every, validate_every=7)
    with pytest.raises(NumericalError, match=noticed):
        train(out, unequal_store, settings)
    found = load_checkpoint(artifact.partial_path(out))
    assert found is not None
    assert found.step == (17 if checkpoint_every == 1 else 15)
    assert all(t.isfinite().all() for t in (*found.per_feature.values(), *found.common.values()))
    monkeypatch.undo()
    train(out, unequal_store, settings, resume=True)  # the store was mended: the checkpoint is from before
    train(tmp_path / "unbroken", unequal_store, settings)
    assert_same(out, tmp_path / "unbroken")


def test_weights_that_overflow_at_the_very_last_step_are_not_written(
    unequal_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suture.training.adam import Adam

    real = Adam.update

    def overflowing(self: Adam, name: str, parameter: Tensor, *args: Any, **kwargs: Any) -> None:
        real(self, name, parameter, *args, **kwargs)
        if self.steps == 9:
            parameter[0] = torch.inf

    monkeypatch.setattr(Adam, "update", overflowing)
    with pytest.raises(NumericalError, match="made weights or their moments NaN or infinite by step 10"):
        train(tmp_path / "out", unequal_store, settings_of(10, checkpoint_every=50, validate_every=20))
    assert not list(tmp_path.iterdir())


# --- a vanished store -------------------------------------------------------------------------------------------------


def test_where_the_store_cannot_be_read_the_last_step_is_kept(
    unequal_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def vanish(number: int, batch: Batch) -> Batch:
        if number == 13:
            raise ArtifactError("store", unequal_store.path, "vanished", "bring it back, then go on with --resume")
        return batch

    changes = {"sparsity": "batchtopk", "checkpoint_every": 10}
    assert run(command(tmp_path / "unbroken", unequal_store, 25, **changes)) == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        changed_batches(patch, vanish)
        capsys.readouterr()
        assert run(command(out, unequal_store, 25, **changes)) == 2
    said = capsys.readouterr().err
    assert said.count("suture:") == 1
    assert said.splitlines()[-1].startswith(f"suture: store = {unequal_store.path}: vanished")
    found = load_checkpoint(artifact.partial_path(out))
    assert found is not None
    assert found.step == 13
    assert run(command(out, unequal_store, 25, "--resume", **changes)) == 0
    assert_same(out, tmp_path / "unbroken")


def test_a_store_that_is_really_gone(unequal_store: Store, tmp_path: Path) -> None:
    """Either what is mapped can still be read to the end, or the run stops with what it reached."""
    place = tmp_path / "store"
    shutil.copytree(unequal_store.path, place)
    settings = settings_of(25, checkpoint_every=10)
    train(tmp_path / "unbroken", Store.open(place), settings)

    def take_away(p: TrainProgress) -> None:
        if p.step == 12:
            place.rename(tmp_path / "elsewhere")

    out = tmp_path / "out"
    with suppress(ArtifactError):
        train(out, Store.open(place), settings, on_progress=take_away)
    if not out.exists():
        found = load_checkpoint(artifact.partial_path(out))
        assert found is not None
        assert found.step >= 12
    (tmp_path / "elsewhere").rename(place)
    train(out, Store.open(place), settings, resume=True)
    assert_same(out, tmp_path / "unbroken")


def test_a_store_that_was_gone_before_leaves_no_folder(unequal_store: Store, tmp_path: Path) -> None:
    place = tmp_path / "store"
    shutil.copytree(unequal_store.path, place)
    store = Store.open(place)
    shutil.rmtree(place)
    with pytest.raises((ArtifactError, FileNotFoundError)):
        train(tmp_path / "out", store, settings_of(10))
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    torch.set_num_threads(1)  # nothing may run in parallel before a fork
    globals()[sys.argv[1]](Store.open(sys.argv[2]), Path(sys.argv[3]))
