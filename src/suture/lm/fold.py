"""Fold a projection into the weights that write an activation, so that a plain model does what a hook would.

1. The linear write: of the modules inside the hookpoint's, the one whose output is the activation itself, tried on a
   few tokens. Behind a norm, a residual or a sum of experts there is none.
2. y = W h + b becomes (I - U^T U)(W h + b) + U^T U m, U [direction, width] orthonormal, m the mean that is kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from suture.errors import UserError
from suture.lm.hookpoints import resolve
from suture.lm.load import LanguageModel


@torch.no_grad()
def _linear_write(lm: LanguageModel, hookpoint: str) -> nn.Linear | Conv1D:
    """The module whose output is the activation at a hookpoint.  (1)

    Raises:
        UserError: there is none.
    """
    point = resolve(lm.model, hookpoint)
    inside = [m for m in point.module.modules() if isinstance(m, nn.Linear | Conv1D)] if point.side == "output" else []
    seen: dict[int, Tensor] = {}

    def keep(module: nn.Module, _args: object, out: Tensor) -> None:
        seen[id(module)] = out

    handles = [module.register_forward_hook(keep) for module in inside]  # pyright: ignore[reportArgumentType]
    wanted: list[Tensor] = []
    handles.append(point.attach(lambda activation: wanted.append(activation)))
    try:
        ids = torch.arange(1, 9, device=lm.device).view(2, 4) % lm.vocab_size
        lm.model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for module in inside:
        own = seen.get(id(module))
        if wanted and own is not None and own.shape == wanted[0].shape and torch.equal(own, wanted[0]):
            return module
    problem = "is not what one matrix writes, so that nothing can be folded into it"
    raise UserError("hookpoint", hookpoint, problem, "export the graft as a hook")


@torch.no_grad()
def fold(
    lm: LanguageModel, hookpoint: str, directions: Float[Tensor, "direction width"], mean: Float[Tensor, "width"]
) -> None:
    """Change the model's weights so that nothing is left along orthonormal `directions` but what `mean` has.  (2)

    Raises:
        UserError: no linear write, or one without a bias to hold the mean's part.
    """
    write = _linear_write(lm, hookpoint)
    U = directions.double().to(lm.device)
    kept = U.T @ (U @ mean.double().to(lm.device))
    if write.bias is None and float(kept.norm()) > 1e-6:
        problem = "is written without a bias, which would have to hold the mean's part"
        raise UserError("hookpoint", hookpoint, problem, "export the graft as a hook")
    weight = write.weight.double()
    if isinstance(write, Conv1D):  # stored [in, out]
        write.weight.copy_(weight - weight @ U.T @ U)
    else:
        write.weight.copy_(weight - U.T @ (U @ weight))
    if write.bias is not None:
        bias = write.bias.double()
        write.bias.copy_(bias - U.T @ (U @ bias) + kept)
