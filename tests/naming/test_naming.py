"""Naming: what is shown and what is kept, names that are known to be right, wrong or beside the point, interrupts."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suture.activations.space import Space
from suture.cli.app import run
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable
from suture.lm import chat
from suture.lm.chat import asked, preference
from suture.lm.load import LanguageModel, load_model
from suture.naming import naming
from suture.naming.detect import auroc, detection
from suture.naming.naming import NOTES, TRIED, Naming, deal, label, names_of, shuffled
from suture.naming.prompts import fit_prompt, name_in, name_prompt, window
from suture.naming.settings import NameSettings
from suture.pipeline import artifact

WORDS = ("dog", "ball", "tree", "happy", "water", "run")
SMALL = NameSettings(n_features=6, n_shown=3, n_tried=8, n_draws=200, new_tokens=4)


def example(word: str, i: int, feature: int, kind: str = "top") -> dict[str, Any]:
    tokens = ["Then", f" number{i}", f" the{feature}", f" {word}", " was", " there"]
    side = {"tokens": tokens, "values": [0, 0, 0, 1.0, 0, 0], "peak": 3}
    place = {"document": 100 * feature + i, "row": 1000 * feature + i}
    return {"kind": kind, "value": 1.0, **place, "joint": side["values"], "sides": [side, side]}


EXAMPLES = [[example(word, i, f) for i in range(12)] for f, word in enumerate(WORDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary, and a table of it in which every feature stands for a word."""
    place = tmp_path_factory.mktemp("naming")
    spaces = [Space(model=name, hookpoint="mlp0.out", width=8) for name in "ab"]
    Dictionary(spaces, Design(kind="crosscoder", n_features=len(WORDS), sparsity=Sparsity(kind="topk", k=2))).save(
        place / "dictionary"
    )
    table = FeatureTable(
        models=("a", "b"), labels=("shared",) * 6, reasons=("",) * 6, columns={"rate": torch.ones(6).double()},
        examples=EXAMPLES, logits=(), summary={"counts": {"shared": 6}},
    )  # fmt: skip
    with artifact.create(place / "table", stage="features", settings={}, parents=[place / "dictionary"]) as draft:
        table.write(draft.folder)
    return place


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model("tinystories-1l", device="cpu")


Oracle = Any


def ask(monkeypatch: pytest.MonkeyPatch, names: Any, fits: Oracle) -> list[str]:
    """Let names and answers come from functions of the prompt; what was asked is returned as it comes."""
    said: list[str] = []

    def named(_lm: object, prompts: Sequence[str], **_: object) -> list[str]:
        said.extend(prompts)
        return [f" {names(prompt)}\n\nText:" for prompt in prompts]

    def preferred(_lm: object, prompts: Sequence[str], *_: object, **__: object) -> Tensor:
        said.extend(prompts)
        return torch.tensor([float(fits(prompt)) for prompt in prompts])

    monkeypatch.setattr(naming, "continuations", named)
    monkeypatch.setattr(naming, "preference", preferred)
    return said


def last_of(prompt: str, field: str) -> str:
    return prompt.rpartition(f"{field}: ")[2].partition("\n")[0]


def word_in(prompt: str) -> str:
    return last_of(prompt, "Marked").split(",")[0]


def right(prompt: str) -> float:
    return 1.0 if last_of(prompt, "Description") == last_of(prompt, "Marked") else -1.0


def test_a_labeler_that_is_right_has_all_its_names_found_good(
    folder: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, word_in, right)
    found = label(folder / "right", folder / "dictionary", folder / "table", lm, SMALL)
    assert found.good == dict(enumerate(WORDS))
    assert found.auroc == 1.0
    assert found.chance <= 0.5
    notes = json.loads((folder / "right" / NOTES).read_text())
    identity = artifact.sha256_of(folder / "dictionary" / "manifest.json")[:16]
    assert notes["suture_notes"] == 1
    assert {f: own["name"] for f, own in notes["dictionaries"][identity]["features"].items()} == {
        str(i): word for i, word in enumerate(WORDS)
    }
    assert Naming.load(folder / "right").good == found.good
    assert names_of(folder / "dictionary", folder / "right") == found.good
    assert names_of(folder / "dictionary", folder / "right" / NOTES) == found.good
    assert list(found.to_pandas()["name"]) == list(WORDS)


