"""Collect: text through two or more language models, their activations at chosen hookpoints side by side into a store.

1. Settings are checked, and the disk that the store will take is reported and refused where it does not fit.
2. The corpus comes in windows of pieces of text whose borders depend on the corpus and the settings alone.
3. Each model runs over the window's pieces, BOS first, batched by similar length so that little padding is computed,
   and one pass gives all its hookpoints; the kept positions go to their rows in document order.
4. The rows are appended to the shards. A finished shard remembers where its last window began: a run that was killed
   computes that window again, batch for batch, and so ends in the same bytes as an unbroken one.
5. Means, scales and counts are written, then the manifest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from suture import artifact
from suture.activations.batches import read_ahead
from suture.activations.shards import Rows, ShardWriter, SpaceName, write_index
from suture.activations.store import STEP, STORAGE, Alignment, Precision, Store
from suture.activations.windows import State, Window, windows
from suture.errors import DiskSpaceError, NumericalError, UserError
from suture.lm.corpus import Corpus
from suture.lm.hookpoints import width_of
from suture.lm.hooks import record
from suture.lm.load import LanguageModel

SETTINGS = "settings.json"
WINDOW_BATCHES = 8
"""Batches per window: enough to sort pieces by length, little enough to lie in memory and to compute again."""
TEXT_BYTES_PER_ROW = 8
"""Room for the documents' text in the estimate of the disk; English has four to five bytes to a token."""


@dataclass(frozen=True, kw_only=True)
class CollectProgress:
    """Where a collection stands; the first one comes before anything is computed."""

    n_rows: int
    """Rows written."""
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
class _Plan:
    """The models to run, none twice, and which space is which model's hookpoint."""

    models: tuple[LanguageModel, ...]
    spaces_of: tuple[tuple[int, ...], ...]
    """Per model, its spaces."""
    model_of: tuple[int, ...]
    """Per space, its model."""
    names: tuple[SpaceName, ...]
    n_rows: int
    block: int
    batch_tokens: int
    dtype: Precision
    shard_rows: int


def collect(
    path: str | Path,
    *,
    sources: Sequence[tuple[LanguageModel, str]],
    corpus: Corpus,
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
) -> Store:
    """Run the corpus through the models and keep `n_rows` text positions, or all that a shorter corpus has.

    Args:
        path: the store's folder.
        sources: (model, hookpoint name) per space; a model with two hookpoints is run once.
        corpus: the text, read in its own order.
        n_rows: text positions wanted.
        block: most tokens of text, per model, that are run together; BOS is put before them and not counted.
        dtype: precision on disk, "bfloat16" or "float32".
        batch_tokens: most tokens per forward pass, padding included; 4,096 on a CPU and 32,768 elsewhere without.
        shard_rows: rows per shard; what a killed run loses at most.
        resume: continue an unfinished run of the same settings; one that is finished already is opened.
        overwrite: replace a finished store.
        on_progress: called before the start, with the disk needed, and after every window.
        command: the shell command, for the manifest.
        free_bytes: how much disk is free at a folder; asks the system without.

    Raises:
        UserError: a setting that does not fit the models, an empty or too short corpus, or a run to be resumed that
            had other settings.
        DiskSpaceError: the store would not fit on the disk.
        NumericalError: an activation is NaN or infinite; the document is named.
        ArtifactError: `path` is finished already.
    """
    path = Path(path)
    plan = _plan(sources, n_rows=n_rows, block=block, dtype=dtype, batch_tokens=batch_tokens, shard_rows=shard_rows)
    settings = _settings(plan, corpus)
    if resume and (path / artifact.MANIFEST).is_file():
        made = artifact.open_artifact(path, step=STEP, setting="out").settings
        if all(made.get(name) == value for name, value in settings.items()):
            return Store.open(path)
    partial = artifact.partial_path(path)
    _clear_or_check(partial, settings, resume=resume)
    n_free = (free_bytes or _free_bytes)(path)
    n_bytes = max(store_bytes([s.width for s in plan.names], n_rows, plan.dtype) - _bytes_in(partial), 0)
    if n_bytes > n_free:  # 1
        problem = f"needs {n_bytes / 1e9:.3g} GB of disk, {n_free / 1e9:.3g} GB are free"
        raise DiskSpaceError("out", path, problem, "collect fewer tokens, or name a folder on another disk")
    # The draft is always one to be resumed: what was computed before a kill or Ctrl-C stays.
    with artifact.create(
        path, step=STEP, settings=settings, resume=True, overwrite=overwrite, command=command
    ) as draft:
        artifact.write_json(draft.folder / SETTINGS, settings)
        try:
            draft.settings |= _run(draft.folder, plan, corpus, n_bytes, n_free, on_progress or (lambda _: None))
        except UserError:  # it would end the same way again
            shutil.rmtree(partial)
            raise
    return Store.open(path)


