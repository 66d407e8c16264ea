"""Everything that is counted about a dictionary's features, in one pass over held-out rows.

1. Discovery rows (of the training part) fix each feature's direction in each model (`refit`); nothing else uses them.
2. Held-out rows come group by group (documents dealt into groups); each batch is encoded from all models together and
   from each model alone, the non-zeros are kept, and the group's sparse-transposed products are added up.
3. Per group, the products become what the bootstrap needs: a weight and the amounts along each model's directions.
4. Firing, quantiles, co-firing and top rows come from the kept non-zeros (`activity`).

A pooled dictionary has one code per (row, model) and no code of all models together: its feature's share of a model is
that model's share of the energy it spends; step 1 and the products are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.moments import Moments
from suture.activations.store import Store
from suture.dictionary.codes import Codes, union
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features import refit
from suture.features.activity import Cofiring, Firing, TopRows, firing, mean_cofiring, top_rows
from suture.features.mapped import mapped_cosines
from suture.uncertainty import deal_groups


@dataclass(frozen=True, kw_only=True)
class StatsSettings:
    """How the pass over the rows is made."""

    n_top: int = 10
    """Top examples kept per feature."""
    n_per_document: int = 2
    """At most so many of a feature's top examples come from one document."""
    n_groups: int = 50
    """Groups of documents that the bootstrap draws; fewer where there are fewer documents."""
    batch_rows: int = 4096
    """Rows encoded at a time."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        for name in ("n_top", "n_per_document", "n_groups", "batch_rows"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is less than 1", "give a positive number")


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What decides whose a feature is, per group of documents: one amount per model, and how sure it is."""

    kind: str
    """`refit`: what a unit of the feature brings in each model; `usage`: the energy it spends on each model's rows."""
    weight: Float[Tensor, "group feature"]
    """Denominator of both amounts: sum (f - mean)^2, or rows."""
    amount: Float[Tensor, "group feature space"]
    raw: Float[Tensor, "group feature space"] | None
    """The same amounts in the plain activations, other features' contributions included; None for usage."""
    fired: Int[Tensor, "group feature"]
    """Rows on which the feature fired."""
    noise: Float[Tensor, "feature space"] | None
    """Length that noise alone gives the direction each amount is measured along."""


@dataclass(frozen=True, kw_only=True)
class FeatureStats:
    """The counts and sums of every feature; NaN where a number has no meaning."""

    models: tuple[str, ...]
    n_rows: int
    n_documents: int
    firing: Firing
    """Of the code of all models together (pooled: of every model's rows)."""
    cofiring: Cofiring | None
    """Of the codes from each model alone; None with one model."""
    solo_counts: Int[Tensor, "feature space"]
    """Rows on which the feature fires when encoded from one model alone."""
    energy: Float[Tensor, "feature"]
    """Sum of f_i^2 ||d_i||^2: the feature's part of what is decoded."""
    attribution: Float[Tensor, "feature space"]
    scaling: refit.Scaling | None
    units: Float[Tensor, "space"]
    """Every model's unit length (`refit.unit_lengths`)."""
    mapped_cosine: dict[tuple[int, int], Float[Tensor, "feature"]]
    """Per pair of models, of a feature's direction carried from the first to the second; empty for pooled ones."""
    shares: Shares
    top: TopRows
    rows: Int[Tensor, "row"]
    """The held-out rows, ascending; positions in `joint`, `solo` and `top` count these."""
    joint: Codes
    solo: tuple[Codes, ...]

    @property
    def n_features(self) -> int:
        """Features described."""
        return self.joint.n_features


