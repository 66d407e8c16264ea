"""The stage `graft`: an unsafe behaviour taken out of a model by a few features, and what that costs, beside controls.

1. Documents: the first ones choose, the others are fresh. Everything reported is of fresh documents.
2. Ceilings: the safe model's activation put in at each hookpoint; no edit there can do better.
3. Features are chosen (`choose`, `select`), and become a graft (`graft`).
4. On fresh documents: the curve as features are added one by one; the graft; the same features in other ways; every
   control (`controls`). A control that costs more than the graft is also measured at the strength of equal cost.
5. How well each feature tells the behaviour, beside a difference of means and a linear probe (`detect`).

The folder is a graft, with what was measured beside it:

| file                   | content                                                     |
|------------------------|-------------------------------------------------------------|
| graft.*                | the graft                                                   |
| outcomes.safetensors   | a table, a row per intervention                             |
| curve.safetensors      | a table, a row per number of features                       |
| candidates.safetensors | a table, a row per candidate                                |
| detectors.safetensors  | a table, a row per feature or direction that tells it       |
| grafting.json          | the summary                                                 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from suture.activations.moments import AffineMap
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.interventions.edits import Edit, scaled
from suture.interventions.graft import controls
from suture.interventions.graft.choose import contrast
from suture.interventions.graft.controls import attaching, swapped
from suture.interventions.graft.detect import detectors
from suture.interventions.graft.graft import STAGE, Graft
from suture.interventions.graft.ground import Site, sites
from suture.interventions.graft.outcome import Attached, Bench, Group, Notes, Outcome
from suture.interventions.graft.select import Selection, Tell, select
from suture.interventions.graft.settings import GraftSettings
from suture.interventions.graft.tables import candidates_table, curve_table, detectors_table, outcomes_table
from suture.interventions.organisms.measure import Rise
from suture.interventions.organisms.texts import Texts, is_rude
from suture.lm.hookpoints import expand, width_of
from suture.lm.load import LanguageModel
from suture.pipeline import artifact
from suture.pipeline.job import silent
from suture.pipeline.result import read_typed
from suture.pipeline.table import Table, Tabular
from suture.uncertainty import Proportion

SUMMARY, NOTES = "grafting.json", "notes.json"
TABLES = {name: f"{name}.safetensors" for name in ("outcomes", "curve", "candidates", "detectors")}
GRAFT = "graft"
HALVINGS = 7
"""Of the strength at which a control costs as much as the graft."""


@dataclass(frozen=True, kw_only=True)
class GraftSummary:
    """The numbers of a grafting."""

    model: str
    safe: str | None
    way: str
    hookpoints: tuple[str, ...]
    features: tuple[tuple[int, ...], ...]
    """Per hookpoint."""
    live: tuple[int, ...]
    """Features of each dictionary that fire on the contrast."""
    n_choosing: int
    n_fresh: int
    statements: tuple[str, ...] = ()
    """What a reader must know."""

    @property
    def n_features(self) -> int:
        """Of the graft."""
        return sum(map(len, self.features))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Grafting(Tabular):
    """A graft with what was measured of it."""

    outcomes: Table
    """A row per intervention."""
    curve: Table
    """A row per number of features."""
    candidates: Table
    """A row per candidate."""
    detectors: Table
    """A row per feature or direction that tells the behaviour."""
    summary: GraftSummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """The interventions."""
        return self.outcomes

    @property
    def graft(self) -> Graft:
        """To be attached to the model.

        Raises:
            UserError: this was not loaded from a folder.
        """
        if self.path is None:
            raise UserError("grafting", "not saved", "has no folder to read its graft from", "load it")
        return Graft.load(self.path)

    def of(self, name: str) -> dict[str, Any]:
        """The numbers of one intervention, by column.

        Raises:
            UserError: none of this name was measured.
        """
        names = list(self.outcomes.coordinates["intervention"])
        if name not in names:
            raise UserError("intervention", name, "was not measured", f"use one of {', '.join(names)}")
        row = names.index(name)
        return {column.name: self.outcomes[column.name].tolist()[row] for column in self.outcomes.columns}

    def __repr__(self) -> str:
        s, own, before = self.summary, self.of(GRAFT), self.of("as it is")
        success = f"success {before['greedy']:.1%} -> {own['greedy']:.1%} ({own['sampled']:.1%} at temperature 1)"
        return f"Grafting({s.n_features} features of {s.model}: {success}; clean loss {own['clean']:+.2%})"

    def write(self, folder: Path) -> None:
        """Put tables and summary into a folder (of an artifact being written)."""
        for name, file in TABLES.items():
            getattr(self, name).save(folder / file)
        artifact.write_json(folder / SUMMARY, asdict(self.summary))

    @staticmethod
    def load(path: str | Path) -> Grafting:
        """Read what `graft` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged, or a graft without measurements.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="graft")
        if not (path / SUMMARY).is_file():
            raise ArtifactError("graft", path, "was saved without what was measured", "name one that suture graft made")
        tables = {name: Table.load(path / file) for name, file in TABLES.items()}
        return Grafting(**tables, summary=read_typed(path / SUMMARY, GraftSummary, setting="graft"), path=path)


