"""The sparse products of a dictionary: after one dense product everything costs k / n_features of dense.

1. `sampled_product`: <a[row], b[feature]> at the active pairs only.
2. `decode`: sum of value · W_dec[feature] over a row's active features, a weighted embedding-bag.
3. Backward: the gradient of the values is a sampled product; those of W_dec and W_enc are `transpose_times`, one
   embedding-bag per feature over the rows where it is active: no atomics, and no [row, feature] matrix, ever.
"""

import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from suture.dictionary.codes import Pattern
from suture.dictionary.kernels import gpu

PIECE_ELEMENTS = 4 * 2**20
"""Numbers of the rows gathered at a time where torch has no sampled product of its own."""


def gather_sum(
    begins: Int[Tensor, "bag_plus_one"],
    index: Int[Tensor, "active"],
    weight: Float[Tensor, "active"],
    table: Float[Tensor, "entry width"],
) -> Float[Tensor, "bag width"]:
    """out[b] = sum of weight[p] · table[index[p]] for p in begins[b] .. begins[b + 1]."""
    if gpu.handles(weight, table):
        return gpu.gather_sum(begins, index, weight, table)
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

    Of the two matrices the larger is read once, in order, and the smaller, which fits the cache better, at random: row
    by row where there are fewer features than rows, else feature by feature.
    """
    if pattern.n_active == 0:
        return per_row.new_zeros(0)
    by_row = pattern.n_features <= pattern.n_rows and not gpu.handles(per_row, per_feature)
    if by_row and _has_sampled_addmm(per_row.device.type):
        return _sampled_csr(pattern.crow, pattern.feature, per_row, per_feature)
    order, row, begins = pattern.by_feature
    if gpu.handles(per_row, per_feature):
        ordered = gpu.sampled_product(row, pattern.feature[order], per_row, per_feature)
    elif _has_sampled_addmm(per_row.device.type):
        ordered = _sampled_csr(begins, row, per_feature, per_row)
    else:
        ordered = _sampled_gather(pattern.feature[order], row, per_feature, per_row)
    return torch.empty_like(ordered).index_copy_(0, order, ordered)


def feature_sums(pattern: Pattern, value: Float[Tensor, "active"]) -> Float[Tensor, "feature"]:
    """The sum of each feature's values, added up in the same order in every run."""
    if value.device.type == "cpu":
        sums = torch.bincount(pattern.feature, weights=value, minlength=pattern.n_features)
        return sums.to(value.dtype)  # of nothing it counts in integers
    return transpose_times(pattern, value, value.new_ones(pattern.n_rows, 1)).squeeze(1)


def row_products(
    left: Float[Tensor, "feature width"], right: Float[Tensor, "feature width"]
) -> Float[Tensor, "feature"]:
    """<left[f], right[f]> of every row: a sampled product on the diagonal, which makes no matrix of the products."""
    if gpu.handles(left, right) or not _has_sampled_addmm(left.device.type):
        return torch.linalg.vecdot(left, right)
    diagonal = torch.arange(left.shape[0] + 1, dtype=torch.int32, device=left.device)
    return _sampled_csr(diagonal, diagonal[:-1], left, right)


def _sampled_csr(begins: Tensor, column: Tensor, left: Tensor, right: Tensor) -> Tensor:
    where = torch.sparse_csr_tensor(
        begins, column, left.new_zeros(column.numel()), (left.shape[0], right.shape[0]), check_invariants=False
    )
    return torch.sparse.sampled_addmm(where, left, right.t(), beta=0.0).values()


def _sampled_gather(left_index: Tensor, right_index: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The same without MKL or cuSPARSE, in pieces so that the gathered rows never pile up."""
    piece = max(1, PIECE_ELEMENTS // left.shape[1])
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
    along_parts: list[Tensor] = field(default_factory=list)
    """Of each product that a decoder made, <dense[row], W[feature]> at each pair, which it needed anyway."""

    def along(self) -> Float[Tensor, "feature"]:
        """<gradient, W> of every row of a decoder, without a pass over either."""
        parts = zip(self.parts, self.along_parts, strict=True)
        return torch.stack([feature_sums(at, value * product) for (at, value, _), product in parts]).sum(0)

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
        return feature_sums(ctx.pattern, grads[0].contiguous()), None


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
        along = sampled_product(ctx.pattern, grad, W_dec)
        if ctx.into is not None:
            ctx.into.along_parts.append(along)
        return along, _collect(ctx.into, ctx.pattern, value, grad), None, None


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
