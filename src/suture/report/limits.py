"""From which strength on known features would have been found: what a `power` result says, where one is there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture.errors import ArtifactError
from suture.pipeline import artifact
from suture.report.gather import Artifact, Comparison, Gathered
from suture.report.words import plain

STAGE, FILE = "power", "power.json"


@dataclass(frozen=True, kw_only=True)
class DetectionLimit:
    """What was found of known features added to the rows."""

    sentence: str
    made_with: str
    """In which its recipe differs from the comparison's; empty where it does not."""


def limit_of(comparison: Comparison, gathered: Gathered) -> DetectionLimit | None:
    """Of the comparison's own store and design; the recipe nearest to its own, and what differs is said.

    Raises:
        ArtifactError: the result is damaged.
    """
    if comparison.store is None or comparison.dictionary is None:
        return None
    sha256, own = comparison.store.manifest_sha256, comparison.dictionary.settings
    of_store = [
        (a, settings)
        for a in gathered.artifacts
        if a.manifest.stage == STAGE and any(p.manifest_sha256 == sha256 for p in a.manifest.parents)
        if isinstance(settings := a.settings.get("train"), dict) and _at(settings, "design.kind") == comparison.design
    ]
    ranked = sorted(((len(_differing(own, settings)), i) for i, (_, settings) in enumerate(of_store)))
    if not ranked:
        return None
    made, settings = of_store[ranked[0][1]]
    return DetectionLimit(sentence=_sentence(made), made_with=", ".join(_differing(own, settings)))


_RECIPE = {
    "design.n_features": "{} features",
    "design.sparsity.k": "k = {}",
    "n_rows": "{} training rows",
    "seed": "seed {}",
}
"""Settings that a limit depends on, and how they are said."""


def _differing(own: Any, other: Any) -> list[str]:
    return [said.format(plain(_at(other, key))) for key, said in _RECIPE.items() if _at(own, key) != _at(other, key)]


def _at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def _sentence(made: Artifact) -> str:
    try:
        return str(artifact.read_json(Path(made.folder) / FILE)["sentence"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArtifactError("folders", made.folder, f"cannot be read ({error})", "run the study again") from None
