"""`suture import` and `suture export` as a user meets them, and every later command on what was imported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.pipeline.artifact import open_artifact
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

DATA = Path(__file__).resolve().parents[1] / "formats" / "data"
PLANTED = PlantedSettings(widths=(16, 16), n_concepts=24, exclusive=0.125, mean_active=2.0, noise=(0.05,))
Suture = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suture(capsys: pytest.CaptureFixture[str]) -> Suture:
    """Runs a command in this process; (exit code, stdout, stderr)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted_store(tmp_path_factory.mktemp("planted") / "store", PLANTED, 8_000)


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "sae"
    small = ["--features", 32, "--k", 3, "--rows", 40_000, "--batch-size", 250, "--sparsity", "batchtopk"]
    words = ["train", out, "--store", store.path, "--space", 0, "--design", "sae", *small]
    assert run([str(word) for word in words]) == 0
    return out


def test_there_and_back_through_every_library(trained: Path, store: Store, suture: Suture, tmp_path: Path) -> None:
    """Exported, imported with its store, described, matched with itself, refitted and stitched."""
    label = Dictionary.load(trained).spaces[0]
    names = ["--model", label.model, "--at", label.hookpoint]
    before = json.loads((trained / "evaluation.json").read_text())
    for format, architecture in (("saelens", "jumprelu"), ("dictionary-learning", "BatchTopKSAE")):
        code, out, _ = suture("export", trained, tmp_path / format, "--format", format, "--json")
        assert (code, json.loads(out)["architecture"]) == (0, architecture)
        back = tmp_path / f"{format} back"
        code, out, err = suture("import", tmp_path / format, back, *names, "--store", store.path, "--json")
        assert code == 0, err
        found = json.loads(out)["evaluation"]
        assert found["fvu"] == pytest.approx(before["fvu"], abs=0.01)
        assert found["l0"] == pytest.approx(before["l0"], rel=0.05)
        one, other = Dictionary.load(trained), Dictionary.load(back)
        assert other.spaces[0].scale == pytest.approx(one.spaces[0].scale)
        assert (other.spaces[0].fingerprint, other.spaces[0].label) == (label.fingerprint, label.label)
        x = [store.read_space(torch.arange(500), 0)]
        torch.testing.assert_close(other.encode_raw(x).dense(), one.encode_raw(x).dense(), rtol=1e-4, atol=1e-4)
    back = tmp_path / "saelens back"
    for words in (
        ["features", back, "--store", store.path, "--out", tmp_path / "features", "--no-tokens"],
        ["refit", back, "--store", store.path, "--l0", 2, "--out", tmp_path / "refitted"],
        ["match", back, trained, "--store", store.path, "--out", tmp_path / "matched"],
        ["stitch", tmp_path / "refitted", back, "--store", store.path, "--out", tmp_path / "stitched"],
        ["report", tmp_path],
        ["verify", tmp_path],
    ):
        code, _, err = suture(*words)
        assert code == 0, err
    assert Dictionary.load(tmp_path / "refitted").n_features == 32


def test_a_store_of_another_place_is_refused(trained: Path, store: Store, suture: Suture, tmp_path: Path) -> None:
    fixture = DATA / "saelens" / "topk"
    code, out, err = suture("import", fixture, tmp_path / "out", "--store", store.path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "has no gpt2 @ resid3.post, only planted-A @ planted" in err
    assert "--model and --at" in err
    assert list(tmp_path.iterdir()) == []
    model, at = store.spaces[0].model, store.spaces[0].hookpoint
    code, _, err = suture("import", fixture, tmp_path / "out", "--store", store.path, "--model", model, "--at", at)
    assert (code, "at width 16, the dictionary at 8" in err) == (2, True)
    assert suture("import", fixture, tmp_path / "out")[0] == 0
    code, _, err = suture("features", tmp_path / "out", "--store", store.path, "--out", tmp_path / "f", "--no-tokens")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no space gpt2 @ resid3.post" in err


def test_a_wrong_scale_is_said(trained: Path, store: Store, suture: Suture, tmp_path: Path) -> None:
    suture("export", trained, tmp_path / "out", "--format", "saelens")
    cfg = tmp_path / "out" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"normalize_activations": "expected_average_only_in"}))
    names = ["--model", store.spaces[0].model, "--at", store.spaces[0].hookpoint]
    code, _, err = suture("import", tmp_path / "out", tmp_path / "in", *names, "--scale", 0.01, "--store", store.path)
    assert code == 0
    assert "more error than the mean alone: is it the right model, hookpoint and scale?" in err


