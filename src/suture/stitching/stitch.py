"""The stage `stitch`: what larger dictionaries have that a smaller one lacks, put into it; the path between two.

1. Dictionaries made comparable; documents to choose on, documents to judge on (`read`).
2. Every feature of the large one judged against the small one, and five stand-ins for that (`latents`, `proxies`).
3. The path from the small to the large one, ordered where it is chosen, measured where it is judged (`path`).
4. What the larger ones have is taken greedily, the whole is brought to one L0 and refitted (`grow`, `refit`).

The folder is a dictionary like any other, which every command takes; beside it lie the tables.

| file                     | content                                                                    |
|--------------------------|----------------------------------------------------------------------------|
| dictionary.*, evaluation | the stitched dictionary, as training writes one                            |
| latents.safetensors      | a table, a row per feature of LARGE: novel or not, the evidence, stand-ins |
| proxies.safetensors      | a table, a row per stand-in: how well it tells                             |
| path.safetensors         | a table, a row per step of the path                                        |
| moves.safetensors        | a table, a row per feature that a step of the path puts in or takes out    |
| origins.safetensors      | a table, a row per feature of the result: from which dictionary, which one |
| stitching.json           | the summary                                                                |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import STAGE, Dictionary
from suture.dictionary.evaluate import Evaluation, evaluate
from suture.dictionary.refit import refitted, refuse_itself, write_evaluated
from suture.dictionary.rows import whole_documents
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact
from suture.pipeline.result import read_typed, without
from suture.pipeline.settings import from_mapping
from suture.pipeline.table import Column, Table, Tabular
from suture.stitching.columns import LATENTS, MOVES, ORIGINS, PROXIES
from suture.stitching.grow import Grown, grow
from suture.stitching.latents import LABELS, NOVEL, RECONSTRUCTION, Latents, latents, read
from suture.stitching.path import Move, Spliced, at_step, plan, walk
from suture.stitching.path import Path as Walked
from suture.stitching.proxies import Judged, proxies
from suture.stitching.read import Ground, Part, check_parts, comparable, ground
from suture.stitching.settings import StitchSettings

SUMMARY = "stitching.json"
TABLES = {name: f"{name}.safetensors" for name in ("latents", "proxies", "path", "moves", "origins")}
OnProgress = Callable[[str], None]
"""Told what begins."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well a dictionary does on the rows that judge."""

    name: str
    n_features: int
    l0: float
    fvu: tuple[float, ...]
    """Per space."""


