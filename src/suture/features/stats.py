"""Everything that is counted about a dictionary's features, in one pass over the rows.

1. Documents are dealt into two halves. What must be fitted (each feature's direction in each model, `refit`; the map
   that imputes a missing model) is fitted on one half for the other, and both ways: every row is judged, none by what
   it fitted itself. Where `discovery_rows` are given, they fit and the other rows are judged.
2. The judged rows come group by group (documents dealt into groups); each batch is encoded from each model alone, and
   from all models together where step 1 has not done so; the codes are kept, and the group's sparse-transposed products
   are added up.
3. Per group, the products become what the bootstrap needs: a weight and the amounts along each model's directions.
4. Firing, quantiles, co-firing and top rows come from the kept codes (`activity`, `together`).

Of several ranks each takes its share: in step 1 of the batches, in step 2 of the groups of documents. Sums and codes
then come together on all of them; but for the order in which sums were added up, all numbers are those of one.

A pooled dictionary has one code per (row, model) and no code of all models together: its feature's share of a model is
that model's share of the energy it spends; step 1 and the products are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.moments import Moments
from suture.activations.store import Store
from suture.dictionary.codes import Codes, union
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.imputation import Imputation, checking_documents
from suture.errors import UserError
from suture.features import refit
from suture.features.activity import Cofiring, Firing, TopRows, firing, mean_cofiring, top_rows
from suture.features.mapped import mapped_cosines
from suture.features.settings import StatsSettings
from suture.features.together import Together
from suture.parallel import ALONE, Ranks
from suture.uncertainty import hashed_rank


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
    together: Together | None
    """The same, with what its uncertainty needs."""
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
    discovery_rows: Int[Tensor, "discovery"] | None = None,
    settings: StatsSettings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    ranks: Ranks = ALONE.world,
) -> FeatureStats:
    """Describe every feature over `rows`, each half of their documents by what the other half fitted.

    With `discovery_rows` (of other documents) these fit everything. The store's spaces must be the dictionary's, in its
    order. `on_progress` gets (phase, rows done, rows in all).

    Raises:
        UserError: no rows, or of one document only.
    """
    settings = settings or StatsSettings()
    rows = torch.sort(rows).values
    documents = store.documents[rows]
    rank = hashed_rank(documents)
    n_documents = int(rank.max()) + 1 if len(rows) else 0
    crossed = discovery_rows is None
    if n_documents < 1 + crossed or (discovery_rows is not None and len(discovery_rows) == 0):
        raise UserError("store", store.path, "has too few documents to describe features on", "collect more")
    n_groups = min(settings.n_groups, n_documents)
    if crossed:
        n_groups = max(2, n_groups - n_groups % 2)  # a group lies in one half, so that none is judged by what it fitted
    group = rank % n_groups
    walk = _Walk(dictionary, store, settings, on_progress, ranks)
    units = refit.unit_lengths(dictionary, store)
    fitted: list[_Fitted] = []
    known: Codes | None = None
    if dictionary.design.joint and discovery_rows is None:  # 1
        kept = _Kept(len(rows), dictionary.n_features, ranks)
        halves = [torch.nonzero(rank % 2 == half)[:, 0] for half in (1, 0)]
        fitted = [walk.discover(rows[half], units, kept, half) for half in halves]
        known = kept.finish()
    elif dictionary.design.joint and discovery_rows is not None:
        fitted = [walk.discover(torch.sort(discovery_rows).values, units)]
    seen = walk.judge(rows, group, fitted, known)
    squared = seen.joint.sums(2) if dictionary.design.joint else sum(s.sums(2) for s in seen.solo)
    norms = dictionary.W_dec.detach().double().cpu().square().sum(-1)
    fires = firing(seen.joint) if dictionary.design.joint else firing(Codes.concatenate(seen.solo))
    return FeatureStats(
        models=tuple(s.label for s in store.spaces),
        n_rows=len(rows),
        n_documents=n_documents,
        firing=fires,
        cofiring=mean_cofiring(seen.solo) if len(seen.solo) > 1 else None,
        together=Together.of(seen.solo, group, n_groups) if len(seen.solo) > 1 else None,
        solo_counts=torch.stack([s.counts for s in seen.solo], dim=-1),
        energy=squared * norms,
        attribution=seen.attribution,
        scaling=seen.scaling,
        units=units,
        mapped_cosine=_mean_cosines([one.mapped for one in fitted]),
        shares=seen.shares,
        top=top_rows(seen.joint, documents, n_top=settings.n_top, n_per_document=settings.n_per_document),
        rows=rows,
        joint=seen.joint,
        solo=seen.solo,
    )


def _mean_cosines(found: Sequence[dict[tuple[int, int], Tensor]]) -> dict[tuple[int, int], Tensor]:
    """Of both halves' maps."""
    return {pair: torch.stack([one[pair] for one in found]).mean(0) for pair in found[0]} if found else {}


