"""The stage `match`: which features of two dictionaries are the same, beyond the token, with ceiling and control.

1. Codes of both on rows that neither was trained on, in two halves of documents (`read`).
2. On the pairing half: correlations of all pairs, the strongest kept, matched (`correlate`, `assign`).
3. On the scoring half: the evidence about every feature's strongest partner (`evidence`), its mixture (`kinds`), the
   substitution test (`substitute`); with second seeds r_corr too. Both ways: features of A in B, and of B in A.
4. Beside it: the same shares for a dictionary against its own second seed (the ceiling), and against a model with
   random weights (what the token alone gives).

| file                 | content                                                                     |
|----------------------|-----------------------------------------------------------------------------|
| features_a.safetensors | a table, a row per feature of A: its partner in B, its kind, the evidence   |
| features_b.safetensors | the same of B's features in A                                               |
| summary.json         | sizes, shares, ceiling, control, statements                                 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from scipy.sparse import csr_matrix
from torch import Tensor

from suture import seeds
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.matching.assign import Pairs, best, mutual, one_to_one
from suture.matching.columns import COLUMNS
from suture.matching.correlate import Candidates, columns, top_correlations
from suture.matching.evidence import Evidence, Grouping, evidence
from suture.matching.kinds import KINDS, NONE, SAME, SAME_RAW, SILENT, corrected, families, kinds, reliability
from suture.matching.read import Halves, Side, split
from suture.matching.settings import MatchSettings
from suture.matching.substitute import recovered
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.pipeline.table import Table, Tabular
from suture.uncertainty import discoveries

STAGE = "matching"
TABLES, SUMMARY = ("features_a.safetensors", "features_b.safetensors"), "summary.json"
CORRELATED = 0.3
NOBODY = -1.0
"""The number of no feature."""

Codes = tuple[csr_matrix, csr_matrix]
"""Of A and of B."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What becomes of the features of one side, as shares of those that fire."""

    of: str
    """Whose features, in words."""
    against: str
    n_features: int
    """Those that fire often enough to be asked."""
    correlated: float
    """Whose partner has r of 0.3 or more."""
    declared: float
    """Whose partner is correlated at all, at the rate of false discoveries asked for."""
    beyond_token: float
    """Whose correlation beyond the token is surely above the bar."""
    same: float
    """By the rule, so by `r_corr` where second seeds are known."""
    same_beyond_token: float
    strong: float
    """Whose partner has r of 0.7 or more: one rule for a comparison, its ceilings and its control."""
    kinds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class MatchSummary:
    """The numbers of a comparison of two dictionaries."""

    spaces: tuple[str, str]
    n_rows: int
    n_documents: int
    a: Shares
    b: Shares
    ceilings: tuple[Shares, ...] = ()
    """Dictionaries against their own second seeds."""
    random: Shares | None = None
    """Against a model of random weights."""
    substituted: float | None = None
    """Median share recovered by the partner's code, of A's features whose partner has r of 0.3 or more."""
    substituted_by_chance: float | None = None
    """The same with partners dealt out at random."""
    statements: tuple[str, ...] = ()
    """What a reader must know."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Matching(Tabular):
    """Two dictionaries, feature by feature."""

    features_a: Table
    """A row per feature of A."""
    features_b: Table
    """A row per feature of B."""
    summary: MatchSummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """A's."""
        return self.features_a

    def __repr__(self) -> str:
        a, where = self.summary.a, f" ({self.path})" if self.path else ""
        return (
            f"Matching{where} of {' and '.join(self.summary.spaces)}: {a.same:.0%} of {a.n_features:,} features the "
            f"same, {a.same_beyond_token:.0%} beyond the token"
        )

    @cached_property
    def pairs(self) -> Pairs:
        """The one-to-one pairs."""
        partner = self.features_a["one_to_one"]
        a = np.flatnonzero(partner >= 0)
        return a, partner[a].astype(np.int64)

    def write(self, folder: Path) -> None:
        """Put its files into a folder (of an artifact being written)."""
        for table, name in zip((self.features_a, self.features_b), TABLES, strict=True):
            table.save(folder / name)
        artifact.write_json(folder / SUMMARY, asdict(self.summary))

    @staticmethod
    def load(path: str | Path) -> Matching:
        """Read what `match` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged or of another stage.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="matching")
        a, b = (Table.load(path / name) for name in TABLES)
        summary = read_typed(path / SUMMARY, MatchSummary, setting="matching")
        return Matching(features_a=a, features_b=b, summary=summary, path=path)


def match(
    out: str | Path,
    dictionary_a: Dictionary | str | Path,
    dictionary_b: Dictionary | str | Path,
    store: Store | str | Path,
    settings: MatchSettings | None = None,
    *,
    twins: tuple[Dictionary | str | Path | None, Dictionary | str | Path | None] = (None, None),
    random: tuple[Dictionary | str | Path, Store | str | Path] | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Matching:
    """Pair the features of two dictionaries and say of each what it is to its partner; written to `out`.

    Args:
        out: the folder to be made.
        dictionary_a: a dictionary over spaces of the store.
        dictionary_b: another; or the same with another space.
        store: activations of both dictionaries' spaces at the same text positions.
        settings: how.
        twins: dictionaries of the same spaces from another seed, for the ceiling and r_corr.
        random: a dictionary trained on B's model with random weights, and the store of its activations, whose rows are
            those of `store`.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: dictionaries that do not fit the store, too few documents, a control of other rows.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings = settings or MatchSettings()
    store = as_store(store)
    a = Side.open(dictionary_a, store, space=settings.space_a, setting="space-a")
    b = Side.open(dictionary_b, store, space=settings.space_b, setting="space-b")
    second = _twins(twins, store, settings)
    halves = split(store, [a, b, *(s for s in second if s is not None)], settings.n_rows)
    control = _control(random, store, halves) if random is not None else None
    recorded: dict[str, Any] = asdict(settings) | {"store": str(store.path)}
    given = [side.folder for side in (a, b, *second, control) if side is not None]
    parents = tuple(dict.fromkeys([*given, store.path]))
    with artifact.create(
        out, stage=STAGE, settings=recorded, parents=parents, overwrite=overwrite, command=command
    ) as draft:
        found = _matched(a, b, second, control, halves, store, settings)
        found.write(draft.folder)
    return Matching.load(out)


