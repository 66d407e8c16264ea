"""Results as typed values: a record's JSON becomes the dataclass that wrote it, or an error that names the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from suture.errors import ArtifactError
from suture.pipeline import artifact

T = TypeVar("T")


def typed(record: Any, kind: type[T]) -> T:
    """JSON values as a dataclass, lists as the tuples they were; names that it has not are left out.

    Raises:
        ValueError: something is missing, or of another type; the message names where.
    """
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:  # no ValueError in every version
        raise ValueError(str(error)) from None


def read_typed(file: Path, kind: type[T], *, setting: str = "path") -> T:
    """What a JSON file of a finished folder holds, as a dataclass.

    Raises:
        ArtifactError: it is not there, or holds something else.
    """
    try:
        return typed(artifact.read_json(file), kind)
    except (OSError, ValueError) as error:
        problem = f"file {file.name} cannot be read as {kind.__name__} ({error})"
        raise ArtifactError(setting, file.parent, problem, "make it again") from None


def without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Recorded settings without some of them; a dotted name is one inside another.

    >>> without({"a": 1, "b": {"c": 2, "d": 3}}, "a", "b.c")
    {'b': {'d': 3}}
    """
    kept = dict(settings)
    for name in names:
        outer, _, inner = name.partition(".")
        if inner and isinstance(kept.get(outer), Mapping):
            kept[outer] = without(kept[outer], inner)
        elif not inner:
            kept.pop(outer, None)
    return kept
