"""Laws of collecting on several ranks: the bytes are those of one, also when others of another number go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

from suture.activations import rows as module
from suture.activations.collect import CollectProgress, collect
from suture.activations.rows import plan_rows, rows_of
from suture.activations.shards import SHARD
from suture.activations.store import Store
from suture.activations.windows import State, windows
from suture.errors import UserError
from suture.lm.corpus import Corpus
from suture.lm.load import LanguageModel, load_model
from suture.parallel import Ranks
from suture.pipeline import artifact

SMALL: dict[str, Any] = {"block": 20, "batch_tokens": 50, "shard_rows": 300, "n_rows": 4000}


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process."""

    barrier: Barrier = field(default_factory=lambda: Barrier(1))
    board: dict[str, Any] = field(default_factory=dict)

    def agree(self, value: Any) -> Any:
        if self.leads:
            self.board["value"] = artifact.as_json(value)
        self.wait()
        agreed = self.board["value"]
        self.wait()
        return agreed

    def wait(self) -> None:
        self.barrier.wait(timeout=60)


Run = Callable[[Path, int, Callable[[int, CollectProgress], None]], list[Store]]


@pytest.fixture(scope="module")
def run(model_folders: dict[str, Path], corpus: Corpus) -> Run:
    """Collect on so many threads; each has its own models, for a recording stops its model's own forward pass."""
    places = {"one": "mlp0.out", "other": "resid0.post"}
    sources = [[(load_model(str(model_folders[n]), device="cpu"), at) for n, at in places.items()] for _ in range(3)]

    def collected(path: Path, n_ranks: int, on_progress: Callable[[int, CollectProgress], None]) -> list[Store]:
        barrier, board = Barrier(n_ranks), {}

        def one(rank: int) -> Store:
            try:
                return collect(
                    path,
                    sources=sources[rank],
                    corpus=corpus,
                    resume=True,
                    on_progress=lambda progress: on_progress(rank, progress),
                    ranks=Threads(rank, n_ranks, barrier=barrier, board=board),
                    **SMALL,
                )
            except BaseException:
                barrier.abort()
                raise

        with ThreadPoolExecutor(n_ranks) as pool:
            futures = [pool.submit(one, rank) for rank in range(n_ranks)]
        errors = [e for f in futures if (e := f.exception()) is not None and "Broken" not in type(e).__name__]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]

    return collected


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, lms_loaded: dict[str, LanguageModel], corpus: Corpus) -> Store:
    sources = [(lms_loaded["one"], "mlp0.out"), (lms_loaded["other"], "resid0.post")]
    return collect(tmp_path_factory.mktemp("alone") / "s", sources=sources, corpus=corpus, **SMALL)


def test_three_ranks_write_the_bytes_of_one(tmp_path: Path, run: Run, alone: Store) -> None:
    assert len(alone.shards) > 5
    assert len(alone) % SMALL["shard_rows"], "the last shard is to be a shorter one"
    for store in run(tmp_path / "s", 3, lambda _rank, _progress: None):
        assert store.manifest.files == alone.manifest.files
        assert store.manifest.settings == alone.manifest.settings


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 1), (1, 3)])
def test_a_stopped_run_goes_on_with_another_number_of_ranks(
    tmp_path: Path, run: Run, alone: Store, before: int, after: int
) -> None:
    def stop(rank: int, progress: CollectProgress) -> None:
        if rank == before - 1 and progress.n_rows >= 1700:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", before, stop)
    partial = artifact.partial_path(tmp_path / "s")
    finished = {file.parent.name: file.stat().st_mtime_ns for file in partial.glob(f"*/{SHARD}")}
    assert 0 < len(finished) < len(alone.shards)
    stores = run(tmp_path / "s", after, lambda _rank, _progress: None)
    assert stores[0].manifest.files == alone.manifest.files
    for shard, time_written in finished.items():
        assert (tmp_path / "s" / shard / SHARD).stat().st_mtime_ns == time_written, (
            "what was there is not written again"
        )


def test_a_mistake_of_one_rank_leaves_what_the_others_wrote(tmp_path: Path, run: Run) -> None:
    def fail(rank: int, progress: CollectProgress) -> None:
        if rank == 1 and progress.n_rows >= 1700:
            raise UserError("at", "mlp0.out", "is broken", "mend it")

    with pytest.raises(UserError, match="is broken"):
        run(tmp_path / "s", 2, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["s.partial"]


def test_rows_that_are_not_wanted_are_not_run_and_change_no_bit(
    lms: dict[str, LanguageModel], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_rows([(lms["two"], "mlp1.out")], block=20, dtype="float32", batch_tokens=50)
    window = next(windows(corpus, plan.models, block=20, n_tokens=800, n_rows=800, start=State.beginning(1)))
    passes: list[int] = []
    real = module.record_at
    monkeypatch.setattr(module, "record_at", lambda lm, ids, points: passes.append(len(ids)) or real(lm, ids, points))
    n_rows = window.after.n_rows
    every = rows_of(plan, window, torch.ones(n_rows, dtype=torch.bool))
    n_passes = len(passes)
    wanted = torch.arange(n_rows) >= n_rows - 3
    some = rows_of(plan, window, wanted)
    assert 0 < len(passes) - n_passes < n_passes
    assert torch.equal(some.activations[0][wanted], every.activations[0][wanted])
    assert torch.equal(some.ends, every.ends)
