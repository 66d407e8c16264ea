"""Whose feature is it? From two axes, each with its uncertainty, to a label (methods, section 2).

1. Share: what the feature *writes*. Model m's amount b_m is what a unit of the feature brings in m, fitted on other
   documents (`refit`), or for a pooled dictionary the energy it spends on m's rows. Its share is b_m / sum b, negative
   amounts counted as none.
2. Co-firing: whether its *occasion* can be read in the other model. The correlation of its codes from each model alone,
   the other imputed (`together`).
3. "m lacks it": share below t, "m has it": share above t, "m has little": share below e; "apart": co-firing of two
   models below c, "together": above it. Documents are the unit of each test. The tests of shares are
   signs of (1 - t) b_m - t (the others' b), linear in the sums, so nothing misbehaves near zero. What noise in the
   fitted direction would hide of a share of t is taken off the threshold, so that a feature seen too rarely cannot pass
   for absent.
4. Benjamini-Hochberg over all features that fired often enough, per model (or pair) and per question.
5. The label:
   - all have it, and none little: `shared` if together, `drifted` if apart: all write it, at other places.
   - some have little of it, and are apart from those that have more: those that have it, by letter.
   - some lack it, and are not together with those that have it: the same.
   - some have little of it, but know its occasion (together): `one-sided`.
6. Everything else is `ambiguous`, with its reason; a feature that never fired is `dead`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_uppercase

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.features.settings import LabelSettings
from suture.features.stats import FeatureStats, Shares
from suture.features.together import Together
from suture.labels import AMBIGUOUS, DEAD, DRIFTED, ONE_SIDED, OPEN, SHARED, is_exclusive
from suture.uncertainty import Draws, Ratio, discoveries, ends, p_below

CHUNK_FEATURES = 4096
"""Features whose draws are held at a time, so that [draw, feature] stays small."""

NEVER_FIRED = "never fired on the described rows"
TOO_FEW_ROWS = "fired on too few rows"
TOO_FEW_DOCUMENTS = "fired in too few documents"
EXPLAINS_NOTHING = "explains nothing on other rows"
DECOUPLED = "decoupled: other features carry its part in the other model"
STRADDLES = "interval straddles a boundary"
TWO_HALVES = "two halves: whether the codes from each model alone fire together is not decided"
KNOWN_TO_ALL = "every model knows its occasion, and hardly any but these writes it: "
OTHER_PLACES = "every model writes it, each at other places"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A label per feature, and the numbers it was made from; NaN (p: 1) where a number has no meaning."""

    label: tuple[str, ...]
    """`A`, `B`, .. by space; several letters for some of more than two; `shared`, `one-sided`, `drifted`, `ambiguous`
    or `dead`."""
    reason: tuple[str, ...]
    """Why it is one-sided, drifted, ambiguous or dead; empty otherwise."""
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
        names = [*ascii_uppercase[:n_spaces], SHARED, *OPEN, DEAD]
        counted = Counter(self.label)
        return {name: counted[name] for name in [*names, *sorted(set(counted) - set(names))]}

    @property
    def exclusive_rate(self) -> float:
        """The share of live features said to be some models' own: on a null pair, the false-positive rate."""
        live = [name for name in self.label if name != DEAD]
        return sum(map(is_exclusive, live)) / max(len(live), 1)


def classify(stats: FeatureStats, settings: LabelSettings | None = None) -> Labels:
    """Label every described feature. With one model a live feature is its own: `A`."""
    return label_shares(stats.shares, stats.firing.counts, stats.together, settings or LabelSettings())


