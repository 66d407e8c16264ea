"""Find the artifacts that a report is about, read their JSON, and put together what belongs together.

1. Every folder with a manifest.json below a directory is an artifact; unfinished folders (.partial) are left alone.
2. An artifact's JSON files are read whole; tensors and shards are not opened.
3. A features artifact, its dictionary and its store are joined through the manifest checksums of their parents.
4. A comparison of a model with itself (a null) is set beside the comparison of the same design.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture.errors import ArtifactError, UserError
from suture.labels import is_exclusive
from suture.pipeline.artifact import MANIFEST, Manifest, open_artifact, read_json, sha256_of
from suture.report import words

DESIGN_ORDER = ("crosscoder", "pooled", "universal", "sae")
"""Designs in the order in which a report shows them; the first one with features answers the question."""


READ_STAGES = ("store", "dictionary", "features", "effect", "study", "splice", "causal")
"""Stages whose JSON a report shows; of others it shows the manifest alone."""

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
    json: dict[str, Any]
    """The content of its JSON files by name without suffix."""

    @property
    def settings(self) -> dict[str, Any]:
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
    """The same design on a model against itself."""

    @property
    def name(self) -> str:
        """How the report calls it."""
        artifact = self.dictionary or self.features
        assert artifact is not None
        return artifact.name

    @property
    def summary(self) -> dict[str, Any]:
        """The dictionary's evaluation, overlaid with the features' summary."""
        evaluation = self.dictionary.json.get("evaluation", {}) if self.dictionary else {}
        return {**evaluation, **(self.features.json.get("summary", {}) if self.features else {})}

    @property
    def design(self) -> str:
        """`sae`, `crosscoder`, `pooled` or `universal`."""
        for artifact in (self.dictionary, self.features):
            if artifact is not None:
                for source in (artifact.json.get("dictionary", {}), artifact.settings, self.summary):
                    design = source.get("design")
                    kind = design.get("kind") if isinstance(design, dict) else design
                    if isinstance(kind, str):
                        return kind
        return "dictionary"

    @property
    def models(self) -> list[str]:
        """A label per model, in the order of the spaces."""
        columns = self.features.json.get("columns", {}) if self.features else {}
        return short_labels(columns.get("models") or [space_label(s) for s in self.spaces])

    @property
    def spaces(self) -> list[dict[str, Any]]:
        """What is known of each space."""
        for artifact in (self.dictionary, self.store):
            if artifact is not None:
                for source in (*artifact.json.values(), artifact.settings):
                    if isinstance(source, dict) and isinstance(source.get("spaces"), list):
                        return [s for s in source["spaces"] if isinstance(s, dict)]
        return []

    @property
    def n_features(self) -> int | None:
        """The size of the dictionary."""
        if self.features is not None and self.features.json.get("columns", {}).get("n_features"):
            return int(self.features.json["columns"]["n_features"])
        if self.dictionary is not None:
            for source in (self.dictionary.json.get("dictionary", {}), self.dictionary.settings):
                for path, value in words.flatten(source).items():
                    if path.rsplit(".", 1)[-1] == "n_features" and isinstance(value, int):
                        return value
        return None

    @property
    def counts(self) -> dict[str, int]:
        """Number of features per label; empty where none were labelled."""
        return dict(self.summary.get("counts") or {})

    @property
    def n_live(self) -> int:
        """Labelled features that are not dead."""
        return sum(n for label, n in self.counts.items() if label != "dead")

    @property
    def is_null(self) -> bool:
        """Whether the models compared are one model and a copy of itself."""
        sources = [self.summary]
        sources += [a.settings for a in (self.features, self.store, self.dictionary) if a is not None]
        known = [(s.get("fingerprint"), s.get("hookpoint")) for s in self.spaces if s.get("fingerprint")]
        return any(bool(s.get("null")) for s in sources) or len(set(known)) < len(known)

    @property
    def exclusive_share(self) -> float | None:
        """Share of live features labelled as one model's own; on a null, the false-positive rate."""
        given = self.summary.get("false_positive_rate", self.summary.get("null_rate")) if self.is_null else None
        if given is not None:
            return float(given)
        own = sum(n for label, n in self.counts.items() if is_exclusive(label))
        return own / self.n_live if self.n_live else None

    @property
    def shared_share(self) -> float | None:
        """Share of live features labelled shared; on a null, the ceiling."""
        return self.counts.get("shared", 0) / self.n_live if self.n_live else None


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Everything a report shows."""

    artifacts: list[Artifact]
    comparisons: list[Comparison]
    """Real comparisons, crosscoders first; nulls hang on them or are in `nulls`."""
    nulls: list[Comparison]
    effects: list[Artifact]

    @property
    def stores(self) -> list[Artifact]:
        """The stores, in the order given."""
        return [a for a in self.artifacts if a.manifest.stage == "store"]

    @property
    def studies(self) -> list[Artifact]:
        """The studies, in the order given."""
        return [a for a in self.artifacts if a.manifest.stage == "study" and "study" in a.json]


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


def gather(folders: Iterable[str | Path]) -> Gathered:
    """Read the artifacts and join them.

    Raises:
        ArtifactError: a folder is not a finished artifact, or one of its JSON files is broken.
        UserError: no folder was given.
    """
    paths = list(dict.fromkeys(Path(f) for f in folders))
    if not paths:
        raise UserError("folders", "(none)", "there is nothing to report on", "name at least one artifact folder")
    names = short_names([p.resolve() for p in paths])
    artifacts = [_read(path, name) for path, name in zip(paths, names, strict=True)]
    every = _comparisons(artifacts)
    nulls = [c for c in every if c.is_null]
    real = [_with_null(c, nulls) for c in every if not c.is_null]
    real.sort(key=lambda c: (c.features is None, DESIGN_ORDER.index(c.design) if c.design in DESIGN_ORDER else 9))
    effects = [a for a in artifacts if a.manifest.stage == "effect"]
    return Gathered(artifacts=artifacts, comparisons=real, nulls=nulls, effects=effects)


def short_names(paths: Sequence[Path]) -> list[str]:
    """For each path its part below the folder that all share, its last name at least."""
    common = 0
    for parts in zip(*(p.parts[:-1] for p in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common += 1
    return ["/".join(p.parts[common:]) for p in paths]


def space_label(space: dict[str, Any]) -> str:
    """`model @ hookpoint`."""
    return str(space.get("label") or f"{space.get('model', '?')} @ {space.get('hookpoint', '?')}")


def short_labels(labels: Sequence[str]) -> list[str]:
    """Labels `model @ hookpoint` with the model's last path part alone, where they stay different that way."""
    parts = [label.partition(" @ ") for label in labels]
    short = [f"{model.rstrip('/').rsplit('/', 1)[-1]}{at}{hookpoint}" for model, at, hookpoint in parts]
    return short if len(set(short)) == len(set(labels)) else list(labels)


def _read(path: Path, name: str) -> Artifact:
    manifest = open_artifact(path, setting="folders")
    content: dict[str, Any] = {}
    for entry in manifest.files:
        file = path / entry.name
        if "/" in entry.name or manifest.stage not in READ_STAGES:
            continue
        try:
            if file.suffix == ".json":
                content[file.stem] = read_json(file)
            elif file.name == "metrics.jsonl":
                lines = file.read_text(encoding="utf-8").splitlines()
                content["metrics"] = [json.loads(line) for line in lines if line]
        except ValueError as error:
            problem = f"file {entry.name} is not JSON ({error})"
            raise ArtifactError("folders", path, problem, "make it again") from None
    return Artifact(folder=path, name=name, manifest=manifest, manifest_sha256=sha256_of(path / MANIFEST), json=content)


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


def _with_null(comparison: Comparison, nulls: list[Comparison]) -> Comparison:
    null = next((n for n in nulls if n.design == comparison.design and n.counts), None)
    return Comparison(dictionary=comparison.dictionary, features=comparison.features, store=comparison.store, null=null)
