"""Triton kernels for CUDA tensors: the choice of what is active and the sparse products, equal in meaning to torch's.

1. `top_k`: a first kernel reads a row once and keeps, of the maxima of its groups, the k largest; a second one picks
   the k largest among the members of those groups. The k-th largest of a block is found by bisection on the bits of
   its entries, read as integers of the same order: 16 or 32 counts, in registers.
2. `above`: one kernel counts, a prefix sum gives every piece its place, a second kernel writes.
3. `gather_sum`: one program per bag and slice of columns. Long bags are cut into pieces, summed apart and then joined.
4. `sampled_product`: one program per few pairs and slice of columns; the slices are added up afterwards.

Nothing is added up atomically, so that results are the same to the bit from run to run. All sums are fp32. Programs
that share a slice of columns run at the same time, so that gathered rows of 512 columns come from the L2 cache.
"""

# pyright: reportOperatorIssue=false, reportAssignmentType=false
# (Triton's compile-time numbers are declared `constexpr` and computed as plain ones)

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import triton
    import triton.language as tl
    from triton import knobs
else:
    try:
        import triton
        import triton.language as tl
        from triton import knobs
    except ImportError:  # then `available` says no, and no kernel is ever launched
        triton = tl = knobs = None

RUN = 4
"""Neighbouring entries that `top_k` keeps in one group, so that a group's members are not fetched one by one."""

LARGEST_BLOCK = 32_768
"""Entries that one program holds in registers at most."""

SEGMENT = 4096
"""Entries of a row that one program of `above` looks at."""

COLUMNS = 512
"""Columns in a slice: of 8,192 rows in fp32 it takes 17 MB, a third of the L2 cache of a large GPU."""

LONGEST_BAG = 512
"""Entries that one program of `gather_sum` adds up at most."""

CAPABILITY = (8, 0)
"""The oldest generation of GPUs for which the kernels are compiled in tests."""


INTERPRETED = triton is not None and bool(knobs.runtime.interpret)
"""Whether Triton was told, before it was imported, to interpret kernels in Python (TRITON_INTERPRET=1)."""


def _jit(kernel: Callable[..., Any]) -> Any:
    """A Triton kernel, where Triton is; it reads the function's source, so a type checker's wrapper is taken off."""
    return kernel if triton is None else triton.jit(inspect.unwrap(kernel))


def available(device: torch.device) -> bool:
    """Whether these kernels run there: on a GPU, or anywhere in Triton's interpreter (TRITON_INTERPRET=1)."""
    return INTERPRETED or (triton is not None and device.type == "cuda" and _capable(device))


