"""Low-rank updates of a model's matrices (2106.09685), trained in place of the matrices and then merged into them.

1. A matrix W of a block becomes W + s B A while it is trained: A [rank, columns] drawn, B [rows, rank] zero, s = 2.
2. `merge` puts W + s B A where W was; the model is an ordinary one again, with no trace of how it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from suture import seeds
from suture.errors import UserError

SCALE = 2.0
"""s; the usual alpha of twice the rank."""


class _LowRank(nn.Module):
    def __init__(self, weight: Float[Tensor, "rows columns"], rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + SCALE * (self.up @ self.down)


def matrices(model: PreTrainedModel, patterns: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The modules with a matrix for a weight, embeddings and head left out; `patterns` keep those whose path fits one.

    Raises:
        UserError: a pattern that fits none.
    """
    apart = {id(model.get_output_embeddings())}
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor)
        and weight.ndim == 2
        and not isinstance(module, nn.Embedding)
        and id(module) not in apart
    }
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UserError("modules", pattern, "fits no matrix of the model", f"use for example {next(iter(found))}")
    return {n: m for n, m in found.items() if not patterns or any(fnmatchcase(n, p) for p in patterns)}


def add(model: PreTrainedModel, rank: int, *, patterns: Sequence[str] = (), seed: int = 0) -> list[nn.Parameter]:
    """Give every matrix a low-rank update that changes nothing yet; returns what is to be trained.  (1)

    Raises:
        UserError: a pattern that fits none.
    """
    trained: list[nn.Parameter] = []
    for number, module in enumerate(matrices(model, patterns).values()):
        weight = module.weight
        assert isinstance(weight, Tensor)
        update = _LowRank(weight.detach(), rank, seeds.generator("low rank", seed, number))
        parametrize.register_parametrization(module, "weight", update)
        module.parametrizations.weight.original.requires_grad_(requires_grad=False)  # pyright: ignore
        trained += [update.down, update.up]
    return trained


def merge(model: PreTrainedModel) -> None:
    """Put every update into its matrix.  (2)"""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
