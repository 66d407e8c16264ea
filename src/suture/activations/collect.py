"""Collect: text through two or more language models, their activations at chosen hookpoints side by side into a store.

1. Settings are checked, and the disk that the store will take is reported and refused where it does not fit.
2. The corpus comes in windows of pieces of text whose borders depend on the corpus and the settings alone.
3. The models run over a window while the next one is tokenized and the rows of the one before are written.
4. The rows are appended to the shards. A finished shard remembers where its last window began: a run that was killed
   computes that window again, batch for batch, and so ends in the same bytes as an unbroken one.
5. Means, scales and counts are written, then the manifest.

Of several ranks each goes over all the text, since only that tells which row is which, but runs the models for its own
shards alone. The leader begins and ends the folder. The bytes are those of one rank.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from suture.activations.batches import read_ahead
from suture.activations.rows import Plan, plan_rows, rows_of
from suture.activations.settings import CollectSettings
from suture.activations.shards import SHARD, ShardWriter, write_index
from suture.activations.store import STAGE, STORAGE, Alignment, Precision, Store
from suture.activations.windows import State, check_enough, windows
from suture.errors import UserError
from suture.lm.corpus import Corpus, as_corpus, corpus_of, named_corpus
from suture.lm.load import LanguageModel, fingerprint_of
from suture.lm.models import accelerator, load_models
from suture.parallel import ALONE, Ranks, local_device
from suture.pipeline import artifact

TEXT_BYTES_PER_ROW = 8
"""Room for the documents' text in the estimate of the disk; English has four to five bytes to a token."""


@dataclass(frozen=True, kw_only=True)
class CollectProgress:
    """Where a collection stands; the first one comes before anything is computed."""

    n_rows: int
    """Rows gone over; the last of them may still be on their way to the disk."""
    n_rows_wanted: int
    n_documents: int
    """Documents begun."""
    n_tokens: tuple[int, ...]
    """Tokens of text seen, per model."""
    n_kept: int
    """Text positions where a token of every model ends."""
    rows_per_second: float
    """Of this run; 0 before its first rows."""
    n_bytes_expected: int
    """Disk that the store takes, less what an interrupted run wrote already."""
    n_bytes_free: int
    """Disk that was free before the start."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A plan, its text and the size of the store."""

    plan: Plan
    corpus: Corpus
    n_rows: int
    shard_rows: int


def collect(
    path: str | Path,
    *,
    sources: Sequence[tuple[LanguageModel | str, str]],
    corpus: Corpus | str | Path,
    n_rows: int,
    block: int = 128,
    dtype: str = "bfloat16",
    batch_tokens: int | None = None,
    shard_rows: int = 65536,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[CollectProgress], None] | None = None,
    command: str | None = None,
    free_bytes: Callable[[Path], int] | None = None,
    ranks: Ranks = ALONE.world,
) -> Store:
    """Run the corpus through the models and keep `n_rows` text positions, or all that a shorter corpus has.

    Args:
        path: the store's folder.
        sources: (model, hookpoint name) per space, the model loaded or by name; one with two hookpoints is run once.
        corpus: the text, or where it is (`open_corpus`), read in its own order.
        n_rows: text positions wanted.
        block: most tokens of text, per model, that are run together; BOS is put before them and not counted.
        dtype: precision on disk, "bfloat16" or "float32".
        batch_tokens: most tokens per forward pass, padding included; 1,024 on a CPU and 32,768 elsewhere without.
        shard_rows: rows per shard; what a killed run loses at most, and what one of several ranks computes at a time.
        resume: continue an unfinished run of the same settings; one that is finished already is opened.
        overwrite: replace a finished store.
        on_progress: called before the start, with the disk needed, and after every window.
        command: the shell command, for the manifest.
        free_bytes: how much disk is free at a folder; asks the system without.
        ranks: the processes that share the work, each with its own models and all with the same folder. A run may be
            resumed by another number of them.

    Raises:
        UserError: a setting that does not fit the models, an empty or too short corpus, or a run to be resumed that
            had other settings.
        DiskSpaceError: the store would not fit on the disk.
        NumericalError: an activation is NaN or infinite; the document is named.
        ArtifactError: `path` is finished already.
    """
    path = Path(path)
    for name, value in (("tokens", n_rows), ("shard_rows", shard_rows)):
        if value < 1:
            raise UserError(name, value, "is too small", "give at least 1")
    plan = plan_rows(sources, block=block, dtype=dtype, batch_tokens=batch_tokens)
    job = _Job(plan=plan, corpus=as_corpus(corpus), n_rows=n_rows, shard_rows=shard_rows)
    settings = _settings(job)
    if ranks.agree(ranks.leads and resume and artifact.is_made(path, stage=STAGE, settings=settings)):
        return Store.open(path)
    create = artifact.create(
        path, stage=STAGE, settings=settings, resume=resume, resumable=True, overwrite=overwrite, command=command,
        leads=ranks.leads,
    )  # fmt: skip
    with create as draft, _finished_shards_are_kept(draft.folder, ranks):
        disk = _room(path, job, free_bytes or artifact.free_bytes) if ranks.leads else None  # 1
        n_bytes, n_free = ranks.agree(disk)
        draft.settings |= _run(draft.folder, job, n_bytes, n_free, on_progress or (lambda _: None), ranks)
    ranks.wait()
    return Store.open(path)


