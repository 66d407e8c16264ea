"""Batches: every row once per epoch in one seeded order, shared by all spaces, read ahead by a background thread.

1. Epoch e's order is a permutation drawn from (seed, e) alone: over the rows, or pooled over all (row, space) pairs.
2. Batch number b is a slice of its epoch's order, so it depends on (seed, b) only and a run resumes at any b.
3. One worker reads the next few batches while the caller computes; closing the iterator ends the worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from suture import seeds
from suture.activations.store import Store
from suture.errors import UserError
from suture.parallel import ALONE, Ranks

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Activations in scaled units (raw times the space's scale, not centred)."""

    activations: Float32[Tensor, "row D"]
    """Joint: all spaces side by side. Pooled: one space's activation per row, zero-padded to the widest."""
    model: Int64[Tensor, "row"] | None
    """Pooled: the index of each row's space. Joint: None."""


def split_rows(
    store: Store, *, heldout: float = 0.1, seed: int = 0
) -> tuple[Int64[Tensor, "train"], Int64[Tensor, "heldout"]]:
    """Rows for training and held-out rows, split by document, both ascending.

    A document's side depends on its number and the seed only, so it stays the same when a store grows. Where chance
    leaves one side of a small store empty, that side gets the one document nearest to it.

    Raises:
        UserError: `heldout` outside [0, 1), or too few documents to split.
    """
    if not 0 <= heldout < 1:
        raise UserError("heldout", heldout, "is not a share", "give a number from 0 to below 1")
    documents = store.documents.numpy()
    numbers, row_of = np.unique(documents, return_inverse=True)
    if heldout > 0 and len(numbers) < 2:
        raise UserError("store", store.path, "has one document, which cannot be split", "collect more documents")
    chance = _hash01(numbers, seed)
    held = chance < heldout
    if heldout > 0 and not held.any():
        held[chance.argmin()] = True
    if held.all():
        held[chance.argmax()] = False
    is_held = held[row_of]
    return torch.from_numpy(np.flatnonzero(~is_held)), torch.from_numpy(np.flatnonzero(is_held))


def batches(
    store: Store,
    rows: Int64[Tensor, "chosen"],
    *,
    batch_size: int,
    seed: int,
    pooled: bool = False,
    start: int = 0,
    n_steps: int | None = None,
    prefetch: int = 2,
    ranks: Ranks = ALONE.data,
) -> Generator[Batch, None, None]:
    """Shuffled batches over epochs without end, or `n_steps` of them, beginning with batch number `start`.

    Of several `ranks` each reads its own part of every batch.

    Each epoch is a fresh permutation of all chosen rows (pooled: of all pairs of row and space); the remainder that
    fills no batch is left for other epochs' orders to reach.

    Raises:
        UserError: fewer rows than one batch.
    """
    n_items = len(rows) * (len(store.spaces) if pooled else 1)
    if not 0 < batch_size <= n_items:
        raise UserError("batch_size", batch_size, f"does not fit {n_items} rows", "collect more, or lower it")
    per_epoch = n_items // batch_size
    chosen = rows.numpy()
    kept: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def read(number: int) -> Batch:
        nonlocal kept  # the single worker is the only one here
        epoch, position = divmod(number, per_epoch)
        if kept[0] != epoch:
            kept = (epoch, epoch_order(n_items, seed=seed, epoch=epoch))  # 1
        items = kept[1][position * batch_size : (position + 1) * batch_size]  # 2
        items = items[ranks.share(batch_size)]
        if not pooled:
            return _joint(store, chosen[items])
        space, row = np.divmod(items, len(chosen))
        return _pooled(store, chosen[row], space)

    numbers = count(start) if n_steps is None else iter(range(start, start + n_steps))
    return read_ahead(read, numbers, prefetch)


def sequential(
    store: Store,
    rows: Int64[Tensor, "chosen"],
    *,
    batch_size: int,
    scales: Sequence[float] | None = None,
    pooled: bool = False,
    prefetch: int = 2,
) -> Generator[tuple[Int64[Tensor, "row"], Batch], None, None]:
    """Every chosen row once, in the order given, the last batch perhaps smaller; with the rows' numbers.

    Pooled: the same rows come once per space, one space after the other. `scales`, per space, are those of a dictionary
    that has its own; the store's without.
    """
    if scales is not None:
        store = replace(store, spaces=tuple(replace(s, scale=own) for s, own in zip(store.spaces, scales, strict=True)))
    chunks = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]

    def read(item: tuple[Int64[Tensor, "row"], int | None]) -> tuple[Int64[Tensor, "row"], Batch]:
        chunk, space = item
        if space is None:
            return chunk, _joint(store, chunk.numpy())
        return chunk, _pooled(store, chunk.numpy(), np.full(len(chunk), space))

    spaces = range(len(store.spaces)) if pooled else (None,)
    return read_ahead(read, iter((chunk, space) for chunk in chunks for space in spaces), prefetch)


def epoch_order(n_items: int, *, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one epoch, int64 [n_items], drawn from (seed, epoch) alone."""
    return seeds.numpy_generator("row order", seed, epoch).permutation(n_items)


def _joint(store: Store, rows: np.ndarray) -> Batch:
    """All spaces side by side."""
    widths = [space.width for space in store.spaces]
    activations = np.empty((len(rows), sum(widths)), dtype=np.float32)
    begin = 0
    for raw, space in zip(store.read(torch.from_numpy(rows)), store.spaces, strict=True):
        np.multiply(raw.numpy(), np.float32(space.scale), out=activations[:, begin : begin + space.width])
        begin += space.width
    return Batch(activations=torch.from_numpy(activations), model=None)


def _pooled(store: Store, rows: np.ndarray, space_of: np.ndarray) -> Batch:
    """Each row from its own space, zero-padded to the widest."""
    activations = np.zeros((len(rows), max(space.width for space in store.spaces)), dtype=np.float32)
    for index, space in enumerate(store.spaces):
        here = np.flatnonzero(space_of == index)
        raw = store.read_space(torch.from_numpy(rows[here]), index).numpy()
        activations[here, : space.width] = raw * np.float32(space.scale)
    return Batch(activations=torch.from_numpy(activations), model=torch.from_numpy(space_of.astype(np.int64)))


def read_ahead(read: Callable[..., T], items: Iterator[object], prefetch: int) -> Generator[T, None, None]:
    """Yield read(item) in order, up to `prefetch` items ahead of the caller; an error is raised at its own turn."""
    assert prefetch >= 1
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="suture-batches")
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _hash01(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A uniform number in [0, 1) per integer, the same on every machine (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
