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


def test_groups_of_ones_own_are_scored_and_recorded_by_their_words(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    words = sorted({word.strip(".,").lower() for word in " ".join(STORIES).split()})
    (made / "all.toml").write_text(f"all = {json.dumps([*words, '.', ','])}\nnone = ['zebra']\n")
    command = ["match", "a", "b", "--store", "store", "--out", "grouped", "--groups", "all.toml", "--examples", "2"]
    assert run([*command, "--json"]) == 0, capsys.readouterr().err
    found = suture.Matching.load(made / "grouped")
    assert found.groups is not None
    assert found.examples is not None
    assert found.groups.coordinates["group"] == ["all"]
    asked = found.features_a["kind"] != "silent"
    in_group = int(((found.features_a["subject"] == "all") & asked).sum())
    assert found.groups["n_features"].tolist() == [in_group]
    assert in_group > 0.5 * asked.sum()
    assert max(len(rows) for rows in found.examples.a) == 2
    recorded = json.loads((made / "grouped" / "manifest.json").read_text())["settings"]["groups"]
    assert recorded["none"] == ["zebra"]
    (made / "all.toml").write_text("all = 3")
    assert run([*command[:-4], "--groups", "all.toml", "--overwrite"]) == 2
    assert "groups = all: is no list of words" in capsys.readouterr().err


def test_universality_with_its_controls(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    command = [
        "study",
        "universality",
        "--dictionary",
        "a",
        "--dictionary",
        "b",
        "--store",
        "store",
        "--out",
        "families",
    ]
    assert run([*command, "--second-seeds", "--random-weights", "--offline", "--json"]) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    one, two = told["dictionaries"]
    assert one["ceiling"] is not None
    assert two["ceiling"] is not None
    assert one["random"] is not None
    assert two["random"] is None, "its own model is the one with random weights"
    assert {p.name for p in (made / "families-controls").iterdir()} == {"seed-0", "seed-1", "random-store", "random"}
    assert sum(told["sizes"]) == len(suture.Universality.load(made / "families").families)
    assert run(["study", "universality", "--dictionary", "a", "--store", "store", "--out", "x"]) == 2
    assert "is too few to have something in common" in capsys.readouterr().err


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
