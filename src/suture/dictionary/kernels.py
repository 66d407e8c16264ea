"""The sparse arithmetic of a dictionary: after one dense product everything costs k / n_features of dense.

1. `top_k`, `Chunks`: the one dense product x · W_enc^T, in row chunks that stay in cache, and the selection of what is
   active in it. In bf16 a few candidates too many are chosen and re-scored in fp32, so that the chosen set and its
   values are those of fp32 at the speed of bf16.
2. `sampled_product`: <a[row], b[feature]> at the active pairs only.
3. `decode`: sum of value · W_dec[feature] over a row's active features, a weighted embedding-bag.
4. Backward: the gradient of the values is a sampled product; those of W_dec and W_enc are `transpose_times`, one
   embedding-bag per feature over the rows where it is active: no atomics, and no [row, feature] matrix, ever.
"""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from suture import seeds
from suture.dictionary import triton_kernels
from suture.dictionary.codes import Pattern
from suture.errors import UserError

CHUNK_ELEMENTS = 4 * 2**20
"""Entries of one chunk of pre-activations: 16 MB in fp32, which a last-level cache holds."""

GPU_CHUNK_ELEMENTS = 2**29
"""The same on a GPU: 1 GB in bf16, so that a product fills the device."""

MARGIN = 8
"""Candidates beyond k that a bf16 product offers to the exact fp32 re-scoring."""


# --- sparse products ------------------------------------------------------------------------------------------------