def collect_with(
    path: str | Path,
    settings: CollectSettings,
    *,
    lms: Sequence[LanguageModel] | None = None,
    corpus: Corpus | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[CollectProgress], None] | None = None,
    command: str | None = None,
    ranks: Ranks = ALONE.world,
) -> Store:
    """`collect` of the models and the text that settings name, which are loaded and opened unless they are given.

    Raises:
        UserError: a model, hookpoint or corpus that cannot be had, and as `collect`.
    """
    models, load = settings.models, settings.models.load
    if corpus is None:
        corpus = corpus_of(settings.text, offline=load.offline)
    if lms is None:
        lms = load_models(models.model, load, device=local_device(accelerator(settings.device)))
    return collect(
        path,
        sources=list(zip(lms, models.hookpoints, strict=True)),
        corpus=corpus,
        n_rows=settings.tokens,
        block=settings.block,
        dtype=settings.dtype,
        batch_tokens=settings.batch_tokens,
        shard_rows=settings.shard_rows,
        resume=resume,
        overwrite=overwrite,
        on_progress=on_progress,
        command=command,
        ranks=ranks,
    )


def store_bytes(widths: Sequence[int], n_rows: int, dtype: Precision) -> int:
    """About how many bytes a store takes: activations, side columns and text.

    >>> store_bytes([128, 128], 1_000_000, "bfloat16")
    536000000
    """
    return n_rows * (sum(widths) * STORAGE[dtype].itemsize + 4 * (2 + len(widths)) + TEXT_BYTES_PER_ROW)


def _settings(job: _Job) -> dict[str, Any]:
    """Everything that decides the store's bytes, as JSON values."""
    plan = job.plan
    return {
        "spaces": plan.sources,
        "corpus": str(job.corpus.source),
        "corpus_description": job.corpus.description,
        "corpus_checksum": job.corpus.checksum,
        "n_rows_wanted": job.n_rows,
        "block": plan.block,
        "dtype": plan.dtype,
        "batch_tokens": plan.batch_tokens,
        "shard_rows": job.shard_rows,
    }


def known_beforehand(settings: CollectSettings) -> dict[str, Any]:
    """What of that is known before the models are loaded: enough to tell whether a store is the one asked for."""
    models, load = settings.models, settings.models.load
    spaces = []
    for model, hookpoint, revision in zip(models.model, models.hookpoints, models.revisions, strict=True):
        known = {"fingerprint": fingerprint_of(model), "dtype": f"torch.{load.lm_dtype}"}
        unknown = {"fingerprint": None, "dtype": "torch.auto"}
        spaces.append(
            {"model": model, "hookpoint": hookpoint, "revision": revision}
            | {name: value for name, value in known.items() if value != unknown[name]}
        )
    corpus = named_corpus(settings.text)
    return {
        "spaces": spaces,
        "corpus": settings.text.corpus,
        "corpus_description": None if corpus is None else corpus.description,
        "corpus_checksum": None if corpus is None else corpus.checksum,
        "n_rows_wanted": settings.tokens,
        "block": settings.block,
        "dtype": settings.dtype,
        "shard_rows": settings.shard_rows,
    } | ({} if settings.batch_tokens is None else {"batch_tokens": settings.batch_tokens})


