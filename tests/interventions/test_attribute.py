"""Which features carry a logit: removals are those of a plain hook, words become the right tokens, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interventions.conftest import SENTENCES, known_dictionary
from interventions.test_activate import made
from suture.activations.settings import View
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable
from suture.interventions.activate import activate
from suture.interventions.attribute import attribute
from suture.interventions.edits import ablate, sparing_first
from suture.interventions.settings import AttributeSettings
from suture.lm.hooks import edit
from suture.lm.load import LanguageModel

PROMPT = SENTENCES[1][:60]


def answer(lm: LanguageModel, prompt: str, words: list[str]) -> float:
    """The logit of one token, or of one less another, from the whole model."""
    ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(prompt, add_special_tokens=False)]])
    logits = lm.model(ids).logits[0, -1]
    first, *rest = (logits[lm.tokenizer.encode(word, add_special_tokens=False)[0]] for word in words)
    return float(first - (rest[0] if rest else 0))


@pytest.mark.parametrize("words", [[" dog"], [" dog", " tree"]])
def test_removals_are_those_of_a_plain_hook(
    models: list[LanguageModel], dictionary: Dictionary, words: list[str]
) -> None:
    """Subtracted at every position but BOS, from the code of each model alone; the error term stays."""
    against = words[1] if len(words) > 1 else None
    found = attribute(dictionary, PROMPT, "dog", models, AttributeSettings(top=4), against=against)
    for m, (lm, own) in enumerate(zip(models, found.models, strict=True)):
        clean = answer(lm, PROMPT, words)
        assert own.answer == pytest.approx(clean, abs=1e-4)
        assert own.token == " dog"
        together: list[int] = []
        for carrier in own.features:
            together.append(carrier.feature)
            for wanted, features in ((carrier.ablated, [carrier.feature]), (carrier.together, together)):
                with edit(lm, dictionary.spaces[m].hookpoint, sparing_first(ablate(dictionary, m, features))):
                    assert wanted == pytest.approx(clean - answer(lm, PROMPT, words), abs=1e-4)
        everything = range(dictionary.n_features)
        with edit(lm, dictionary.spaces[m].hookpoint, sparing_first(ablate(dictionary, m, everything))):
            assert own.removed == pytest.approx(clean - answer(lm, PROMPT, words), abs=1e-4)
        assert [abs(c.integrated) for c in own.features] == sorted(
            (abs(c.integrated) for c in own.features), reverse=True
        )


def test_parts_add_up_to_removing_all(models: list[LanguageModel], dictionary: Dictionary) -> None:
    """The parts follow a curved path (a norm lies between), and more points follow it more closely."""
    coarse, fine = (
        attribute(dictionary, PROMPT, "dog", models, AttributeSettings(path_points=n, top=24)) for n in (1, 400)
    )
    for one, many in zip(coarse.models, fine.models, strict=True):
        assert many.explained == pytest.approx(many.removed, rel=0.02, abs=1e-3)
        assert many.explained == pytest.approx(sum(c.integrated for c in many.features), abs=1e-5)
        assert abs(one.explained - one.removed) > abs(many.explained - many.removed)
        assert abs(many.explained_first_order - many.removed) > abs(many.explained - many.removed)
        assert many.n_features == len(many.features)
        assert many.correlation is not None
        assert many.correlation == pytest.approx(
            float(torch.corrcoef(torch.tensor([[c.integrated, c.ablated] for c in many.features]).T)[0, 1]), abs=1e-4
        )


def test_a_word_becomes_the_token_that_the_model_finds_likelier(
    models: list[LanguageModel], dictionary: Dictionary
) -> None:
    found = attribute(dictionary, PROMPT, "dog", models, AttributeSettings(top=1))
    assert [own.token for own in found.models] == [" dog"] * 2
    assert found.notes == ()
    cut = attribute(dictionary, PROMPT, "kitchenware", models, AttributeSettings(top=1))
    assert "'kitchenware' is" in cut.notes[0]
    assert cut.models[0].token in " kitchenware"
    chosen = set()
    for letter in "abhst":
        one = attribute(dictionary, PROMPT, letter, models, AttributeSettings(top=1, path_points=1))
        for lm, own in zip(models, one.models, strict=True):
            likelier = max((letter, f" {letter}"), key=lambda w, lm=lm: answer(lm, PROMPT, [w]))
            assert own.token == likelier
            chosen.add(own.token == letter)
    assert chosen == {True, False}


def test_values_are_those_of_the_text_read_alone(models: list[LanguageModel], tmp_path: Path) -> None:
    """Outlier rows are drawn in and the other model imputed, as for `activate`."""
    dictionary, _, _ = made(tmp_path, models, View(outlier_multiple=1.05))
    read = activate(dictionary, PROMPT, models)
    assert "drawn in, as in training" in read.notes[0]
    found = attribute(dictionary, PROMPT, "dog", models, AttributeSettings(top=40))
    for m, own in enumerate(found.models):
        assert {c.feature for c in own.features} == set(read.alone[m].feature.tolist())
        for carrier in own.features:
            column = read.alone[m].column(carrier.feature)
            assert carrier.value == pytest.approx(float(column.max()), abs=1e-4)
            assert carrier.token == read.tokens[int(column.argmax())]


def test_ways_out(models: list[LanguageModel], dictionary: Dictionary) -> None:
    found = attribute(dictionary, PROMPT, "dog", models, AttributeSettings(top=24), against="cake")
    in_both = {c.feature for c in found.models[0].features} & {c.feature for c in found.models[1].features}
    assert set(found.shared) == in_both
    frame = found.to_pandas()
    assert frame.feature.tolist() == [c.feature for own in found.models for c in own.features]
    assert frame.ablated.tolist() == [c.ablated for own in found.models for c in own.features]
    assert set(frame.model) == {"A", "B"}
    assert found.to_json()["models"][1]["removed"] == found.models[1].removed
    text = found.text()
    assert "' dog' against ' cake'" in text
    assert "correlation with ablation: integrated" in text
    assert "'dog' against 'cake'" in repr(found)


def test_labels_of_a_table_stand_beside(models: list[LanguageModel], dictionary: Dictionary, tmp_path: Path) -> None:
    dictionary.save(tmp_path / "dictionary")
    n = dictionary.n_features
    table = FeatureTable(
        models=("one", "two"), labels=("shared",) * n, reasons=("",) * n, examples=[], summary={},
        logits=[[{"promoted": [[f"a{i}", 1.0]]}, {"promoted": [[f"b{i}", 1.0]]}] for i in range(n)],
        columns={"rate": torch.ones(n).double()},
    )  # fmt: skip
    table.save(tmp_path / "table")
    found = attribute(
        tmp_path / "dictionary", PROMPT, "dog", models, AttributeSettings(top=2), table=tmp_path / "table"
    )
    own = found.models[1].features[0]
    assert own.known.label == "shared"
    assert f"shared; B promotes 'b{own.feature}'" in found.text()


def test_what_cannot_be_asked_is_refused(models: list[LanguageModel], dictionary: Dictionary) -> None:
    with pytest.raises(UserError, match=r"prompt = .*is empty"):
        attribute(dictionary, " ", "dog", models)
    with pytest.raises(UserError, match="whose context is 64"):
        attribute(dictionary, " ".join(SENTENCES * 4), "dog", models)
    with pytest.raises(UserError, match=r"token = .*is no token"):
        attribute(dictionary, PROMPT, "", models)
    with pytest.raises(UserError, match="begins with the same token"):
        attribute(dictionary, PROMPT, "dog", models, against=" dog")
    with pytest.raises(UserError, match="has other weights"):
        attribute(dictionary, PROMPT, "dog", [models[0], replace(models[1], fingerprint="changed")])


def test_one_model_alone(models: list[LanguageModel]) -> None:
    alone = known_dictionary(models[:1], "sae")
    found = attribute(alone, PROMPT, "dog", models[:1], AttributeSettings(top=3))
    assert len(found.models) == 1
    assert "(in all)" not in found.text()
