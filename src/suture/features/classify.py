"""Whose feature is it? From each model's share of a feature, with its uncertainty, to a label (methods, section 2).

1. Model m's amount b_m of a feature is what a unit of it brings in m, fitted again on other rows (`refit`), or for a
   pooled dictionary the energy it spends on m's rows. Its share is b_m / sum b, negative amounts counted as none.
2. "m lacks it": share below t, and "m has it": share above t, are each tested, documents being the unit. Both are
   signs of (1 - t) b_m - t (the others' b), linear in the sums, so nothing misbehaves near zero.
   What noise in the fitted direction would hide of a share of t is taken off the threshold, so that a feature seen too
   rarely cannot pass for absent.
3. Benjamini-Hochberg over all features that fired often enough, per model and per question.
4. Every model decided: the label names those that have it (all of several: `shared`; none: undecided). A model that
   lacks it by its residual but not by its plain activation is decoupled: other features carry its part, so no label.
   A feature that brings something in both models but answers each at other places is two halves in one, not shared.
5. Everything else is `ambiguous`, with its reason; a feature that never fired is `dead`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from string import ascii_uppercase

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.errors import UserError
from suture.features.stats import FeatureStats, Shares
from suture.uncertainty import Draws, Ratio, discoveries, ends, p_below

CHUNK_FEATURES = 4096
"""Features whose draws are held at a time, so that [draw, feature] stays small."""

SHARED, AMBIGUOUS, DEAD = "shared", "ambiguous", "dead"

NEVER_FIRED = "never fired on the held-out rows"
TOO_FEW_ROWS = "fired on too few rows"
TOO_FEW_DOCUMENTS = "fired in too few documents"
EXPLAINS_NOTHING = "explains nothing on held-out rows"
DECOUPLED = "decoupled: other features carry its part in the other model"
STRADDLES = "interval straddles a boundary"
TWO_HALVES = "two halves: the codes from each model alone do not fire together"


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The rule, in numbers."""

    exclusive_share: float = 0.15
    """t: a model has a feature if its share is above, lacks it if below. Of M models: t · 2 / M."""
    raw_share: float = 0.3
    """A model whose share in the plain activations is at least this (of M: · 2 / M) does not lack the feature."""
    cofiring: float = 0.1
    """Shared features fire alike from each model alone: their codes correlate at least so much. Without this, features
    over two unrelated models (one's rows shuffled) pass for shared: half of them did, with correlations below 0.04."""
    q: float = 0.05
    """False-discovery rate of each question over all tested features."""
    min_rows: int = 10
    """A feature that fired on fewer held-out rows is ambiguous."""
    min_groups: int = 5
    """A feature that fired in fewer groups of documents is ambiguous."""
    n_draws: int = 500
    """Bootstrap draws."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        if not 0 < self.exclusive_share < 0.5:
            raise UserError("exclusive_share", self.exclusive_share, "is not between 0 and 0.5", "use 0.15")
        if not -1 <= self.cofiring <= 1:
            raise UserError("cofiring", self.cofiring, "is no correlation", "use 0.1")
        if not self.exclusive_share <= self.raw_share <= 1:
            raise UserError("raw_share", self.raw_share, "is below exclusive_share or above 1", "use 0.3")
        if not 0 < self.q < 1:
            raise UserError("q", self.q, "is not a rate", "use 0.05")
        if self.n_draws < 20:
            raise UserError("n_draws", self.n_draws, "is too few for an interval", "use 500")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A label per feature, and the numbers it was made from; NaN (p: 1) where a number has no meaning."""

    label: tuple[str, ...]
    """`A`, `B`, .. by space; several letters for some of more than two; `shared`, `ambiguous` or `dead`."""
    reason: tuple[str, ...]
    """Why it is ambiguous or dead; empty otherwise."""
    share: Float[Tensor, "feature space"]
    low: Float[Tensor, "feature space"]
    """Lower end of the 95 % bootstrap interval of the share."""
    high: Float[Tensor, "feature space"]
    raw_share: Float[Tensor, "feature space"]
    p_lacks: Float[Tensor, "feature space"]
    """Against "the model has it": small where the model lacks the feature."""
    p_has: Float[Tensor, "feature space"]
    """Against "the model lacks it": small where the model has the feature."""

    @property
    def counts(self) -> dict[str, int]:
        """How many features carry each label, the fixed ones always listed."""
        n_spaces = self.share.shape[1]
        names = [*ascii_uppercase[:n_spaces], SHARED, AMBIGUOUS, DEAD]
        counted = Counter(self.label)
        return {name: counted[name] for name in [*names, *sorted(set(counted) - set(names))]}

    @property
    def exclusive_rate(self) -> float:
        """The share of live features labelled as lacking in some model: on a null pair, the false-positive rate."""
        live = [name for name in self.label if name != DEAD]
        return sum(name not in (SHARED, AMBIGUOUS) for name in live) / max(len(live), 1)


def classify(stats: FeatureStats, settings: LabelSettings | None = None) -> Labels:
    """Label every described feature. With one model a live feature is its own: `A`."""
    together = None if stats.cofiring is None else stats.cofiring.correlation
    return label_shares(stats.shares, stats.firing.counts, together, settings or LabelSettings())