def store_bytes(widths: Sequence[int], n_rows: int, dtype: Precision) -> int:
    """About how many bytes a store takes: activations, side columns and text.

    >>> store_bytes([128, 128], 1_000_000, "bfloat16")
    536000000
    """
    return n_rows * (sum(widths) * STORAGE[dtype].itemsize + 4 * (2 + len(widths)) + TEXT_BYTES_PER_ROW)


def _plan(
    sources: Sequence[tuple[LanguageModel, str]],
    *,
    n_rows: int,
    block: int,
    dtype: str,
    batch_tokens: int | None,
    shard_rows: int,
) -> _Plan:
    """Check the settings against the models."""
    assert sources, "a store needs a model"
    for name, value in (("tokens", n_rows), ("block", block), ("shard_rows", shard_rows)):
        if value < 1:
            raise UserError(name, value, "is too small", "give at least 1")
    if batch_tokens is not None and batch_tokens < 1:
        raise UserError("batch-tokens", batch_tokens, "is too small", "give at least 1, or leave it out")
    if dtype not in ("bfloat16", "float32"):
        raise UserError("dtype", dtype, "cannot be stored", "choose bfloat16 or float32")
    models: list[LanguageModel] = []
    for lm, _ in sources:
        if not any(lm is known for known in models):
            models.append(lm)
    for lm in models:
        if block + (lm.bos is not None) > lm.context:
            problem = f"and BOS are longer than the context of {lm.name}, {lm.context} tokens"
            raise UserError("block", block, problem, f"give at most {lm.context - (lm.bos is not None)}")
    model_of = tuple(next(m for m, lm in enumerate(models) if lm is own) for own, _ in sources)
    on_cpu = all(lm.device.type == "cpu" for lm in models)
    return _Plan(
        models=tuple(models),
        spaces_of=tuple(tuple(s for s, own in enumerate(model_of) if own == m) for m in range(len(models))),
        model_of=model_of,
        names=tuple(
            SpaceName(model=lm.name, hookpoint=hookpoint, width=width_of(lm, hookpoint), fingerprint=lm.fingerprint)
            for lm, hookpoint in sources
        ),
        n_rows=n_rows,
        block=block,
        batch_tokens=batch_tokens or (4096 if on_cpu else 32768),
        dtype=dtype,
        shard_rows=shard_rows,
    )


def _settings(plan: _Plan, corpus: Corpus) -> dict[str, Any]:
    """Everything that decides the store's bytes, as JSON values."""
    owners = (plan.models[m] for m in plan.model_of)
    return {
        "spaces": [
            {**asdict(name), "revision": lm.revision, "dtype": str(lm.dtype), "device": lm.device.type}
            for name, lm in zip(plan.names, owners, strict=True)
        ],
        "corpus": str(corpus.source),
        "corpus_description": corpus.description,
        "n_rows_wanted": plan.n_rows,
        "block": plan.block,
        "dtype": plan.dtype,
        "batch_tokens": plan.batch_tokens,
        "shard_rows": plan.shard_rows,
    }


