"""The stage `universality`: which features do many dictionaries have, of several models, seeds, sizes or layers?

1. Codes of all dictionaries on rows that none was trained on, in two halves of documents, as in `match`.
2. Families on the pairing half, confirmed on the scoring half (`joined`): r of the bar or more, and surely more than
   the token behind it.
3. Of every dictionary the share of its features that fire that is found in all dictionaries, in most (more than half),
   in at least one other. Intervals: the scoring documents dealt into ten groups, each left out in turn (jackknife).
4. Beside it the ceiling, the share found again in the dictionary's own second seed by the same rule; and the control,
   the share found in all when the last dictionary is one of a model with random weights.

| file                  | content                                                                        |
|-----------------------|--------------------------------------------------------------------------------|
| families.safetensors  | a table, a row per family: its members, how alike they are, their words        |
| summary.json          | shares of every dictionary with intervals, ceiling and control                 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from numpy import ndarray
from scipy import special
from scipy.sparse import csr_matrix

from suture import seeds, units
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.matching.correlate import columns, top_correlations
from suture.matching.direction import Codes
from suture.matching.evidence import Grouping, evidence
from suture.matching.examples import N_WORD_ROWS, Reader, named, strongest, words
from suture.matching.joined import NONE, confirmed, counts, joined
from suture.matching.read import Halves, Side, same_rows, split
from suture.matching.settings import FamilySettings
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.pipeline.table import Column, Table, Tabular
from suture.uncertainty import Interval

STAGE, TABLE, SUMMARY = "universality", "families.safetensors", "summary.json"
N_GROUPS = 10
"""Groups of documents left out in turn."""

COLUMNS = (
    Column(name="n_members", title="found in", format="integer", sentence="Dictionaries that have it."),
    Column(
        name="member", title="feature of", format="integer", axes=("family", "dictionary"),
        sentence="The family's feature in this dictionary; -1 where it has none.",
    ),
    Column(
        name="r_weakest", title="weakest r", format="correlation",
        sentence="Smallest correlation between two members, on the scoring rows.",
    ),
    Column(name="r_mean", title="mean r", format="correlation", sentence="Mean over its pairs of members."),
    Column(
        name="r_ctx_low", title="beyond the token, lower bound", format="correlation",
        sentence="What r beyond the token exceeds with 95 % confidence in the least sure of its pairs.",
    ),
    Column(
        name="rows", title="rows", format="integer",
        sentence="Scoring rows on which its first member fires.",
    ),
    Column(
        name="words", title="words", format="text",
        sentence="The commonest words at its first member's strongest rows; empty where the store has no text.",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of a dictionary's features that fire."""

    name: str
    """Whose: space and folder."""
    n_features: int
    in_all: float
    in_all_interval: Interval
    in_most: float
    in_most_interval: Interval
    in_another: float
    in_another_interval: Interval
    ceiling: float | None = None
    """Found again in its own second seed."""
    ceiling_interval: Interval | None = None
    random: float | None = None
    """Found in all when the last dictionary is of a model with random weights."""


@dataclass(frozen=True, kw_only=True)
class UniversalitySummary:
    """The numbers of several dictionaries."""

    dictionaries: tuple[Found, ...]
    sizes: tuple[int, ...]
    """Families of 2, 3, .. dictionaries."""
    n_rows: int
    n_documents: int
    bar: float
    statements: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """One for each dictionary."""
        n = len(self.dictionaries)
        said = []
        for one in self.dictionaries:
            low, high = (units.percent(v) for v in one.in_all_interval)
            line = f"{one.name}: {units.percent(one.in_all)} of {units.count(one.n_features)} features are found in "
            line += f"all {n} dictionaries ({low} to {high}), {units.percent(one.in_another)} in another"
            if one.ceiling is not None:
                line += f"; {units.percent(one.ceiling)} in its own second seed"
            if one.random is not None:
                line += f"; with random weights in the last model {units.percent(one.random)} in all"
            said.append(f"{line}.")
        return (*said, *self.statements)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Universality(Tabular):
    """Several dictionaries, family by family."""

    families: Table
    summary: UniversalitySummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """The families."""
        return self.families

    def __repr__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        return f"Universality{where}: {len(self.families):,} families\n" + "\n".join(self.summary.sentences)

    @staticmethod
    def load(path: str | Path) -> Universality:
        """Read what `universality` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged or of another stage.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="universality")
        summary = read_typed(path / SUMMARY, UniversalitySummary, setting="universality")
        return Universality(families=Table.load(path / TABLE), summary=summary, path=path)


def universality(
    out: str | Path,
    dictionaries: Sequence[Dictionary | str | Path],
    store: Store | str | Path,
    settings: FamilySettings | None = None,
    *,
    twins: Sequence[Dictionary | str | Path] = (),
    random: tuple[Dictionary | str | Path, Store | str | Path] | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Universality:
    """Which features several dictionaries have in common; written to `out`.

    Args:
        out: the folder to be made.
        dictionaries: two or more, over spaces of the store.
        store: activations of all their spaces at the same text positions.
        settings: how.
        twins: a second seed of each dictionary, in their order, for the ceiling.
        random: a dictionary trained on the last one's model with random weights, and the store of its activations,
            whose rows are those of `store`.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: fewer than two dictionaries, some that do not fit the store, too few documents, a control of other
            rows.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings = settings or FamilySettings()
    store = as_store(store)
    if len(dictionaries) < 2:
        problem, fix = "is too few to have something in common", "name two dictionaries or more"
        raise UserError("dictionary", len(dictionaries), problem, fix)
    spaces: list[int | None] = [None if s < 0 else s for s in settings.space] or [None] * len(dictionaries)
    if len(spaces) != len(dictionaries):
        problem, fix = (
            f"are {len(spaces)} for {len(dictionaries)} dictionaries",
            "one for each, -1 for all of its spaces",
        )
        raise UserError("space", list(settings.space), problem, fix)
    if twins and len(twins) != len(dictionaries):
        raise UserError("twins", len(twins), "are not one for each dictionary", "name them in the dictionaries' order")
    sides = [Side.open(d, store, space=s) for d, s in zip(dictionaries, spaces, strict=True)]
    second = [Side.open(d, store, space=s) for d, s in zip(twins, spaces, strict=False)]
    halves = split(store, [*sides, *second], settings.n_rows)
    control = same_rows(random, store, halves) if random is not None else None
    given = [side.folder for side in (*sides, *second, *([control] if control else []))]
    with artifact.create(
        out,
        stage=STAGE,
        settings=asdict(settings) | {"store": str(store.path)},
        parents=tuple(dict.fromkeys([*given, store.path])),
        overwrite=overwrite,
        command=command,
    ) as draft:
        table, summary = _found(sides, second, control, halves, store, settings)
        table.save(draft.folder / TABLE)
        artifact.write_json(draft.folder / SUMMARY, asdict(summary))
    return Universality.load(out)