def _twins(
    given: tuple[Dictionary | str | Path | None, Dictionary | str | Path | None], store: Store, settings: MatchSettings
) -> tuple[Side | None, Side | None]:
    spaces = (settings.space_a, settings.space_b)
    one, two = (None if d is None else Side.open(d, store, space=s) for d, s in zip(given, spaces, strict=True))
    return one, two


def _control(random: tuple[Dictionary | str | Path, Store | str | Path], store: Store, halves: Halves) -> Side:
    """The random model's dictionary, once its rows are known to be those of the store."""
    dictionary, other = random
    other = as_store(other)
    rows = halves.rows
    fits = len(other) == len(store) and torch.equal(_places(store)[rows], _places(other)[rows])
    if not fits:
        fix = "collect the model with random weights on the same text, with the same settings"
        raise UserError("random-weights", other.path, "holds other rows than the store", fix)
    return Side.open(dictionary, other)


def _places(store: Store) -> Tensor:
    """Of every row the rank of its document among those of the store, and where its token ends in that."""
    rank = torch.unique(store.documents, return_inverse=True)[1]
    return torch.stack([rank, store.ends.long()], dim=1)


def _matched(
    a: Side,
    b: Side,
    twins: tuple[Side | None, Side | None],
    control: Side | None,
    halves: Halves,
    store: Store,
    settings: MatchSettings,
) -> Matching:
    pairing, scoring = halves.parts
    tokens = torch.cat([a.tokens(halves.rows), b.tokens(halves.rows)], dim=1).numpy()[scoring]
    grouping = Grouping.of(store.documents[halves.rows].long().numpy()[scoring], tokens)

    def read(side: Side) -> Codes:
        """Both halves of one side."""
        codes = side.codes(halves.rows)
        return codes[pairing], codes[scoring]

    codes_a, codes_b = read(a), read(b)
    codes_twins = [None if t is None else read(t) for t in twins]
    trust = [
        None if t is None else reliability((own[0], t[0]), (own[1], t[1]))
        for own, t in zip((codes_a, codes_b), codes_twins, strict=True)
    ]
    one = _Direction(codes_a, codes_b, grouping, settings)
    two = one.reversed()
    part = _substitution(a, halves, one)
    table_a = one.table(trust[0], trust[1], part)
    table_b = two.table(trust[1], trust[0], _substitution(b, halves, two))
    ceilings = [
        _shares(_Direction(own, t, grouping, settings).table(), side.label, f"its second seed, {twin.folder}")
        for side, own, twin, t in zip((a, b), (codes_a, codes_b), twins, codes_twins, strict=True)
        if twin is not None and t is not None
    ]
    random = None
    if control is not None:
        table = _Direction(codes_a, read(control), grouping, settings).table()
        random = _shares(table, a.label, f"{control.label} with random weights")
    related = (table_a["partner"] >= 0) & (table_a["r"] >= CORRELATED)
    summary = MatchSummary(
        spaces=(a.label, b.label),
        n_rows=len(halves.rows),
        n_documents=len(store.documents[halves.rows].unique()),
        a=_shares(table_a, a.label, b.label),
        b=_shares(table_b, b.label, a.label),
        ceilings=tuple(ceilings),
        random=random,
        substituted=_median(table_a["recovered"][related]),
        substituted_by_chance=_median(_by_chance(a, halves, one)),
        statements=tuple(_statements(a, b, halves)),
    )
    return Matching(features_a=table_a, features_b=table_b, summary=summary)


