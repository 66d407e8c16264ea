"""The one dense product of a dictionary, and the choice of what is active in it.

1. `Chunks`: x · W_enc^T + b_enc, in chunks of rows that stay in cache, never all of it at once.
2. What is chosen: the top k of every row, the top n·k of the batch, or everything above a bar. In bf16 a few candidates
   too many are chosen and re-scored in fp32, so that the chosen set and its values are those of fp32 at the speed of
   bf16.
3. Over several ranks each chooses with the others, by what they gather of one another's candidates.
"""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from suture import seeds
from suture.dictionary.codes import Pattern
from suture.dictionary.kernels import gpu
from suture.dictionary.kernels.sparse import sampled_product
from suture.errors import UserError
from suture.parallel import ALONE, Grid, Ranks

CHUNK_ELEMENTS = 4 * 2**20
"""Entries of one chunk of pre-activations: 16 MB in fp32, which a last-level cache holds."""

GPU_CHUNK_ELEMENTS = 2**29
"""The same on a GPU: 1 GB in bf16, so that a product fills the device."""

MARGIN = 8
"""Candidates beyond k that a bf16 product offers to the exact fp32 re-scoring."""

GATHER_COST = 2
"""What gathering one entry of a row costs beside looking at the maximum of a group."""

PARALLEL_ELEMENTS = 2**17
"""Entries to partition that are worth waking threads for."""


@dataclass(frozen=True)
class Selection:
    """The pairs a step looks at, with their pre-activations in the weights' precision."""

    pattern: Pattern
    pre: Float[Tensor, "active"]
    """Pre-activations with bias, before any ReLU or threshold."""
    cutoff: float | None = None
    """BatchTopK: the smallest score kept in this batch."""

    def valued(self, value: Float[Tensor, "active"]) -> "Selection":
        """The same pairs with other numbers."""
        return replace(self, pre=value)


@dataclass(frozen=True)
class Buffers:
    """Memory for every step to use again: fresh memory costs a page fault for every 4 kB of it, each time."""

    chunk: Float[Tensor, "entry"]
    """For one chunk of pre-activations."""
    weights: Float[Tensor, "feature D_in"] | None
    """For W_enc in bf16."""


