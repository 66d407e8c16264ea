"""What directions did at every dose, as numbers: the feature's own curve, and the mean of each kind of control.

1. Per direction and dose: KL and rise of the loss per neutral token, E over the evaluation prompts.
2. A kind's curve is the mean over its directions, with the interval of that mean (`Control`).
3. At equal KL: each direction's E where its own KL is the same. With strengths given it is interpolated along the
   direction's curve; with KL budgets it was measured there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions import measures
from suture.interventions.settings import ControlKind, SteerSettings
from suture.interventions.steer.doses import Doses, NeutralText
from suture.uncertainty import Draws, Interval, mean_interval, ratio_interval


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One direction's numbers, a value per dose."""

    strengths: tuple[float, ...]
    reached: tuple[bool, ...]
    kl: tuple[float, ...]
    kl_interval: tuple[Interval | None, ...]
    ce: tuple[float, ...]
    ce_interval: tuple[Interval | None, ...]
    effect: tuple[float, ...]
    effect_interval: tuple[Interval | None, ...]
    strength_at_kl: float | None
    effect_at_kl: float | None
    effect_at_kl_interval: Interval | None
    """With KL budgets only: a point between two measured ones has none."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Bootstrap draws of the neutral texts and of the evaluation prompts."""

    texts: Draws
    prompts: Draws


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A kind's mean over its directions at every dose."""

    value: tuple[float | None, ...]
    interval: tuple[Interval | None, ...]


def curve_of(
    doses: Doses, effect: Float[Tensor, "dose prompt"], text: NeutralText, settings: SteerSettings, weights: Weights
) -> Curve:
    """1 and 3 for one direction."""
    effect, ones = effect.double(), torch.ones(effect.shape[1])
    kl, ce = (doses.sums[..., i].sum(1) / text.count.sum() for i in (0, 1))
    kl_interval, ce_interval = (
        tuple(ratio_interval(one, text.count, weights.texts) for one in doses.sums[..., i]) for i in (0, 1)
    )
    mean = effect.mean(1).tolist()
    effect_interval = tuple(ratio_interval(one, ones, weights.prompts) for one in effect)
    at, e_at, e_interval = None, None, None
    if settings.kl:
        number = settings.reference_dose
        if doses.reached[number]:
            at, e_at, e_interval = doses.strengths[number], mean[number], effect_interval[number]
    else:
        at = measures.strength_at(doses.strengths, kl.tolist(), settings.equal_kl)
        e_at = measures.effect_at(doses.strengths, mean, at)
    return Curve(
        strengths=doses.strengths,
        reached=doses.reached,
        kl=tuple(kl.tolist()),
        kl_interval=kl_interval,
        ce=tuple(ce.tolist()),
        ce_interval=ce_interval,
        effect=tuple(mean),
        effect_interval=effect_interval,
        strength_at_kl=at,
        effect_at_kl=e_at,
        effect_at_kl_interval=e_interval,
    )


@dataclass(frozen=True, kw_only=True)
class KindCurve:
    """2 and 3 for one kind of control."""

    kind: ControlKind
    curves: Sequence[Curve]

    @property
    def n_reached(self) -> tuple[int, ...]:
        """Directions that count at each dose."""
        return tuple(sum(own) for own in zip(*(c.reached for c in self.curves), strict=True))

    def strengths(self, n_doses: int) -> tuple[float | None, ...]:
        """Their mean at every dose."""
        return self.mean(n_doses, lambda c: c.strengths, lambda _: (None,) * n_doses).value

    def kl(self, n_doses: int) -> Mean:
        """On neutral text, nats per token; no interval of it reaches below nothing."""
        found = self.mean(n_doses, lambda c: c.kl, lambda c: c.kl_interval)
        return replace(found, interval=tuple(i and (max(i[0], 0.0), i[1]) for i in found.interval))

    def ce(self, n_doses: int) -> Mean:
        """Rise of the loss on neutral text."""
        return self.mean(n_doses, lambda c: c.ce, lambda c: c.ce_interval)

    def effect(self, n_doses: int) -> Mean:
        """E on the feature's targets."""
        return self.mean(n_doses, lambda c: c.effect, lambda c: c.effect_interval)

    def effect_at_kl(self) -> tuple[float | None, Interval | None, int]:
        """(mean E at equal KL, its interval, directions that get there)."""
        known = [(c.effect_at_kl, c.effect_at_kl_interval) for c in self.curves if c.effect_at_kl is not None]
        value, within = _mean([v for v, _ in known], [i for _, i in known])
        return value, within, len(known)

    def n_as_far(self, own: float | None) -> int:
        """Directions whose E at equal KL is at least this."""
        reaching = [c.effect_at_kl for c in self.curves if c.effect_at_kl is not None]
        return 0 if own is None else sum(e >= own for e in reaching)

    def mean(
        self,
        n_doses: int,
        value: Callable[[Curve], Sequence[float]],
        interval: Callable[[Curve], Sequence[Interval | None]],
    ) -> Mean:
        """Of the directions that reached each dose."""
        found = []
        for dose in range(n_doses):
            counted = [c for c in self.curves if c.reached[dose]]
            found.append(_mean([value(c)[dose] for c in counted], [interval(c)[dose] for c in counted]))
        return Mean(value=tuple(v for v, _ in found), interval=tuple(i for _, i in found))


def _mean(values: Sequence[float], intervals: Sequence[Interval | None]) -> tuple[float | None, Interval | None]:
    """The mean and its interval: between directions, or that of the only one."""
    if not values:
        return None, None
    if len(values) == 1:
        return values[0], intervals[0]
    between = mean_interval(values)
    assert between is not None
    assert between.low is not None
    assert between.high is not None
    return fmean(values), (between.low, between.high)
