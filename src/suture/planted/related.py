"""Known pairs of features added to two models' real rows: what a matcher would have called the same (a control).

| relation    | where the first model's feature fires, the second's fires                                    |
|-------------|----------------------------------------------------------------------------------------------|
| `shared`    | on the same rows                                                                             |
| `half`      | on half of them, and on as many other rows                                                   |
| `super`     | on all of them, and on three times as many others                                            |
| `split`     | as two features, each on one half of them                                                    |
| `exclusive` | never                                                                                        |

The first is one feature, the last none of the other model's, and those between are neither: a matcher that calls `half`
or `super` the same takes likeness for sameness. Directions, values and strengths are those of `spikes`; one strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from suture import seeds
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.planted.spike_settings import RelatedSettings, Relation
from suture.planted.spikes import SPREAD, random_direction

OTHERS = {"half": 0.5, "super": 3.0}
"""Rows of the second model's feature that the first's has not, as a multiple of the first's rows."""
STANDS = 0.45
"""Cosine from which a feature stands for a known one: one direction sits in one to six features of a dictionary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownPair:
    """A feature of the first model and what the second has of it."""

    relation: Relation
    direction: Float[Tensor, "width"]
    """In the first model, raw units at value 1."""
    partners: tuple[Float[Tensor, "_"], ...]
    """In the second."""
    rows: tuple[Int[Tensor, "_"], ...]
    """Of the first's feature, then of each partner."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RelatedStore:
    """A store of two spaces with known pairs added, and what they are."""

    store: Store
    pairs: tuple[KnownPair, ...] = field(repr=False)

    def called(self, dictionary: Dictionary, kinds: Sequence[str]) -> tuple[str, ...]:
        """What a matcher says of each known pair: the kind that it gives the feature of the first model's dictionary
        that stands for it, `not found` where none does."""
        unit = normalize(dictionary.decoder(0).detach().cpu(), dim=1)
        found = []
        for pair in self.pairs:
            cosines = unit @ normalize(pair.direction, dim=0)
            best = int(cosines.argmax())
            found.append(kinds[best] if float(cosines[best]) >= STANDS else "not found")
        return tuple(found)

    def pairs_that_touch(
        self,
        a: Dictionary,
        b: Dictionary,
        partner: Float[np.ndarray, "feature"],
        r: Float[np.ndarray, "feature"],
        least: float,
    ) -> tuple[int, int]:
        """Of the features of A that stand for known ones, the nearest to each, how many have a partner with r of
        `least`, and how many of these partners stand for what the second model has of it."""
        one, two = (normalize(d.decoder(0).detach().cpu(), dim=1) for d in (a, b))
        touched = true = 0
        for pair in self.pairs:
            cosines = one @ normalize(pair.direction, dim=0)
            feature = int(cosines.argmax())
            other = int(partner[feature])
            if float(cosines[feature]) < STANDS or other < 0 or not r[feature] >= least:
                continue
            touched += 1
            true += any(float(two[other] @ normalize(own, dim=0)) >= STANDS for own in pair.partners)
        return touched, true


def add_related(out: str | Path, store: Store, settings: RelatedSettings | None = None) -> RelatedStore:
    """A copy of a store of two spaces, all rows in float32, with known pairs added."""
    assert len(store.spaces) == 2, "two models"
    settings = settings or RelatedSettings()
    generator = seeds.numpy_generator("known pairs", settings.related_seed)
    rows = [values.clone() for values in store.read(torch.arange(len(store)))]
    centred = [values - values.mean(0) for values in rows]
    typical = [float(values.norm(dim=1).median()) for values in centred]

    def direction(m: int) -> Tensor:
        return random_direction(centred[m], generator) * typical[m]

    pairs = []
    for relation in settings.relations:
        for _ in range(settings.n_pairs):
            own, *others = _rows_of(relation, len(store), settings.related_rate, generator)
            pair = KnownPair(
                relation=relation,
                direction=direction(0),
                partners=tuple(direction(1) for _ in others),
                rows=tuple(torch.from_numpy(r) for r in (own, *others)),
            )
            pairs.append(pair)
    for pair in pairs:
        values = np.zeros(len(store), dtype=np.float32)
        everywhere = torch.cat(pair.rows).unique().numpy()
        strengths = settings.related_strength * np.exp(SPREAD * generator.standard_normal(len(everywhere)))
        values[everywhere] = strengths  # where both fire, they are as strong
        for m, vector, own in zip((0, 1, 1), (pair.direction, *pair.partners), pair.rows, strict=False):
            rows[m][own] += torch.from_numpy(values)[own].unsqueeze(1) * vector
    names = [(space.label, "related") for space in store.spaces]
    copy = write_store(out, rows, names=names, documents=store.documents.long(), overwrite=True)
    return RelatedStore(store=copy, pairs=tuple(pairs))


def _rows_of(relation: Relation, n: int, rate: float, generator: np.random.Generator) -> list[np.ndarray]:
    """Rows of the first model's feature, and of each of the second's."""
    order = generator.permutation(n)
    count = max(2, round(rate * n))
    own, rest = order[:count], order[count:]
    half = count // 2
    if relation == "exclusive":
        return [own]
    if relation == "split":
        return [own, own[:half], own[half:]]
    if relation == "shared":
        return [own, own]
    kept = own[:half] if relation == "half" else own
    return [own, np.concatenate([kept, rest[: round(OTHERS[relation] * count)]])]
