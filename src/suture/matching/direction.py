"""One direction of a matching: the features of one dictionary as seen in another, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from numpy import ndarray
from scipy.sparse import csr_matrix

from suture.matching.assign import Pairs, best, mutual, one_to_one
from suture.matching.columns import COLUMNS
from suture.matching.correlate import Candidates, columns, top_correlations
from suture.matching.evidence import Evidence, Grouping, evidence
from suture.matching.kinds import NONE, SILENT, corrected, families, kinds
from suture.matching.settings import MatchSettings
from suture.pipeline.table import Table
from suture.uncertainty import discoveries

NOBODY = -1.0
"""The number of no feature."""

Codes: TypeAlias = "tuple[csr_matrix, csr_matrix]"
"""Of the pairing and of the scoring half."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """What helps a reader to find a feature: not part of any judgement."""

    words: ndarray
    subject: ndarray
    map_x: ndarray
    map_y: ndarray

    @staticmethod
    def nowhere(n: int) -> Place:
        """Of features without text and map."""
        nothing, unknown = np.full(n, "", dtype=object), np.full(n, np.nan)
        return Place(words=nothing, subject=nothing, map_x=unknown, map_y=unknown)


@dataclass(frozen=True)
class Direction:
    """Features of one dictionary as seen in another."""

    own: Codes
    """The pairing and the scoring half of the features asked about."""
    other: Codes
    grouping: Grouping
    """Of the scoring rows."""
    settings: MatchSettings
    known: Candidates | None = None

    @cached_property
    def candidates(self) -> Candidates:
        if self.known is not None:
            return self.known
        s = self.settings
        return top_correlations(
            self.own[0],
            self.other[0],
            keep=s.keep,
            min_together=s.min_together,
            memory=s.memory_mib * 2**20,
            threads=torch.get_num_threads(),
        )

    def reversed(self) -> Direction:
        """The other way round."""
        return Direction(self.other, self.own, self.grouping, self.settings, self.candidates.reversed())

    @property
    def pairing(self) -> Codes:
        return self.own[0], self.other[0]

    @property
    def scoring(self) -> Codes:
        return self.own[1], self.other[1]

    @cached_property
    def pairs(self) -> Pairs:
        """Every feature with its strongest partner."""
        return best(self.candidates)

    @cached_property
    def single(self) -> Pairs:
        """The one-to-one pairs."""
        return one_to_one(self.candidates)

    @cached_property
    def evidence(self) -> Evidence:
        return evidence(*self.scoring, *self.pairs, self.grouping, memory=self.settings.memory_mib * 2**20)

    def table(
        self,
        trust: ndarray | None = None,
        other_trust: ndarray | None = None,
        part: ndarray | None = None,
        place: Place | None = None,
    ) -> Table:
        """A row per feature."""
        n = self.candidates.shape[0]
        a, b = self.pairs
        mixture = families(self.candidates, self.pairing, self.scoring).r
        r_corr, own_trust = None, None
        if trust is not None and other_trust is not None:
            own_trust = trust[a]
            r_corr = corrected(self.evidence.r, own_trust, other_trust[b])
        named = kinds(self.evidence, mixture[a], r_corr=r_corr, reliability_of_a=own_trust)
        kind = np.full(n, NONE, dtype=object)
        kind[a] = named
        fired = columns(self.own[0]).count
        kind[fired < self.settings.min_rows] = SILENT
        asked = torch.from_numpy(np.isin(np.arange(n), a) & (fired >= self.settings.min_rows))
        p = torch.ones(n, dtype=torch.float64)
        p[a] = torch.from_numpy(self.evidence.p)
        declared = discoveries(p, asked, self.settings.false_discoveries).numpy()
        only_token = np.zeros(n)
        only_token[a] = self.evidence.r_ctx_low < self.settings.beyond_token
        values: dict[str, ndarray] = {
            "kind": kind,
            "partner": _filled(n, a, b, NOBODY),
            "token_only": only_token,
            "r_corr": _filled(n, a, r_corr, np.nan),
            "reliability": np.full(n, np.nan) if trust is None else trust,
            "mixture": mixture,
            "recovered": _filled(n, a, part, np.nan),
            "declared": declared.astype(np.float64),
            "rows": columns(self.own[1]).count.astype(np.float64),
            "one_to_one": _filled(n, *self.single, NOBODY),
            "mutual": _filled(n, *mutual(self.candidates), NOBODY),
        }
        values |= vars(place or Place.nowhere(n))
        values |= {name: _filled(n, a, numbers, np.nan) for name, numbers in vars(self.evidence).items()}
        return Table(axes=("feature",), columns=COLUMNS, values={c.name: values[c.name] for c in COLUMNS})


def _filled(n: int, places: ndarray, values: ndarray | None, otherwise: float) -> ndarray:
    found = np.full(n, otherwise, dtype=np.float64)
    if values is not None:
        found[places] = values
    return found
