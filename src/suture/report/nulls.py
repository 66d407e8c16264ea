"""Which null belongs to which comparison: the one made from the same inputs with the same settings, but for the view.

1. A null is a dictionary one of whose spaces is a copy; the original must be one of the comparison's own spaces, and it
   has as many spaces.
2. Both come from the same rows: the same store by checksum, or the same stream by its settings.
3. Training had the same settings and seed, and so had labelling; what only says how to run or to watch does not count,
   nor does the padding that spaces of one width cannot have.
4. There is no second best: a comparison without such a null has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture.activations.space import Space
from suture.pipeline.artifact import Manifest
from suture.pipeline.result import without

VIEW = ("view", "store", "null", "design.pad")
"""Settings that say which spaces are compared, and where the store lay."""
RUNNING = ("device", "track", "checkpoint_every", "validate_every", "validation_rows")
"""Settings of training that leave its numbers as they are."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a comparison was made from and how, whatever it compares."""

    inputs: frozenset[str]
    """Checksums of the manifests that the dictionary was made from."""
    training: Mapping[str, Any]
    labelling: Mapping[str, Any]


def recipe(dictionary: Manifest, features: Manifest) -> Recipe:
    """How a described dictionary was made."""
    return Recipe(
        inputs=frozenset(parent.manifest_sha256 for parent in dictionary.parents),
        training={**without(dictionary.settings, *VIEW, *RUNNING), "seed": dictionary.seed},
        labelling={**without(features.settings, *VIEW, *RUNNING), "seed": features.seed},
    )


def copies_one_of(null: Sequence[Space], spaces: Sequence[Space]) -> bool:
    """Whether a null's spaces are one of these spaces and copies of it, as many as there are."""
    places = [(space.model, space.hookpoint, space.width) for space in spaces]
    return len(null) == len(places) and all((s.model, s.hookpoint, s.width) in places for s in null)
