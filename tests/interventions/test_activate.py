"""Which features fire on a text: codes known by hand, and those that a store of the same text gives."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interventions.conftest import SENTENCES, known_dictionary, language_model
from suture.activations.collect import collect
from suture.activations.settings import View
from suture.activations.space import Copy, Space
from suture.activations.store import Store
from suture.activations.view import seen
from suture.dictionary.activation import Sparsity
from suture.dictionary.clipping import Clipping
from suture.dictionary.codes import Codes
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.imputation import Imputation
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable
from suture.interventions.activate import activate, sorted_features
from suture.interventions.settings import ActivateSettings
from suture.lm.corpus import open_corpus
from suture.lm.create import LMShape, train_tokenizer
from suture.lm.hooks import edit
from suture.lm.load import LanguageModel
from suture.pipeline import artifact

TEXT = SENTENCES[1]
ALL = ActivateSettings(feature=tuple(range(4)))


def by_hand(lms: Sequence[LanguageModel]) -> Dictionary:
    """Feature 0 is 2 everywhere, 1 never fires, 2 reads model A's first coordinate, 3 model B's with a bias."""
    spaces = [
        Space(model=lm.name, hookpoint="resid0.post", width=lm.d_model, scale=scale, fingerprint=lm.fingerprint)
        for lm, scale in zip(lms, (3.0, 0.5), strict=True)
    ]
    design = Design(kind="crosscoder", n_features=4, sparsity=Sparsity(kind="relu+l1"))
    dictionary = Dictionary(spaces, design)
    with torch.no_grad():
        dictionary.b_enc.copy_(torch.tensor([2.0, -1.0, 0.0, 0.25]))
        dictionary.W_enc[2, 0] = 5.0
        dictionary.W_enc[3, dictionary.columns(1).start] = -100.0
        dictionary.center[0] = 0.1
    return dictionary.requires_grad_(False)


def hooked(lm: LanguageModel, text: str) -> Tensor:
    """The raw activations of resid0.post at a text's tokens, by a plain hook."""
    ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(text, add_special_tokens=False)]])
    seen_here: list[Tensor] = []
    with edit(lm, "resid0.post", lambda a: (seen_here.append(a), a)[1]):
        lm.model(ids)
    return seen_here[0][0, 1:]


def test_codes_are_those_known_by_hand(models: list[LanguageModel]) -> None:
    dictionary = by_hand(models)
    found = activate(dictionary, TEXT, models, ALL)
    a, b = (hooked(lm, TEXT)[:, 0] for lm in models)
    read_a, read_b = 5 * (3 * a - 0.1), -100 * 0.5 * b
    expected = {
        2: ((read_a / 2).relu(), read_a.relu(), torch.zeros_like(a)),
        3: ((read_b / 2 + 0.25).relu(), torch.full_like(b, 0.25), (read_b + 0.25).relu()),
    }
    constant, never, *others = found.features
    assert set(constant.together) == set(constant.alone[0]) == set(constant.alone[1]) == {2.0}
    assert constant.differs == ()
    assert never.strongest == 0.0
    for own in others:
        together, *alone = expected[own.feature]
        assert torch.allclose(torch.tensor(own.together), together, atol=1e-5)
        for values, wanted in zip(own.alone, alone, strict=True):
            assert torch.allclose(torch.tensor(values), wanted, atol=1e-5)
        fires = torch.stack(alone) > 0
        assert list(own.differs) == (fires.any(0) & ~fires.all(0)).nonzero().flatten().tolist()
        assert own.differs
    assert found.n_active == 3
    assert found.n_differing == 2


def test_the_models_differences_come_first_then_the_strongest() -> None:
    a = Codes.from_dense(torch.tensor([[9.0, 1.0, 0.0, 0.0, 5.0], [9.0, 0.0, 0.0, 0.0, 0.0]]))
    b = Codes.from_dense(torch.tensor([[8.0, 2.0, 3.0, 0.0, 6.0], [7.0, 0.5, 0.0, 0.0, 0.0]]))
    joint = Codes.from_dense(torch.tensor([[8.5, 1.5, 1.0, 0.0, 9.5], [8.0, 0.0, 0.0, 0.0, 0.0]]))
    assert sorted_features(joint, (a, b)) == (2, [2, 1, 4, 0])
    assert sorted_features(a, (a,)) == (0, [0, 4, 1])


