"""The loss of a joint dictionary as named pure terms; what is added is what is logged.

With e_m = x_m - xhat_m the error in space m (scaled units) and V_m the total variance of x_m:

| loss        | value, mean over rows                                | reads as                                     |
|-------------|------------------------------------------------------|----------------------------------------------|
| `joint`     | sum_m ||e_m||^2 / sum_m V_m                           | one squared L2 over the concatenation: FVU   |
| `per_model` | (1/M) sum_m ||e_m||^2 / V_m                           | each model counts alike: mean of the FVUs    |
| `l2norm`    | sum_m ||e_m|| / sum_m sqrt(V_m)                       | unsquared: rows with large errors count less |

The squared L2 of a concatenation IS the sum of the squared L2s, so "one loss or two" differ only through each
model's own normalisation (`per_model`) or through unsquared norms (`l2norm`).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from suture.training.settings import LossKind

Terms = dict[str, Tensor]
"""Named scalars whose sum is the loss."""


class _SquaredErrors(torch.autograd.Function):
    """||x_m - xhat_m||^2 per row and space, and the error; backwards one pass over memory instead of ten."""

    @staticmethod
    def forward(
        ctx: Any, decoded: Tensor, b_dec: Tensor, x: Tensor, cuts: tuple[int, ...], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        error = torch.sub(x, decoded).sub_(b_dec)
        if mask is not None:
            error *= mask
        squared = torch.stack(
            [torch.linalg.vector_norm(e, dim=-1) for e in error.split(cuts, dim=-1)], dim=-1
        ).square_()
        ctx.save_for_backward(error)
        ctx.cuts = cuts
        ctx.mark_non_differentiable(error)
        return squared, error

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (error,) = ctx.saved_tensors
        factor = -2.0 * grads[0]
        grad = torch.empty_like(error)
        parts = zip(grad.split(ctx.cuts, dim=-1), error.split(ctx.cuts, dim=-1), factor.unbind(-1), strict=True)
        for out, own, by in parts:
            torch.mul(own, by.unsqueeze(1), out=out)
        return grad, grad.sum(0), None, None, None


def squared_errors(
    decoded: Float[Tensor, "row D"],
    b_dec: Float[Tensor, "D"],
    x: Float[Tensor, "row D"],
    cuts: tuple[int, ...],
    mask: Float[Tensor, "row D"] | None = None,
) -> tuple[Float[Tensor, "row space"], Float[Tensor, "row D"]]:
    """(squared error of every row in every space, the error x - decoded - b_dec itself, held constant).

    `cuts` split D into spaces; where `mask` is zero there is nothing to reconstruct.
    """
    squared, error = _SquaredErrors.apply(decoded, b_dec, x, cuts, mask)  # pyright: ignore[reportGeneralTypeIssues]
    return squared, error


def crossed_errors(
    decoded: Float[Tensor, "row D"], b_dec: Float[Tensor, "D"], x: Float[Tensor, "row D"], cuts: tuple[int, ...]
) -> Float[Tensor, "row"]:
    """sum over pairs of spaces, of one width, of 2 <e_m, e_n>: the errors' squared sum less their squares."""
    error = (x - decoded - b_dec).view(len(x), len(cuts), cuts[0])
    return error.sum(1).square().sum(1) - error.square().sum((1, 2))


def reconstruction(
    squared: Float[Tensor, "row space"], variance: Float[Tensor, "space"], loss: LossKind
) -> Float[Tensor, ""]:
    """The loss of squared errors, by the table above."""
    if loss == "joint":
        return squared.sum() / (squared.shape[0] * variance.sum())
    if loss == "per_model":
        return (squared / variance).mean()
    # a tiny floor keeps the gradient of a norm finite where the error is exactly zero
    return (squared + 1e-12).sqrt().sum(-1).mean() / variance.sqrt().sum()


def l1_penalty(price: Float[Tensor, "active"], n_rows: int, variance: Float[Tensor, "space"]) -> Float[Tensor, ""]:
    """Mean over rows of sum_i f_i sum_m ||d_i^m||, in units of the rows' standard deviation (so free of the width).

    `price` holds f_i sum_m ||d_i^m|| of every active pair.
    """
    return price.sum() / (n_rows * variance.sum().sqrt())


def auxiliary(
    residual: Float[Tensor, "row D"], from_dead: Float[Tensor, "row D"], energy: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """||e - e_hat||^2 / ||e||^2: the share of the main error (held constant) that dead features leave unexplained.

    `energy` is ||e||^2 over all rows, of which `residual` may be a part.
    """
    return (residual - from_dead).square().sum() / energy.clamp_min(1e-12)


class _Revive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor) -> Tensor:
        ctx.save_for_backward(pre)
        return pre.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (pre,) = ctx.saved_tensors
        return torch.where(pre > 0, grads[0], grads[0].clamp_max(0))


def revive(pre: Float[Tensor, "active"]) -> Float[Tensor, "active"]:
    """ReLU whose gradient can also pull a silent unit up (never push it further down).

    With a plain ReLU a feature whose pre-activation is negative on every row is beyond the reach of AuxK.
    """
    result = _Revive.apply(pre)
    assert isinstance(result, Tensor)
    return result


class _JumpReLU(torch.autograd.Function):
    """value = pre · [pre > threshold], with the straight-through gradient of 2407.14435 for the threshold."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        on = pre > threshold
        near = (pre - threshold).abs() < bandwidth / 2
        ctx.save_for_backward(on, near, threshold)
        ctx.bandwidth = bandwidth
        return pre * on, on.to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        on, near, threshold = ctx.saved_tensors
        value_grad, gate_grad = grads
        through = near.to(value_grad.dtype) / ctx.bandwidth
        return value_grad * on, -through * (threshold * value_grad + gate_grad), None


def jump_relu(
    pre: Float[Tensor, "active"], threshold: Float[Tensor, "active"], bandwidth: float
) -> tuple[Float[Tensor, "active"], Float[Tensor, "active"]]:
    """(values, gates in {0, 1}) of a JumpReLU; the gates' sum is the L0 that its penalty lowers."""
    value, gate = _JumpReLU.apply(pre, threshold, bandwidth)  # pyright: ignore[reportGeneralTypeIssues]
    return value, gate
