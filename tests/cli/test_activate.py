"""`activate` and `attribute` as a user meets them: words or a file in; text, colours, JSON or a page out; refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from suture.activations.space import Space
from suture.cli.app import run
from suture.cli.heat import INKS, drawn, heat, shaded, visible
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.interventions.activate import activate
from suture.lm.load import fingerprint_of

NAMES = ("tinystories-1l", "tinystories-2l")
TEXT = "Tom saw a big dog."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random crosscoder of the shipped models."""
    folder = tmp_path_factory.mktemp("activate")
    spaces = [
        Space(model=name, hookpoint="mlp0.out", width=128, fingerprint=fingerprint_of(name) or "") for name in NAMES
    ]
    dictionary = Dictionary(spaces, Design(kind="crosscoder", n_features=64, sparsity=Sparsity(kind="topk", k=4)))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (dictionary.W_enc, dictionary.W_dec):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.1)
    dictionary.save(folder / "dictionary")
    dictionary.spaces = (dictionary.spaces[0], replace(dictionary.spaces[1], fingerprint="other"))
    dictionary.save(folder / "other-weights")
    return folder


def test_words_file_json_and_page_say_the_same(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    place = str(made / "dictionary")
    page = tmp_path / "page.html"
    assert run(["activate", place, TEXT, "--top", "3", "--json", "--page", str(page)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "".join(said["tokens"]) + said["tail"] == TEXT
    assert len(said["features"]) == 3
    assert said["page"] == str(page)
    assert f'id="feature-{said["features"][0]["feature"]}"' in page.read_text(encoding="utf-8")
    assert run(["activate", place, "--file", str(tmp_path / "text.txt"), "--top", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**said, "page": None}
    assert run(["activate", place, TEXT, "--feature", "7", "--feature", "2"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line.split()[1].strip(";") for line in out.splitlines() if line.startswith("feature ")] == ["7", "2"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([""], "text = : is empty"),
        ([], "text = none: is given neither"),
        ([TEXT, "--file", "x"], "is given by --file too"),
        (["--file", "no-such-file"], "file = no-such-file: cannot be read"),
        ([TEXT, "--feature", "64"], "feature = 64: the dictionary does not have it"),
        ([TEXT, "--page", "."], "page = .: is a folder"),
    ],
)
def test_refusals_are_one_line(made: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["activate", str(made / "dictionary"), *words]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""


def test_another_models_weights_are_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["activate", TEXT], ["attribute", TEXT, "--token", "dog"]):
        assert run([words[0], str(made / "other-weights"), *words[1:]]) == 2
        assert "has other weights" in capsys.readouterr().err


def test_attribute_prints_parts_and_removals(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attribute", str(made / "dictionary"), "Tom saw a big", "--token", "dog", "--against", "cat", "--top", "4"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert out.count("integrated  ablated together") == 2
    assert out.count("correlation with ablation") == 2
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [len(model["features"]) for model in said["models"]] == [4, 4]
    assert run(["attribute", str(made / "dictionary"), "", "--token", "dog"]) == 2
    assert "prompt = : is empty" in capsys.readouterr().err


def test_heat_lines_shade_by_value_and_obey_no_text(made: Path) -> None:
    tokens = ("a", " b\x1b[2J", "c\n", "d")
    line = shaded(tokens, (0.0, 1.0, 4.0, float("nan")), 4.0, INKS[0], marked=[1])
    assert line.plain == "a b\ufffd[2Jc⏎d"
    weak, strong = (str(span.style) for span in line.spans)
    assert "underline" in weak
    assert strong == f"white on rgb({INKS[0][0]},{INKS[0][1]},{INKS[0][2]})"
    assert weak.startswith("black on rgb(")
    found = activate(made / "dictionary", TEXT)
    console = Console(force_terminal=True, color_system="truecolor", width=100)
    said = drawn(found, console)
    assert "\x1b[" in said
    assert said.count(f"feature {found.features[0].feature};") == 1
    assert heat(found) is None  # stdout is no terminal here
    assert visible("a\tb") == "a b"