def label_shares(
    shares: Shares,
    counts: Int[Tensor, "feature"],
    together: Float[Tensor, "feature"] | None,
    settings: LabelSettings,
) -> Labels:
    """Label every feature from its models' amounts, the number of rows it fired on and the correlation of the codes
    from each model alone (None: not asked for).
    """
    share, raw = point_shares(shares)
    n_spaces = share.shape[1]
    if n_spaces == 1:
        return _one_model(counts, share)
    draws = Draws.make(shares.weight.shape[0], settings.n_draws, settings.seed)
    enough_groups = (shares.fired > 0).sum(0) >= settings.min_groups
    tested = (counts >= settings.min_rows) & enough_groups
    p_lacks, p_has = _tests(shares, 2 * settings.exclusive_share / n_spaces)  # 2
    lacks = torch.stack([discoveries(p_lacks[:, m], tested, settings.q) for m in range(n_spaces)], dim=-1)  # 3
    has = torch.stack([discoveries(p_has[:, m], tested, settings.q) for m in range(n_spaces)], dim=-1)
    decoupled = (lacks & (raw >= 2 * settings.raw_share / n_spaces)).any(-1)
    halves = torch.zeros_like(decoupled) if together is None else ~(together >= settings.cofiring)  # NaN: never fired
    low, high = _intervals(shares, draws)
    decided = []
    for i, n in enumerate(counts.tolist()):
        if n == 0:
            decided.append((DEAD, NEVER_FIRED))
        elif n < settings.min_rows:
            decided.append((AMBIGUOUS, TOO_FEW_ROWS))
        elif not enough_groups[i]:
            decided.append((AMBIGUOUS, TOO_FEW_DOCUMENTS))
        else:
            known = bool(share[i].isfinite().all())
            flaws = {"decoupled": bool(decoupled[i]), "halves": bool(halves[i])}
            decided.append(_decide(has[i], lacks[i], known=known, **flaws))
    return Labels(
        label=tuple(name for name, _ in decided),
        reason=tuple(reason for _, reason in decided),
        share=share,
        low=low,
        high=high,
        raw_share=raw,
        p_lacks=p_lacks,
        p_has=p_has,
    )


def point_shares(shares: Shares) -> tuple[Float[Tensor, "feature space"], Float[Tensor, "feature space"]]:
    """Each model's share over all held-out rows, and the same in the plain activations (NaN for usage)."""
    share = _share(shares.amount.sum(0))
    return share, torch.full_like(share, torch.nan) if shares.raw is None else _share(shares.raw.sum(0))


def _decide(
    has: Bool[Tensor, "space"], lacks: Bool[Tensor, "space"], *, known: bool, decoupled: bool, halves: bool
) -> tuple[str, str]:
    if not known:
        return AMBIGUOUS, EXPLAINS_NOTHING
    if not bool((has ^ lacks).all()) or not bool(has.any()):
        return AMBIGUOUS, STRADDLES
    if decoupled:
        return AMBIGUOUS, DECOUPLED
    if bool(has.all()):
        return (AMBIGUOUS, TWO_HALVES) if halves else (SHARED, "")
    return "".join(letter for letter, one in zip(ascii_uppercase, has.tolist(), strict=False) if one), ""


def _tests(shares: Shares, threshold: float) -> tuple[Float[Tensor, "feature space"], Float[Tensor, "feature space"]]:
    """(p_lacks, p_has) of every model."""
    lacks, has = [], []
    total = shares.amount.sum(-1)
    for m in range(shares.amount.shape[-1]):
        own = shares.amount[:, :, m]
        others = total - own
        seen = _seen(shares, m, threshold)
        lack = Ratio((1 - threshold) * own - threshold * seen * others, shares.weight)
        have = Ratio(threshold * others - (1 - threshold) * own, shares.weight)
        # where no other model has anything either, "less than a share of it" says nothing
        someone = p_below(Ratio(-others, shares.weight))
        lacks.append(torch.maximum(p_below(lack), someone))
        has.append(torch.maximum(p_below(have), p_below(Ratio(-own, shares.weight))))
    return torch.stack(lacks, dim=-1), torch.stack(has, dim=-1)


def _seen(shares: Shares, space: int, threshold: float) -> Float[Tensor, "feature"]:
    """The part of a share of `threshold` that would show along a direction as noisy as this model's."""
    if shares.noise is None:
        return torch.ones(shares.weight.shape[1], dtype=torch.float64)
    amount = shares.amount.sum(0) / shares.weight.sum(0).unsqueeze(-1)
    others = (amount.sum(-1) - amount[:, space]).clamp_min(0)
    at_boundary = threshold / (1 - threshold) * others
    length = (at_boundary**2 + shares.noise[:, space] ** 2).sqrt()
    return torch.where(length > 0, at_boundary / length, torch.ones_like(length))


def _intervals(shares: Shares, draws: Draws) -> tuple[Float[Tensor, "feature space"], Float[Tensor, "feature space"]]:
    """The 2.5 % and 97.5 % quantiles of every share over bootstrap draws of documents."""
    parts = [ends(_share(draws.sums(part))) for part in shares.amount.split(CHUNK_FEATURES, dim=1)]
    return torch.cat([low for low, _ in parts]), torch.cat([high for _, high in parts])


def _share(amount: Tensor) -> Tensor:
    """Of amounts [.., space]; negative ones count as none, NaN where all are."""
    positive = amount.double().clamp_min(0)
    return positive / positive.sum(-1, keepdim=True)


def _one_model(counts: Tensor, share: Tensor) -> Labels:
    """A dictionary of one model has nothing to attribute."""
    alive = counts > 0
    ones = torch.where(alive.unsqueeze(-1), torch.ones_like(share), torch.full_like(share, torch.nan))
    nothing = torch.full_like(share, torch.nan)
    return Labels(
        label=tuple("A" if a else DEAD for a in alive.tolist()),
        reason=tuple("" if a else NEVER_FIRED for a in alive.tolist()),
        share=ones,
        low=ones,
        high=ones,
        raw_share=nothing,
        p_lacks=torch.ones_like(share),
        p_has=torch.ones_like(share),
    )