def _room(path: Path, job: _Job, free_bytes: Callable[[Path], int]) -> tuple[int, int]:
    """The bytes still to be written and those that are free."""
    shards = artifact.partial_path(path).glob("shard-*")
    n_free, there = free_bytes(path), sum(artifact.bytes_in(shard) for shard in shards)
    n_bytes = max(store_bytes([s.width for s in job.plan.spaces], job.n_rows, job.plan.dtype) - there, 0)
    artifact.check_room(path, n_bytes, "collect fewer tokens", n_free=n_free)
    return n_bytes, n_free


@contextmanager
def _finished_shards_are_kept(folder: Path, ranks: Ranks) -> Iterator[None]:
    """A mistake found late, one bad record or a NaN, costs only what comes after it; at once it leaves nothing."""
    try:
        yield
    except UserError as error:
        n_shards = len(list(folder.glob(f"*/{SHARD}")))
        if n_shards == 0:
            if ranks.size == 1:  # of several ranks, others may still write here
                shutil.rmtree(folder)
            raise
        fix = f"{error.fix}; {n_shards} finished shards are kept, --resume goes on behind them"
        raise type(error)(error.setting, error.value, error.problem, fix) from error


def _run(
    folder: Path, job: _Job, n_bytes: int, n_free: int, on_progress: Callable[[CollectProgress], None], ranks: Ranks
) -> dict[str, Any]:
    """Steps 2 to 5; returns the counts for the manifest."""
    plan = job.plan
    writer = ShardWriter(
        folder,
        spaces=plan.spaces,
        dtype=plan.dtype,
        shard_rows=job.shard_rows,
        rank=ranks.rank,
        n_ranks=ranks.size,
    )
    begun = writer.state_before()
    state = State.beginning(len(plan.models)) if begun is None else State.from_json(begun)
    writer.n_rows = min(state.n_rows, job.n_rows)
    n_before = writer.n_rows if state.finished else min(writer.first_wanted, job.n_rows)
    started = time.monotonic()

    def report() -> None:
        n_rows = max(n_before, min(state.n_rows, job.n_rows))
        on_progress(
            CollectProgress(
                n_rows=n_rows,
                n_rows_wanted=job.n_rows,
                n_documents=state.n_documents,
                n_tokens=state.n_tokens,
                n_kept=state.n_rows,
                rows_per_second=(n_rows - n_before) / max(time.monotonic() - started, 1e-9),
                n_bytes_expected=n_bytes,
                n_bytes_free=n_free,
            )
        )

    report()
    cut = windows(
        job.corpus, plan.models, block=plan.block, n_tokens=plan.window_tokens, n_rows=job.n_rows, start=state
    )  # 2
    try:
        with (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="suture-write") as pool,
            closing(read_ahead(lambda _: next(cut, None), count(), 1)) as ahead,
        ):
            written: Future[None] | None = None
            for window in ahead:
                if window is None:
                    break
                numbers = torch.arange(window.before.n_rows, min(window.after.n_rows, job.n_rows))
                rows = rows_of(plan, window, writer.wanted(numbers))  # 3
                if written is not None:
                    written.result()
                written = pool.submit(writer.append, rows, state=asdict(window.before))  # 4
                state = window.after
                report()
            if written is not None:
                written.result()
        if state.n_rows < job.n_rows:
            check_enough(job.corpus, state, block=plan.block)
        writer.finish({**asdict(state), "finished": True})
    finally:
        writer.close()
    ranks.wait()
    alignment = [
        Alignment(n_tokens=state.n_tokens[m], n_kept=state.n_rows, n_special=state.n_special[m]) for m in plan.model_of
    ]
    if ranks.leads:
        write_index(writer, alignment)  # 5
    return {
        "n_rows": writer.n_rows,
        "n_documents": state.n_documents,
        "alignment": [{**asdict(a), "kept_share": a.kept_share} for a in alignment],
    }
