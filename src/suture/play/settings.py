"""Settings of the live page: where it listens, how much it reads, and the scene that a reader has set."""

from dataclasses import dataclass
from typing import Annotated, Any

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Seed, Weight, check

Port = Annotated[int, Limits(0, 65535, problem="is no port", fix="give one from 1024 to 65535, or 0 for any free one")]
MOST_FEATURES = 32
"""Features that are shaded, or steered, at once."""
MOST_TOKENS = 500
STRONGEST = 1000.0
FIELDS = {"prompt", "features", "strengths", "new_tokens", "temperature", "seed"}


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """How the live page is served."""

    port: Port = 0
    """Of 127.0.0.1, where alone it listens; 0 takes any that is free."""
    block: Count = 128
    """Longest text, in tokens, whose features are shown; the rest is left out, and that is said."""
    top: Count = 40
    """Features offered of those that fire on the text: first those on which the models differ most, then the
    strongest."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What stands on the page: the text, the features looked at, and how strongly which are steered."""

    prompt: str
    features: tuple[Annotated[int, Limits(0)], ...] = ()
    """Whose values shade the text."""
    strengths: tuple[tuple[int, float], ...] = ()
    """(feature, multiple of its unit) of those added, in every model along its own direction; none is zero."""
    new_tokens: Annotated[int, Limits(1, MOST_TOKENS)] = 30
    """Tokens written after the text."""
    temperature: Weight = 0.0
    """0 takes the likeliest token."""
    seed: Seed = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        check(self)
        if not self.prompt.strip():
            raise UserError("prompt", self.prompt, "is empty", "give some words")
        for name, given in (("features", self.features), ("strengths", self.strengths)):
            if len(given) > MOST_FEATURES:
                raise UserError(name, len(given), "are too many", f"take at most {MOST_FEATURES} at once")

    @staticmethod
    def read(given: Any) -> "Scene":
        """From JSON that anyone may have sent.

        Raises:
            UserError: it is no scene.
        """
        if not isinstance(given, dict) or not FIELDS.issuperset(given) or not isinstance(given.get("prompt"), str):
            raise UserError("scene", str(given)[:80], "is no scene", f"send an object with {', '.join(sorted(FIELDS))}")
        features = given.get("features", [])
        if not isinstance(features, list) or not all(_is_whole(one) for one in features):
            raise UserError("features", str(features)[:80], "are no feature numbers", "send a list of whole numbers")
        strengths = given.get("strengths", [])
        if not isinstance(strengths, list) or not all(_is_dose(one) for one in strengths):
            fix = f"send a list of [feature, strength], strengths from -{STRONGEST:g} to {STRONGEST:g}"
            raise UserError("strengths", str(strengths)[:80], "are none", fix)
        doses = {int(feature): float(strength) for feature, strength in strengths}
        numbers = {name: given[name] for name in ("new_tokens", "temperature", "seed") if name in given}
        if not all(_is_number(value) for value in numbers.values()):
            raise UserError("scene", str(numbers)[:80], "holds what is no number", "send numbers")
        whole = {name: value for name, value in numbers.items() if name != "temperature"}
        if not all(_is_whole(value) for value in whole.values()):
            raise UserError("scene", str(whole)[:80], "holds what is no whole number", "send whole numbers")
        if "temperature" in numbers:
            numbers["temperature"] = float(numbers["temperature"])
        return Scene(
            prompt=given["prompt"],
            features=tuple(dict.fromkeys(features)),
            strengths=tuple((feature, strength) for feature, strength in doses.items() if strength != 0),
            **numbers,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_dose(value: Any) -> bool:
    """A pair of a feature and a strength that is not out of all bounds (NaN is)."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_whole(value[0])
        and _is_number(value[1])
        and abs(value[1]) <= STRONGEST
    )