@dataclass(frozen=True)
class Chunks:
    """The pre-activations x · W_enc^T + b_enc, one chunk of rows at a time (never all of them at once)."""

    x: Float[Tensor, "row D_in"]
    W_enc: Float[Tensor, "feature D_in"]
    b_enc: Float[Tensor, "feature"]
    precision: Literal["float32", "bfloat16"] = "float32"
    buffers: Buffers | None = None
    grid: Grid = ALONE
    """Where rows or features are split over ranks, each gets its own pairs of what one process would have chosen."""

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, pre-activations of the chunk), computed without gradient; a chunk is gone when the next comes."""
        with torch.no_grad():
            dtype = torch.bfloat16 if self.precision == "bfloat16" else self.x.dtype
            kept = None if self.buffers is None else self.buffers.weights
            W = self.W_enc.to(dtype) if kept is None else kept.copy_(self.W_enc)
            b = self.b_enc.to(dtype)
            for start, part in self._parts():
                if self.buffers is None:
                    yield start, functional.linear(part.to(dtype), W, b)
                else:
                    out = self.buffers.chunk[: part.shape[0] * W.shape[0]].view(part.shape[0], W.shape[0])
                    yield start, torch.addmm(b, part.to(dtype), W.t(), out=out)

    def _parts(self) -> Iterator[tuple[int, Tensor]]:
        n_rows = _chunk_rows(self.W_enc)
        for start in range(0, self.x.shape[0], n_rows):
            yield start, self.x[start : start + n_rows]

    def sample(self, n_rows: int) -> Tensor:
        """The pre-activations of a few rows spread over the batch."""
        step = max(1, self.x.shape[0] // n_rows)
        with torch.no_grad():
            return functional.linear(self.x[::step][:n_rows], self.W_enc, self.b_enc)

    def exact(self, pattern: Pattern) -> Tensor:
        """The pre-activations at the given pairs in the weights' own precision."""
        with torch.no_grad():
            return sampled_product(pattern, self.x, self.W_enc) + self.b_enc[pattern.feature]

    # --- what is chosen ---------------------------------------------------------------------------------------------

    def top_k(self, k: int) -> Selection:
        """The k largest pre-activations of every row, over the features of all ranks; of equal ones any.

        A bf16 product offers a few candidates more than k, and the exact pre-activations decide between them.
        """
        n_features = self.W_enc.shape[0]
        k_own = min(k, n_features)
        if self.precision == "bfloat16":
            wanted = min(k_own + MARGIN, n_features)
            feature = torch.cat([best_of_row(pre, wanted).to(torch.int32) for _, pre in self])
            pre = self.exact(Pattern.fixed(feature, n_features)).view(-1, wanted)
            best = pre.topk(k_own, dim=-1, sorted=False).indices
            feature, pre = feature.gather(1, best), pre.gather(1, best)
        else:
            features, values = [], []
            for _, part in self:
                best = best_of_row(part, k_own)
                features.append(best.to(torch.int32))
                values.append(part.gather(1, best))
            feature, pre = torch.cat(features), torch.cat(values)
        if self.grid.features.size == 1:
            return Selection(Pattern.fixed(feature, n_features), pre.view(-1))
        kept = _best_of_all_ranks(pre, k, self.grid.features)
        row, place = kept.nonzero(as_tuple=True)
        return Selection(Pattern.from_pairs(row, feature[row, place], pre.shape[0], n_features), pre[row, place])

    def top_of_batch(self, k: float, score_weight: Float[Tensor, "feature"]) -> Selection:
        """The n·k largest positive scores (pre-activation times weight) of the batch, exactly.

        1. A few rows tell roughly where the cut-off lies; take everything above a bar a little below it.
        2. Too few pairs above the bar (or the re-scored ones fall below it): lower the bar and look again.
        3. Of the pairs above the bar, exactly re-scored, keep the n·k best.
        """
        n_features = self.W_enc.shape[0]
        wanted = round(self.x.shape[0] * self.grid.data.size * k)
        bar = self._guess_cutoff(k, score_weight)
        while True:
            found = self.above(bar / score_weight)
            score = found.pre * score_weight[found.pattern.feature]
            parts = self.grid.world.gather(score)
            everyone = torch.cat(parts)
            n_kept = min(wanted, everyone.numel())
            least = float(_k_largest(everyone, n_kept).min()) if n_kept else math.inf
            # a bf16 product may lose pairs within its rounding of the bar, so the cut-off must lie clearly above it
            if (n_kept == wanted and least >= bar * 1.02) or bar <= 0.0:
                break
            bar = bar * 0.8 if bar > 1e-6 else 0.0
        best = everyone >= least
        ties = (everyone == least).nonzero().squeeze(1)
        best[ties[: int(best.sum()) - n_kept]] = False
        first = sum(part.numel() for part in parts[: self.grid.world.rank])
        kept = best[first : first + score.numel()].nonzero().squeeze(1)
        row, feature = found.pattern.row[kept], found.pattern.feature[kept]
        pattern = Pattern.from_pairs(row, feature, self.x.shape[0], n_features)
        return Selection(pattern, found.pre[kept], least if n_kept else None)

    def _guess_cutoff(self, k: float, score_weight: Tensor) -> float:
        n_each = -(-64 // self.grid.data.size)
        sample = (self.sample(n_each) * score_weight).flatten()
        wanted = round(n_each * self.grid.data.size * k * 1.15)
        best = self.grid.world.concatenate(_k_largest(sample, min(sample.numel(), wanted)))
        return max(0.0, 0.9 * float(_k_largest(best, min(best.numel(), wanted)).min()))

    def above(self, bar: Float[Tensor, "feature"]) -> Selection:
        """Every pair whose pre-activation exceeds its feature's bar."""
        rows, features, values = [], [], []
        for start, pre in self:
            row, feature = entries_above(pre, bar)
            rows.append(row + start)
            features.append(feature)
            if self.precision == "float32":
                values.append(pre[row, feature])
        pattern = Pattern.from_pairs(torch.cat(rows), torch.cat(features), self.x.shape[0], self.W_enc.shape[0])
        if self.precision == "float32":
            return Selection(pattern, torch.cat(values))
        exact = self.exact(pattern)
        kept = exact > bar[pattern.feature]
        pairs = Pattern.from_pairs(pattern.row[kept], pattern.feature[kept], pattern.n_rows, pattern.n_features)
        return Selection(pairs, exact[kept])


def _k_largest(values: Float[Tensor, "entry"], k: int) -> Float[Tensor, "k"]:
    """The k largest values, in any order."""
    if values.device.type != "cpu":
        return values.topk(k, sorted=False).values
    first = values.numel() - k
    return torch.from_numpy(np.partition(values.numpy(), first)[first:]) if k else values[:0]


def _best_of_all_ranks(own: Float[Tensor, "row own"], k: int, ranks: Ranks) -> Bool[Tensor, "row own"]:
    """Which of this rank's values are among the k largest of their row over all ranks."""
    parts = ranks.gather(own.t().contiguous())
    everyone = torch.cat(parts).t()
    best = everyone.topk(min(k, everyone.shape[1]), dim=-1, sorted=False).indices
    kept = torch.zeros_like(everyone, dtype=torch.bool).scatter_(1, best, True)
    first = sum(part.shape[0] for part in parts[: ranks.rank])
    return kept[:, first : first + own.shape[1]]


def _chunk_rows(W_enc: Tensor) -> int:
    return max(64, (GPU_CHUNK_ELEMENTS if W_enc.is_cuda else CHUNK_ELEMENTS) // W_enc.shape[0])


def buffers(W_enc: Float[Tensor, "feature D_in"], precision: str) -> Buffers | None:
    """What every step's chunks use again; None on a GPU, whose allocator keeps its memory."""
    if W_enc.is_cuda:
        return None
    halved = precision == "bfloat16"
    dtype = torch.bfloat16 if halved else W_enc.dtype
    chunk = W_enc.new_empty(_chunk_rows(W_enc) * W_enc.shape[0], dtype=dtype)
    return Buffers(chunk, W_enc.new_empty(W_enc.shape, dtype=dtype) if halved else None)


def best_of_row(pre: Float[Tensor, "row feature"], k: int) -> Int[Tensor, "row k"]:
    """Indices of the k largest entries of every row, unsorted, found through the maxima of groups.

    Exact, because the k largest entries lie in the k groups with the largest maxima (of equal values any k are chosen).
    """
    if gpu.handles(pre):
        return gpu.top_k(pre, k).long()
    key = _ordered_integers(pre)
    n_rows, n_features = key.shape
    group = _group_size(n_features, k)
    if group == 1:
        return _largest(key, k)
    n_groups = n_features // group
    best = _largest(key.view(n_rows, group, n_groups).amax(1), k)
    step = torch.arange(0, n_features, n_groups, device=key.device).view(1, group, 1)
    member = (best.unsqueeze(1) + step).view(n_rows, group * k)
    return member.gather(1, _largest(key.gather(1, member), k))


def _group_size(n_features: int, k: int) -> int:
    """How many features share a maximum: the size with the least to look through, a gathered entry counted twice."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if n_features % size == 0 and n_features // size >= k]
    return min(sizes, key=lambda size: n_features // size + (GATHER_COST * size * k if size > 1 else 0))


def _ordered_integers(pre: Tensor) -> Tensor:
    """bf16 as int16: the same order for positive values, and negatives below them, at the speed of integers.

    Among negatives the order is reversed, which matters only where fewer than k entries are positive; those k then
    hold zeros after the ReLU whichever are chosen.
    """
    return pre.view(torch.int16) if pre.dtype == torch.bfloat16 and pre.device.type == "cpu" else pre


def _largest(key: Tensor, k: int) -> Tensor:
    """Positions of the k largest of every row, unsorted; on a CPU by numpy's partition, which has vector instructions.

    Of float32, it finds the k-th largest, and what reaches that is looked up. Of int16, where many are equal, each key
    is first made the upper half of an integer whose lower half is its position.
    """
    n_rows, n_entries = key.shape
    if key.device.type == "cpu" and k < n_entries:
        if key.dtype == torch.int16 and n_entries <= 2**16:
            packed = torch.add(torch.arange(n_entries, dtype=torch.int32), key.to(torch.int32), alpha=2**16)
            _partition(packed.numpy(), n_entries - k)
            return (packed[:, n_entries - k :] & (2**16 - 1)).long()
        if key.dtype == torch.float32:
            ordered = key.clone()
            _partition(ordered.numpy(), n_entries - k)
            found = np.flatnonzero(np.greater_equal(key.numpy(), ordered.numpy()[:, n_entries - k, None]))
            if found.size == n_rows * k:  # neither ties nor NaN at the k-th
                first = torch.arange(0, n_rows * n_entries, n_entries).unsqueeze(1)
                return torch.from_numpy(found).view(n_rows, k) - first
    return key.topk(k, dim=-1, sorted=False).indices


def _partition(entries: np.ndarray, first: int) -> None:
    """The largest of every row brought to its entries from `first` on, in place, by as many threads as torch has."""
    n_threads = torch.get_num_threads()
    if n_threads == 1 or entries.size < PARALLEL_ELEMENTS:
        entries.partition(first, axis=1)
    else:
        parts = np.array_split(entries, n_threads)
        list(_threads(n_threads).map(lambda part: part.partition(first, axis=1), parts))


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="suture-partition")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has the pool, but not its threads


def entries_above(
    pre: Float[Tensor, "row feature"], bar: Float[Tensor, "feature"]
) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"]]:
    """(row, feature) of every entry that exceeds its feature's bar, row by row."""
    if gpu.handles(pre):
        crow, feature = gpu.above(pre, bar)
        return Pattern(crow, feature, pre.shape[1]).row, feature
    if pre.device.type != "cpu":
        row, feature = torch.nonzero(pre > bar.to(pre.dtype), as_tuple=True)
        return row, feature
    bar = bar.to(pre.dtype) + 0.0  # -0 becomes 0, whose bits are those of the least number above all negative ones
    if pre.dtype == torch.bfloat16:
        whole = bool((bar >= 0).all())
        pre, bar = (_ordered_integers(t) if whole else t.float() for t in (pre, bar))
    # numpy compares several times as fast, and skips eight entries at a time where none is above
    flat = torch.from_numpy(np.flatnonzero(np.greater(pre.numpy(), bar.numpy())))
    row = flat // pre.shape[1]
    return row, flat - row * pre.shape[1]


def resolve_precision(precision: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """What `auto` means on a device: bf16 where a measured product is faster in it.

    Raises:
        UserError: an unknown precision.
    """
    if precision == "float32" or precision == "bfloat16":
        return precision
    if precision != "auto":
        raise UserError("precision", precision, "is unknown", "use auto, float32 or bfloat16")
    return "bfloat16" if _bf16_pays(device.type) else "float32"


@cache
def _bf16_pays(device_type: str) -> bool:
    """Measured once: the fastest of many alternating products, which a busy machine disturbs least.

    Few are enough where bf16 takes several times as long: without units for it, all of them would take a second.
    """
    if device_type != "cpu":
        return True
    chance = seeds.generator("timing", 0)  # the caller's own random state stays as it was
    a, b = torch.randn(512, 512, generator=chance), torch.randn(2048, 512, generator=chance)
    operands = {dtype: (a.to(dtype), b.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(operands, float("inf"))
    for n_done in range(20):
        if n_done >= 4 and best[torch.bfloat16] > 3 * best[torch.float32]:
            break
        for dtype, (x, w) in operands.items():
            started = time.perf_counter()
            functional.linear(x, w)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.bfloat16] < 0.8 * best[torch.float32]
