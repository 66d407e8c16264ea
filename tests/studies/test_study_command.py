"""`suture study designs`: on language models from the command line, and every mistake told in one line."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.interventions.settings import SpliceSettings
from suture.interventions.splice import spliced_losses
from suture.interventions.steer.effect import Effect
from suture.interventions.steer.steer import heldout_documents
from suture.lm.load import load_model
from suture.pipeline import artifact
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

Command = Callable[..., tuple[int, str, str]]
MODELS = ("tinystories-1l", "tinystories-1l-seed2")


@pytest.fixture
def suture(capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def stories(file: Path) -> Path:
    rng = random.Random(0)
    who, did = ["Tom", "Lily", "the dog", "a bird", "Mom"], ["went to", "looked at", "played in", "sat down in"]
    place, then = ["the park", "the big tree", "a small house", "the garden"], ["It was a sunny day.", "He was sad."]

    def sentence() -> str:
        return f"{rng.choice(who)} {rng.choice(did)} {rng.choice(place)}. {rng.choice(then)}"

    documents = [" ".join(["Once upon a time,", *(sentence() for _ in range(5))]) for _ in range(60)]
    file.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return file


def test_language_models_are_spliced_and_steered(suture: Command, tmp_path: Path) -> None:
    words: list[object] = ["--corpus", stories(tmp_path / "stories.txt"), "--tokens", 3_000, "--at", "mlp0.out"]
    for name in MODELS:
        words += ["--model", name]
    words += ["--features", 48, "--k", 4, "--rows", 12_000, "--batch-size", 256, "--described", 600, "--seeds", 1]
    words += ["--only", "separate", "--only", "crosscoder-dropout", "--offline", "--quick", "--json"]
    code, out, _ = suture("study", "designs", tmp_path / "out", *words)
    assert code == 0
    study = json.loads(out)
    assert study["truth"] == "language models"
    assert study["models"] == [f"{name} @ mlp0.out" for name in MODELS]
    separate, joint = (row["numbers"] for row in study["rows"])
    assert study["rows"][0]["confusion"] is None
    assert "macro_f1" not in [column["key"] for column in study["columns"]]
    # the same by hand
    cell = tmp_path / "out" / "cells" / "crosscoder-dropout-seed0"
    lms = [load_model(name, device="cpu") for name in MODELS]
    documents = list(heldout_documents(cell / "dictionary"))
    expected = spliced_losses(
        Dictionary.load(cell / "dictionary"), lms, documents, SpliceSettings(n_documents=32)
    ).models
    for letter, model in zip("AB", expected, strict=True):
        assert joint[f"ce_clean_{letter}"] == pytest.approx(model.clean.ce)
        assert joint[f"ce_spliced_{letter}"] == pytest.approx(model.spliced.ce)
        recovered = 1 - (model.spliced.ce - model.clean.ce) / (model.mean.ce - model.clean.ce)
        assert joint[f"ce_recovered_{letter}"] == pytest.approx(recovered)
        assert separate[f"ce_clean_{letter}"] == pytest.approx(model.clean.ce)
        sae = tmp_path / "out" / "cells" / "separate-seed0" / f"sae-{letter}"
        own = spliced_losses(Dictionary.load(sae), [lms["AB".index(letter)]], documents, SpliceSettings(n_documents=32))
        assert separate[f"ce_spliced_{letter}"] == pytest.approx(own.models[0].spliced.ce)
    effects = [Effect.load(folder) for folder in sorted((cell / "steering").glob("feature-*"))]
    if joint["n_shared"]:
        values = [effect.agreements[0].value for effect in effects]
        assert joint["agreement"] == pytest.approx(sum(values) / len(values))
    else:
        assert joint.get("agreement") is None
    assert separate.get("agreement") is None
    null = artifact.open_artifact(cell / "null" / "dictionary").settings["view"]
    assert (null["spaces"], null["null"], null["copies"]) == ([0], True, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--planted", "--model", "a", "--at", "x"], "planted = True: and language models exclude each other"),
        (["--model", "a", "--width", 8], "width = (8,): is for planted models; leave it out"),
        (["--store", "s", "--concepts", 8], "concepts = 8: is for planted models; leave it out"),
        (["--tokens", 8], "tokens = 8: goes with --model; leave it out"),
        (["--store", "s", "--corpus", "c"], "corpus = c: is for collecting, a store has its own; leave it out"),
        (["--store", "s"], "store = s: does not exist"),
        (["--model", "a", "--corpus", "c"], "at = None: is missing, --model needs it"),
        (["--model", "a", "--at", "x"], "corpus = None: is missing, --model needs it"),
        (["--model", "a", "--at", "x", "--corpus", "c"], "model = ('a',): is one model; give --model and --at twice"),
        (["--width", 8], "width = (8,): is one model; give two widths or more"),
        (["--only", "transcoder"], "only = transcoder: is no design; choose from separate"),
        (["--seeds", 0], "seeds = 0: is less than 1"),
        (["--workers", 0], "workers = 0: is less than 1"),
        (["--features", 4], "k = 8: exceeds the 4 features"),
        (["--rows", 0], "rows = 0: is less than 1"),
        (["--lr", -1], "learning-rate = -1.0: is not positive"),
        (["--k-start", 0.5], "k-start = 0.5: is not 1 or above"),
        (["--exclusive", 0.7], "exclusive = 0.7: with pairwise = 0.0"),
        (["--stored", 5], "stored = 5: is too few rows"),
        (["--heldout", 1], "heldout = 1.0: leaves no rows"),
        (["--embedding", "none"], "embedding = none: is not one of"),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_made(
    suture: Command, tmp_path: Path, words: list[object], message: str
) -> None:
    code, out, err = suture("study", "designs", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_store_of_one_space_cannot_be_studied(suture: Command, tmp_path: Path) -> None:
    planted_store(tmp_path / "store", PlantedSettings(widths=(8,), n_concepts=16, mean_active=2.0), 2_048)
    code, _, err = suture("study", "designs", tmp_path / "out", "--store", tmp_path / "store")
    assert code == 2
    assert "is one model; name a store of two models or more" in err


def test_ctrl_c_says_how_to_go_on(suture: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("suture.studies.cells.run_cell", stop)
    code, _, err = suture("study", "designs", tmp_path / "out", "--quick", "--only", "pooled")
    assert code == 130
    assert "the same command goes on after the cells that are done" in err


def test_a_group_is_helped_with(suture: Command) -> None:
    code, out, _ = suture("study", "designs", "--help")
    assert code == 0
    assert "Compare every way to train one dictionary for several models." in out
    code, _, err = suture("study", "designs")
    assert code == 2
    assert "Missing" in err
