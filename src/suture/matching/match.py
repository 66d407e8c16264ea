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
| groups.safetensors   | a table, a row per semantic group: the same scores inside it, and by chance |
| examples.json        | rows of every pair with their text, where the store has text                |
| summary.json         | sizes, shares, ceiling, control, statements                                 |
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from suture import seeds
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Dictionary
from suture.matching.assign import Pairs
from suture.matching.direction import Codes, Direction
from suture.matching.evidence import Grouping
from suture.matching.examples import Examples
from suture.matching.groups import Keywords, Scored, group_table, read_groups
from suture.matching.kinds import reliability
from suture.matching.look import decoder_rows, look
from suture.matching.maps import load_umap
from suture.matching.read import Halves, Side, same_rows, split
from suture.matching.settings import MatchSettings
from suture.matching.shares import CORRELATED, Shares, shares_of
from suture.matching.substitute import recovered
from suture.parallel import ALONE, Ranks
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.pipeline.table import Table, Tabular

STAGE = "matching"
TABLES, SUMMARY = ("features_a.safetensors", "features_b.safetensors"), "summary.json"
GROUPS, EXAMPLES = "groups.safetensors", "examples.json"


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
    groups: Table | None = None
    """A row per semantic group; None where the store has no text, or no feature has a subject."""
    examples: Examples | None = None
    """Rows of every pair; None where the store has no text."""
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
        if self.groups is not None:
            self.groups.save(folder / GROUPS)
        if self.examples is not None:
            self.examples.save(folder / EXAMPLES)
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
        groups = Table.load(path / GROUPS) if (path / GROUPS).is_file() else None
        examples = Examples.load(path / EXAMPLES) if (path / EXAMPLES).is_file() else None
        return Matching(features_a=a, features_b=b, summary=summary, groups=groups, examples=examples, path=path)


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
    ranks: Ranks = ALONE.world,
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
        ranks: the processes that share the rows to be encoded, all with the same folder.

    Raises:
        UserError: dictionaries that do not fit the store, too few documents, a control of other rows.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings = settings or MatchSettings()
    keywords = read_groups(settings.groups)
    if settings.maps == "umap":
        load_umap()  # before the work
    store = as_store(store)
    a = Side.open(dictionary_a, store, space=settings.space_a, setting="space-a", ranks=ranks)
    b = Side.open(dictionary_b, store, space=settings.space_b, setting="space-b", ranks=ranks)
    second = _twins(twins, store, settings, ranks)
    halves = split(store, [a, b, *(s for s in second if s is not None)], settings.n_rows)
    control = same_rows(random, store, halves, ranks) if random is not None else None
    given = [side.folder for side in (a, b, *second, control) if side is not None]
    parents = tuple(dict.fromkeys([*given, store.path]))
    with artifact.create(
        out,
        stage=STAGE,
        settings=recorded(settings) | {"store": str(store.path)},
        parents=parents,
        overwrite=overwrite,
        command=command,
        leads=ranks.leads,
    ) as draft:
        found = _matched(a, b, second, control, halves, store, settings, keywords)
        if ranks.leads:
            found.write(draft.folder)
    ranks.wait()
    return Matching.load(out)


def recorded(settings: MatchSettings) -> dict[str, Any]:
    """What a manifest holds of the settings: of a file of groups the words, not its name.

    Raises:
        UserError: the file of groups cannot be read.
    """
    own = read_groups(settings.groups)
    groups = None if settings.groups is None else {name: sorted(words) for name, words in own.items()}
    return asdict(settings) | {"groups": groups}


def _twins(
    given: tuple[Dictionary | str | Path | None, Dictionary | str | Path | None],
    store: Store,
    settings: MatchSettings,
    ranks: Ranks,
) -> tuple[Side | None, Side | None]:
    spaces = (settings.space_a, settings.space_b)
    named = zip(given, spaces, strict=True)
    one, two = (None if d is None else Side.open(d, store, space=s, ranks=ranks) for d, s in named)
    return one, two


def _matched(
    a: Side,
    b: Side,
    twins: tuple[Side | None, Side | None],
    control: Side | None,
    halves: Halves,
    store: Store,
    settings: MatchSettings,
    keywords: Keywords,
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
    one = Direction(codes_a, codes_b, grouping, settings)
    two = one.reversed()
    part = _substitution(a, halves, one)
    seen = look(a, b, one, store, halves, settings, keywords)
    table_a = one.table(trust[0], trust[1], part, seen.a)
    table_b = two.table(trust[1], trust[0], _substitution(b, halves, two), seen.b)
    scored = Scored(table=table_a, rows=(decoder_rows(a), decoder_rows(b)))
    groups = group_table(scored, list(seen.a.subject), list(keywords), seed=settings.map_seed)
    ceilings = [
        shares_of(Direction(own, t, grouping, settings).table(), side.label, f"its second seed, {twin.folder}")
        for side, own, twin, t in zip((a, b), (codes_a, codes_b), twins, codes_twins, strict=True)
        if twin is not None and t is not None
    ]
    random = None
    if control is not None:
        table = Direction(codes_a, read(control), grouping, settings).table()
        random = shares_of(table, a.label, f"{control.label} with random weights")
    related = (table_a["partner"] >= 0) & (table_a["r"] >= CORRELATED)
    summary = MatchSummary(
        spaces=(a.label, b.label),
        n_rows=len(halves.rows),
        n_documents=len(store.documents[halves.rows].unique()),
        a=shares_of(table_a, a.label, b.label),
        b=shares_of(table_b, b.label, a.label),
        ceilings=tuple(ceilings),
        random=random,
        substituted=_median(table_a["recovered"][related]),
        substituted_by_chance=_median(_by_chance(a, halves, one)),
        statements=tuple(_statements(a, b, halves)),
    )
    return Matching(
        features_a=table_a,
        features_b=table_b,
        summary=summary,
        groups=groups if len(groups) else None,
        examples=seen.examples,
    )


def _substitution(side: Side, halves: Halves, way: Direction) -> ndarray:
    return recovered(side, halves.rows[halves.scoring], way.pairing, way.scoring, way.pairs)


def _by_chance(side: Side, halves: Halves, way: Direction) -> ndarray:
    """Partners dealt out anew: each feature gets that of another."""
    a, b = way.pairs
    dealt = seeds.numpy_generator("shuffled partners", 0).permutation(b)
    return recovered(side, halves.rows[halves.scoring], way.pairing, way.scoring, (a, dealt))


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
