"""Find the artifacts that a report is about, open their results, and put together what belongs together.

1. Every folder with a manifest.json below a directory is an artifact; unfinished folders (.partial) are left alone.
2. An artifact's result is opened as what its stage wrote; weights and shards are not read.
3. A features artifact, its dictionary and its store are joined through the manifest checksums of their parents.
4. A comparison of a model with itself (a null) is set beside the comparison that it was made for (`nulls`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from suture.activations.space import Space, are_null
from suture.activations.store import Store
from suture.bridges.bridge import Bridge
from suture.errors import UserError
from suture.features.clusters import TwoClusters
from suture.features.table import FeatureSummary, FeatureTable
from suture.interventions.causal import Causal
from suture.interventions.graft.graft import STAGE as GRAFT
from suture.interventions.graft.make import SUMMARY as GRAFT_SUMMARY
from suture.interventions.graft.make import Grafting
from suture.interventions.responses.responses import STAGE as RESPONSES
from suture.interventions.responses.responses import Responses
from suture.interventions.splice import Splice
from suture.interventions.steer.effect import Effect
from suture.labels import is_exclusive
from suture.matching.layers import Layers
from suture.matching.match import STAGE as MATCH
from suture.matching.match import Matching
from suture.matching.universality import Universality
from suture.pipeline.artifact import MANIFEST, Manifest, Opened, folder_of, open_artifact, sha256_of
from suture.pipeline.result import typed
from suture.report.nulls import Recipe, copies_one_of, recipe
from suture.report.study_numbers import FILE as STUDY
from suture.report.study_numbers import Study
from suture.report.sweep import Sweep
from suture.stitching.ladder import STAGE as LADDER
from suture.stitching.ladder import StitchingStudy
from suture.training.result import TrainResult

DESIGN_ORDER = ("crosscoder", "pooled", "universal", "sae")
"""Designs in the order in which a report shows them; the first one with features answers the question."""


Result = (
    Store
    | TrainResult
    | FeatureTable
    | Effect
    | Splice
    | Causal
    | Study
    | Sweep
    | Layers
    | Matching
    | Universality
    | Bridge
    | Grafting
    | StitchingStudy
    | Responses
)
READERS: Mapping[str, Callable[[Path], Result]] = {
    "store": Store.open,
    "dictionary": TrainResult.load,
    "features": FeatureTable.load,
    "effect": Effect.load,
    "splice": Splice.load,
    "causal": Causal.load,
    "study": Study.load,
    "sweep": Sweep.load,
    "layers": Layers.load,
    MATCH: Matching.load,
    "universality": Universality.load,
    "bridge": Bridge.load,
    GRAFT: Grafting.load,
    LADDER: StitchingStudy.load,
    RESPONSES: Responses.load,
}
"""Stage -> what opens its result; of others a report shows the manifest alone."""
T = TypeVar("T")

CELLS = "cells"
"""The folder beside a study in which its runs lie."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished folder, as far as a report needs it."""

    folder: Path
    name: str
    """Short and unique within the report."""
    manifest: Manifest
    manifest_sha256: str
    result: Result | None

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that decided the result."""
        return self.manifest.settings

    @property
    def anchor(self) -> str:
        """The id of its entry in the provenance section."""
        return "artifact-" + re.sub(r"[^\w-]+", "-", self.name)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One dictionary with what is known of its features and its store."""

    dictionary: Artifact | None
    features: Artifact | None
    store: Artifact | None
    null: "Comparison | None" = None
    """The same on a model against itself: the null that was made for it."""

    @property
    def name(self) -> str:
        """How the report calls it."""
        artifact = self.dictionary or self.features
        assert artifact is not None
        return artifact.name

    @property
    def trained(self) -> TrainResult | None:
        """The dictionary's result."""
        return _as(TrainResult, self.dictionary)

    @property
    def table(self) -> FeatureTable | None:
        """The features' table."""
        return _as(FeatureTable, self.features)

    @property
    def summary(self) -> FeatureSummary:
        """The numbers of the features; where there are none, those of the dictionary's evaluation."""
        if self.table is not None:
            return self.table.found
        found = self.trained.evaluation if self.trained else None
        if found is None:
            return FeatureSummary()
        return typed(found.to_json(), FeatureSummary)

    @property
    def design(self) -> str:
        """`sae`, `crosscoder`, `pooled` or `universal`."""
        return self.trained.description.design.kind if self.trained else self.summary.design or "dictionary"

    @property
    def models(self) -> list[str]:
        """A label per model, in the order of the spaces."""
        return short_labels(self.table.models if self.table else [space.label for space in self.spaces])

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The dictionary's spaces; without one, none."""
        return self.trained.description.spaces if self.trained else ()

    @property
    def n_features(self) -> int | None:
        """The size of the dictionary."""
        if self.trained is not None:
            return self.trained.description.design.n_features
        return self.table.n_features if self.table else None

    @property
    def clusters(self) -> TwoClusters | None:
        """The two-clusters numbers."""
        return self.summary.two_clusters

    @property
    def counts(self) -> Counter[str]:
        """Number of features per label; empty where none were labelled."""
        return Counter(self.summary.counts)

    @property
    def n_live(self) -> int:
        """Labelled features that are not dead."""
        return sum(n for label, n in self.counts.items() if label != "dead")

    @property
    def is_null(self) -> bool:
        """Whether the models compared are one model and a copy of itself."""
        return are_null(self.spaces) if self.trained else self.summary.null

    @property
    def recipe(self) -> Recipe | None:
        """How it was made; unknown where its dictionary or its features are not there."""
        if self.dictionary is None or self.features is None:
            return None
        return recipe(self.dictionary.manifest, self.features.manifest)

    @property
    def exclusive_share(self) -> float | None:
        """Share of live features labelled as one model's own; on a null, the false-positive rate."""
        if self.is_null and self.summary.false_positive_rate is not None:
            return self.summary.false_positive_rate
        own = sum(n for label, n in self.counts.items() if is_exclusive(label))
        return own / self.n_live if self.n_live else None

    @property
    def shared_share(self) -> float | None:
        """Share of live features labelled shared; on a null, the ceiling."""
        return self.counts["shared"] / self.n_live if self.n_live else None


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Everything a report shows."""

    artifacts: list[Artifact]
    comparisons: list[Comparison]
    """Real comparisons, crosscoders first; nulls hang on them or are in `nulls`."""
    nulls: list[Comparison]

    def results(self, kind: type[T]) -> list[tuple[Artifact, T]]:
        """The artifacts whose result is of one kind, with it, in the order given."""
        return [(a, a.result) for a in self.artifacts if isinstance(a.result, kind)]


def _as(kind: type[T], artifact: Artifact | None) -> T | None:
    return artifact.result if artifact is not None and isinstance(artifact.result, kind) else None


def find_artifacts(folder: str | Path) -> list[Path]:
    """All finished artifacts in `folder` and below, in a fixed order.

    The runs of a finished study (`cells` beside `study`) are left out: the study says what they found. Name the folder
    of one to see it.

    Raises:
        UserError: the folder does not exist or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError("folder", folder, "is not a folder", "name the folder that holds the artifacts")
    finished = (m.parent for m in folder.rglob(MANIFEST) if not any(p.endswith(".partial") for p in m.parts))
    found = sorted(path for path in finished if not _is_cell(path.relative_to(folder), folder))
    if not found:
        raise UserError("folder", folder, "holds no finished artifact", "run suture demo, collect or train first")
    return found