def _found(
    sides: Sequence[Side],
    second: Sequence[Side],
    control: Side | None,
    halves: Halves,
    store: Store,
    settings: FamilySettings,
) -> tuple[Table, UniversalitySummary]:
    pairing, scoring = halves.parts
    documents = store.documents[halves.rows].long().numpy()[scoring]
    tokens = [side.tokens(halves.rows).numpy()[scoring] for side in sides]

    def read(side: Side) -> Codes:
        codes = side.codes(halves.rows)
        return codes[pairing], codes[scoring]

    codes = [read(side) for side in sides]
    main = Together.of(codes, Grouping.of(documents, np.concatenate(tokens, axis=1)), settings)
    ceilings: list[tuple[float, Interval] | None] = [None] * len(sides)
    for m, twin in enumerate(second):
        two = Together.of([codes[m], read(twin)], Grouping.of(documents, tokens[m]), settings)
        ceilings[m] = two.share(0, 2)
    chance: Together | None = None
    if control is not None:
        others = [*tokens[:-1], control.tokens(halves.rows).numpy()[scoring]]
        grouping = Grouping.of(documents, np.concatenate(others, axis=1))
        chance = Together.of([*codes[:-1], read(control)], grouping, settings)
    found = []
    for m, side in enumerate(sides):
        (every, every_ends), (most, most_ends), (some, some_ends) = (
            main.share(m, least) for least in (len(sides), len(sides) // 2 + 1, 2)
        )
        own = ceilings[m]
        one = Found(
            name=f"{side.label} ({side.folder.name})",
            n_features=int(main.asked[m].sum()),
            in_all=every,
            in_all_interval=every_ends,
            in_most=most,
            in_most_interval=most_ends,
            in_another=some,
            in_another_interval=some_ends,
            ceiling=None if own is None else own[0],
            ceiling_interval=None if own is None else own[1],
            random=chance.share(m, len(sides))[0] if chance is not None and m < len(sides) - 1 else None,
        )
        found.append(one)
    n_members = (main.families != NONE).sum(1)
    summary = UniversalitySummary(
        dictionaries=tuple(found),
        sizes=tuple(int((n_members == n).sum()) for n in range(2, len(sides) + 1)),
        n_rows=len(halves.rows),
        n_documents=len(store.documents[halves.rows].unique()),
        bar=settings.bar,
        statements=tuple(
            f"Whether {name} was trained on these rows is not known; if it was, r is too high."
            for name in halves.unknown
        ),
    )
    reader = Reader(store=store, rows=halves.rows[halves.scoring].numpy())
    return _table(main, [side.folder.name for side in sides], reader, documents), summary


@dataclass(frozen=True, kw_only=True, eq=False)
class Together:
    """Families of some dictionaries, and what the scoring half says of them."""

    codes: Sequence[csr_matrix]
    """Of the scoring rows."""
    asked: Sequence[Bool[ndarray, "_"]]
    """Features that fire on enough pairing rows."""
    families: Int[ndarray, "family dictionary"]
    """Confirmed by all scoring rows; none of fewer than two."""
    r: Float64[ndarray, "family dictionary dictionary"]
    r_ctx_low: Float64[ndarray, "family dictionary dictionary"]
    without: Sequence[Int[ndarray, "_ dictionary"]]
    """The same families, confirmed with each group of documents left out; rows are those before any was dropped."""

    @staticmethod
    def of(codes: Sequence[Codes], grouping: Grouping, settings: FamilySettings) -> Together:
        """2, from the codes of both halves."""
        memory = settings.memory_mib * 2**20
        candidates = {
            (m, k): top_correlations(
                codes[m][0],
                codes[k][0],
                keep=settings.keep,
                min_together=settings.min_together,
                memory=memory,
                threads=torch.get_num_threads(),
            )
            for m, k in combinations(range(len(codes)), 2)
        }
        asked = [columns(own[0]).count >= settings.min_rows for own in codes]
        whole = joined(candidates, [len(one) for one in asked], bar=settings.bar)
        scoring = [own[1] for own in codes]
        dealt = seeds.numpy_generator("groups of documents", 0).permutation(int(grouping.document.max(initial=-1)) + 1)
        group = dealt % N_GROUPS
        without = []
        for left_out in range(N_GROUPS):
            kept = np.flatnonzero(group[grouping.document] != left_out)
            inner = Grouping.of(grouping.document[kept], grouping.token[kept][:, None])
            r, low = _judged(whole, [c[kept] for c in scoring], inner, memory)
            without.append(confirmed(whole, _alike(r, low, settings)))
        r, low = _judged(whole, scoring, grouping, memory)
        families = confirmed(whole, _alike(r, low, settings))
        there = families.max(1) != NONE
        return Together(
            codes=scoring,
            asked=asked,
            families=families[there],
            r=r[there],
            r_ctx_low=low[there],
            without=without,
        )

    def share(self, dictionary: int, least: int) -> tuple[float, Interval]:
        """3: the share of a dictionary's features found in so many dictionaries, and its 95 % interval."""
        asked = self.asked[dictionary]

        def of(families: Int[ndarray, "_ dictionary"]) -> float:
            found = counts(families, dictionary, len(asked)) >= least
            return float((found & asked).sum() / max(int(asked.sum()), 1))

        value = of(self.families)
        left = np.array([of(one) for one in self.without])
        n = len(left)
        error = float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
        reach = float(special.stdtrit(n - 1, 0.975)) * error
        return value, (max(0.0, value - reach), min(1.0, value + reach))


def _alike(r: ndarray, low: ndarray, settings: FamilySettings) -> Bool[ndarray, "family dictionary dictionary"]:
    return (r >= settings.bar) & (low >= settings.beyond_token)


def _judged(
    families: Int[ndarray, "family dictionary"], codes: Sequence[csr_matrix], grouping: Grouping, memory: int
) -> tuple[Float64[ndarray, "family dictionary dictionary"], Float64[ndarray, "family dictionary dictionary"]]:
    """r of every two members and the lower bound beyond the token; NaN where there are no two."""
    n = families.shape[1]
    r, low = (np.full((len(families), n, n), np.nan) for _ in range(2))
    for m, k in combinations(range(n), 2):
        both = np.flatnonzero((families[:, m] != NONE) & (families[:, k] != NONE))
        proof = evidence(codes[m], codes[k], families[both, m], families[both, k], grouping, memory=memory)
        for place, values in ((r, proof.r), (low, proof.r_ctx_low)):
            place[both, m, k] = place[both, k, m] = values
    return r, low


def _table(main: Together, names: Sequence[str], reader: Reader, documents: ndarray) -> Table:
    there = main.families != NONE
    pairs = there[:, :, None] & there[:, None, :] & ~np.eye(there.shape[1], dtype=bool)
    first = there.argmax(1)
    feature = main.families[np.arange(len(first)), first]
    said = np.full(len(first), "", dtype=object)
    rows = np.zeros(len(first))
    for m in range(there.shape[1]):
        own = np.flatnonzero(first == m)
        rows[own] = columns(main.codes[m]).count[feature[own]]
        if reader.has_text and len(own):
            tops = strongest(main.codes[m], documents, N_WORD_ROWS)[feature[own]]
            said[own] = [named(found) for found in words(reader, tops)]
    weakest = np.where(pairs, main.r, np.inf).min((1, 2)) if len(first) else np.zeros(0)
    mean = np.where(pairs, main.r, 0).sum((1, 2)) / np.maximum(pairs.sum((1, 2)), 1)
    low = np.where(pairs, main.r_ctx_low, np.inf).min((1, 2)) if len(first) else np.zeros(0)
    order = np.lexsort((-mean, -there.sum(1)))
    values: dict[str, Any] = {
        "n_members": there.sum(1).astype(np.float64),
        "member": main.families.astype(np.float64),
        "r_weakest": weakest,
        "r_mean": mean,
        "r_ctx_low": low,
        "rows": rows,
        "words": said,
    }
    unique = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return Table(
        axes=("family",),
        columns=COLUMNS,
        values={name: own[order] for name, own in values.items()},
        coordinates={"dictionary": unique},
    )
