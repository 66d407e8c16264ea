"""One declaration of a setting: flat names, files, limits and sentences all come from the field."""

import importlib.util
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from suture.errors import UserError
from suture.pipeline.settings import (
    Count,
    Limits,
    Option,
    Seed,
    Share,
    check,
    declared,
    diff,
    from_flat,
    from_mapping,
    name_of,
    read_toml,
    to_flat,
    to_mapping,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part."""

    kind: Annotated[Literal["a", "b"], Option("letter")] = "a"
    """Which letter."""
    k: Count = 4
    """How many
    at a time."""
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class OuterSettings:
    """What is made."""

    inner: Inner = field(default_factory=lambda: Inner(k=7))
    n_rows: Annotated[Count, Option("rows", raised=("length",))]
    """Rows in all."""
    rate: Annotated[float | None, Limits(above=0), Option("learning-rate", also=("lr",))] = None
    seed: Seed = 0
    fast: bool = False
    place: Path = Path("here")

    def __post_init__(self) -> None:
        check(self)


def test_a_setting_is_known_by_what_its_field_says() -> None:
    known = declared(OuterSettings)
    assert list(known) == ["letter", "k", "shares", "rows", "learning-rate", "seed", "fast", "place"]
    assert known["k"].path == ("inner", "k")
    assert known["k"].default == 7, "the default of what holds the part comes before the part's own"
    assert known["k"].sentence == "How many at a time."
    assert known["letter"].part is Inner
    assert known["learning-rate"].also == ("lr",)
    assert [name_of(OuterSettings, name) for name in ("n_rows", "length", "kind", "rows", "new_thing")] == [
        "rows", "rows", "letter", "rows", "new-thing",
    ]  # fmt: skip


def test_flat_names_reach_their_places_and_come_back() -> None:
    given: dict[str, Any] = {"letter": "b", "rows": 5, "lr": 1, "shares": [0, 0.5], "place": "there"}
    settings = from_flat(OuterSettings, given)
    assert settings.inner == Inner(kind="b", k=7, shares=(0.0, 0.5))
    assert (settings.rate, type(settings.rate), settings.place) == (1.0, float, Path("there"))
    assert from_flat(OuterSettings, to_flat(settings)) == settings
    assert from_mapping(OuterSettings, json.loads(json.dumps(to_mapping(settings)))) == settings
    other = from_flat(OuterSettings, {"k": 2, "seed": 3}, base=settings)
    assert diff(settings, other) == {"k": (7, 2), "seed": (0, 3)}
    assert replace(other, seed=0, inner=settings.inner) == settings


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rows": 0}, "x.rows = 0: is less than 1; give a positive number"),
        ({"rows": 2e6}, "x.rows = 2000000.0: is not a whole number; give a whole number"),
        ({"rows": True}, "x.rows = True: is not a whole number"),
        ({}, "x.rows = nothing: is missing; add rows"),
        ({"rows": 1, "n_rows": 1}, "x.n-rows = 1: is no setting of outer; use fast, k, learning-rate"),
        ({"rows": 1, "lr": 1, "learning_rate": 1}, "x.learning-rate = 1: is given twice"),
        ({"rows": 1, "lr": 0}, "x.learning-rate = 0.0: is not above 0"),
        ({"rows": 1, "lr": math.nan}, "x.learning-rate = nan: is not above 0"),
        ({"rows": 1, "lr": math.inf}, "x.learning-rate = inf: is not above 0"),
        ({"rows": 1, "shares": [0.5, 2]}, "x.shares = (0.5, 2.0): is not a share"),
        ({"rows": 1, "shares": 0.5}, "x.shares = 0.5: is not a list, each a number"),
        ({"rows": 1, "letter": "c"}, "x.letter = c: is not one of a, b; give one of a, b"),
        ({"rows": 1, "seed": 2**63}, "is not a seed"),
        ({"rows": 1, "fast": 1}, "x.fast = 1: is not true or false"),
    ],
)
def test_a_mistake_is_named_as_the_user_wrote_it(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as refused:
        from_flat(OuterSettings, given, where="x.")
    assert says in str(refused.value)


def test_limits_hold_however_settings_are_made() -> None:
    with pytest.raises(UserError, match="k = 0: is less than 1"):
        Inner(k=0)
    with pytest.raises(UserError, match="rows = 0: is less than 1"):
        replace(OuterSettings(n_rows=1), n_rows=0)
    with pytest.raises(UserError, match=r"letter = c: is not one of a, b"):
        from_mapping(OuterSettings, {"n_rows": 1, "inner": {"kind": "c"}})
    with pytest.raises(UserError, match=r"inner.depth = 3: is no setting of outer"):
        from_mapping(OuterSettings, {"n_rows": 1, "inner": {"depth": 3}})


def test_a_file_is_read_or_refused_by_the_name_of_its_option(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[x]\nrows = 3\n")
    assert read_toml(file, "each") == {"x": {"rows": 3}}
    file.write_text("[x")
    with pytest.raises(UserError, match=r"each = .*: is not TOML"):
        read_toml(file, "each")
    with pytest.raises(UserError, match=r"each = .*: cannot be read"):
        read_toml(tmp_path / "none", "each")


def test_sentences_come_from_the_source_of_any_module(tmp_path: Path) -> None:
    file = tmp_path / "made.py"
    file.write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True, kw_only=True)\n"
        'class Made:\n    """Made."""\n    depth: int = 3\n    """How deep."""\n    width: int = 2\n'
    )
    spec = importlib.util.spec_from_file_location("made", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["made"] = module
    try:
        spec.loader.exec_module(module)
        assert {n: s.sentence for n, s in declared(module.Made).items()} == {"depth": "How deep.", "width": ""}
    finally:
        del sys.modules["made"]