@cache
def _capable(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= CAPABILITY


def handles(*tensors: Float[Tensor, "..."]) -> bool:
    """Whether these kernels take such tensors: fp32 or bf16, on a device where they run."""
    return all(t.dtype in (torch.float32, torch.bfloat16) and available(t.device) for t in tensors)


# --- 1: the k largest of a row --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grouping:
    """How a row is cut into groups: of every level, group g holds the entries (level · n_groups + g) · RUN + 0 .. 3."""

    n_groups: int
    """A power of two, at least k."""
    depth: int
    """Levels."""
    n_members: int
    """Entries of k groups, rounded up to a power of two."""


def top_k(pre: Float[Tensor, "row feature"], k: int) -> Int[Tensor, "row k"]:
    """Indices of the k largest entries of every row, unsorted, the same in every run.

    Exact, because the k largest entries lie in the k groups with the largest maxima. Of equal values any may be chosen,
    as long as the values are the k largest; NaN counts as less than -inf. Where the blocks would outgrow the registers
    (k in the thousands) `torch.topk` does it, for which NaN is the largest.
    """
    n_rows, n_features = pre.shape
    grouping = grouping_of(n_features, k)
    if grouping is None:
        return pre.topk(k, dim=-1, sorted=False).indices.to(torch.int32)
    pre = pre if pre.stride(1) == 1 else pre.contiguous()
    bits = pre.view(torch.int16 if pre.dtype == torch.bfloat16 else torch.int32)
    groups = torch.empty(n_rows, k, dtype=torch.int32, device=pre.device)
    chosen = torch.empty_like(groups)
    if n_rows == 0 or k == 0:
        return chosen
    with torch.cuda.device_of(pre):
        _best_groups[(n_rows,)](
            bits, groups, n_features, bits.stride(0), grouping.depth, k,
            BITS=8 * bits.element_size(), N_GROUPS=grouping.n_groups, RUN=RUN,
            num_warps=_n_warps(grouping.n_groups * RUN),
        )  # fmt: skip
        _best_members[(n_rows,)](
            bits, groups, chosen, n_features, bits.stride(0), grouping.depth, k,
            BITS=8 * bits.element_size(), N_GROUPS=grouping.n_groups, RUN=RUN, N_MEMBERS=grouping.n_members,
            num_warps=_n_warps(grouping.n_members),
        )  # fmt: skip
    return chosen


@cache
def grouping_of(n_features: int, k: int) -> Grouping | None:
    """The grouping with the least entries to bisect, or None where none fits the registers.

    >>> grouping_of(73_728, 108)
    Grouping(n_groups=2048, depth=9, n_members=4096)
    >>> grouping_of(73_728, 9000) is None
    True
    """
    found: list[Grouping] = []
    n_groups = _power_of_two(max(k, 16))
    while n_groups * RUN <= LARGEST_BLOCK:
        depth = -(-n_features // (n_groups * RUN))
        members = _power_of_two(k * depth * RUN)
        if members <= LARGEST_BLOCK:
            found.append(Grouping(n_groups, depth, members))
        if depth <= 1:
            break
        n_groups *= 2
    return min(found, key=lambda g: g.n_groups + g.n_members, default=None)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def _n_warps(n_entries: int) -> int:
    """About 16 entries per thread."""
    return max(4, min(32, n_entries // 512))


@_jit
def _ordered(bits, BITS: tl.constexpr):
    """The bits of a float as an int32 of the same order; NaN below everything but the value of entries off the end."""
    MAGNITUDE: tl.constexpr = (1 << (BITS - 1)) - 1
    INFINITY: tl.constexpr = 0x7F80 if BITS == 16 else 0x7F800000
    bits = bits.to(tl.int32)
    key = tl.where(bits < 0, bits ^ MAGNITUDE, bits)
    return tl.where((bits & MAGNITUDE) > INFINITY, -MAGNITUDE, key)


@_jit
def _write_largest(key, label, out, k, BITS: tl.constexpr):
    """The labels of the k largest keys of a block, in the block's order; of equal keys the first."""
    LOWEST: tl.constexpr = -(1 << (BITS - 1))
    # the largest bar that at least k keys reach, one bit at a time from the sign down
    reached = tl.sum((key >= 0).to(tl.int32), axis=0)
    bar = tl.where(reached >= k, 0, LOWEST)
    bit = tl.full((), 1 << (BITS - 2), tl.int32)
    for _ in range(BITS - 1):
        reached = tl.sum((key >= bar + bit).to(tl.int32), axis=0)
        bar = tl.where(reached >= k, bar + bit, bar)
        bit = bit >> 1
    larger = (key > bar).to(tl.int32)
    tied = (key == bar).to(tl.int32)
    n_ties = k - tl.sum(larger, axis=0)
    kept = tl.where(tl.cumsum(tied, axis=0) <= n_ties, larger + tied, larger)
    place = tl.cumsum(kept, axis=0) - 1
    tl.store(out + place, label, mask=kept > 0)


@_jit
def _best_groups(
    bits, groups, n_features, row_stride, depth, k, BITS: tl.constexpr, N_GROUPS: tl.constexpr, RUN: tl.constexpr
):
    LOWEST: tl.constexpr = -(1 << (BITS - 1))
    row = tl.program_id(0).to(tl.int64)
    bits += row * row_stride
    group = tl.arange(0, N_GROUPS)
    inside = group[:, None] * RUN + tl.arange(0, RUN)[None, :]
    best = tl.full([N_GROUPS], LOWEST, tl.int32)
    for level in range(depth):
        entry = level * (N_GROUPS * RUN) + inside
        exists = entry < n_features
        key = _ordered(tl.load(bits + entry, mask=exists, other=0), BITS)
        best = tl.maximum(best, tl.max(tl.where(exists, key, LOWEST), axis=1))
    _write_largest(best, group, groups + row * k, k, BITS)


@_jit
def _best_members(
    bits,
    groups,
    chosen,
    n_features,
    row_stride,
    depth,
    k,
    BITS: tl.constexpr,
    N_GROUPS: tl.constexpr,
    RUN: tl.constexpr,
    N_MEMBERS: tl.constexpr,
):
    LOWEST: tl.constexpr = -(1 << (BITS - 1))
    row = tl.program_id(0).to(tl.int64)
    member = tl.arange(0, N_MEMBERS)
    run = member // RUN
    which = run // depth
    level = run - which * depth
    group = tl.load(groups + row * k + which, mask=which < k, other=0)
    entry = (level * N_GROUPS + group) * RUN + member % RUN
    exists = (which < k) & (entry < n_features)
    key = _ordered(tl.load(bits + row * row_stride + entry, mask=exists, other=0), BITS)
    _write_largest(tl.where(exists, key, LOWEST), entry, chosen + row * k, k, BITS)


# --- 2: everything above a bar --------------------------------------------------------------------------------------


def above(
    pre: Float[Tensor, "row feature"], bar: Float[Tensor, "feature"]
) -> tuple[Int[Tensor, "row_plus_one"], Int[Tensor, "active"]]:
    """The pairs whose entry exceeds its feature's bar, row by row: (where each row's pairs begin, features).

    The bar is rounded to the entries' precision first; NaN exceeds nothing. Waits for the number of pairs.
    """
    n_rows, n_features = pre.shape
    n_segments = -(-n_features // SEGMENT)
    pre = pre if pre.stride(1) == 1 else pre.contiguous()
    bar = bar.to(pre.dtype)
    counts = torch.empty(n_rows, n_segments, dtype=torch.int32, device=pre.device)
    crow = torch.zeros(n_rows + 1, dtype=torch.int32, device=pre.device)
    if counts.numel() == 0:
        return crow, crow.new_empty(0)
    block = min(SEGMENT, _power_of_two(n_features))
    sizes = {"BLOCK": block, "num_warps": max(1, block // 512)}
    with torch.cuda.device_of(pre):
        _count_above[counts.shape](pre, bar, counts, n_features, pre.stride(0), n_segments, **sizes)
        ends = counts.view(-1).cumsum(0)
        crow[1:] = ends[n_segments - 1 :: n_segments]
        feature = torch.empty(int(ends[-1]), dtype=torch.int32, device=pre.device)
        _write_above[counts.shape](
            pre, bar, counts, ends, feature, n_features, pre.stride(0), n_segments, **sizes
        )  # fmt: skip
    return crow, feature


@_jit
def _exceeds(pre, bar, n_features, row_stride, BLOCK: tl.constexpr):
    """(features of this program's segment, 1 where the entry exceeds the bar)."""
    feature = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = feature < n_features
    entry = tl.load(pre + tl.program_id(0).to(tl.int64) * row_stride + feature, mask=exists, other=0).to(tl.float32)
    height = tl.load(bar + feature, mask=exists, other=0).to(tl.float32)
    return feature, ((entry > height) & exists).to(tl.int32)


@_jit
def _count_above(pre, bar, counts, n_features, row_stride, n_segments, BLOCK: tl.constexpr):
    _, kept = _exceeds(pre, bar, n_features, row_stride, BLOCK)
    segment = tl.program_id(0).to(tl.int64) * n_segments + tl.program_id(1)
    tl.store(counts + segment, tl.sum(kept, axis=0))


@_jit
def _write_above(pre, bar, counts, ends, feature, n_features, row_stride, n_segments, BLOCK: tl.constexpr):
    label, kept = _exceeds(pre, bar, n_features, row_stride, BLOCK)
    segment = tl.program_id(0).to(tl.int64) * n_segments + tl.program_id(1)
    begin = tl.load(ends + segment) - tl.load(counts + segment)
    tl.store(feature + begin + tl.cumsum(kept, axis=0) - 1, label, mask=kept > 0)


# --- 3: weighted sums of gathered rows ------------------------------------------------------------------------------


def gather_sum(
    begins: Int[Tensor, "bag_plus_one"],
    index: Int[Tensor, "active"],
    weight: Float[Tensor, "active"],
    table: Float[Tensor, "entry width"],
    *,
    longest: int | None = None,
) -> Float[Tensor, "bag width"]:
    """out[b] = sum of weight[p] · table[index[p]] for p in begins[b] .. begins[b + 1], in fp32.

    `longest`: a bound on the size of a bag, where the caller knows one; up to `LONGEST_BAG` it saves the work of
    looking for long bags.
    """
    n_bags, width = begins.numel() - 1, table.shape[1]
    out = torch.empty(n_bags, width, dtype=torch.float32, device=table.device)
    if out.numel() == 0:
        return out
    index, weight, table = index.contiguous(), weight.contiguous(), table.contiguous()
    columns = min(COLUMNS, _power_of_two(width))
    entries = max(8, min(128, 4096 // columns))
    sizes = {"COLUMNS": columns, "ENTRIES": entries, "LONGEST": LONGEST_BAG, "num_warps": 4}
    slices = -(-width // columns)
    # at most two pieces per LONGEST_BAG entries of a long bag: known without waiting for the device
    bound = index.numel() if longest is None else longest
    n_pieces = 2 * index.numel() // LONGEST_BAG if bound > LONGEST_BAG else 0
    with torch.cuda.device_of(table):
        _sum_bags[(n_bags, slices)](begins, index, weight, table, out, width, **sizes)
        if n_pieces:
            count = begins.diff()
            pieces = torch.where(count > LONGEST_BAG, (count + LONGEST_BAG - 1) // LONGEST_BAG, 0)
            ends = pieces.cumsum(0)
            bag = torch.searchsorted(ends, torch.arange(n_pieces, device=ends.device), right=True)
            partial = torch.empty(n_pieces, width, dtype=torch.float32, device=table.device)
            _sum_pieces[(n_pieces, slices)](
                begins, index, weight, table, bag, pieces, ends, partial, n_bags, width, **sizes
            )  # fmt: skip
            _join_pieces[(n_pieces, slices)](bag, pieces, ends, partial, out, n_bags, width, COLUMNS=columns)
    return out


@_jit
def _weighted_rows(
    first, last, index, weight, table, column, width, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Sum of weight · table row over the entries first .. last, always in the same order."""
    total = tl.zeros([ENTRIES, COLUMNS], tl.float32)
    for start in range(first, last, ENTRIES):
        place = start + tl.arange(0, ENTRIES)
        live = place < last
        row = tl.load(index + place, mask=live, other=0).to(tl.int64)
        share = tl.load(weight + place, mask=live, other=0).to(tl.float32)
        inside = live[:, None] & (column < width)[None, :]
        values = tl.load(table + row[:, None] * width + column[None, :], mask=inside, other=0)
        total += share[:, None] * values.to(tl.float32)
    return tl.sum(total, axis=0)


@_jit
def _sum_bags(
    begins, index, weight, table, out, width,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    bag = tl.program_id(0).to(tl.int64)
    first, last = tl.load(begins + bag), tl.load(begins + bag + 1)
    if last - first <= LONGEST:
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        total = _weighted_rows(first, last, index, weight, table, column, width, ENTRIES, COLUMNS)
        tl.store(out + bag * width + column, total, mask=column < width)


@_jit
def _sum_pieces(
    begins, index, weight, table, bag_of, pieces, ends, partial, n_bags, width,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0).to(tl.int64)
    bag = tl.load(bag_of + piece)
    if bag < n_bags:
        number = piece - (tl.load(ends + bag) - tl.load(pieces + bag))
        first = tl.load(begins + bag) + number * LONGEST
        last = tl.minimum(first + LONGEST, tl.load(begins + bag + 1))
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        total = _weighted_rows(first, last, index, weight, table, column, width, ENTRIES, COLUMNS)
        tl.store(partial + piece * width + column, total, mask=column < width)


@_jit
def _join_pieces(bag_of, pieces, ends, partial, out, n_bags, width, COLUMNS: tl.constexpr):
    piece = tl.program_id(0).to(tl.int64)
    bag = tl.load(bag_of + piece)
    if bag < n_bags:
        end = tl.load(ends + bag)
        if piece == end - tl.load(pieces + bag):  # the program of a bag's first piece adds them all up
            column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
            total = tl.zeros([COLUMNS], tl.float32)
            for other in range(piece, end):
                total += tl.load(partial + other * width + column, mask=column < width, other=0)
            tl.store(out + bag * width + column, total, mask=column < width)


# --- 4: products at the active pairs --------------------------------------------------------------------------------


def sampled_product(
    row: Int[Tensor, "active"],
    feature: Int[Tensor, "active"],
    left: Float[Tensor, "row width"],
    right: Float[Tensor, "feature width"],
) -> Float[Tensor, "active"]:
    """<left[row[p]], right[feature[p]]> for every pair p, in the order of the pairs, in fp32.

    Pairs may come in any order; sorted by feature, right is read once and left's slice of columns stays in L2.
    """
    n_pairs, width = row.numel(), left.shape[1]
    if n_pairs == 0 or width == 0:
        return torch.zeros(n_pairs, dtype=torch.float32, device=left.device)
    left, right = left.contiguous(), right.contiguous()
    columns = min(128, _power_of_two(width))  # what one warp reads at once
    parts = min(COLUMNS // columns, -(-width // columns))
    pairs = max(16, min(128, 2048 // columns))
    slices = -(-width // (columns * parts))
    partial = torch.empty(slices, n_pairs, dtype=torch.float32, device=left.device)
    with torch.cuda.device_of(left):
        _products[(-(-n_pairs // pairs), slices)](
            row, feature, left, right, partial, n_pairs, width,
            PAIRS=pairs, COLUMNS=columns, PARTS=parts, num_warps=4,
        )  # fmt: skip
    return partial[0] if slices == 1 else partial.sum(0)


@_jit
def _products(
    row, feature, left, right, partial, n_pairs, width,
    PAIRS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    live = pair < n_pairs
    left_row = tl.load(row + pair, mask=live, other=0).to(tl.int64)[:, None] * width
    right_row = tl.load(feature + pair, mask=live, other=0).to(tl.int64)[:, None] * width
    total = tl.zeros([PAIRS, COLUMNS], tl.float32)
    for part in tl.static_range(PARTS):
        column = (tl.program_id(1) * PARTS + part) * COLUMNS + tl.arange(0, COLUMNS)
        inside = live[:, None] & (column < width)[None, :]
        a = tl.load(left + left_row + column[None, :], mask=inside, other=0).to(tl.float32)
        b = tl.load(right + right_row + column[None, :], mask=inside, other=0).to(tl.float32)
        total += a * b
    tl.store(partial + tl.program_id(1).to(tl.int64) * n_pairs + pair, tl.sum(total, axis=1), mask=live)
