"""The stage `carry`: a dictionary carried over a bridge and fitted to the other model's rows.

1. The bridge's held-out documents that the dictionary's own training kept back too judge; the others fit.
2. The dictionary as the maps alone make it (`carry`), then one common threshold to its L0, then its decoder by least
   squares (`dictionary.refit`). Half of what is lost at first is the threshold: a ridge map shrinks pre-activations.
3. How well it does before, in between and after, beside the map itself and a native dictionary at the same L0.
4. Which of its features survive (`survival`).

| file                     | content                                                          |
|--------------------------|------------------------------------------------------------------|
| dictionary.*, evaluation | the carried dictionary, as training writes one                   |
| survival.safetensors     | a table, a row per feature: whether it survives, and what is seen |
| carried.json             | the summary                                                      |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from suture.activations.batches import split_rows
from suture.activations.settings import View
from suture.activations.store import Store, as_store
from suture.activations.view import seen
from suture.bridges.bridge import Bridge
from suture.bridges.carry import affine, carried, source_of
from suture.bridges.ground import Rows
from suture.bridges.judge import judged
from suture.bridges.settings import CarrySettings
from suture.bridges.survival import LABELS, Crossing, survival
from suture.dictionary.dictionary import STAGE, Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.refit import check_l0, refitted, refuse_itself, to_l0, write_evaluated
from suture.dictionary.rows import LEAST_DOCUMENTS, order_seed, whole_documents
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.pipeline.table import Table, Tabular

SUMMARY, TABLE = "carried.json", "survival.safetensors"
JUDGED_ROWS = 50_000
OnProgress = Callable[[str], None]
"""Told what begins."""


@dataclass(frozen=True, kw_only=True)
class CarriedFit:
    """How well a dictionary does on the rows that judge."""

    name: str
    l0: float
    fvu: float


@dataclass(frozen=True, kw_only=True)
class CarriedSummary:
    """The numbers of a dictionary that was carried."""

    source: str
    """The space it came from."""
    target: str
    kind: str
    """Of the map."""
    l0: float
    """That it was brought to."""
    n_rows: int
    n_documents: int
    n_fit_rows: int
    at_home: CarriedFit
    """In its own space."""
    map_fvu: float
    """What the map itself leaves unexplained of these rows."""
    zero_shot: CarriedFit
    """As the maps alone make it."""
    threshold: CarriedFit
    """At its L0."""
    refitted: CarriedFit
    native: CarriedFit | None
    """A dictionary trained there, as it is."""
    native_at_l0: CarriedFit | None
    gap_closed: float | None
    """Of the gap from zero-shot to the native one at the same L0, the share that the refit closes."""
    survival: Mapping[str, int]
    """Features under each label."""
    statements: tuple[str, ...] = ()
    """What a reader must know."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Carried(Tabular):
    """What came out beside the dictionary."""

    survival: Table
    """A row per feature."""
    summary: CarriedSummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """The features."""
        return self.survival

    def __repr__(self) -> str:
        s, where = self.summary, f" ({self.path})" if self.path else ""
        counts = ", ".join(f"{n:,} {label}" for label, n in s.survival.items())
        fits = f"FVU zero-shot {s.zero_shot.fvu:.3f}, refitted {s.refitted.fvu:.3f}"
        return f"Carried{where}: {s.source} to {s.target}; {fits} at L0 {s.refitted.l0:.1f}; {counts}"

    @property
    def dictionary(self) -> Dictionary:
        """The carried dictionary.

        Raises:
            UserError: this was not loaded from a folder.
        """
        if self.path is None:
            raise UserError("carried", "not saved", "has no folder to read its dictionary from", "load it")
        return Dictionary.load(self.path)

    def write(self, folder: Path) -> None:
        """Put table and summary into a folder (of an artifact being written)."""
        self.survival.save(folder / TABLE)
        artifact.write_json(folder / SUMMARY, asdict(self.summary))

    @staticmethod
    def load(path: str | Path) -> Carried:
        """Read what `carry` wrote of a dictionary.

        Raises:
            ArtifactError: missing, unfinished, damaged, or a dictionary that was not carried.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="carried")
        if not (path / SUMMARY).is_file():
            raise ArtifactError("carried", path, "is a dictionary that was not carried", "name a carried one")
        summary = read_typed(path / SUMMARY, CarriedSummary, setting="carried")
        return Carried(survival=Table.load(path / TABLE), summary=summary, path=path)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shore:
    """The rows on which a dictionary is carried and judged."""

    source: int
    both: Store
    """The bridge's two spaces."""
    views: tuple[Store, Store]
    """Of the space it is from and of the one it goes to."""
    fit: Int[Tensor, "train"]
    judge: Int[Tensor, "heldout"]
    view: View
    """Through which the store shows the space it goes to."""
    split: Mapping[str, Any]
    """The settings that lead a later stage to the same documents."""
    unknown: tuple[str, ...]
    """Dictionaries that may have been trained on the rows that judge."""