def _clear_or_check(partial: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Remove what an earlier run left, or make sure that it is a run of the same settings."""
    if not partial.exists():
        return
    if not resume or not (partial / SETTINGS).is_file():
        shutil.rmtree(partial)
        return
    begun = artifact.read_json(partial / SETTINGS)
    for name, value in settings.items():
        if begun.get(name) != value:
            problem = f"differs from the unfinished run's {begun.get(name)!r}"
            raise UserError(name, value, problem, "give the same setting, or start anew without --resume")


def _run(
    folder: Path,
    plan: _Plan,
    corpus: Corpus,
    n_bytes: int,
    n_free: int,
    on_progress: Callable[[CollectProgress], None],
) -> dict[str, Any]:
    """Steps 2 to 5; returns the counts for the manifest."""
    writer = ShardWriter(folder, spaces=plan.names, dtype=plan.dtype, shard_rows=plan.shard_rows)
    n_models = len(plan.models)
    state = State.from_json(writer.shards[-1]["state"]) if writer.shards else State.beginning(n_models)
    n_before, started = writer.n_rows, time.monotonic()

    def report() -> None:
        on_progress(
            CollectProgress(
                n_rows=writer.n_rows,
                n_rows_wanted=plan.n_rows,
                n_documents=state.n_documents,
                n_tokens=state.n_tokens,
                n_kept=state.n_rows,
                rows_per_second=(writer.n_rows - n_before) / max(time.monotonic() - started, 1e-9),
                n_bytes_expected=n_bytes,
                n_bytes_free=n_free,
            )
        )

    report()
    n_tokens = WINDOW_BATCHES * plan.batch_tokens
    cut = windows(corpus, plan.models, block=plan.block, n_tokens=n_tokens, n_rows=plan.n_rows, start=state)  # 2
    try:
        # The next window is tokenized and cut while the models run on this one.
        with closing(read_ahead(lambda _: next(cut, None), count(), 1)) as ahead:
            for window in ahead:
                if window is None:
                    break
                rows = _rows(plan, window, skip=writer.n_rows - window.before.n_rows)  # 3
                writer.append(rows, state=asdict(window.before))  # 4
                state = window.after
                report()
        _check_enough(corpus, plan, state)
        writer.finish({**asdict(state), "finished": True})
    finally:
        writer.close()
    alignment = [
        Alignment(n_tokens=state.n_tokens[m], n_kept=state.n_rows, n_special=state.n_special[m]) for m in plan.model_of
    ]
    write_index(writer, alignment)  # 5
    return {
        "n_rows": writer.n_rows,
        "n_documents": state.n_documents,
        "alignment": [{**asdict(a), "kept_share": a.kept_share} for a in alignment],
    }


def _check_enough(corpus: Corpus, plan: _Plan, state: State) -> None:
    """A corpus may end early, but not before it filled one block.

    Raises:
        UserError: fewer tokens than a block, or no text position that all models share.
    """
    if state.n_rows >= plan.n_rows:
        return
    n_tokens = min(state.n_tokens)
    if n_tokens < plan.block:
        problem = f"holds {n_tokens} tokens in all, less than one block of {plan.block}"
        raise UserError("corpus", corpus.source, problem, "give more text, or a smaller block")
    if state.n_rows == 0:
        problem = "has no position where a token of every model ends"
        raise UserError("corpus", corpus.source, problem, "give other text, or models whose tokenizers fit it")


def _rows(plan: _Plan, window: Window, *, skip: int) -> Rows:
    """Run the models over a window; its rows, without the first `skip` and those beyond the number wanted.  (3)"""
    n_kept = [len(piece.ends) for piece in window.pieces]
    starts = [0, *accumulate(n_kept)]
    stored = getattr(torch, plan.dtype)
    activations = [torch.empty(starts[-1], name.width, dtype=stored) for name in plan.names]
    for m in range(len(plan.models)):
        _run_model(plan, m, window, starts, activations)
    ids = [torch.cat([p.ids[m][p.keep[m]] for p in window.pieces]) for m in plan.model_of]
    wanted = slice(skip, plan.n_rows - window.before.n_rows)
    documents = torch.repeat_interleave(torch.tensor(window.documents), torch.tensor(n_kept))
    return Rows(
        activations=[values[wanted] for values in activations],
        documents=documents[wanted].to(torch.int32),
        ends=torch.cat([p.ends for p in window.pieces])[wanted].to(torch.int32),
        token_ids=torch.stack(ids, dim=1)[wanted].to(torch.int32),
        texts=window.texts,
    )


def _run_model(
    plan: _Plan, m: int, window: Window, starts: Sequence[int], activations: Sequence[Float[Tensor, "row _"]]
) -> None:
    """Fill in the rows of one model's spaces."""
    lm, pieces = plan.models[m], window.pieces
    n_bos = int(lm.bos is not None)
    hookpoints = [plan.names[space].hookpoint for space in plan.spaces_of[m]]
    # A piece of which no model shares a position is not run.
    lengths = {i: n_bos + len(piece.ids[m]) for i, piece in enumerate(pieces) if len(piece.ends)}
    for group in group_by_length(lengths, plan.batch_tokens):
        length = lengths[group[-1]]
        # Padding stands right of the text, where causal attention never looks back at it, so no mask is needed.
        batch = torch.full((len(group), length), lm.bos or 0, dtype=torch.int64)
        for place, piece in enumerate(group):
            ids = pieces[piece].ids[m]
            batch[place, n_bos : n_bos + len(ids)] = ids
        source = torch.cat([place * length + n_bos + pieces[piece].keep[m] for place, piece in enumerate(group)])
        target = torch.cat([torch.arange(starts[piece], starts[piece + 1]) for piece in group])
        outputs = record(lm, batch.to(lm.device), hookpoints)
        for space, output in zip(plan.spaces_of[m], outputs, strict=True):
            values = output.flatten(0, 1)[source.to(output.device)].to(activations[space].dtype)
            finite = torch.isfinite(values)
            if not bool(finite.all()):
                row = int(target[int((~finite).nonzero()[0, 0])])
                piece = next(p for p in group if starts[p] <= row < starts[p + 1])
                problem = f"of {lm.name} is NaN or infinite in document {window.documents[piece]}"
                fix = "load the model in float32, or leave the document out"
                raise NumericalError("at", plan.names[space].hookpoint, problem, fix)
            activations[space][target] = values.cpu()


def group_by_length(lengths: Mapping[int, int], budget: int) -> list[list[int]]:
    """Group numbered sequences, shortest first, so that a group padded to its longest (its last) fits the budget.

    A sequence longer than the budget is a group of its own.

    >>> group_by_length({0: 3, 1: 9, 2: 3, 5: 2}, 9)
    [[5, 0, 2], [1]]
    """
    groups: list[list[int]] = []
    for index in sorted(lengths, key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _free_bytes(path: Path) -> int:
    """Free disk at the nearest folder that exists."""
    folder = path.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _bytes_in(folder: Path) -> int:
    """What a folder holds; 0 where it does not exist."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
