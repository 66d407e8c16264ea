"""Adam (1412.6980) whose matrices are updated one block of rows at a time, as their gradients are made.

A dictionary's two matrices hold nearly all its numbers. Making the whole of their gradients, then projecting, updating
and renormalising each takes a dozen passes over memory; block by block all of it happens in the cache, and no gradient
of the whole is ever held. The arithmetic itself is torch's own fused Adam.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Moments:
    """Running means of a parameter's gradient and of its square."""

    first: Tensor
    second: Tensor


class Adam:
    """The moments of named parameters, and how many steps they have seen."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.moments: dict[str, Moments] = {
            name: Moments(torch.zeros_like(p.detach()), torch.zeros_like(p.detach())) for name, p in parameters.items()
        }
        self.steps = 0

    @torch.no_grad()
    def update(self, name: str, parameter: Tensor, gradient: Tensor, *, learning_rate: float, rows: slice) -> None:
        """Update these rows of a parameter for the step that is being taken (`steps` counts the finished ones)."""
        moments = self.moments[name]
        # torch counts a step up before it uses the number
        count = torch.tensor(float(self.steps), device=parameter.device)
        adam(
            [parameter[rows]],
            [gradient],
            [moments.first[rows]],
            [moments.second[rows]],
            [],
            [count],
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