@dataclass(frozen=True, kw_only=True)
class StitchSummary:
    """The numbers of a stitching."""

    parts: tuple[str, ...]
    """The dictionaries, the small one first."""
    spaces: tuple[str, ...]
    n_rows: int
    n_documents: int
    n_fit_rows: int
    labels: Mapping[str, int]
    """Features of LARGE under each label."""
    novel_share: float | None
    """Of those that are novel or reconstruction."""
    inserted: tuple[int, ...]
    """Features taken from each dictionary, the small one first."""
    l0: float
    """That the result was brought to."""
    fits: tuple[Fit, ...]
    """Of the dictionaries as given, as compared where that differs, and of the result before and after its refit."""
    violations: Mapping[str, tuple[int, int]]
    """Of each phase of the path: steps that raise the error, and steps."""
    end_gap: float
    """Distance of the path's end from the large dictionary, in parts of its error: rounding."""
    statements: tuple[str, ...] = ()
    """What a reader must know."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stitching(Tabular):
    """What came out beside the dictionary."""

    latents: Table
    """A row per feature of the large dictionary."""
    proxies: Table
    """A row per stand-in."""
    steps: Table
    """A row per step of the path."""
    moves: Table
    """What each step moves."""
    origins: Table
    """Where each of the result's features comes from."""
    summary: StitchSummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """The large dictionary's features."""
        return self.latents

    def __repr__(self) -> str:
        s, where = self.summary, f" ({self.path})" if self.path else ""
        result = s.fits[-1]
        counts = ", ".join(f"{n:,} {label}" for label, n in s.labels.items())
        fvu = ", ".join(f"{v:.3f}" for v in result.fvu)
        return f"Stitching{where}: {counts}; {result.n_features:,} features at L0 {result.l0:.1f}, FVU {fvu}"

    @property
    def dictionary(self) -> Dictionary:
        """The stitched dictionary.

        Raises:
            UserError: this was not loaded from a folder.
        """
        if self.path is None:
            raise UserError("stitching", "not saved", "has no folder to read its dictionary from", "load it")
        return Dictionary.load(self.path)

    def write(self, folder: Path) -> None:
        """Put tables and summary into a folder (of an artifact being written)."""
        for name, file in TABLES.items():
            getattr(self, "steps" if name == "path" else name).save(folder / file)
        artifact.write_json(folder / SUMMARY, asdict(self.summary))

    @staticmethod
    def load(path: str | Path) -> Stitching:
        """Read what `stitch` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged, or a dictionary that was not stitched.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="stitching")
        if not is_stitched(path):
            raise ArtifactError("stitching", path, "is a dictionary that was not stitched", "name a stitched one")
        tables = {name: Table.load(path / file) for name, file in TABLES.items()}
        summary = read_typed(path / SUMMARY, StitchSummary, setting="stitching")
        return Stitching(steps=tables.pop("path"), summary=summary, path=path, **tables)


def stitch(
    out: str | Path,
    small: str | Path,
    large: str | Path,
    store: Store | str | Path,
    settings: StitchSettings | None = None,
    *,
    more: Sequence[str | Path] = (),
    spliced: Spliced | None = None,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Stitching:
    """Judge a larger dictionary's features against a smaller one, and put what it lacks into it; written to `out`.

    Args:
        out: folder of the stitched dictionary and of what was found.
        small: the dictionary that is added to.
        large: one of the same spaces, as large or larger.
        store: activations of those spaces.
        settings: how.
        more: further dictionaries that the result takes from, in this order: of other sizes, or of other seeds.
        spliced: a dictionary's cost in the language models, each space's loss with it spliced in; measured at some
            steps of the path where it is given.
        on_progress: told what begins.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: dictionaries that do not belong together or to the store, or too few documents.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings, store, say = settings or StitchSettings(), as_store(store), on_progress or (lambda _: None)
    named = [("small", small), ("large", large), *(("more", path) for path in more)]
    parts = [Part.open(path, store, setting) for setting, path in named]
    check_parts(parts)
    where = ground(store, parts, n_rows=settings.n_rows, fit_rows=settings.refit.fit_rows)
    parents = tuple(dict.fromkeys([*(Path(path) for _, path in named), store.path]))
    refuse_itself(out, parents)
    recorded: dict[str, Any] = {
        "stitch": asdict(settings) | {"parts": [part.name for part in parts]},
        "view": parts[0].view,
        "store": str(store.path),
        **where.split,
    }
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, parents=parents, overwrite=overwrite, command=command
    ) as draft:
        say("bringing the dictionaries to one form")
        dictionaries = comparable(parts, where, settings.refit)
        found, result = _stitched(parts, dictionaries, where, settings, spliced, say)
        draft.settings["design"] = asdict(result.design)
        found.write(draft.folder)
        write_evaluated(draft.folder, result, where.view, where.judge, heldout=True)
    return Stitching.load(out)


def is_stitched(folder: str | Path) -> bool:
    """Whether a dictionary's folder is a stitching's."""
    return (Path(folder) / SUMMARY).is_file()


