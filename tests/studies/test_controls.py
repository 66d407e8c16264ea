"""Controls of a matching on the shipped models: what is made, that it is made once, and what random weights are."""

import json
from pathlib import Path

import pytest
import torch

import suture
from suture.activations.settings import View
from suture.cli.app import run
from suture.lm.corpus import Corpus
from suture.studies.controls import match_with_controls, second_seed_job, with_random_weights
from suture.sweep.run import make

STORIES = [
    f"One day, Lily saw a big red ball number {i} in the park. She was happy and ran to mom." for i in range(150)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls")
    lms = [suture.load_model(name, device="cpu") for name in ("tinystories-1l", "tinystories-2l")]
    corpus = Corpus(source="stories", description="stories", texts=lambda: iter(STORIES))
    store = suture.collect(folder / "store", sources=[(lm, "mlp0.out") for lm in lms], corpus=corpus, n_rows=3_000)
    for space, name in enumerate("ab"):
        settings = suture.TrainSettings(
            design=suture.Design(kind="sae", n_features=48), view=View(spaces=(space,)), n_rows=2_000, batch_size=250,
            heldout=0.4, data_seed=0,
        )  # fmt: skip
        suture.train(folder / name, store, settings)
    return folder


def test_the_command_makes_the_controls_that_it_is_asked_for(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    command = ["match", "a", "b", "--store", "store", "--out", "same", "--second-seeds", "--random-weights"]
    assert run([*command, "--json", "--offline"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [c["of"] for c in told["ceilings"]] == ["tinystories-1l @ mlp0.out", "tinystories-2l @ mlp0.out"]
    assert "random weights" in told["random"]["against"]
    assert told["statements"] == []
    assert told["a"]["n_features"] > 0
    controls = made / "same-controls"
    assert {p.name for p in controls.iterdir()} == {"seed-a", "seed-b", "random-store", "random"}
    before = {p.name: (p / "manifest.json").stat().st_mtime_ns for p in controls.iterdir()}
    lms = [suture.load_model(name, device="cpu") for name in ("tinystories-1l", "tinystories-2l")]
    match_with_controls(
        made / "same", made / "a", made / "b", made / "store", second_seeds=True, random_weights=lms, overwrite=True
    )
    assert before == {p.name: (p / "manifest.json").stat().st_mtime_ns for p in controls.iterdir()}


def test_a_control_of_another_dictionary_is_not_taken_for_this_ones(made: Path) -> None:
    ours, store = made / "mine", suture.Store.open(made / "store")
    make([second_seed_job(ours, made / "a", store)])
    with pytest.raises(suture.UserError, match="is finished already, with space"):
        make([second_seed_job(ours, made / "b", store)])


def test_the_study_of_proxies_runs_on_two_dictionaries(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    assert run(["study", "proxies", "a", "b", "--store", "store", "--out", "proxies", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["proxies"]
    assert {"decoder_cosine", "procrustes_cosine", "preactivation"} <= set(told)
    assert all(0 <= one["hard_auc"] <= 1 for one in told.values() if one["n_features"])


def test_a_dictionary_of_other_rows_cannot_be_trained_again(made: Path) -> None:
    suture.Dictionary.load(made / "a").save(made / "foreign")
    with pytest.raises(suture.UserError, match="was not trained on"):
        match_with_controls(made / "no", made / "foreign", made / "b", made / "store", second_seeds=True)
    assert not (made / "no").exists()


def test_random_weights_keep_every_matrix_entry_and_forget_what_was_learned() -> None:
    lm = suture.load_model("tinystories-1l", device="cpu")
    random = with_random_weights(lm, seed=0)
    own, other = dict(lm.model.named_parameters()), dict(random.model.named_parameters())
    for name, parameter in own.items():
        assert torch.equal(parameter.flatten().sort().values, other[name].flatten().sort().values)
        assert torch.equal(parameter, other[name]) == (parameter.dim() < 2)
    assert random.fingerprint != lm.fingerprint