def gather_sum(
    begins: Int[Tensor, "bag_plus_one"],
    index: Int[Tensor, "active"],
    weight: Float[Tensor, "active"],
    table: Float[Tensor, "entry width"],
) -> Float[Tensor, "bag width"]:
    """out[b] = sum of weight[p] · table[index[p]] for p in begins[b] .. begins[b + 1]."""
    if triton_kernels.handles(weight, table):
        return triton_kernels.gather_sum(begins, index, weight, table)
    if index.numel() == 0:
        return table.new_zeros(begins.numel() - 1, table.shape[1])
    return functional.embedding_bag(
        index, table, begins, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def transpose_times(
    pattern: Pattern, value: Float[Tensor, "active"], dense: Float[Tensor, "row width"]
) -> Float[Tensor, "feature width"]:
    """codes^T · dense: for each feature the sum of value · dense[row] over the rows where it is active."""
    order, row, begins = pattern.by_feature
    return gather_sum(begins, row, value[order], dense)


def sampled_product(
    pattern: Pattern, per_row: Float[Tensor, "row width"], per_feature: Float[Tensor, "feature width"]
) -> Float[Tensor, "active"]:
    """<per_row[r], per_feature[f]> at every active pair (r, f), in the pattern's order.

    Computed feature by feature: a feature's vector is read once, and the rows fit the cache.
    """
    order, row, begins = pattern.by_feature
    if pattern.n_active == 0:
        return per_row.new_zeros(0)
    if triton_kernels.handles(per_row, per_feature):
        ordered = triton_kernels.sampled_product(row, pattern.feature[order], per_row, per_feature)
    elif _has_sampled_addmm(per_row.device.type):
        ordered = _sampled_csr(begins, row, per_feature, per_row)
    else:
        ordered = _sampled_gather(pattern.feature[order], row, per_feature, per_row)
    return torch.empty_like(ordered).index_copy_(0, order, ordered)


def _sampled_csr(begins: Tensor, column: Tensor, left: Tensor, right: Tensor) -> Tensor:
    where = torch.sparse_csr_tensor(
        begins, column, left.new_zeros(column.numel()), (left.shape[0], right.shape[0]), check_invariants=False
    )
    return torch.sparse.sampled_addmm(where, left, right.t(), beta=0.0).values()


def _sampled_gather(left_index: Tensor, right_index: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The same without MKL or cuSPARSE, in pieces so that the gathered rows never pile up."""
    piece = max(1, CHUNK_ELEMENTS // left.shape[1])
    parts = [
        (left[i] * right[j]).sum(-1) for i, j in zip(left_index.split(piece), right_index.split(piece), strict=True)
    ]
    return torch.cat(parts)


@cache
def _has_sampled_addmm(device_type: str) -> bool:
    """Whether this build of torch can do a sampled product there (on CPU it needs MKL)."""
    eye = torch.eye(2, device=device_type)
    ends, column = (torch.arange(n, device=device_type, dtype=torch.int32) for n in (3, 2))
    try:
        with warnings.catch_warnings():
            # torch says once per process that its CSR tensors are in beta; this is the first one made
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            _sampled_csr(ends, column, eye, eye)
    except RuntimeError:
        return False
    return True


# --- differentiable in weights and values ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RowGradient:
    """The gradient of a matrix with a row per feature, as the sparse products codes^T · dense that it is the sum of.

    Whoever uses it asks for one block of rows at a time: the whole is never made.
    """

    parts: list[tuple[Pattern, Tensor, Tensor]] = field(default_factory=list)
    """(where, value at each active pair, dense [row, width]) of each product."""

    def rows(self, wanted: slice) -> Float[Tensor, "feature width"]:
        """These rows of the gradient."""
        total: Tensor | None = None
        for pattern, value, dense in self.parts:
            order, row, begins = pattern.by_feature
            first, last = int(begins[wanted.start]), int(begins[wanted.stop])
            bags = begins[wanted.start : wanted.stop + 1] - first
            part = gather_sum(bags, row[first:last], value[order[first:last]], dense)
            total = part if total is None else total.add_(part)
        assert total is not None, "no backward pass has been here"
        return total


class _Preactivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, pattern: Pattern, known: Tensor | None, into: RowGradient | None
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.pattern, ctx.into = pattern, into
        return sampled_product(pattern, x, W_enc) if known is None else known.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, None, None, None]:
        (x,) = ctx.saved_tensors
        return None, _collect(ctx.into, ctx.pattern, grads[0], x), None, None, None


class _PerFeature(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        return vector[pattern.feature]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ones = grads[0].new_ones(ctx.pattern.n_rows, 1)
        return transpose_times(ctx.pattern, grads[0].contiguous(), ones).squeeze(1), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, W_dec: Tensor, pattern: Pattern, into: RowGradient | None) -> Tensor:
        ctx.save_for_backward(value, W_dec)
        ctx.pattern, ctx.into = pattern, into
        return gather_sum(pattern.crow, pattern.feature, value, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        value, W_dec = ctx.saved_tensors
        grad = grads[0].contiguous()
        return sampled_product(ctx.pattern, grad, W_dec), _collect(ctx.into, ctx.pattern, value, grad), None, None


def _collect(into: RowGradient | None, pattern: Pattern, value: Tensor, dense: Tensor) -> Tensor | None:
    if into is None:
        return transpose_times(pattern, value, dense)
    into.parts.append((pattern, value, dense))
    return None


def preactivations(
    x: Float[Tensor, "row D_in"],
    W_enc: Float[Tensor, "feature D_in"],
    pattern: Pattern,
    known: Float[Tensor, "active"] | None = None,
    into: RowGradient | None = None,
) -> Float[Tensor, "active"]:
    """<x[row], W_enc[feature]> at the active pairs; the gradient reaches W_enc alone, or is left in `into`.

    `known` are those numbers where the selection has computed them already.
    """
    result = _Preactivations.apply(x, W_enc, pattern, known, into)
    assert isinstance(result, Tensor)
    return result


def per_feature(vector: Float[Tensor, "feature"], pattern: Pattern) -> Float[Tensor, "active"]:
    """vector[feature] at the active pairs.

    Plain indexing adds its gradient up atomically, in whatever order threads come: a run would never be the same twice.
    """
    result = _PerFeature.apply(vector, pattern)
    assert isinstance(result, Tensor)
    return result


def decode(
    value: Float[Tensor, "active"],
    W_dec: Float[Tensor, "feature D"],
    pattern: Pattern,
    into: RowGradient | None = None,
) -> Float[Tensor, "row D"]:
    """Sum of value · W_dec[feature] over each row's active features.

    The gradient reaches the values, and W_dec or, if given, `into`.
    """
    result = _Decode.apply(value, W_dec, pattern, into)
    assert isinstance(result, Tensor)
    return result


# --- the dense product and the choice of what is active in it -------------------------------------------------------


@dataclass(frozen=True)
class Chunks:
    """The pre-activations x · W_enc^T + b_enc, one chunk of rows at a time (never all of them at once)."""

    x: Float[Tensor, "row D_in"]
    W_enc: Float[Tensor, "feature D_in"]
    b_enc: Float[Tensor, "feature"]
    precision: Literal["float32", "bfloat16"] = "float32"
    buffer: Float[Tensor, "entry"] | None = None
    """Memory for a chunk, see `chunk_buffer`: fresh memory costs a page fault for every 4 kB of it, each time."""

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, pre-activations of the chunk), computed without gradient; a chunk is gone when the next comes."""
        with torch.no_grad():
            dtype = torch.bfloat16 if self.precision == "bfloat16" else self.x.dtype
            W, b = self.W_enc.to(dtype), self.b_enc.to(dtype)
            for start, part in self._parts():
                if self.buffer is None:
                    yield start, functional.linear(part.to(dtype), W, b)
                else:
                    out = self.buffer[: part.shape[0] * W.shape[0]].view(part.shape[0], W.shape[0])
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


def _chunk_rows(W_enc: Tensor) -> int:
    return max(64, (GPU_CHUNK_ELEMENTS if W_enc.is_cuda else CHUNK_ELEMENTS) // W_enc.shape[0])


def chunk_buffer(W_enc: Float[Tensor, "feature D_in"], precision: str) -> Float[Tensor, "entry"] | None:
    """Memory for one chunk of pre-activations, for every step to use again.

    None on a GPU, whose allocator keeps its memory.
    """
    if W_enc.is_cuda:
        return None
    dtype = torch.bfloat16 if precision == "bfloat16" else W_enc.dtype
    return W_enc.new_empty(_chunk_rows(W_enc) * W_enc.shape[0], dtype=dtype)


def top_k(pre: Float[Tensor, "row feature"], k: int) -> Int[Tensor, "row k"]:
    """Indices of the k largest entries of every row, unsorted, found through the maxima of groups.

    Exact, because the k largest entries lie in the k groups with the largest maxima (of equal values any k are chosen).
    """
    if triton_kernels.handles(pre):
        return triton_kernels.top_k(pre, k).long()
    key, n_features = _ordered_integers(pre), pre.shape[1]
    for group, subgroup in ((32, 8), (16, 4)):
        if n_features % group == 0 and n_features // group >= 2 * k:
            return _two_level_top_k(key, k, group, subgroup)
    if n_features % 8 == 0 and n_features // 8 >= 2 * k:
        return _one_level_top_k(key, k, 8)
    return key.topk(k, dim=-1, sorted=False).indices


def _ordered_integers(pre: Tensor) -> Tensor:
    """bf16 as int16: the same order for positive values, and negatives below them, at the speed of integers.

    Among negatives the order is reversed, which matters only where fewer than k entries are positive; those k then
    hold zeros after the ReLU whichever are chosen.
    """
    return pre.view(torch.int16) if pre.dtype == torch.bfloat16 and pre.device.type == "cpu" else pre


def _one_level_top_k(key: Tensor, k: int, group: int) -> Tensor:
    n, n_features = key.shape
    n_groups = n_features // group
    view = key.view(n, group, n_groups)
    best = view.amax(1).topk(k, dim=-1, sorted=False).indices
    inside = view.gather(2, best.unsqueeze(1).expand(n, group, k)).reshape(n, group * k)
    chosen = inside.topk(k, dim=-1, sorted=False).indices
    member = chosen // k
    return member * n_groups + best.gather(1, chosen - member * k)


def _two_level_top_k(key: Tensor, k: int, group: int, subgroup: int) -> Tensor:
    n, n_features = key.shape
    n_groups = n_features // group
    view = key.view(n, group, n_groups)
    best = view.amax(1).topk(k, dim=-1, sorted=False).indices
    # members of the k best groups, as `subgroup` strips of `width`; the same trick on them
    width = (group // subgroup) * k
    strips = view.gather(2, best.unsqueeze(1).expand(n, group, k)).view(n, subgroup, width)
    best_strip = strips.amax(1).topk(k, dim=-1, sorted=False).indices
    inside = strips.gather(2, best_strip.unsqueeze(1).expand(n, subgroup, k)).reshape(n, subgroup * k)
    chosen = inside.topk(k, dim=-1, sorted=False).indices
    member = chosen // k
    flat = member * width + best_strip.gather(1, chosen - member * k)
    member = flat // k
    return member * n_groups + best.gather(1, flat - member * k)


def above(
    pre: Float[Tensor, "row feature"], bar: Float[Tensor, "feature"]
) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"]]:
    """(row, feature) of every entry that exceeds its feature's bar, row by row."""
    if triton_kernels.handles(pre):
        crow, feature = triton_kernels.above(pre, bar)
        return Pattern(crow, feature, pre.shape[1]).row, feature
    row, feature = torch.nonzero(pre > bar.to(pre.dtype), as_tuple=True)
    return row, feature


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
    """Measured once: the fastest of many alternating products, which a busy machine disturbs least."""
    if device_type != "cpu":
        return True
    chance = seeds.generator("timing", 0)  # the caller's own random state stays as it was
    a, b = torch.randn(512, 512, generator=chance), torch.randn(2048, 512, generator=chance)
    operands = {dtype: (a.to(dtype), b.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(operands, float("inf"))
    for _ in range(20):
        for dtype, (x, w) in operands.items():
            started = time.perf_counter()
            functional.linear(x, w)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.bfloat16] < 0.8 * best[torch.float32]
