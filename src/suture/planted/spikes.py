"""Known features added to real activations: what a run on two real models could have found (a positive control).

1. Each known feature is a direction per space it is in, a set of rows, and a value on each of them: log-normal about a
   strength, which is a multiple of the space's median centred norm.
2. Directions are random, with part of the data's covariance: a direction that no activation comes near is too easily
   told.
3. Rows by kind: `random` rows, a tenth of the rows of chosen `documents`, or a fifth of one `token`'s rows, whose
   occasion every model can read.
4. A feature of a dictionary stands for a known one where its decoder row, spaces side by side in scaled units, has a
   cosine of at least 0.8 with it.
5. It is rightly labelled where it is called shared, or its owners' own. Of an exclusive one tied to a token, whose
   occasion every model can read, `one-sided` is as right.
6. The detection limit of a class (exclusive, shared) is the strength at which half are found and rightly labelled, from
   a logistic curve through all of them, with an interval from drawing the known features again. It is never below the
   faintest strength tried, of which alone something is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import normalize

from suture import seeds
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.labels import DEAD, ONE_SIDED, SHARED
from suture.planted.spike_settings import SpikeKind, SpikeSettings

FOUND_COSINE = 0.8
COVARIANCE_PART = 0.5
"""Length of a direction's part that is drawn with the data's covariance, the whole being 1."""
IN_DOCUMENT = 0.1
"""Of a chosen document's rows, so many carry the feature."""
OF_TOKEN = 0.2
SPREAD = 0.3
"""Standard deviation of the logarithm of a known feature's values."""
N_DRAWS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Spike:
    """One known feature."""

    strength: float
    kind: SpikeKind
    owners: tuple[int, ...]
    """The spaces it was added to."""
    directions: tuple[Float[Tensor, "_"], ...]
    """Per space, raw units at value 1; zero where it was not added."""
    rows: Int[Tensor, "row"]
    values: Float[Tensor, "row"]

    @property
    def exclusive(self) -> bool:
        """Whether some space lacks it."""
        return len(self.owners) < len(self.directions)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At which strength half of the known features of a class are found and rightly labelled."""

    strength: float
    """Infinite where not even the strongest were; the faintest one tried where half of those were already."""
    low: float
    high: float
    n: int
    n_right: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one known feature."""

    strength: float
    kind: SpikeKind
    owners: tuple[int, ...]
    feature: int | None
    """The dictionary's feature that stands for it; None where none does."""
    cosine: float
    label: str
    right: bool
    """Found, and rightly labelled (5)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spiked:
    """A store with known features added, and what they are."""

    store: Store
    spikes: tuple[Spike, ...] = field(repr=False)

    def score(self, dictionary: Dictionary, labels: Sequence[str]) -> tuple[Found, ...]:
        """Which of them a dictionary trained on that store found (4), and how it labels them."""
        unit = normalize(torch.cat([dictionary.decoder(m) for m in range(dictionary.n_spaces)], dim=-1).cpu(), dim=-1)
        live = torch.tensor([name != DEAD for name in labels])
        found = []
        for spike in self.spikes:
            joint = torch.cat([d * s.scale for d, s in zip(spike.directions, dictionary.spaces, strict=True)])
            cosines = torch.where(live, unit @ normalize(joint, dim=0), -1.0)
            best = int(cosines.argmax())
            cosine = float(cosines[best])
            stands = cosine >= FOUND_COSINE
            label = labels[best] if stands else "not found"
            own = "".join("ABCDEFGH"[m] for m in spike.owners)
            wanted = (SHARED,) if not spike.exclusive else (own, ONE_SIDED) if spike.kind == "token" else (own,)
            found.append(
                Found(
                    strength=spike.strength,
                    kind=spike.kind,
                    owners=spike.owners,
                    feature=best if stands else None,
                    cosine=cosine,
                    label=label,
                    right=stands and label in wanted,
                )
            )
        return tuple(found)


def add_spikes(out: str | Path, store: Store, settings: SpikeSettings | None = None) -> Spiked:
    """A copy of a store, all rows in float32, with known features added (1 to 3).

    Raises:
        UserError: no token is frequent enough for the kind `token`.
    """
    settings = settings or SpikeSettings()
    generator = seeds.numpy_generator("known features", settings.spike_seed)
    rows = [values.clone() for values in store.read(torch.arange(len(store)))]
    centred = [values - values.mean(0) for values in rows]
    typical = [float(values.norm(dim=1).median()) for values in centred]
    M = len(rows)
    owners = [(m,) for m in range(M)] + [tuple(range(M))]
    wanted = [(s, o) for s in settings.strengths for o in owners for _ in range(settings.n_each)]
    spikes = []
    for number, (strength, own) in enumerate(wanted):
        kind = settings.kinds[number % len(settings.kinds)]
        chosen = torch.from_numpy(np.flatnonzero(_rows_of(kind, store, settings.rate, generator)))
        values = torch.from_numpy(strength * np.exp(SPREAD * generator.standard_normal(len(chosen)))).float()
        directions = tuple(
            random_direction(c, generator) * t if m in own else torch.zeros(c.shape[1])
            for m, (c, t) in enumerate(zip(centred, typical, strict=True))
        )
        spikes.append(
            Spike(strength=strength, kind=kind, owners=own, directions=directions, rows=chosen, values=values)
        )
    for spike in spikes:
        for m in spike.owners:
            rows[m][spike.rows] += spike.values.unsqueeze(1) * spike.directions[m]
    names = [(space.label, "spiked") for space in store.spaces]
    spiked = write_store(out, rows, names=names, documents=store.documents.long(), overwrite=True)
    return Spiked(store=spiked, spikes=tuple(spikes))


def detection_limit(found: Sequence[Found], *, exclusive: bool, n_spaces: int, seed: int = 0) -> Limit:
    """The detection limit of the exclusive, or of the shared, known features (6)."""
    mine = [f for f in found if (len(f.owners) < n_spaces) == exclusive]
    strength, right = np.array([f.strength for f in mine]), np.array([f.right for f in mine], dtype=float)
    generator = seeds.numpy_generator("detection limit", seed)
    drawn = []
    for _ in range(N_DRAWS):
        # within each strength, so that every draw has all of them
        pick = np.concatenate(
            [generator.choice(here, len(here)) for s in np.unique(strength) for here in [np.flatnonzero(strength == s)]]
        )
        drawn.append(_half(strength[pick], right[pick]))
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return Limit(
        strength=_half(strength, right), low=float(low), high=float(high), n=len(mine), n_right=int(right.sum())
    )


def _half(strength: np.ndarray, right: np.ndarray) -> float:
    """Where a logistic curve in the logarithm of the strength crosses one half; infinite where it does not come there.

    A faint pull of the slope towards 8 (from a tenth to nine tenths within a factor of 1.7) keeps curves through few,
    or through perfectly parted, points finite.
    """
    x = np.log(strength)
    if right[strength == strength.max()].mean() < 0.5 and right.mean() < 0.5:
        return float("inf")

    def cost(p: np.ndarray) -> float:
        z = np.exp(p[1]) * (x - p[0])
        return float(np.logaddexp(0, np.where(right > 0.5, -z, z)).sum() + 0.5 * (p[1] - np.log(8)) ** 2)

    starts = [np.array([m, np.log(8)]) for m in (x.min() - 0.5, float(np.median(x)), x.max())]
    best = min((minimize(cost, start, method="Nelder-Mead") for start in starts), key=lambda r: r.fun)
    return float(max(np.exp(best.x[0]), strength.min()))


def random_direction(centred: Float[Tensor, "row width"], generator: np.random.Generator) -> Float[Tensor, "width"]:
    """A random unit direction (2)."""
    n_rows, width = centred.shape
    mixture = torch.from_numpy(generator.standard_normal(n_rows)).float() / centred.norm(dim=1).clamp_min(1e-12)
    like_data = normalize(mixture @ centred, dim=0)
    isotropic = normalize(torch.from_numpy(generator.standard_normal(width)).float(), dim=0)
    return normalize(COVARIANCE_PART * like_data + (1 - COVARIANCE_PART**2) ** 0.5 * isotropic, dim=0)


def _rows_of(kind: SpikeKind, store: Store, rate: float, generator: np.random.Generator) -> Bool[np.ndarray, "row"]:
    """Which rows carry a known feature of this kind (3)."""
    n = len(store)
    if kind == "random":
        return generator.random(n) < rate
    if kind == "documents":
        numbers, of_row = np.unique(store.documents.numpy(), return_inverse=True)
        chosen = generator.random(len(numbers)) < min(rate / IN_DOCUMENT, 1.0)
        chosen[generator.integers(len(numbers))] = True
        return chosen[of_row] & (generator.random(n) < IN_DOCUMENT)
    tokens, of_row, counts = np.unique(store.token_ids[:, 0].numpy(), return_inverse=True, return_counts=True)
    often = np.abs(np.log(np.maximum(counts, 1) * OF_TOKEN / (rate * n)))
    near = np.flatnonzero(often <= max(np.log(2), np.sort(often)[0]))
    if len(tokens) < 2:
        raise UserError("kinds", "token", "needs rows of different tokens", "leave it out for this store")
    return (of_row == generator.choice(near)) & (generator.random(n) < OF_TOKEN)