def test_what_is_recorded(suture: Suture, tmp_path: Path) -> None:
    fixture = DATA / "saelens" / "topk"
    code, out, _ = suture("import", fixture, tmp_path / "out")
    assert (code, out.splitlines()[:2]) == (
        0,
        ["SAELens, topk: sae of 16 features over gpt2 @ resid3.post", "activations enter: raw, centred"],
    )
    manifest = open_artifact(tmp_path / "out")
    record = manifest.settings["imported"]
    assert manifest.command == f"suture import {fixture} {tmp_path / 'out'}"
    assert record["places"] == [{"model": "gpt2", "named": "blocks.3.hook_resid_post", "side": "output"}]
    assert record["version"].startswith("6.")
    assert record["files"]["weights"]["name"] == "sae_weights.safetensors"
    assert len(record["files"]["weights"]["sha256"]) == 64
    code, out, _ = suture("import", DATA / "kissane", tmp_path / "two", "--model", "a", "--model", "b",
                          "--scale", 0.3, "--scale", 0.2)  # fmt: skip
    assert out.splitlines()[1] == "activations enter: times 0.3, 0.2"
    assert [s.label for s in Dictionary.load(tmp_path / "two").spaces] == ["a @ resid14.pre", "b @ resid14.pre"]
    record = open_artifact(tmp_path / "two").settings["imported"]
    assert {place["side"] for place in record["places"]} == {"input"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "nowhere/at/all", "out"], "source = nowhere/at/all: is no folder, no file and no hub name"),
        (["import", "{data}/saelens", "out"], "name one of them with --file"),
        (["import", "{data}/saelens/topk", "out", "--scale", "0"], "scale"),
        (["import", "{data}/saelens/topk", "out", "--scale", "nan"], "scale"),
        (["import", "{data}/saelens/topk", "out", "--format", "onnx"], "format"),
        (["import", "{data}/saelens/topk", "out", "--at", "a", "--at", "b"], "has 2 values for 1 spaces"),
        (["import", "{data}/saelens/topk", "out", "--model", "a", "--model", "b"], "has 2 values for 1 spaces"),
        (["export", "{data}/saelens/topk", "out", "--format", "saelens"], "has no manifest.json"),
        (["export", "nowhere", "out", "--format", "saelens"], "does not exist"),
        (["export", "nowhere", "out"], "format"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    words: list[str], said: str, suture: Suture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = suture(*(word.format(data=DATA) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_finished_folder_is_kept(suture: Suture, tmp_path: Path) -> None:
    fixture = DATA / "saelens" / "topk"
    assert suture("import", fixture, tmp_path / "out")[0] == 0
    code, _, err = suture("import", DATA / "saelens" / "gated", tmp_path / "out")
    assert (code, "pass --overwrite" in err) == (2, True)
    broken = tmp_path / "broken"
    shutil.copytree(fixture, broken)
    (broken / "sae_weights.safetensors").write_bytes(b"")
    assert suture("import", broken, tmp_path / "out", "--overwrite")[0] == 2
    assert Dictionary.load(tmp_path / "out").sparsity.kind == "topk"


def test_a_disk_without_room(suture: Suture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suture.pipeline.files.free_bytes", lambda _: 10)
    code, _, err = suture("import", DATA / "saelens" / "topk", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "of disk" in err
    monkeypatch.undo()
    assert suture("import", DATA / "saelens" / "topk", tmp_path / "out")[0] == 0
    monkeypatch.setattr("suture.pipeline.files.free_bytes", lambda _: 10)
    code, _, err = suture("export", tmp_path / "out", tmp_path / "files", "--format", "saelens")
    assert (code, "of disk" in err) == (2, True)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out"]


def test_steering_an_imported_dictionary_asks_for_text(
    trained: Path, store: Store, suture: Suture, tmp_path: Path
) -> None:
    assert suture("import", DATA / "saelens" / "topk", tmp_path / "out", "--model", "tinystories-1l")[0] == 0
    code, _, err = suture("splice", tmp_path / "out", "--out", tmp_path / "spliced")
    assert (code, err.count("\n")) == (2, 1)
    assert "the dictionary was not trained here" in err
    assert "--corpus" in err
