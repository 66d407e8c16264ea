"""The numbers that tell what an edit did: pure functions of log-probabilities.

1. Side effect: KL(plain || edited) = sum_v p (log p - log q) and the change of the loss on the token that followed.
2. Effect: E = change of the log-probability that the next token is in a target set, minus the same for an anti-target
   set.
3. Efficiency: the strength at which the side effect reaches a budget, and E there, both interpolated.
4. Agreement: Pearson correlation of two models' log-probability changes within prompts, from per-prompt sums that a
   bootstrap over prompts can reweigh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE, AT_ONCE_ELSEWHERE = 2**18, 2**26
"""Logits reduced at a time on a CPU, where so many stay in the cache, and on an accelerator, where that costs launches.
In one go, tables of the vocabulary's size would be written and read several times over, which took as long as half of
the product that they come from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a model left alone says of the next token at some positions, to be held against what it says when edited."""

    logits: Float[Tensor, "row vocab"]
    norm: Float[Tensor, "row"]
    """log sum exp of the logits: log-probabilities are logits less this."""
    chances: Float[Tensor, "row vocab"]

    @staticmethod
    def of(logits: Float[Tensor, "row vocab"]) -> Predictions:
        """From a pass without an edit."""
        norm, chances = log_normaliser(logits), torch.empty_like(logits)
        for some in some_rows(logits):
            torch.exp(logits[some] - norm[some, None], out=chances[some])
        return Predictions(logits=logits, norm=norm, chances=chances)

    def kl(
        self, edited: Float[Tensor, "edited vocab"], at: Int[Tensor, "edited"] | None = None
    ) -> Float[Tensor, "edited"]:
        """KL(plain || edited) in nats per row, from logits; `at` says which row each of the edited ones is.

        This direction weighs by what the unedited model would have said, so it counts what the edit broke.
        """
        found, norm = edited.new_empty(len(edited)), self.norm if at is None else self.norm[at]
        for some in some_rows(edited):
            own = some if at is None else at[some]
            fall = self.logits[own] - edited[some]
            found[some] = torch.linalg.vecdot(self.chances[own], fall) + torch.logsumexp(edited[some], dim=-1)
        return found - norm

    def kl_and_ce_change(
        self, edited: Float[Tensor, "row vocab"], following: Int[Tensor, "row"]
    ) -> Float[Tensor, "row 2"]:
        """KL and the rise of the loss on the following token, nats per row."""
        norm, kl = torch.empty_like(self.norm), torch.empty_like(self.norm)
        for some in some_rows(edited):
            norm[some] = torch.logsumexp(edited[some], dim=-1)
            kl[some] = torch.linalg.vecdot(self.chances[some], self.logits[some] - edited[some])
        rise = norm - self.norm
        own = (self.logits.gather(1, following[:, None]) - edited.gather(1, following[:, None]))[:, 0]
        return torch.stack([kl + rise, own + rise], dim=1)

    def surprise(self, following: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Loss on the following token, nats per row."""
        return self.norm - self.logits.gather(1, following[:, None])[:, 0]


def some_rows(logits: Float[Tensor, "row vocab"]) -> Iterator[slice]:
    """All rows, so many at a time as are well reduced together."""
    at_once = AT_ONCE if logits.device.type == "cpu" else AT_ONCE_ELSEWHERE
    n = max(1, at_once // logits.shape[1])
    return (slice(first, first + n) for first in range(0, len(logits), n))


def log_normaliser(logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """log sum exp of each row."""
    found = logits.new_empty(len(logits))
    for some in some_rows(logits):
        found[some] = torch.logsumexp(logits[some], dim=-1)
    return found


def set_effect(
    plain: Float[Tensor, "row vocab"], edited: Float[Tensor, "row vocab"], targets: Tensor, anti_targets: Tensor
) -> Float[Tensor, "row"]:
    """E of each row in nats: change of log P(next token in `targets`) minus that of `anti_targets` (int64 ids)."""

    def change(ids: Tensor) -> Tensor:
        return torch.logsumexp(edited[:, ids], dim=1) - torch.logsumexp(plain[:, ids], dim=1)

    return change(targets) - change(anti_targets)


def strength_at(strengths: Sequence[float], kl: Sequence[float], budget: float) -> float | None:
    """The smallest positive strength at which `kl` reaches `budget`; None if it never does.

    Interpolated linearly in sqrt(kl), which is proportional to the strength where that is small, starting at (0, 0).

    >>> strength_at([1.0, 2.0], [0.01, 0.04], 0.0225)
    1.5
    >>> strength_at([1.0, 2.0], [0.01, 0.04], 0.1) is None
    True
    """
    before, root_before = 0.0, 0.0
    for strength, value in sorted(zip(strengths, kl, strict=True)):
        if strength <= 0:
            continue
        root = max(value, 0.0) ** 0.5
        if root >= budget**0.5:
            return before + (strength - before) * (budget**0.5 - root_before) / (root - root_before)
        before, root_before = strength, root
    return None


def effect_at(strengths: Sequence[float], effect: Sequence[float], strength: float | None) -> float | None:
    """The effect at a strength between those measured, linearly interpolated, with effect 0 at strength 0.

    >>> effect_at([1.0, 2.0], [3.0, 4.0], 1.5)
    3.5
    """
    if strength is None:
        return None
    points = sorted({0.0: 0.0, **dict(zip(strengths, effect, strict=True))}.items())
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= strength <= x1:
            return y0 + (y1 - y0) * (strength - x0) / (x1 - x0)
    return None


def prompt_sums(a: Float[Tensor, "prompt text"], b: Float[Tensor, "prompt text"]) -> Float[Tensor, "prompt 3"]:
    """Per prompt sum ab, sum aa, sum bb of two models' changes, each centred over the texts of the prompt (float64).

    Centring removes the normaliser, so that changes of log-probabilities and of logits give the same sums.
    """
    a, b = (c.double() - c.double().mean(dim=1, keepdim=True) for c in (a, b))
    return torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)], dim=1)