@dataclass(frozen=True)
class _Fitted:
    """What some documents fix for the judgement of others."""

    directions: refit.Directions
    imputation: Imputation | None
    mapped: dict[tuple[int, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class _Judged:
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
    settings: StatsSettings
    on_progress: Callable[[str, int, int], None] | None
    ranks: Ranks

    @property
    def imputes(self) -> bool:
        """Whether codes from one model alone have the others imputed; other designs are made for one at a time."""
        dictionary = self.dictionary
        several = dictionary.design.kind == "crosscoder" and dictionary.n_spaces > 1
        return several and self.settings.missing == "impute"

    def discover(
        self,
        rows: Int[Tensor, "row"],
        units: Tensor,
        kept: _Kept | None = None,
        position: Int[Tensor, "row"] | None = None,
    ) -> _Fitted:
        """Directions, and the moments from which a missing model is imputed; the codes are `kept`, at `position`."""
        dictionary = self.dictionary
        total = refit.Products.zeros(dictionary)
        checks = checking_documents(self.store.documents[rows])
        moments = [Moments(dictionary.widths, dictionary.W_dec.device) for _ in range(2)]
        chunks = list(self._chunks(torch.arange(len(rows))))
        for done, chosen in chunks[self.ranks.share(len(chunks))]:
            x = self._read(rows[chosen])
            codes = dictionary.encode(x)
            if kept is not None and position is not None:
                kept.add(position[chosen], codes)
            total.add(dictionary, codes, x, x - dictionary.decode(codes), self._mean())
            for own, part in zip(moments, (~checks[chosen], checks[chosen]), strict=True):
                if bool(part.any()):
                    own.add(x[part.to(x.device)])
            self._tell("directions", done, len(rows))
        for sums in (total, *moments):
            sums.add_up(self.ranks)
        decoders = [dictionary.decoder(m) for m in range(dictionary.n_spaces)]
        return _Fitted(
            directions=refit.directions(dictionary, total, units),
            imputation=Imputation(moments[0], moments[1]) if self.imputes else None,
            mapped=mapped_cosines(moments[0], decoders),
        )

    def judge(
        self,
        rows: Int[Tensor, "row"],
        group: Int[Tensor, "row"],
        fitted: Sequence[_Fitted],
        known: Codes | None = None,
    ) -> _Judged:
        """Steps 2 and 3; with nothing fitted (pooled) step 3 sums f^2. Group g is judged by fit g mod their number.

        What is `known` of the code of all models together is not encoded again.
        """
        dictionary, n_groups = self.dictionary, int(group.max()) + 1
        kept = [_Kept(len(rows), dictionary.n_features, self.ranks) for _ in range(1 + dictionary.n_spaces)]
        total = refit.Products.zeros(dictionary)
        per_group: list[tuple[Tensor, Tensor, Tensor]] = []
        mine = range(n_groups)[self.ranks.share(n_groups)]
        done = int((group < mine.start).sum())
        for g in mine:
            products = refit.Products.zeros(dictionary)
            own = fitted[g % len(fitted)] if fitted else None
            for _, position in self._chunks(torch.nonzero(group == g)[:, 0]):
                self._batch(rows[position], position, products, own, kept, known)
                done += len(position)
                self._tell("features", done, len(rows))
            if own is not None:
                per_group.append(
                    (
                        refit.weights(own.directions, products),
                        refit.refit_amounts(dictionary, own.directions, products),
                        refit.raw_amounts(dictionary, own.directions, products),
                    )
                )
                total.merge(products)
        solo = tuple(k.finish() for k in kept[1:])
        if not fitted:
            usage = torch.stack([s.counts for s in solo], -1).double()
            return _Judged(
                joint=union(solo),
                solo=solo,
                shares=_usage(solo, group, n_groups),
                attribution=usage / usage.sum(-1, keepdim=True),
                scaling=None,
            )
        joint = kept[0].finish() if known is None else known
        total.add_up(self.ranks)
        F, M = dictionary.n_features, dictionary.n_spaces
        shapes = ((F,), (F, M), (F, M))
        weight, amount, raw = (
            self.ranks.concatenate(torch.cat([torch.zeros(0, *shape).double(), *(p[i][None] for p in per_group)]))
            for i, shape in enumerate(shapes)
        )
        fired = joint.by_group(group, n_groups)
        noise = torch.stack([one.directions.noise for one in fitted]).square().mean(0).sqrt()
        return _Judged(
            joint=joint,
            solo=solo,
            shares=Shares(kind="refit", weight=weight, amount=amount, raw=raw, fired=fired, noise=noise),
            attribution=refit.attribution(dictionary, total),
            scaling=refit.scaling(dictionary, total, self._mean(), fitted[0].directions.units),
        )

    def _batch(
        self,
        rows: Tensor,
        position: Tensor,
        products: refit.Products,
        fitted: _Fitted | None,
        kept: list[_Kept],
        known: Codes | None,
    ) -> None:
        dictionary = self.dictionary
        x = self._read(rows)
        if fitted is not None:
            if known is None:
                codes = dictionary.encode(x)
                kept[0].add(position, codes)
            else:
                codes = known.rows(position).to(x.device)
            products.add(dictionary, codes, x, x - dictionary.decode(codes), self._mean())
        for m in range(dictionary.n_spaces):
            if fitted is not None and fitted.imputation is not None:
                only = torch.arange(dictionary.n_spaces, device=x.device) == m
                codes = dictionary.encode(fitted.imputation.fill(x, only))
            else:
                codes = dictionary.encode_alone(x, m, missing="zero")
            kept[1 + m].add(position, codes)

    def _read(self, rows: Tensor) -> Tensor:
        return self.dictionary.scaled(self.store.read(rows))

    def _mean(self) -> Tensor:
        device = self.dictionary.W_dec.device
        spaces = zip(self.store.spaces, self.dictionary.spaces, strict=True)
        return torch.cat([own.known_mean.float().to(device) * s.scale for own, s in spaces])

    def _chunks(self, positions: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(rows done after it, a chunk of positions)."""
        done = 0
        for chunk in positions.split(self.settings.batch_rows):
            done += len(chunk)
            yield done, chunk

    def _tell(self, phase: str, done: int, n_rows: int) -> None:
        if self.on_progress is not None:
            self.on_progress(phase, done, n_rows)


class _Kept:
    """Non-zeros of batches, until they are sorted into one list."""

    def __init__(self, n_rows: int, n_features: int, ranks: Ranks) -> None:
        self.n_rows, self.n_features, self.ranks = n_rows, n_features, ranks
        self.parts = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0))]

    def add(self, position: Tensor, codes: Codes) -> None:
        row = codes.row.long().cpu()
        self.parts.append((position[row], codes.feature.cpu().int(), codes.value.cpu()))

    def finish(self) -> Codes:
        columns = [self.ranks.concatenate(torch.cat(c)) for c in zip(*self.parts, strict=True)]
        position, feature, value = columns
        return Codes.from_pairs(position, feature, value, n_rows=self.n_rows, n_features=self.n_features)


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
        amount=torch.stack([s.by_group(group, n_groups, s.value.double() ** 2) for s in solo], dim=-1),
        raw=None,
        fired=torch.stack([s.by_group(group, n_groups) for s in solo]).sum(0),
        noise=None,
    )