def _is_cell(path: Path, folder: Path) -> bool:
    """Whether `path`, seen from `folder`, lies in the cells of a finished study."""
    above = [folder / p for p in path.parents if p.name == CELLS]
    return any((cells.parent / "study" / MANIFEST).is_file() for cells in above)


def gather(results: Iterable[Opened | str | Path]) -> Gathered:
    """Read the artifacts and join them.

    Raises:
        ArtifactError: a folder is not a finished artifact, or one of its JSON files is broken.
        UserError: no folder was given.
    """
    paths = list(dict.fromkeys(folder_of(result, setting="folders") for result in results))
    if not paths:
        raise UserError("folders", "(none)", "there is nothing to report on", "name at least one artifact folder")
    names = short_names([p.resolve() for p in paths])
    artifacts = [_read(path, name) for path, name in zip(paths, names, strict=True)]
    every = _comparisons(artifacts)
    nulls = [c for c in every if c.is_null]
    real = [replace(c, null=_own_null(c, nulls)) for c in every if not c.is_null]
    real.sort(key=lambda c: (c.features is None, DESIGN_ORDER.index(c.design) if c.design in DESIGN_ORDER else 9))
    return Gathered(artifacts=artifacts, comparisons=real, nulls=nulls)


def short_names(paths: Sequence[Path]) -> list[str]:
    """For each path its part below the folder that all share, its last name at least."""
    common = 0
    for parts in zip(*(p.parts[:-1] for p in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common += 1
    return ["/".join(p.parts[common:]) for p in paths]


def short_labels(labels: Sequence[str]) -> list[str]:
    """Labels `model @ hookpoint` with the model's last path part alone, where they stay different that way."""
    parts = [label.partition(" @ ") for label in labels]
    short = [f"{model.rstrip('/').rsplit('/', 1)[-1]}{at}{hookpoint}" for model, at, hookpoint in parts]
    return short if len(set(short)) == len(set(labels)) else list(labels)


def _read(path: Path, name: str) -> Artifact:
    manifest = open_artifact(path, setting="folders")
    own = {"study": STUDY, GRAFT: GRAFT_SUMMARY}.get(manifest.stage)
    without = own is not None and not (path / own).is_file()
    result = READERS[manifest.stage](path) if manifest.stage in READERS and not without else None
    sha256 = sha256_of(path / MANIFEST)
    return Artifact(folder=path, name=name, manifest=manifest, manifest_sha256=sha256, result=result)


def parent_of(artifact: Artifact, stage: str, among: Sequence[Artifact]) -> Artifact | None:
    """The parent of `artifact` that was made by `stage`, if it is among those read.

    Content decides, not the path: folders may have been moved. The path settles it between equal copies.
    """
    for parent in artifact.manifest.parents:
        same = [a for a in among if a.manifest.stage == stage and a.manifest_sha256 == parent.manifest_sha256]
        if same:
            return min(same, key=lambda a: a.folder.name != Path(parent.path).name)
    return None


def _comparisons(artifacts: list[Artifact]) -> list[Comparison]:
    found: list[Comparison] = []
    for features in (a for a in artifacts if a.manifest.stage == "features"):
        dictionary = parent_of(features, "dictionary", artifacts)
        store = parent_of(features, "store", artifacts) or (dictionary and parent_of(dictionary, "store", artifacts))
        found.append(Comparison(dictionary=dictionary, features=features, store=store))
    described = [c.dictionary for c in found]
    for dictionary in (a for a in artifacts if a.manifest.stage == "dictionary"):
        if not any(dictionary is d for d in described):
            store = parent_of(dictionary, "store", artifacts)
            found.append(Comparison(dictionary=dictionary, features=None, store=store))
    return found


def _own_null(comparison: Comparison, nulls: Iterable[Comparison]) -> Comparison | None:
    """The null that was made for a comparison, labelled; None where there is none.  (4)"""
    made = comparison.recipe
    own = (n for n in nulls if n.counts and n.recipe == made and copies_one_of(n.spaces, comparison.spaces))
    return next(own, None) if made is not None else None
