"""Training that begins with another dictionary's weights: fine-tuning on its own rows, and on others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from planted_fixtures import PLANTED, UNEQUAL
from random_dictionaries import made
from suture.activations.settings import View
from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.pipeline import artifact
from suture.planted.store import planted_store
from suture.training.result import TrainResult
from suture.training.settings import TrainSettings
from suture.training.start import begin_with, brought_to, start_from
from suture.training.train import train

SAE = Design(kind="sae", n_features=32, sparsity=Sparsity(k=2))
BASE = TrainSettings(design=SAE, n_rows=20_000, batch_size=256, view=View(spaces=(0,)), seed=1)


@pytest.fixture(scope="module")
def sae(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sae") / "sae"
    train(path, store, BASE)
    return path


def fvu(path: Path) -> float:
    found = TrainResult.load(path).evaluation
    assert found is not None
    return found.fvu[0]


def still(settings: TrainSettings, n_steps: int = 1) -> TrainSettings:
    """A training that hardly moves."""
    rows = n_steps * settings.batch_size
    return replace(settings, n_rows=rows, learning_rate=1e-9, k_start=1.0, warmup=0.0, decay=0.0)


def test_it_begins_where_the_other_ended(sae: Path, store: Store, out: Path) -> None:
    given = Dictionary.load(sae)
    settings = still(replace(BASE, design=given.design))
    found = train(out, store, settings, start=start_from(sae))
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "center"):
        assert torch.allclose(getattr(found, name), getattr(given, name), atol=1e-5), name
    assert fvu(out) == pytest.approx(fvu(sae), abs=0.03)
    manifest = artifact.open_artifact(out)
    assert [Path(p.path).name for p in manifest.parents] == ["store", "sae"]
    assert manifest.settings["start"] == {"n_dictionaries": 1}


def test_more_features_start_as_any_other(sae: Path, store: Store, out: Path) -> None:
    given = Dictionary.load(sae)
    larger = replace(given.design, n_features=48)
    found = train(out, store, still(replace(BASE, design=larger)), start=start_from(sae))
    assert torch.allclose(found.W_dec[:32], given.W_dec, atol=1e-5)
    assert torch.allclose(found.W_dec[32:].norm(dim=1), torch.ones(16), atol=1e-4)
    assert torch.allclose(found.W_enc[32:], found.W_dec[32:], atol=1e-4)


def test_other_rows_are_read_about_their_own_mean(sae: Path, store: Store, tmp_path: Path) -> None:
    """The second model's rows, had the first one's dictionary been a bad guess: it starts from it all the same."""
    given = Dictionary.load(sae)
    other = store.select([1])
    found = brought_to(given, other)
    mean = other.spaces[0].known_mean * other.spaces[0].scale
    assert found.spaces[0].label == other.spaces[0].label
    assert torch.allclose(found.center, mean)
    assert torch.allclose(found.b_dec - found.center, given.b_dec - given.center, atol=1e-5)
    x = store.read_space(torch.arange(20), 0) * store.spaces[0].scale - given.center
    assert torch.allclose(found.encode(x + mean).dense(), given.encode(x + given.center).dense(), atol=1e-4)
    settings = replace(BASE, view=View(spaces=(1,)), n_rows=4000, k_start=1.0)
    train(tmp_path / "scratch", store, settings)
    train(tmp_path / "begun", store, settings, start=start_from(sae))
    assert artifact.open_artifact(tmp_path / "begun").settings["view"]["spaces"] == [1]
    assert abs(fvu(tmp_path / "begun") - fvu(tmp_path / "scratch")) < 0.3


def test_its_own_rows_in_other_units_are_the_same_rows(sae: Path, store: Store) -> None:
    given = Dictionary.load(sae).with_scales([3.0])
    found = brought_to(given, store.select([0]))
    assert found.spaces[0].scale == store.spaces[0].scale
    x = store.read_space(torch.arange(50), 0)
    assert torch.allclose(found.encode_raw([x]).dense().sign(), given.encode_raw([x]).dense().sign())


def test_a_resumed_run_is_an_unbroken_one(sae: Path, store: Store, tmp_path: Path) -> None:
    settings = replace(BASE, n_rows=20 * 256, checkpoint_every=5, validate_every=1)
    whole = train(tmp_path / "whole", store, settings, start=start_from(sae))
    calls = []

    def stop(progress: object) -> None:
        calls.append(progress)
        if len(calls) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", store, settings, start=start_from(sae), on_progress=stop)
    with pytest.raises(UserError, match="resume"):  # without the start it is another run
        train(tmp_path / "broken", store, settings, resume=True)
    found = train(tmp_path / "broken", store, settings, start=start_from(sae), resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "relu+l1", "jumprelu", "gated"])
def test_every_kind_goes_on_as_it_was(store: Store, tmp_path: Path, kind: str) -> None:
    given = made(store, kind, "sae", n=32)
    given.center.copy_(store.spaces[0].known_mean * store.spaces[0].scale)
    with artifact.create(tmp_path / "given", stage="dictionary", settings={}) as draft:
        given.write(draft.folder)
    settings = still(replace(BASE, design=given.design))
    found = train(tmp_path / "out", store, settings, start=start_from(tmp_path / "given"))
    x = store.read_space(torch.arange(200), 0) * store.spaces[0].scale
    codes, before = found.encode(x), given.encode(x)
    if kind == "relu+l1":
        assert torch.allclose(found.W_dec, given.W_dec, atol=1e-5)
    if kind in ("topk", "batchtopk"):  # ranked in units of rows now
        assert torch.allclose(found.W_dec, torch.nn.functional.normalize(given.W_dec, dim=1), atol=1e-5)
        return
    assert torch.allclose(found.decode(codes), given.decode(before), atol=1e-3)


def test_another_kind_takes_what_it_can(store: Store) -> None:
    given = made(store, "batchtopk", "sae", n=32)
    gated = Dictionary(given.spaces, replace(given.design, sparsity=Sparsity(kind="gated", k=3)))
    with torch.no_grad():
        begin_with(gated, given)
    assert torch.allclose(gated.own_weights["magnitude_bias"], given.b_enc * given.W_dec.norm(dim=1))
    assert torch.allclose(gated.b_enc, (given.b_enc - given.threshold) * given.W_dec.norm(dim=1))
    plain = Dictionary(given.spaces, given.design)
    with pytest.raises(UserError, match="whose values batchtopk cannot have"):
        begin_with(plain, made(store, "gated", "sae", n=32))


def test_the_command_line_goes_on(sae: Path, store: Store, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(out), "--store", str(store.path), "--space", "0", "--start", str(sae), "--rows", "5120"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fvu"][0] < fvu(sae) + 0.02
    settings = artifact.open_artifact(out).settings
    assert settings["design"]["n_features"] == 32
    assert settings["design"]["sparsity"]["kind"] == "batchtopk"
    usual = TrainSettings(design=SAE).top_learning_rate
    assert settings["learning_rate"] == pytest.approx(usual / 10)
    assert settings["k_start"] == 1


@pytest.mark.parametrize(("made", "part"), [("stitch", 1.0), ("carry", 1 / 3), ("import", 0.1)])
def test_what_was_put_together_and_never_trained_is_not_spared(
    made: str, part: float, sae: Path, store: Store, out: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    with artifact.create(given, stage="dictionary", settings={made: {}, "heldout": 0.1, "seed": 1}) as draft:
        Dictionary.load(sae).write(draft.folder)
    words = ["train", str(out), "--store", str(store.path), "--space", "0", "--start", str(given), "--rows", "2048"]
    assert run(words) == 0
    usual = TrainSettings(design=SAE).top_learning_rate
    assert artifact.open_artifact(out).settings["learning_rate"] == pytest.approx(usual * part)


def test_mistakes_are_one_line(
    sae: Path, store: Store, unequal_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(where: Store, start: Path, *more: str) -> str:
        words = [
            "train",
            str(tmp_path / "refused"),
            "--store",
            str(where.path),
            "--rows",
            "1024",
            "--start",
            str(start),
        ]
        assert run([*words, "--rows", "1024", *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        lines = [line for line in told.err.splitlines() if " = " in line]
        assert len(lines) == 1, told.err
        return lines[0]

    assert PLANTED.widths[0] != UNEQUAL.widths[1]
    assert "reads spaces 16 wide, the rows are of spaces 10 wide" in said(unequal_store, sae, "--space", "1")
    assert "has 32 features, more than the 24" in said(store, sae, "--space", "0", "--features", "24")
    assert "is for one space, the store has 2" in said(store, sae)
    assert "is a store, not a dictionary" in said(store, store.path or tmp_path)
    assert "does not exist" in said(store, tmp_path / "nowhere")
    each = tmp_path / "each.toml"
    each.write_text("[a]\nseed = 1\n")
    assert "exclude each other" in said(store, sae, "--each", str(each))
    assert not list(tmp_path.glob("refused*"))


def test_a_start_needs_a_store_of_its_own(sae: Path, tmp_path: Path) -> None:
    """Rows made from another seed: other documents, the same places; the weights are what they were."""
    fresh = planted_store(tmp_path / "fresh", PLANTED, 3000, start=12_000)
    settings = still(replace(BASE, design=Dictionary.load(sae).design))
    train(tmp_path / "out", fresh, settings, start=start_from(sae))
    assert fvu(tmp_path / "out") == pytest.approx(fvu(sae), abs=0.1)