@dataclass(frozen=True)
class _Direction:
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

    def reversed(self) -> _Direction:
        """The other way round."""
        return _Direction(self.other, self.own, self.grouping, self.settings, self.candidates.reversed())

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
    def evidence(self) -> Evidence:
        return evidence(*self.scoring, *self.pairs, self.grouping, memory=self.settings.memory_mib * 2**20)

    def table(
        self, trust: ndarray | None = None, other_trust: ndarray | None = None, part: ndarray | None = None
    ) -> Table:
        """3, a row per feature."""
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
            "one_to_one": _filled(n, *one_to_one(self.candidates), NOBODY),
            "mutual": _filled(n, *mutual(self.candidates), NOBODY),
        }
        values |= {name: _filled(n, a, numbers, np.nan) for name, numbers in vars(self.evidence).items()}
        return Table(axes=("feature",), columns=COLUMNS, values={c.name: values[c.name] for c in COLUMNS})


def _filled(n: int, places: ndarray, values: ndarray | None, otherwise: float) -> ndarray:
    found = np.full(n, otherwise, dtype=np.float64)
    if values is not None:
        found[places] = values
    return found


def _substitution(side: Side, halves: Halves, way: _Direction) -> ndarray:
    return recovered(side, halves.rows[halves.scoring], way.pairing, way.scoring, way.pairs)


def _by_chance(side: Side, halves: Halves, way: _Direction) -> ndarray:
    """Partners dealt out anew: each feature gets that of another."""
    a, b = way.pairs
    dealt = seeds.numpy_generator("shuffled partners", 0).permutation(b)
    return recovered(side, halves.rows[halves.scoring], way.pairing, way.scoring, (a, dealt))


def _shares(table: Table, of: str, against: str) -> Shares:
    kind = table["kind"]
    fires = kind != SILENT
    n = int(fires.sum())
    beyond = (table["partner"] >= 0) & (table["token_only"] == 0)

    def share(chosen: ndarray) -> float:
        return float((chosen & fires).sum() / max(n, 1))

    with np.errstate(invalid="ignore"):
        correlated, strong = table["r"] >= CORRELATED, table["r"] >= SAME_RAW
    return Shares(
        of=of,
        against=against,
        n_features=n,
        correlated=share(correlated),
        declared=share(table["declared"] > 0),
        beyond_token=share(beyond),
        same=share(kind == SAME),
        same_beyond_token=share((kind == SAME) & beyond),
        strong=share(strong),
        kinds={name: int((kind == name).sum()) for name in KINDS},
    )


def _median(values: ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _statements(a: Side, b: Side, halves: Halves) -> list[str]:
    said = []
    if a.folder == b.folder and a.space == b.space:
        said.append("A dictionary was matched with itself: every feature is its own partner.")
    for name in halves.unknown:
        said.append(f"Whether {name} was trained on these rows is not known; if it was, r is too high.")
    return said