def path_dictionary(
    stitching: Stitching, step: int, store: Store | str | Path, settings: StitchSettings | None = None
) -> Dictionary:
    """The dictionary at a step of a path: 0 is the small one, the last step the large one, as they were compared.

    Args:
        stitching: one that was loaded.
        step: of its path.
        store: the one it was made with.
        settings: those it was made with; the ones recorded when not given.

    Raises:
        UserError: no such step, or dictionaries that are not what they were.
        ArtifactError: a dictionary is gone.
    """
    n_steps = len(stitching.steps)
    if not 0 <= step < n_steps:
        raise UserError("step", step, f"is none of the path's {n_steps}", f"give 0 to {n_steps - 1}")
    store, named = as_store(store), ("small", "large")
    if settings is None:
        made = artifact.open_artifact(stitching.path or "", stage=STAGE, setting="stitching")
        settings = from_mapping(StitchSettings, without(made.settings["stitch"], "parts"))
    parts = [Part.open(p, store, s) for s, p in zip(named, stitching.summary.parts, strict=False)]
    where = ground(store, parts, n_rows=settings.n_rows, fit_rows=settings.refit.fit_rows)
    one, two = comparable(parts, where, settings.refit)
    return at_step(_moves_of(stitching), step, one, two)


def _stitched(
    parts: Sequence[Part],
    dictionaries: Sequence[Dictionary],
    where: Ground,
    settings: StitchSettings,
    spliced: Spliced | None,
    say: OnProgress,
) -> tuple[Stitching, Dictionary]:
    one, two = dictionaries[:2]
    view = where.view
    say("judging features")
    reading = read(one, two, view, where.judge)
    judged = latents(reading, draws=settings.draws, seed=settings.seed)
    alike, told = proxies(reading, one, two, draws=settings.draws, seed=settings.seed)
    del reading
    say("walking from the small to the large dictionary")
    walked = _path(one, two, where, settings, spliced)
    say("putting features in")
    grown = grow(dictionaries, view, where.fit, settings)
    l0 = settings.refit.l0 or _l0(two, view, where.fit)
    say("refitting")
    result = refitted(grown.dictionary, view, where.fit, replace(settings.refit, l0=l0))
    fits = _fits(parts, dictionaries, grown.dictionary, result, where, settings)
    counts = judged.counts
    decided = counts[NOVEL] + counts[RECONSTRUCTION]
    summary = StitchSummary(
        parts=tuple(part.name for part in parts),
        spaces=tuple(space.label for space in one.spaces),
        n_rows=len(where.judge),
        n_documents=len(view.documents[where.judge].unique()),
        n_fit_rows=len(where.fit),
        labels=counts,
        novel_share=counts[NOVEL] / decided if decided else None,
        inserted=tuple(int(n) for n in np.bincount(grown.part, minlength=len(parts))),
        l0=l0,
        fits=fits,
        violations=walked.violations,
        end_gap=walked.end_gap,
        statements=tuple(_statements(parts, dictionaries, where)),
    )
    spaces = {"space": [space.label for space in one.spaces]}
    found = Stitching(
        latents=_latents_table(judged, alike, spaces),
        proxies=_proxies_table(told),
        steps=walked.table,
        moves=_moves_table(walked.moves),
        origins=_origins_table(grown),
        summary=summary,
    )
    return found, result


def _path(one: Dictionary, two: Dictionary, where: Ground, settings: StitchSettings, spliced: Spliced | None) -> Walked:
    """3."""
    documents = where.view.documents
    choosing, judging = (whole_documents(documents, rows, settings.path_rows) for rows in (where.fit, where.judge))
    reading = read(one, two, where.view, choosing)
    novel = latents(reading, draws=settings.draws, seed=settings.seed).having(NOVEL)
    moves = plan(reading, one, two, novel, settings)
    return walk(moves, one, two, where.view, judging, spliced=spliced, n_losses=settings.loss_steps)


def _fits(
    parts: Sequence[Part],
    dictionaries: Sequence[Dictionary],
    grown: Dictionary,
    result: Dictionary,
    where: Ground,
    settings: StitchSettings,
) -> tuple[Fit, ...]:
    rows = whole_documents(where.view.documents, where.judge, settings.path_rows)
    found = []
    for part, compared in zip(parts, dictionaries, strict=True):
        found.append(_fit(part.name, part.dictionary, where.view, rows))
        if _changed(part.dictionary, settings):
            found.append(_fit(f"{part.name}, as compared", compared, where.view, rows))
    found.append(_fit("stitched, before the refit", grown, where.view, rows))
    return (*found, _fit("stitched", result, where.view, rows))


