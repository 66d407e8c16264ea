"""Sections of RESULTS.md: written again in place, everything else untouched."""

from pathlib import Path

import pytest
import results
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.text(alphabet="abc |\n", max_size=30)


@given(WORDS, WORDS, WORDS)
def test_writing_a_section_again_replaces_it_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, first: str, other: str, second: str
) -> None:
    file = tmp_path_factory.mktemp("results") / "RESULTS.md"
    file.write_text("# Results\n\nby hand\n")
    results.write_section("train", first, file)
    results.write_section("scale", other, file)
    before = file.read_text()
    results.write_section("train", second, file)
    after = file.read_text()
    assert after.count("<!-- end of train -->") == 1
    assert "by hand" in after
    assert f"\n{other.strip()}\n<!-- end of scale -->" in after
    results.write_section("train", first, file)
    assert file.read_text() == before


def test_a_new_file_begins_with_a_title(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    results.write_section("train", "text", file)
    assert file.read_text().startswith("# Results\n\n<!-- train: ")


def test_a_section_without_an_end_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    torn = "<!-- train: written by benchmarks/train.py -->\nwhat follows must survive\n"
    file.write_text(torn)
    with pytest.raises(AssertionError, match="without an end"):
        results.write_section("train", "text", file)
    assert file.read_text() == torn


def test_every_section_that_a_benchmark_rewrites_has_both_its_marks() -> None:
    text = results.RESULTS.read_text()
    for name in ("truth", "train", "scale", "precision"):
        begin, end = f"<!-- {name}: written by benchmarks/{name}.py -->", f"<!-- end of {name} -->"
        assert text.count(begin) == text.count(end) <= 1, name


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 amx_bf16", ["amx_bf16", "avx512_bf16"]),
        ("flags\t\t: fpu avx2", []),
        ("Features\t: fp asimd bf16", ["bf16"]),
        ("nothing", []),
    ],
)
def test_bf16_units_are_read_from_the_processors_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, units: list[str]
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name\t: Some CPU\n{flags}\n")
    monkeypatch.setattr(results, "CPUINFO", file)
    assert results.bf16_units() == units
    assert results.machine().startswith("Some CPU, ")


def test_a_ragged_table_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        results.table(["a", "b"], [["1"]])