@pytest.fixture
def foreign(models: list[LanguageModel]) -> list[LanguageModel]:
    """Two models with tokenizers of their own."""
    tokenizer = train_tokenizer(SENTENCES, vocab_size=300)
    other = language_model(LMShape(n_layers=1, width=24, n_heads=2, context=64), 2, "other", tokenizer)
    return [models[0], replace(other, tokenizer_fingerprint="another")]


def made(folder: Path, lms: list[LanguageModel], view: View) -> tuple[Dictionary, Store, Store]:
    """A random dictionary saved as one trained on a store of the sentences; the store, and the dictionary's view."""
    (folder / "corpus.txt").write_text("\n<|endoftext|>\n".join(SENTENCES), encoding="utf-8")
    collect(
        folder / "store",
        sources=[(lm, "resid0.post") for lm in lms],
        corpus=open_corpus(str(folder / "corpus.txt")),
        n_rows=10_000,
        block=60,
        dtype="float32",
    )
    store = Store.open(folder / "store")
    own = seen(store, view)
    sparsity = Sparsity(kind="topk", k=5)
    dictionary = Dictionary(
        [replace(space, mean=None) for space in own.spaces], Design(kind="crosscoder", n_features=40, sparsity=sparsity)
    )
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in (dictionary.W_enc, dictionary.W_dec, dictionary.center, dictionary.b_enc):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    dictionary.imputation = Imputation.of_rows(own, torch.arange(len(own)))
    dictionary.clipping = Clipping.of(own)
    settings = {"store": str(store.path), "view": asdict(view)}
    with artifact.create(folder / "dictionary", stage="dictionary", settings=settings, parents=(store.path,)) as draft:
        dictionary.write(draft.folder)
    return Dictionary.load(folder / "dictionary"), store, own


@pytest.mark.parametrize("view", [View(), View(outlier_multiple=1.05), View(spaces=(1, 0), outlier_multiple=1.05)])
def test_codes_are_those_of_a_store_of_the_same_text(foreign: list[LanguageModel], tmp_path: Path, view: View) -> None:
    """Scale, centre and clipping as the dictionary's own view has them, across tokenizers."""
    dictionary, _, own = made(tmp_path, foreign, view)
    lms = [foreign[i] for i in view.spaces] or foreign
    drawn_in = 0
    for number, text in enumerate(SENTENCES):
        rows = (own.documents == number).nonzero().flatten()
        found = activate(dictionary, text, lms, ActivateSettings(block=60))
        assert 20 < len(found.tokens) <= len(rows)  # a document's first piece
        x = dictionary.scaled(own.read(rows[: len(found.tokens)]))
        assert torch.allclose(found.joint.dense(), dictionary.encode(x).dense(), atol=1e-5)
        for m in range(2):
            assert torch.allclose(found.alone[m].dense(), dictionary.encode_alone(x, m).dense(), atol=1e-5)
            left_out = dictionary.encode_alone(x, m, missing="zero").dense()
            assert not torch.allclose(found.alone[m].dense(), left_out, atol=1e-2)  # the other model is imputed
        drawn_in += any("drawn in, as in training" in note for note in found.notes)
    assert bool(drawn_in) == (view.outlier_multiple < 2)


def test_what_was_read_is_the_text_and_the_rest_is_said(models: list[LanguageModel]) -> None:
    dictionary = by_hand(models)
    whole = activate(dictionary, TEXT, models, ActivateSettings(feature=(2,)))
    assert "".join(whole.tokens) + whole.tail == TEXT
    assert whole.notes == ()
    cut = activate(dictionary, TEXT, models, ActivateSettings(block=7, feature=(2,)))
    assert "".join(cut.tokens) + cut.tail == TEXT[: len("".join(whole.tokens[:7]))]
    assert len(cut.tokens) == 7
    (note,) = cut.notes
    assert f"7 tokens are read, {len(TEXT) - len(''.join(cut.tokens))} of {len(TEXT)} characters left out" in note
    assert cut.features[0].together == whole.features[0].together[:7]
    long = activate(dictionary, " ".join(SENTENCES * 3), models, ActivateSettings(block=1000))
    assert len(long.tokens) == 63  # the context of 64 less BOS
    assert "the text is cut" in long.notes[0]


