"""A space: one model at one hookpoint, as stores, views and dictionaries know it, and whether it is a copy of another.

`Space.copy_of` alone decides what a null is. It is set where a copy is made (`null`, planted nulls) or a model is read
twice at one hookpoint; folders of format version 1 say it in the model's name and are translated at reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

OLD_COPIES = {" (copy)": False, " (rotated copy)": True}
"""How format version 1 ended the model's name of a copy, and whether such a copy is rotated."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Of which space a space is a copy, and how."""

    original: str
    """That space's label."""
    rotated: bool = False
    """Multiplied by a random orthogonal matrix: all norms, distances and angles stay."""
    seed: int | None = None
    """The rotation's; None where there is none, or where a folder of format version 1 does not say it."""

    @property
    def kind(self) -> str:
        """In words."""
        return "rotated copy" if self.rotated else "copy"


@dataclass(frozen=True, kw_only=True)
class Space:
    """One model at one hookpoint."""

    model: str
    """The model's name as it was given to `load_model`; a copy's is its original's."""
    hookpoint: str
    width: int
    scale: float = 1.0
    """Activations are multiplied by it before they enter a dictionary: a store's brings the mean squared norm of its
    rows, centred on their mean, to the width. 1 until it is measured."""
    mean: Float[Tensor, "width"] | None = field(default=None, compare=False, repr=False)
    """Mean of the store's raw (unscaled) activations; a dictionary's spaces have none."""
    fingerprint: str = ""
    """A hash of the model's configuration and weights, to tell whether it is still the same; empty where unknown."""
    revision: str | None = None
    """The hub revision asked for, where one was."""
    copy_of: Copy | None = None
    """Set where the space is a copy of another, so that every difference found between the two is false."""

    @property
    def label(self) -> str:
        """`model @ hookpoint`, as the space is called in tables and figures."""
        copy = f" ({self.copy_of.kind})" if self.copy_of else ""
        return f"{self.model}{copy} @ {self.hookpoint}"

    @property
    def known_mean(self) -> Float[Tensor, "width"]:
        """The mean of a space whose activations were measured, as every store's are."""
        assert self.mean is not None, f"{self.label} was not measured"
        return self.mean

    def stands_for(self, other: Space) -> bool:
        """Whether the two name one place: model, hookpoint, and the same kind of copy."""
        kinds = [space.copy_of and space.copy_of.kind for space in (self, other)]
        return (self.model, self.hookpoint) == (other.model, other.hookpoint) and kinds[0] == kinds[1]

    def to_json(self) -> dict[str, Any]:
        """Everything but the mean, which is a tensor."""
        record = asdict(replace(self, mean=None))
        del record["mean"]
        return record


def are_null(spaces: Sequence[Space]) -> bool:
    """Whether a comparison of these spaces is a null: one of them is a copy."""
    return len(spaces) > 1 and any(space.copy_of for space in spaces)


def mark_copies(spaces: Iterable[Space]) -> tuple[Space, ...]:
    """The spaces, every one that repeats an earlier one's weights and hookpoint marked as its copy.

    >>> one = Space(model="gpt2", hookpoint="mlp0.out", width=8)
    >>> [space.label for space in mark_copies([one, one])]
    ['gpt2 @ mlp0.out', 'gpt2 (copy) @ mlp0.out']
    """
    originals: dict[tuple[str, str], str] = {}
    marked = []
    for space in spaces:
        place = space.fingerprint or space.model, space.hookpoint
        if place in originals and not space.copy_of:
            marked.append(replace(space, copy_of=Copy(original=originals[place])))
        else:
            originals.setdefault(place, space.label)
            marked.append(space)
    return tuple(marked)


def spaces_from_json(
    records: Sequence[Mapping[str, Any]], means: Mapping[str, Tensor] | None = None
) -> tuple[Space, ...]:
    """The spaces that a file records, as `Space.to_json` or format version 1 wrote them; `means` by their number.

    Raises:
        KeyError, TypeError: records of something else.
    """
    read = [{**record, "mean": means[str(m)] if means else None} for m, record in enumerate(records)]
    if all("copy_of" in record for record in read):
        return tuple(Space(**{**r, "copy_of": Copy(**r["copy_of"]) if r["copy_of"] else None}) for r in read)
    return mark_copies(_of_version_1(record) for record in read)


def _of_version_1(record: Mapping[str, Any]) -> Space:
    for ending, rotated in OLD_COPIES.items():
        if record["model"].endswith(ending):
            model = record["model"].removesuffix(ending)
            copy = Copy(original=f"{model} @ {record['hookpoint']}", rotated=rotated)
            return Space(**{**record, "model": model, "copy_of": copy})
    return Space(**record)