def _changed(given: Dictionary, settings: StitchSettings) -> bool:
    """Whether being compared changes what a dictionary decodes."""
    sparsity = given.sparsity
    return settings.refit.l0 is not None or sparsity.ranks or sparsity.activation.shrinks


def _fit(name: str, dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> Fit:
    found: Evaluation = evaluate(dictionary, view, rows, alone=False)
    return Fit(name=name, n_features=dictionary.n_features, l0=found.l0, fvu=tuple(found.fvu))


def _l0(dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> float:
    return evaluate(dictionary, view, rows, alone=False).l0


def _statements(parts: Sequence[Part], dictionaries: Sequence[Dictionary], where: Ground) -> list[str]:
    said = []
    for part in parts:
        if part.dictionary.sparsity.ranks:
            said.append(f"{part.name} is topk: it was compared with one common cut-off in place of its ranking.")
        if part.dictionary.sparsity.activation.shrinks:
            said.append(f"{part.name} shrinks its values: its decoder rows were scaled again before it was compared.")
    kinds = {part.dictionary.sparsity.finished.kind for part in parts}
    if len(kinds) > 1:
        common = dictionaries[0].sparsity.kind
        said.append(f"Dictionaries of different sparsity ({', '.join(sorted(kinds))}) were all written as {common}.")
    for name in where.unknown:
        said.append(f"Whether {name} was trained on these rows is not known; if it was, it looks better than it is.")
    return said


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(
    axes: tuple[str, ...], columns: tuple[Column, ...], values: Mapping[str, Any], **coordinates: Sequence[str]
) -> Table:
    return Table(axes=axes, columns=columns, values={c.name: values[c.name] for c in columns}, coordinates=coordinates)


def _latents_table(judged: Latents, alike: Mapping[str, Any], spaces: Mapping[str, Sequence[str]]) -> Table:
    values: dict[str, Any] = {name: value for name, value in vars(judged).items() if name != "label"} | dict(alike)
    values["label"] = np.array(LABELS, dtype=object)[judged.label]
    values["rows"] = judged.rows.astype(np.float64)
    return _table(("feature",), LATENTS, values, **spaces)


def _proxies_table(told: Mapping[str, Judged]) -> Table:
    values = {c.name: np.array([float(getattr(one, c.name)) for one in told.values()]) for c in PROXIES}
    return _table(("proxy",), PROXIES, values, proxy=list(told))


def _moves_table(moves: Sequence[Move]) -> Table:
    """A row per feature moved."""
    step, side, feature = [], [], []
    for number, move in enumerate(moves, start=1):
        for name, chosen in (("small", move.small), ("large", move.large)):
            step += [number] * len(chosen)
            side += [name] * len(chosen)
            feature += chosen.tolist()
    values = {
        "step": np.array(step, dtype=np.float64),
        "side": np.array(side, dtype=object),
        "feature": np.array(feature, dtype=np.float64),
    }
    return _table(("move",), MOVES, values)


def _moves_of(stitching: Stitching) -> list[Move]:
    """What `_moves_table` laid out."""
    table, phase = stitching.moves, stitching.steps["phase"]
    chosen: list[dict[str, list[int]]] = [{"small": [], "large": []} for _ in phase]
    for step, side, feature in zip(table["step"], table["side"], table["feature"], strict=True):
        chosen[int(step)][str(side)].append(int(feature))
    return [
        Move(phase=str(name), small=np.array(own["small"], np.int64), large=np.array(own["large"], np.int64))
        for name, own in zip(phase[1:], chosen[1:], strict=True)
    ]


def _origins_table(grown: Grown) -> Table:
    values = {"part": grown.part.astype(np.float64), "feature": grown.feature.astype(np.float64)}
    return _table(("feature",), ORIGINS, values)