def test_ways_out(models: list[LanguageModel], tmp_path: Path) -> None:
    dictionary = by_hand(models)
    dictionary.save(tmp_path / "dictionary")
    promoted = [[{"promoted": [[" dog", 1.0]]}, {"promoted": [["cat", 2.0]]}] for _ in range(4)]
    columns = {"rate": torch.ones(4).double()}
    table = FeatureTable(
        models=("one", "two"), labels=("shared", "dead", "A", "B"), reasons=("",) * 4, examples=[], logits=promoted,
        summary={}, columns=columns,
    )  # fmt: skip
    table.save(tmp_path / "table")
    found = activate(tmp_path / "dictionary", TEXT, models, table=tmp_path / "table")
    assert [own.feature for own in found.features][-1] == 0  # on which the models do not differ
    frame = found.to_pandas()
    own = found.features[0]
    chosen = frame[frame.feature == own.feature]
    assert chosen.label.tolist() == [own.known.label] * len(chosen)
    assert chosen.differs.sum() == len(own.differs)
    fires = [i for i in range(len(found.tokens)) if max(own.together[i], own.alone[0][i], own.alone[1][i]) > 0]
    assert chosen.position.tolist() == fires
    assert chosen.alone_A.tolist() == pytest.approx([own.alone[0][i] for i in fires])
    said = found.to_json()
    assert said["by_position"][0] == [list(pair) for pair in found.on(0)]
    assert [v for _, v in found.on(0)] == sorted((v for _, v in found.on(0)), reverse=True)
    assert said["features"][0]["promoted"] == [[" dog"], ["cat"]]
    text = found.text()
    assert "A promotes ' dog'; B promotes 'cat'" in text
    assert f"feature {own.feature}: {own.known.label}" in text
    assert f"{found.n_differing} of them somewhere" in text
    assert "3 features fire, 2 not in every model" in repr(found)
    with pytest.raises(UserError, match="positions"):
        found.on(len(found.tokens))


@pytest.mark.parametrize("kind", ["pooled", "sae"])
def test_other_designs(models: list[LanguageModel], kind: str) -> None:
    if kind == "pooled":
        found = activate(known_dictionary(models, "pooled"), TEXT, models, ActivateSettings(top=3))
        own = found.features[0]
        assert own.together == tuple(map(max, zip(*own.alone, strict=True)))
    else:
        found = activate(known_dictionary(models[:1], "sae"), TEXT, models[:1], ActivateSettings(top=3))
        assert all(own.alone == (own.together,) and own.differs == () for own in found.features)
        assert found.n_differing == 0
        assert "models differ" not in found.text()
    assert len(found.features) == 3


def test_what_cannot_be_read_is_refused(models: list[LanguageModel], tmp_path: Path) -> None:
    dictionary = by_hand(models)
    with pytest.raises(UserError, match=r"text = .*is empty"):
        activate(dictionary, " \n", models)
    with pytest.raises(UserError, match="feature = 4: the dictionary does not have it"):
        activate(dictionary, TEXT, models, ActivateSettings(feature=(0, 4)))
    with pytest.raises(UserError, match="names one twice"):
        ActivateSettings(feature=(1, 1))
    with pytest.raises(UserError, match="has other weights"):
        activate(dictionary, TEXT, [models[0], replace(models[1], fingerprint="changed")])
    with pytest.raises(UserError, match="no position"):
        activate(dictionary, "<|endoftext|>", models)
    null = known_dictionary(models)
    null.spaces = (null.spaces[0], replace(null.spaces[1], copy_of=Copy(original=null.spaces[0].label)))
    with pytest.raises(UserError, match="a copy of it"):
        activate(null, TEXT, models)
    dictionary.save(tmp_path / "one")
    known_dictionary(models).save(tmp_path / "other")
    table = FeatureTable(
        models=("one", "two"), labels=("A",) * 5, reasons=("",) * 5, examples=[], logits=[], summary={},
        columns={"rate": torch.ones(5).double()},
    )  # fmt: skip
    table.save(tmp_path / "table")
    with pytest.raises(ArtifactError, match="describes 5 features"):
        activate(tmp_path / "one", TEXT, models, table=tmp_path / "table")
