"""The other model's vector of a feature, through the linear map of a bridge: what steering by transfer would add."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from suture.activations.space import Space
from suture.bridges.bridge import Bridge
from suture.bridges.directions import carried_directions
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError


def carried_vectors(
    bridge: Bridge, dictionary: Dictionary, space: int, features: Sequence[int]
) -> dict[int, Float[Tensor, "width"]]:
    """Per feature, its decoder row in the bridge's other space carried into this one, raw units, of length 1.

    Empty for a space that is not the bridge's, and for features that the other model does not write.

    Raises:
        UserError: a bridge that is not between two of the dictionary's spaces.
    """
    numbers = [_number(dictionary, own, bridge) for own in bridge.spaces]
    if space not in numbers:
        return {}
    source = 1 - numbers.index(space)
    rows = dictionary.raw_decoder(numbers[source])
    written = [feature for feature in features if float(rows[feature].norm()) > 0]
    if not written:
        return {}
    found = carried_directions(bridge, rows[written].detach().cpu(), source).vectors
    return dict(zip(written, found, strict=True))


def _number(dictionary: Dictionary, space: Space, bridge: Bridge) -> int:
    """Which of the dictionary's spaces one of the bridge's is."""
    for number, own in enumerate(dictionary.spaces):
        if (own.fingerprint or own.model, own.hookpoint) == (space.fingerprint or space.model, space.hookpoint):
            return number
    known = ", ".join(own.label for own in dictionary.spaces)
    problem = f"is from or to {space.label}, which the dictionary does not have"
    raise UserError("bridge", bridge.path, problem, f"fit one between {known}")