def carry(
    out: str | Path,
    bridge: Bridge | str | Path,
    dictionary: Dictionary | str | Path,
    settings: CarrySettings | None = None,
    *,
    native: Dictionary | str | Path | None = None,
    store: Store | str | Path | None = None,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Carried:
    """Carry a dictionary of one of a bridge's spaces into the other, and fit it there; written to `out`.

    Args:
        out: the folder to be made: a dictionary like any other.
        bridge: its folder, or what was loaded from it.
        dictionary: one of a single space, A or B.
        settings: by which map, and what is fitted.
        native: a dictionary trained in the other space, to compare with.
        store: the rows; the store that the bridge was fitted on where it is not given.
        on_progress: told what begins.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: dictionaries of other spaces, or that kept other documents back; too few documents.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings, say = settings or CarrySettings(), on_progress or (lambda _: None)
    folder = artifact.folder_of(bridge, setting="bridge")
    bridge = Bridge.load(folder)
    paths = [Dictionary.folder_of(dictionary)]
    paths += [] if native is None else [Dictionary.folder_of(native, setting="native")]
    given, *others = (Dictionary.load(path) for path in paths)
    source = source_of(bridge, given)
    for other, path in zip(others, paths[1:], strict=True):
        _check_native(bridge, other, 1 - source, path)
    rows = _store_of(folder, store)
    where = _shore(folder, rows, source, paths, settings)
    check_l0(settings.refit.l0, given)
    affine(bridge, source, settings.kind)
    parents = tuple(dict.fromkeys([folder, *paths, rows.path]))
    refuse_itself(out, parents)
    recorded: dict[str, Any] = {
        "carry": asdict(settings) | {"bridge": str(folder), "dictionary": str(paths[0])},
        "view": asdict(where.view),
        "store": str(rows.path),
        **where.split,
    }
    with artifact.create(
        out, stage=STAGE, settings=recorded, parents=parents, overwrite=overwrite, command=command
    ) as draft:
        found, result = _crossed(bridge, given, others[0] if others else None, where, settings, say)
        draft.settings["design"] = asdict(result.design)
        found.write(draft.folder)
        write_evaluated(draft.folder, result, where.views[1], where.judge, heldout=True)
    return Carried.load(out)


def _store_of(folder: Path, given: Store | str | Path | None) -> Store:
    recorded = artifact.open_artifact(folder).settings["store"]
    try:
        store = as_store(recorded if given is None else given)
    except ArtifactError as error:
        if given is not None:
            raise
        problem = f"of the bridge cannot be read ({error.problem})"
        raise ArtifactError("store", recorded, problem, "name it with --store") from None
    artifact.need_parent(folder, store.path, setting="bridge", fix="name the store that it was fitted on")
    return store


def _check_native(bridge: Bridge, native: Dictionary, target: int, path: Path) -> None:
    space = bridge.spaces[target]
    if native.n_spaces != 1 or not native.spaces[0].stands_for(space) or native.spaces[0].width != space.width:
        own = " and ".join(f"{s.label} ({s.width} wide)" for s in native.spaces)
        problem = f"is over {own}, what is carried comes to {space.label} ({space.width} wide)"
        raise UserError("native", path, problem, "name a dictionary of that space alone")


def _shore(folder: Path, store: Store, source: int, paths: Sequence[Path], settings: CarrySettings) -> Shore:
    """1."""
    made = artifact.open_artifact(folder).settings
    view = View.from_json(made["view"])
    if view.null:
        problem = "is between a model and a copy of it, in which no dictionary can be trained or looked at"
        raise UserError("bridge", folder, problem, "carry over a bridge between two spaces of a store")
    spaces = seen(store, view)
    share, seed, unknown = float(made["heldout"]), int(made["seed"]), []
    for path in paths:
        manifest = artifact.open_artifact(path)
        if not artifact.is_made_from(manifest, store.path) or "heldout" not in manifest.settings:
            unknown.append(str(path))
            continue
        own = order_seed(manifest.settings)
        if own != seed:
            problem = f"kept other documents back (data seed {own}) than the bridge ({seed})"
            raise UserError("dictionary", path, problem, "fit the bridge with its --seed, or train with --data-seed")
        share = min(share, float(manifest.settings["heldout"]))
    _, judge = split_rows(spaces, heldout=share, seed=seed)
    bridge_train, _ = split_rows(spaces, heldout=float(made["heldout"]), seed=seed)
    n_documents = len(spaces.documents[judge].unique())
    if n_documents < LEAST_DOCUMENTS:
        problem = f"has {n_documents} documents that neither bridge nor dictionary saw, fewer than {LEAST_DOCUMENTS}"
        raise UserError("store", store.path, problem, "train and fit with a larger --heldout, or collect more text")
    places = view.spaces or (0, 1)
    return Shore(
        source=source,
        both=spaces,
        views=(spaces.select([source]), spaces.select([1 - source])),
        fit=whole_documents(spaces.documents, bridge_train, settings.refit.fit_rows),
        judge=whole_documents(spaces.documents, judge, JUDGED_ROWS),
        view=replace(view, spaces=(places[1 - source],)),
        split={"heldout": share, "seed": seed},
        unknown=tuple(unknown),
    )


def _crossed(
    bridge: Bridge,
    given: Dictionary,
    native: Dictionary | None,
    where: Shore,
    settings: CarrySettings,
    say: OnProgress,
) -> tuple[Carried, Dictionary]:
    """2 to 4."""
    source, (home, there) = where.source, where.views
    given = given.with_scales([bridge.spaces[source].scale])
    at_home = _fit("at home", given, home, where.judge)
    l0 = settings.refit.l0 or (float(given.sparsity.k) if given.sparsity.selects_k else at_home.l0)
    say("carrying")
    zero_shot = carried(bridge, given, settings.kind)
    at_l0 = to_l0(zero_shot, there, where.fit, l0)
    say("refitting")
    result = refitted(at_l0, there, where.fit, replace(settings.refit, l0=l0))
    say("judging")
    fits = {
        name: _fit(name, own, there, where.judge)
        for name, own in (("zero-shot", zero_shot), ("threshold", at_l0), ("refitted", result))
    }
    own_native = native_at_l0 = None
    if native is not None:
        own = native.with_scales([bridge.spaces[1 - source].scale])
        own_native = _fit("native", own, there, where.judge)
        native_at_l0 = _fit("native, same L0", to_l0(own, there, where.fit, l0), there, where.judge)
    gap = None if native_at_l0 is None else fits["zero-shot"].fvu - native_at_l0.fvu
    closed = None if not gap or gap <= 0 else (fits["zero-shot"].fvu - fits["refitted"].fvu) / gap
    P, Q = (affine(bridge, s, settings.kind).matrix.float() for s in (source, 1 - source))
    before, after = given.W_dec.detach(), given.W_dec.detach() @ P
    table = survival(
        Crossing.of(given, result, (home, there), where.judge),
        norm_kept=after.norm(dim=1) / before.norm(dim=1).clamp_min(1e-12),
        round_trip=cosine_similarity(before, after @ Q, dim=1),
        refit_cosine=cosine_similarity(after, result.W_dec.detach(), dim=1),
        survives_above=settings.survives_above,
        lost_below=settings.lost_below,
    )
    counts = Counter(table["label"].tolist())
    paired = Rows(view=where.both, first=where.judge, second=where.judge)
    (r2,) = judged([bridge.map(source, settings.kind)], paired, source, draws=1, seed=0)
    summary = CarriedSummary(
        source=bridge.spaces[source].label,
        target=bridge.spaces[1 - source].label,
        kind=settings.kind,
        l0=l0,
        n_rows=len(where.judge),
        n_documents=len(there.documents[where.judge].unique()),
        n_fit_rows=len(where.fit),
        at_home=at_home,
        map_fvu=1 - r2.r2,
        zero_shot=fits["zero-shot"],
        threshold=fits["threshold"],
        refitted=fits["refitted"],
        native=own_native,
        native_at_l0=native_at_l0,
        gap_closed=closed,
        survival={label: counts[label] for label in LABELS},
        statements=tuple(f"{name} may have been trained on the rows that judge." for name in where.unknown),
    )
    return Carried(survival=table, summary=summary), result


def _fit(name: str, dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> CarriedFit:
    found = evaluate(dictionary, view, rows, alone=False)
    return CarriedFit(name=name, l0=found.l0, fvu=found.fvu[0])