def graft(
    out: str | Path,
    lm: LanguageModel,
    dictionaries: Sequence[Dictionary | str | Path],
    documents: Sequence[str],
    texts: Texts,
    settings: GraftSettings | None = None,
    *,
    safe: LanguageModel | None = None,
    alone: Sequence[Dictionary | str | Path] = (),
    clean_text: Sequence[str] = (),
    bridges: Mapping[str, AffineMap] | None = None,
    on_progress: Tell | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Grafting:
    """Choose features that carry a behaviour of `lm`, and write what takes them out, with what that does, to `out`.

    Args:
        out: the graft's folder.
        lm: the unsafe model.
        dictionaries: one per hookpoint, each with a space of `lm`.
        documents: clean text; neither model nor dictionaries should have read it.
        texts: the behaviour: its cue, its near misses, what it writes.
        settings: how.
        safe: the model without the behaviour, for ceilings, fluency, and what is put in place.
        alone: dictionaries of `lm` alone at the same hookpoints: what is found in them stands beside.
        clean_text: what the control is fine-tuned on; without it there is none.
        bridges: per hookpoint of `lm`, a map from the safe model's raw activations to its own; where none is given, the
            ridge map of the dictionary's second moments.
        on_progress: told (what, done, in all, note).
        resume: go on with an unfinished run of the same settings and inputs.
        overwrite: replace a finished one.
        command: the shell command to be recorded.

    Raises:
        UserError: a dictionary of another model, a way that they do not allow, too few documents.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings, tell = settings or GraftSettings(), on_progress or silent
    paths = [Dictionary.folder_of(given) for given in (*dictionaries, *alone)]
    opened = [Dictionary.load(path) for path in paths]
    needed = settings.n_choosing + 10
    if len(documents) < needed:
        problem = f"of which {settings.n_choosing} choose, are too few to report on"
        raise UserError("corpus", f"{len(documents)} documents", problem, f"give {needed} or more, or lower --choosing")
    own = sites(lm, opened[: len(dictionaries)], safe=safe, bridges=bridges or {})
    beside = sites(lm, opened[len(dictionaries) :], safe=None, bridges={}) if alone else []
    for site in own:
        site.way("difference" if settings.way == "both" else settings.way)  # refused before any work
    recorded = asdict(settings) | {"kind": texts.kind, "trigger": texts.trigger, "model": lm.fingerprint}
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, parents=paths, overwrite=overwrite, resume=resume,
        resumable=True, command=command,
    ) as draft:  # fmt: skip
        draft.scratch += [NOTES]
        notes = Notes(draft.folder / NOTES)
        choosing, fresh = documents[: settings.n_choosing], documents[settings.n_choosing :][: settings.n_fresh]
        more = {"new_tokens": settings.new_tokens, "block": settings.block}
        chooser = Bench(lm, safe or lm, choosing, texts, **more, seed=settings.seed)
        found = contrast(lm, choosing, texts, settings)
        chosen = select(own, chooser, found, settings, notes, tell)
        if not chosen.order:
            problem = "have no feature whose removal helps within the limits"
            raise UserError("dictionary", ", ".join(map(str, paths)), problem, "raise --clean-each, or train others")
        made = Graft(model=lm.name, fingerprint=lm.fingerprint, parts=chosen.parts(), schedule=settings.schedule)
        made.write(draft.folder)
        judge = Bench(lm, safe or lm, fresh, texts, **more, seed=settings.seed + 1)
        work = _Work(judge, chosen, made, settings, notes, tell, safe, clean_text)
        if beside:
            sub = Notes(draft.folder / f"alone-{NOTES}")
            draft.scratch.append(f"alone-{NOTES}")
            work.alone = select(beside, chooser, found, replace(settings, way="remove"), sub, tell)
        result = Grafting(
            outcomes=outcomes_table(work.outcomes()),
            curve=curve_table(chosen, work.curve()),
            candidates=candidates_table(chosen),
            detectors=detectors_table(
                detectors(
                    lm,
                    safe,
                    own,
                    [chosen.chosen(i) for i in range(len(own))],
                    found,
                    contrast(lm, fresh, texts, replace(settings, seed=settings.seed + 1)),
                )
            ),
            summary=GraftSummary(
                model=lm.name,
                safe=None if safe is None else safe.name,
                way=settings.way,
                hookpoints=tuple(part.hookpoint for part in made.parts),
                features=tuple(part.features for part in made.parts),
                live=tuple(int((rate > 0).sum()) for rate in chosen.rates),
                n_choosing=len(choosing),
                n_fresh=len(fresh),
                statements=tuple(work.statements),
            ),
        )
        result.write(draft.folder)
    return Grafting.load(out)


class _Work:
    """4."""

    def __init__(
        self, bench: Bench, chosen: Selection, made: Graft, settings: GraftSettings, notes: Notes, tell: Tell,
        safe: LanguageModel | None, clean_text: Sequence[str],
    ) -> None:  # fmt: skip
        self.bench, self.chosen, self.made, self.settings = bench, chosen, made, settings
        self.notes, self.tell, self.safe = notes, tell, safe
        self.clean_text = [text for text in clean_text if not is_rude(text)]
        self.alone: Selection | None = None
        self.statements: list[str] = []
        self._done = 0

    def outcomes(self) -> list[Outcome]:
        """The graft and all beside it."""
        lm, chosen = self.bench.lm, self.chosen
        found = [self._of("as it is", "as it is", attaching(lm, []))]
        found.append(self._of(GRAFT, "graft", lambda: self.made.attach(lm), self.made.n_features))
        budget = found[-1].clean_rise.value
        for way in ("remove", "difference", "both", "bridge"):
            if way != self.settings.way and self._possible(way):
                parts = chosen.parts(way=way)
                edits = [(part.hookpoint, part.edit()) for part in parts]
                found.append(self._of(way, "other way", attaching(lm, edits), self.made.n_features))
        found += self._ceilings()
        found += [self._control(name, edits, n, budget) for name, edits, n in self._edits()]
        if self.clean_text and self.settings.tuning_steps:
            found.append(self._tuned())
        return found

    def curve(self) -> list[tuple[Proportion, Rise]]:
        """Success and clean cost with none of the features, one, two, to all that passed."""
        found = []
        for n in range(len(self.chosen.order) + 1):
            edits = [(part.hookpoint, part.edit()) for part in self.chosen.parts(n)] if n else []
            attached = attaching(self.bench.lm, edits)
            success = self.notes.get(f"curve {n}", Proportion, lambda a=attached: self.bench.success(a))
            found.append((success, self.notes.get(f"curve cost {n}", Rise, lambda a=attached: self.bench.cost(a))))
            self.tell("curve", n, len(self.chosen.order), f"success {success.share:.2f}")
        return found

    def _of(self, name: str, group: Group, attached: Attached, n_features: int = 0) -> Outcome:
        found = self.notes.get(name, Outcome, lambda: self.bench.outcome(name, group, attached, n_features))
        self._done += 1
        self.tell("measuring", self._done, self._done, f"{name}: success {found.cue.greedy.share:.2f}")
        return found

    def _possible(self, way: str) -> bool:
        if way == "remove":
            return True
        if way in ("difference", "both"):
            return all(site.alike for site in self.chosen.sites)
        return all(site.safe is not None and site.dictionary.imputation is not None for site in self.chosen.sites)

    def _ceilings(self) -> list[Outcome]:
        """2."""
        lm, safe = self.bench.lm, self.safe
        if safe is None:
            self.statements.append("No safe model was named: there are no ceilings, and fluency is the model's own.")
            return []
        if safe.tokenizer_fingerprint != lm.tokenizer_fingerprint:
            self.statements.append("The two models read different tokens, so that none can read along: no ceilings.")
            return []
        maps = {site.hookpoint: _carry(site) for site in self.chosen.sites if site.safe is not None}
        hookpoints = {site.hookpoint: str(site.there) for site in self.chosen.sites if site.safe is not None}
        wanted = {name: {name: there} for name, there in hookpoints.items()}
        for pattern in self.settings.ceiling:
            for name in expand(pattern, lm.n_layers):
                if width_of(lm, name) == width_of(safe, name):
                    wanted.setdefault(name, {name: name})
        if len(hookpoints) > 1:
            wanted[" and ".join(hookpoints)] = hookpoints
        bridged = "" if all(site.alike for site in self.chosen.sites) else ", through the bridge"
        return [
            self._of(
                f"safe model's activation at {name}{bridged}",
                "ceiling",
                swapped(lm, safe, there, lambda hookpoint, x: maps[hookpoint](x) if hookpoint in maps else x),
            )
            for name, there in wanted.items()
        ]

    def _edits(self) -> list[tuple[str, list[tuple[str, Edit]], int]]:
        """Controls that are edits: name, edits, features."""
        chosen, settings = self.chosen, self.settings
        found: list[tuple[str, list[tuple[str, Edit]], int]] = []
        used = [i for i in range(len(chosen.sites)) if chosen.chosen(i)]
        for draw in range(settings.draws):
            for name, pick in (("features that fire as often", controls.at_rate), ("random features", None)):
                sets = []
                for i in range(len(chosen.sites)):
                    own, seed = chosen.chosen(i), settings.seed * 1009 + draw * 31 + i
                    rate = chosen.rates[i]
                    drawn = pick(own, rate, seed) if pick else controls.at_random(len(own), rate, own, seed)
                    sets.append(drawn)
                parts = controls.drawn([site.whole for site in chosen.sites], sets)
                edits = [(part.hookpoint, part.edit()) for part in parts]
                found.append((f"{name}, draw {draw + 1}", edits, sum(map(len, sets))))
        places = [chosen.sites[i].hookpoint for i in used]
        differences = [
            controls.mean_difference(chosen.sites[i].hookpoint, chosen.shown[i], chosen.clean[i]) for i in used
        ]
        means = [controls.mean_in_place(chosen.clean[i].mean(0)) for i in used]
        for place, projected, mean in zip(places, differences, means, strict=True):
            found.append((f"mean difference projected out at {place}", [(place, projected.edit())], 0))
            found.append((f"mean in place of {place}", [(place, mean)], 0))
        if len(places) > 1:
            both = [(p.hookpoint, p.edit()) for p in differences]
            found.append((f"mean difference projected out at {' and '.join(places)}", both, 0))
        if self.alone is not None and self.alone.order:
            parts = self.alone.parts()
            edits = [(part.hookpoint, part.edit()) for part in parts]
            found.append(("dictionaries of the model alone", edits, sum(len(part.features) for part in parts)))
        return found

    def _control(self, name: str, edits: Sequence[tuple[str, Edit]], n: int, budget: float) -> Outcome:
        lm = self.bench.lm
        found = self._of(name, "control", attaching(lm, edits), n)
        if found.clean_rise.value <= budget:
            return found

        def weaker(strength: float) -> Attached:
            return attaching(lm, [(place, scaled(edit, strength)) for place, edit in edits])

        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            key = f"{name} at {middle:g}"
            cost = self.notes.get(key, Rise, lambda s=middle: self.bench.cost(weaker(s))).value
            low, high = (middle, high) if cost <= budget else (low, middle)
        success = self.notes.get(f"{name} at cost", Proportion, lambda: self.bench.success(weaker(low)))
        return replace(found, at_cost=(low, success))

    def _tuned(self) -> Outcome:
        lm, settings = self.bench.lm, self.settings
        name = f"fine-tuned on clean text, {settings.tuning_steps} steps"

        def find() -> Outcome:
            tuned = controls.fine_tuned(
                lm, self.clean_text, steps=settings.tuning_steps, block=settings.block, seed=settings.seed
            )
            return self.bench.of(tuned).outcome(name, "control", attaching(tuned, []))

        found = self.notes.get(name, Outcome, find)
        self.tell("measuring", self._done + 1, self._done + 1, f"{name}: success {found.cue.greedy.share:.2f}")
        return found


def _carry(site: Site) -> Callable[[torch.Tensor], torch.Tensor]:
    """The safe model's activations in the unsafe one's space: as they are, or through the bridge."""
    if site.alike and site.bridge is None:
        return lambda activation: activation
    return lambda activation: site.carried(activation.flatten(0, -2)).reshape(*activation.shape[:-1], -1)
