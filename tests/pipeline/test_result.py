"""Records become the dataclasses that wrote them, or an error that names the file and the place in it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from suture.errors import ArtifactError
from suture.pipeline.artifact import write_json
from suture.pipeline.result import read_typed, without


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    ends: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...]
    n: int = 3


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    whole = Whole(parts=(Part(name="a"), Part(name="b", ends=(0.5, 2.0))), n=4)
    write_json(tmp_path / "w.json", asdict(whole) | {"of a later version": 1})
    assert read_typed(tmp_path / "w.json", Whole) == whole


@pytest.mark.parametrize("record", [{}, {"parts": [{"name": 1}]}, {"parts": [{"name": "a", "ends": [1.0]}]}, 7])
def test_something_else_is_refused_by_name(record: object, tmp_path: Path) -> None:
    write_json(tmp_path / "w.json", record)
    with pytest.raises(ArtifactError, match=r"w\.json cannot be read as Whole"):
        read_typed(tmp_path / "w.json", Whole)
    with pytest.raises(ArtifactError, match=r"none\.json"):
        read_typed(tmp_path / "none.json", Whole)


def test_settings_without_some() -> None:
    settings = {"a": 1, "b": {"c": 2}}
    assert without(settings, "b.c", "none", "a.x") == {"a": 1, "b": {}}
    assert settings == {"a": 1, "b": {"c": 2}}