def describe(
    dictionary: Dictionary,
    store: Store,
    rows: Int[Tensor, "row"],
    *,
    discovery_rows: Int[Tensor, "discovery"],
    settings: StatsSettings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> FeatureStats:
    """Describe every feature over `rows`, with the directions found on `discovery_rows` (disjoint documents).

    The store's spaces must be the dictionary's, in its order. `on_progress` gets (phase, rows done, rows in all).

    Raises:
        UserError: no rows.
    """
    settings = settings or StatsSettings()
    if len(rows) == 0 or len(discovery_rows) == 0:
        raise UserError("store", store.path, "has no rows to describe features on", "collect more documents")
    rows = torch.sort(rows).values
    documents = store.documents[rows]
    n_documents = int(torch.unique(documents).numel())
    group = deal_groups(documents, min(settings.n_groups, n_documents))
    walk = _Walk(dictionary, store, settings.batch_rows, on_progress)
    units = refit.unit_lengths(dictionary, store)
    mapped: dict[tuple[int, int], Tensor] = {}
    if dictionary.design.joint:
        products, moments = walk.discover(torch.sort(discovery_rows).values)
        found = refit.directions(dictionary, products, units)
        mapped = mapped_cosines(moments, [dictionary.decoder(m) for m in range(dictionary.n_spaces)])
        seen = walk.held_out(rows, group, found)
    else:
        seen = walk.held_out(rows, group, None)
    squared = seen.joint.sums(2) if dictionary.design.joint else sum(s.sums(2) for s in seen.solo)
    norms = dictionary.W_dec.detach().double().cpu().square().sum(-1)
    fires = firing(seen.joint) if dictionary.design.joint else firing(Codes.concatenate(seen.solo))
    return FeatureStats(
        models=tuple(s.label for s in store.spaces),
        n_rows=len(rows),
        n_documents=n_documents,
        firing=fires,
        cofiring=mean_cofiring(seen.solo) if len(seen.solo) > 1 else None,
        solo_counts=torch.stack([s.counts for s in seen.solo], dim=-1),
        energy=squared * norms,
        attribution=seen.attribution,
        scaling=seen.scaling,
        units=units,
        mapped_cosine=mapped,
        shares=seen.shares,
        top=top_rows(seen.joint, documents, n_top=settings.n_top, n_per_document=settings.n_per_document),
        rows=rows,
        joint=seen.joint,
        solo=seen.solo,
    )


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    joint: Codes
    solo: tuple[Codes, ...]
    shares: Shares
    attribution: Tensor
    scaling: refit.Scaling | None


@dataclass(frozen=True)
class _Walk:
    """The dictionary meeting the store's rows."""

    dictionary: Dictionary
    store: Store
    batch_rows: int
    on_progress: Callable[[str, int, int], None] | None

    def discover(self, rows: Int[Tensor, "row"]) -> tuple[refit.Products, Moments]:
        """Step 1's sums."""
        total = refit.Products.zeros(self.dictionary)
        moments = Moments(self.dictionary.widths, self.dictionary.W_dec.device)
        for done, chosen in self._chunks(torch.arange(len(rows))):
            x = self._read(rows[chosen])
            codes = self.dictionary.encode(x)
            total.add(self.dictionary, codes, x, x - self.dictionary.decode(codes), self._mean())
            moments.add(x)
            self._tell("directions", done, len(rows))
        return total, moments

    def held_out(self, rows: Int[Tensor, "row"], group: Int[Tensor, "row"], found: refit.Directions | None) -> _HeldOut:
        """Steps 2 and 3; without directions (pooled) step 3 sums f^2."""
        dictionary, n_groups = self.dictionary, int(group.max()) + 1
        kept = [_Kept(len(rows), dictionary.n_features) for _ in range(1 + dictionary.n_spaces)]
        total = refit.Products.zeros(dictionary)
        per_group: list[tuple[Tensor, Tensor, Tensor]] = []
        done = 0
        for g in range(n_groups):
            products = refit.Products.zeros(dictionary)
            for _, position in self._chunks(torch.nonzero(group == g)[:, 0]):
                self._batch(rows[position], position, products if found else None, kept)
                done += len(position)
                self._tell("features", done, len(rows))
            if found:
                per_group.append(
                    (
                        refit.weights(found, products),
                        refit.refit_amounts(dictionary, found, products),
                        refit.raw_amounts(dictionary, found, products),
                    )
                )
                total.merge(products)
        solo = tuple(k.finish() for k in kept[1:])
        if found is None:
            usage = torch.stack([s.counts for s in solo], -1).double()
            return _HeldOut(
                joint=union(solo),
                solo=solo,
                shares=_usage(solo, group, n_groups),
                attribution=usage / usage.sum(-1, keepdim=True),
                scaling=None,
            )
        joint = kept[0].finish()
        weight, amount, raw = (torch.stack([p[i] for p in per_group]) for i in range(3))
        fired = _by_group(joint, group, n_groups)
        return _HeldOut(
            joint=joint,
            solo=solo,
            shares=Shares(kind="refit", weight=weight, amount=amount, raw=raw, fired=fired, noise=found.noise),
            attribution=refit.attribution(dictionary, total),
            scaling=refit.scaling(dictionary, total, self._mean(), found.units),
        )

    def _batch(self, rows: Tensor, position: Tensor, products: refit.Products | None, kept: list[_Kept]) -> None:
        dictionary = self.dictionary
        x = self._read(rows)
        if products is not None:
            codes = dictionary.encode(x)
            kept[0].add(position, codes)
            products.add(dictionary, codes, x, x - dictionary.decode(codes), self._mean())
        for m in range(dictionary.n_spaces):
            kept[1 + m].add(position, dictionary.encode_alone(x, m))

    def _read(self, rows: Tensor) -> Tensor:
        """The spaces side by side, in the dictionary's scaled units."""
        device = self.dictionary.W_dec.device
        raw = self.store.read(rows)
        parts = [a.to(device) * s.scale for a, s in zip(raw, self.dictionary.spaces, strict=True)]
        return torch.cat(parts, dim=-1)

    def _mean(self) -> Tensor:
        device = self.dictionary.W_dec.device
        spaces = zip(self.store.spaces, self.dictionary.spaces, strict=True)
        return torch.cat([own.known_mean.float().to(device) * s.scale for own, s in spaces])

    def _chunks(self, positions: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(rows done after it, a chunk of positions)."""
        done = 0
        for chunk in positions.split(self.batch_rows):
            done += len(chunk)
            yield done, chunk

    def _tell(self, phase: str, done: int, n_rows: int) -> None:
        if self.on_progress is not None:
            self.on_progress(phase, done, n_rows)


class _Kept:
    """Non-zeros of batches, until they are sorted into one list."""

    def __init__(self, n_rows: int, n_features: int) -> None:
        self.n_rows, self.n_features = n_rows, n_features
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, position: Tensor, codes: Codes) -> None:
        row = codes.row.long().cpu()
        self.parts.append((position[row], codes.feature.cpu(), codes.value.cpu()))

    def finish(self) -> Codes:
        columns = [torch.cat(c) for c in zip(*self.parts, strict=True)]
        position, feature, value = columns
        return Codes.from_pairs(position, feature, value, n_rows=self.n_rows, n_features=self.n_features)


def _by_group(codes: Codes, group: Tensor, n_groups: int, weight: Tensor | None = None) -> Tensor:
    """Rows fired on, or the sum of a weight of each firing, [group, feature]."""
    n_features = codes.n_features
    at = group[codes.row] * n_features + codes.feature
    return torch.bincount(at, weights=weight, minlength=n_groups * n_features).view(n_groups, n_features)


def _usage(solo: tuple[Codes, ...], group: Tensor, n_groups: int) -> Shares:
    """A pooled feature's amounts: the energy sum f^2 that it spends on each model's rows, over all rows.

    Not the number of firings: where k exceeds what a row holds, top-k fills up with weak activations of features that
    belong to the other model. On planted pairs without a common direction the energy names the owner of 97 % of the
    recovered features at k = 8 of 5 true, the count of 7 % (at k = 5: 99 % and 56 %).
    """
    rows = torch.bincount(group, minlength=n_groups).double()
    return Shares(
        kind="usage",
        weight=rows.unsqueeze(1).expand(-1, solo[0].n_features).contiguous(),
        amount=torch.stack([_by_group(s, group, n_groups, s.value.double() ** 2) for s in solo], dim=-1),
        raw=None,
        fired=torch.stack([_by_group(s, group, n_groups) for s in solo]).sum(0),
        noise=None,
    )
