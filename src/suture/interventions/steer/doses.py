"""Doses: how strongly each direction is added, given as strengths or as KL budgets, and what that does to neutral text.

1. Strengths given: every direction is measured at each of them.
2. Budgets given (nats per token of KL on the neutral text): for every direction the strength that costs so much is
   searched. KL grows with the square of a small strength, so the next try is interpolated in its root; what is known on
   both sides brackets it. All directions of a round share the plain passes.
3. A search ends within `TOLERANCE` of its budget, or where the budget is not reached: up to `MOST` times the 99.9 %
   activation KL stays below (a direction that the model does not feel), or jumps over it. Then the measured strength
   whose KL comes nearest stands there, and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions.edits import steer
from suture.interventions.steer.probe import Probe
from suture.interventions.steer.progress import Counter

TOLERANCE = 0.02
"""A budget is met where KL is within this part of it."""
MOST = 1024.0
"""The largest strength tried."""
NARROW = 1e-4
"""A bracket narrower than this part of its strength holds a jump."""
LARGEST_STEP, LEAST_STEP = 8.0, 1.1
USUAL_TRIES = 6
"""Strengths that a search takes, for the estimate of the work."""


@dataclass(frozen=True, kw_only=True)
class Doses:
    """What one direction costs at every dose."""

    strengths: tuple[float, ...]
    reached: tuple[bool, ...]
    """Whether KL there is the budget; always true where strengths were given."""
    sums: Float[Tensor, "dose text 2"]
    """Of each neutral text: KL and the rise of the loss, summed over its scored positions."""


@dataclass(frozen=True, kw_only=True)
class NeutralText:
    """What the directions' doses are measured against."""

    plain_ce: Float[Tensor, "text"]
    count: Float[Tensor, "text"]
    """Scored positions."""


def at_strengths(
    probe: Probe, vectors: Sequence[Float[Tensor, "width"]], strengths: Sequence[float], counter: Counter
) -> tuple[list[Doses], NeutralText]:
    """1: every vector (raw units, at strength 1) at the same strengths."""
    edits = [steer(vector, strength) for vector in vectors for strength in strengths]
    sums, plain_ce, count = probe.neutral_sums(edits, counter.step)
    reached = (True,) * len(strengths)
    found = [
        Doses(strengths=tuple(strengths), reached=reached, sums=own)
        for own in sums.reshape(len(vectors), len(strengths), probe.n_texts, 2)
    ]
    return found, NeutralText(plain_ce=plain_ce, count=count)


def at_budgets(
    probe: Probe,
    vectors: Sequence[Float[Tensor, "width"]],
    budgets: Sequence[Sequence[float]],
    counter: Counter,
) -> tuple[list[Doses], NeutralText]:
    """2 and 3: every vector (raw units, at strength 1) at the strengths where KL is each of its own budgets."""
    tried: list[dict[float, Tensor]] = [{} for _ in vectors]
    curves: list[dict[float, float]] = [{} for _ in vectors]
    text: NeutralText | None = None
    while True:
        wanted = []
        for i, own in enumerate(budgets):
            proposed = {next_strength(curves[i], budget) for budget in own}
            wanted += [(i, strength) for strength in proposed if strength is not None]
        if not wanted and text is not None:
            break
        sums, plain_ce, count = probe.neutral_sums([steer(vectors[i], s) for i, s in wanted], counter.step)
        text = text or NeutralText(plain_ce=plain_ce, count=count)
        for (i, strength), own in zip(wanted, sums, strict=True):
            tried[i][strength] = own
            curves[i][strength] = float(own[:, 0].sum() / count.sum())
    found = []
    for own, curve, sums in zip(budgets, curves, tried, strict=True):
        settled = [settle(curve, budget) for budget in own]
        found.append(
            Doses(
                strengths=tuple(strength for strength, _ in settled),
                reached=tuple(reached for _, reached in settled),
                sums=torch.stack([sums[strength] for strength, _ in settled]),
            )
        )
    return found, text


def met(kl: float, budget: float) -> bool:
    """Whether a KL is the budget, within the tolerance."""
    return abs(kl - budget) <= TOLERANCE * budget


def next_strength(curve: Mapping[float, float], budget: float) -> float | None:
    """The strength to try next, given KL by strength so far; None where the search has ended.

    >>> next_strength({}, 0.4), next_strength({1.0: 0.1}, 0.4), next_strength({1.0: 0.4}, 0.4)
    (1.0, 2.1, None)
    """
    if not curve:
        return 1.0
    if any(met(kl, budget) for kl in curve.values()):
        return None
    high = min((s for s, kl in curve.items() if kl > budget), default=None)
    if high is None:
        return _further(curve, budget)
    low = max((s for s in curve if s < high), default=0.0)
    if high - low <= NARROW * high:
        return None
    root_low, root_high = max(curve.get(low, 0.0), 0.0) ** 0.5, curve[high] ** 0.5
    part = (budget**0.5 - root_low) / (root_high - root_low)
    if len(curve) % 4 == 0:  # a curve far from its root's straight line would be approached from one side for ever
        part = 0.5
    return low + (high - low) * min(max(part, 0.05), 0.95)


def _further(curve: Mapping[float, float], budget: float) -> float | None:
    """Beyond all that was tried: where the square law puts the budget, and a bit."""
    top = max(curve)
    if top >= MOST:
        return None
    least = LEAST_STEP if len(curve) < 4 else 2.0  # a curve that has become flat is not crept along
    step = LARGEST_STEP if curve[top] <= 0 else 1.05 * (budget / curve[top]) ** 0.5
    return min(top * min(max(step, least), LARGEST_STEP), MOST)


def settle(curve: Mapping[float, float], budget: float) -> tuple[float, bool]:
    """(strength, whether KL there is the budget): the smallest that meets it, or that whose KL comes nearest.

    >>> settle({1.0: 0.1, 2.0: 0.3, 4.0: 1.2}, 0.3), settle({1.0: 0.01, 1024.0: 0.02}, 0.3)
    ((2.0, True), (1024.0, False))
    """
    good = [s for s, kl in curve.items() if met(kl, budget)]
    if good:
        return min(good), True
    return min(curve, key=lambda s: (abs(curve[s] - budget), s)), False