def label_shares(
    shares: Shares,
    counts: Int[Tensor, "feature"],
    together: Together | None,
    settings: LabelSettings,
) -> Labels:
    """Label every feature from its models' amounts, the number of rows it fired on and the co-firing of the codes from
    each model alone (None: not asked for).
    """
    share, raw = point_shares(shares)
    n_spaces = share.shape[1]
    if n_spaces == 1:
        return _one_model(counts, share)
    draws = Draws.make(shares.weight.shape[0], settings.n_draws, settings.seed)
    enough_groups = (shares.fired > 0).sum(0) >= settings.min_groups
    tested = (counts >= settings.min_rows) & enough_groups

    def decided(p: Float[Tensor, "feature question"]) -> Bool[Tensor, "feature question"]:  # 4
        return torch.stack([discoveries(column, tested, settings.q) for column in p.unbind(-1)], dim=-1)

    p_lacks, p_has = _tests(shares, 2 * settings.exclusive_share / n_spaces)  # 3
    p_little, _ = _tests(shares, 2 * settings.even_share / n_spaces)
    lacks, has = decided(p_lacks), decided(p_has)
    # a pooled feature's usage is counted, not fitted: no noise can pass for a little of it
    little = lacks | decided(p_little) if together is not None and shares.kind == "refit" else lacks
    apart, alike = _occasions(together, settings.cofiring, n_spaces, decided)
    decoupled = (lacks & (raw >= 2 * settings.raw_share / n_spaces)).any(-1)
    low, high = _intervals(shares, draws)
    found = []
    for i, n in enumerate(counts.tolist()):  # 5
        if n == 0:
            found.append((DEAD, NEVER_FIRED))
        elif n < settings.min_rows:
            found.append((AMBIGUOUS, TOO_FEW_ROWS))
        elif not enough_groups[i]:
            found.append((AMBIGUOUS, TOO_FEW_DOCUMENTS))
        elif not bool(share[i].isfinite().all()):
            found.append((AMBIGUOUS, EXPLAINS_NOTHING))
        else:
            found.append(
                _decide(
                    has[i] & ~little[i],
                    little[i],
                    lacks[i],
                    None if apart is None else apart[i],
                    None if alike is None else alike[i],
                    decoupled=bool(decoupled[i]),
                )
            )
    return Labels(
        label=tuple(name for name, _ in found),
        reason=tuple(reason for _, reason in found),
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
    much: Bool[Tensor, "space"],
    little: Bool[Tensor, "space"],
    lacks: Bool[Tensor, "space"],
    apart: Bool[Tensor, "space space"] | None,
    alike: Bool[Tensor, "space space"] | None,
    *,
    decoupled: bool,
) -> tuple[str, str]:
    """(label, reason) of a feature that fired often enough; None for an axis that was not asked for."""
    if not bool((much ^ little).all()) or not bool(much.any()):
        return AMBIGUOUS, STRADDLES
    own = "".join(letter for letter, one in zip(ascii_uppercase, much.tolist(), strict=False) if one)
    if bool(much.all()):
        others = ~torch.eye(len(much), dtype=torch.bool)
        if alike is None or bool(alike[others].all()):
            return SHARED, ""
        assert apart is not None
        return (DRIFTED, OTHER_PLACES) if bool(apart[others].any()) else (AMBIGUOUS, TWO_HALVES)
    if apart is not None and bool(apart[much][:, little].all()):
        return own, ""
    if alike is not None and bool(alike[much][:, little].any()):
        return ONE_SIDED, KNOWN_TO_ALL + own
    if not bool(lacks[little].all()):
        return AMBIGUOUS, TWO_HALVES
    return (AMBIGUOUS, DECOUPLED) if decoupled else (own, "")


def _occasions(
    together: Together | None,
    bar: float,
    n_spaces: int,
    decided: Callable[[Float[Tensor, "feature question"]], Bool[Tensor, "feature question"]],
) -> tuple[Bool[Tensor, "feature space space"] | None, Bool[Tensor, "feature space space"] | None]:
    """Which models' codes fire apart, and which together, as symmetric matrices."""
    if together is None:
        return None, None
    matrices = []
    for p in together.tests(bar):
        found = decided(p.T)
        matrix = torch.zeros(len(found), n_spaces, n_spaces, dtype=torch.bool)
        for column, (m, n) in enumerate(together.pairs):
            matrix[:, m, n] = matrix[:, n, m] = found[:, column]
        matrices.append(matrix)
    return matrices[0], matrices[1]


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