def test_a_wrong_name_is_not_shown(folder: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, lambda prompt: "cat" if word_in(prompt) == "tree" else word_in(prompt), right)
    found = label(folder / "wrong", folder / "dictionary", folder / "table", lm, SMALL)
    assert found.good == {i: word for i, word in enumerate(WORDS) if word != "tree"}


def test_a_labeler_that_likes_the_texts_whatever_the_name_has_no_good_names(
    folder: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its AUROC is 1, and so is that of other features' names."""
    mine = {text for own in deal(EXAMPLES, SMALL) if own.feature == 2 for text in own.tried}
    ask(monkeypatch, word_in, lambda prompt: last_of(prompt, "Text") in {text.strip() for text in mine})
    found = label(folder / "biased", folder / "dictionary", folder / "table", lm, SMALL)
    values = {name: own[2] for name, own in found.names.values.items()}
    assert values["auroc"] == values["low"] == values["chance"] == 1.0
    assert found.good == {}


def test_names_are_tried_on_documents_that_were_not_shown(
    folder: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in deal(EXAMPLES, SMALL):
        numbers = [{text.split()[1] for text in part} for part in (own.shown, own.tried)]
        assert len(numbers[0]) == 3
        assert len(numbers[1]) == 8
        assert not numbers[0] & numbers[1]
        assert len(own.others) == 8
        assert not any(f"the{own.feature}«" in text for text in own.others)
    doubled = [[*own, *own] for own in EXAMPLES]
    assert deal(doubled, SMALL) == deal(EXAMPLES, SMALL)  # a row that is there twice is one


def test_shuffled_names_are_other_features_names() -> None:
    names = {0: "dogs", 1: "dogs", 2: "balls", 3: "trees"}
    for seed in range(20):
        settings = replace(SMALL, seed=seed, n_shuffled=4)
        assert sorted(shuffled(0, names, settings)) == ["balls", "trees"]
        assert sorted(shuffled(2, names, settings)) == ["dogs", "dogs", "trees"]


def test_the_auroc_is_the_share_of_pairs_in_order() -> None:
    a, b = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.0, 2.0]])
    assert float(auroc(a, b)[0]) == pytest.approx((2 + 1 + 1.5) / 6)
    draws = auroc(a, b, n_draws=4000, seed=1)
    assert float(draws.mean()) == pytest.approx((2 + 1 + 1.5) / 6, abs=0.02)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Scores a standard deviation apart: AUROC 0.760; of ten texts a side the bootstrap is a little narrow."""
    draw = torch.Generator().manual_seed(0)
    inside = 0
    for i in range(100):
        a, b = torch.randn(1, 10, generator=draw) + 1, torch.randn(1, 10, generator=draw)
        low, high = detection(a, b, 200, i).interval
        inside += low <= 0.760 <= high
    assert inside / 100 > 0.85


def test_nothing_is_good_by_chance_more_often_than_the_interval_says() -> None:
    draw = torch.Generator().manual_seed(1)
    good = sum(
        detection(torch.randn(3, 10, generator=draw), torch.randn(3, 10, generator=draw), 200, i).good
        for i in range(150)
    )
    assert good / 150 < 0.05


def test_an_interrupted_run_goes_on(folder: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, word_in, right)
    whole = label(folder / "whole", folder / "dictionary", folder / "table", lm, SMALL)
    count = 0

    def breaks(prompt: str) -> float:
        nonlocal count
        count += 1
        if count > 100:
            raise KeyboardInterrupt
        return right(prompt)

    ask(monkeypatch, word_in, breaks)
    with pytest.raises(KeyboardInterrupt):
        label(folder / "broken", folder / "dictionary", folder / "table", lm, SMALL)
    said = ask(monkeypatch, word_in, right)
    half = artifact.partial_path(folder / "broken") / TRIED
    half.write_bytes(half.read_bytes() + b'[7, "half a li')  # killed while it wrote
    again = label(folder / "broken", folder / "dictionary", folder / "table", lm, SMALL, resume=True)
    assert again.to_pandas().equals(whole.to_pandas())
    assert not any(prompt.endswith("In common:") for prompt in said)  # names are not made twice
    assert len(said) < 6 * 3 * 16
    assert sorted(f.name for f in (folder / "broken").iterdir()) == sorted(f.name for f in (folder / "whole").iterdir())


def test_too_few_examples_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="too few examples"):
        deal([own[:5] for own in EXAMPLES], SMALL)
    with pytest.raises(UserError, match="feature = 9"):
        deal(EXAMPLES, replace(SMALL, feature=(9,)))


def test_another_dictionarys_table_is_refused(folder: Path, lm: LanguageModel) -> None:
    spaces = [Space(model=name, hookpoint="mlp0.out", width=8) for name in "ac"]
    Dictionary(spaces, Design(kind="crosscoder", n_features=len(WORDS), sparsity=Sparsity(kind="topk", k=2))).save(
        folder / "other"
    )
    with pytest.raises(ArtifactError, match="table"):
        label(folder / "out", folder / "other", folder / "table", lm, SMALL)


# ---- the labeler -----------------------------------------------------------------------------------------------------


def test_answers_do_not_depend_on_what_is_read_together(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [window(own, 12, 4) for own in chain.from_iterable(EXAMPLES)][:7]
    prompts = [fit_prompt(lm, "dogs", text) for text in texts]
    together = preference(lm, prompts, "Yes", "No", batch_size=3)
    alone = torch.cat([preference(lm, [prompt], "Yes", "No", batch_size=1) for prompt in prompts])
    assert torch.allclose(together, alone, atol=1e-4)
    monkeypatch.setattr(chat, "cache_argument", lambda _: None)
    assert torch.allclose(preference(lm, prompts, "Yes", "No", batch_size=3), alone, atol=1e-4)
    ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(prompts[4], add_special_tokens=False)]])
    with torch.no_grad():
        logits = lm.model(ids).logits[0, -1]
    yes, no = ({lm.tokenizer.encode(w, add_special_tokens=False)[0] for w in (x, f" {x}")} for x in ("Yes", "No"))
    yes, no = yes - no, no - yes
    expected = logits[list(yes)].logsumexp(0) - logits[list(no)].logsumexp(0)
    assert float(together[4]) == pytest.approx(float(expected), abs=1e-4)


def test_a_chat_template_is_used_where_there_is_one(lm: LanguageModel) -> None:
    assert asked(lm, "Who?", plain="Q") == "Q"
    backend = lm.tokenizer.backend_tokenizer
    other = replace(lm, tokenizer=type(lm.tokenizer)(tokenizer_object=backend, bos_token=lm.tokenizer.bos_token))
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    other.tokenizer.chat_template = "{{ bos_token }}" + turns
    assert asked(other, "Who?", plain="Q") == "[user] Who?\n[assistant]"
    assert "Answer:" not in fit_prompt(other, "dogs", "a« dog»")
    assert name_prompt(other, ["a« dog»"]).startswith("[user] In each text")


@pytest.mark.parametrize(
    ("answer", "name"),
    [("", ""), ("\n\n", ""), (' "Words."\nmore', "Words"), ("1. joy", "1. joy"), ("- sad  things -", "sad things")],
)
def test_a_name_is_the_first_line(answer: str, name: str) -> None:
    assert name_in(answer) == name


def test_the_command_names_and_says_what_the_names_are_worth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["label", str(folder / "dictionary"), "--table", str(folder / "table"), "--labeler", "tinystories-1l",
             "--out", str(folder / "names"), "--features", "2", "--shown", "2", "--tried", "4", "--draws", "50",
             "--new-tokens", "3", "--json"]  # fmt: skip
    assert run(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["features"]) == 2
    assert all(0 <= own["low"] <= own["auroc"] <= own["high"] <= 1 for own in said["features"])
    assert Path(said["names"]).is_file()
    words[words.index("tinystories-1l")] = "no-such-model"
    assert run([*words, "--offline", "--overwrite"]) == 2
    assert "suture: labeler = no-such-model: is no folder" in capsys.readouterr().err
