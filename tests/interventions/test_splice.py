"""Splicing: a perfect dictionary costs nothing, one that knows nothing costs what the mean costs, and hooks agree."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interventions.conftest import SENTENCES, known_dictionary, language_model
from suture.activations.space import Copy, Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.clipping import Clipping
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Codes, Dictionary
from suture.errors import ArtifactError, UserError
from suture.interventions.paired import PairedText
from suture.interventions.settings import SpliceSettings
from suture.interventions.splice import mean_rows, splice, spliced_losses
from suture.lm.create import LMShape, train_tokenizer
from suture.lm.hooks import edit
from suture.lm.load import LanguageModel
from suture.pipeline import artifact

BLOCK = SpliceSettings(block=24)


class Copying(Dictionary):
    """Its reconstruction is what it was given: the code is only a reminder of it."""

    def encode(self, x: Tensor, **_: object) -> Codes:
        self.seen = x
        return Codes.from_dense(torch.ones(len(x), self.n_features))

    def decode(self, codes: Codes) -> Tensor:
        assert codes.n_rows == len(self.seen)
        return self.seen


def blank(lms: Sequence[LanguageModel], cls: type[Dictionary] = Dictionary) -> Dictionary:
    spaces = [Space(model=lm.name, hookpoint="resid0.post", width=lm.d_model, scale=1.5) for lm in lms]
    kind = "crosscoder" if len(lms) > 1 else "sae"
    return cls(spaces, Design(kind=kind, n_features=4, sparsity=Sparsity(k=2)))  # pyright: ignore[reportArgumentType]


def test_an_exact_reconstruction_costs_nothing(models: list[LanguageModel]) -> None:
    result = spliced_losses(blank(models, Copying), models, SENTENCES, BLOCK)
    for one in result.models:
        assert one.spliced.ce == pytest.approx(one.clean.ce, abs=1e-6)
        assert one.mean.ce != pytest.approx(one.clean.ce, abs=1e-4)


def test_what_training_drew_in_is_not_touched(models: list[LanguageModel]) -> None:
    """Rows far out: an exact reconstruction of what is left of them still costs nothing, and their excess outlives the
    mean.
    """
    exact, knows_nothing = blank(models, Copying), blank(models)
    plain = spliced_losses(knows_nothing, models, SENTENCES, BLOCK)
    for dictionary in (exact, knows_nothing):
        dictionary.clipping = Clipping(bounds=tuple((torch.full((lm.d_model,), 0.1), 1e-3) for lm in models))
    for one in spliced_losses(exact, models, SENTENCES, BLOCK).models:
        assert one.spliced.ce == pytest.approx(one.clean.ce, abs=1e-6)
        assert one.mean.ce == pytest.approx(one.clean.ce, abs=1e-3), "all but a thousandth of a row is excess"
        assert one.mean.ce != one.clean.ce
    drawn_in = spliced_losses(knows_nothing, models, SENTENCES, BLOCK)
    for one, before in zip(drawn_in.models, plain.models, strict=True):
        assert before.spliced.se == pytest.approx(0, abs=1e-9), "one row for all: every document has one loss"
        assert one.spliced.se is not None
        assert one.spliced.se > 1e-4
        assert [loss.ce for loss in one.alone] == pytest.approx([one.spliced.ce] * 2, abs=1e-6)


def test_a_dictionary_that_knows_the_mean_alone_costs_what_the_mean_costs(models: list[LanguageModel]) -> None:
    dictionary = blank(models)
    means = mean_rows(PairedText(dictionary.spaces, models, SENTENCES, block=24), lambda _: None)
    dictionary.b_dec.data.copy_(torch.cat(means) * 1.5)
    for one in spliced_losses(dictionary, models, SENTENCES, BLOCK).models:
        assert one.spliced.ce == pytest.approx(one.mean.ce, abs=1e-6)
        assert [loss.ce for loss in one.alone] == pytest.approx([one.mean.ce] * 2, abs=1e-6)
        assert one.recovered in (None, pytest.approx(0, abs=1e-3))


@pytest.mark.parametrize("kind", ["crosscoder", "pooled"])
def test_losses_are_those_of_a_plain_hook(models: list[LanguageModel], kind: str) -> None:
    """Independently: one sentence at a time, a forward hook on the block, torch's own cross-entropy."""
    one, two = models[0], language_model(LMShape(n_layers=2, width=32, n_heads=2, context=64), 5, "three")
    lms = [one, replace(two, tokenizer=one.tokenizer)]
    dictionary = known_dictionary(lms, kind)
    result = spliced_losses(dictionary, lms, SENTENCES, SpliceSettings(block=60))
    spaces = dictionary.spaces
    for m, lm in enumerate(lms):
        surprise, clean, count = 0.0, 0.0, 0
        for sentence in SENTENCES:
            ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(sentence, add_special_tokens=False)]])
            hidden = [x.model(ids, output_hidden_states=True).hidden_states[-1 if x.n_layers == 1 else 2] for x in lms]
            kept = []
            for x, h in zip(lms, hidden, strict=True):  # the last hidden state has the final norm behind it: hook it
                blocks = x.model.transformer.h
                handle = blocks[x.n_layers - 1].register_forward_hook(
                    lambda _m, _i, out, kept=kept: kept.append(_first(out))
                )
                x.model(ids)
                handle.remove()
                assert kept[-1].shape == h.shape
            raw = [k[0, 1:] for k in kept]
            if kind == "crosscoder":
                rebuilt = dictionary.decode_raw(dictionary.encode_raw(raw))[m]
            else:
                own = [None, None]
                own[m] = raw[m]  # pyright: ignore[reportCallIssue, reportArgumentType]
                rebuilt = dictionary.decode_raw(dictionary.encode_raw(own))[m]
            whole = kept[m].clone()
            whole[0, 1:] = rebuilt
            block = lm.model.transformer.h[lm.n_layers - 1]
            handle = block.register_forward_hook(lambda _m, _i, out, whole=whole: _with_first(out, whole))
            spliced = lm.model(ids).logits[0]
            handle.remove()
            plain = lm.model(ids).logits[0]
            surprise += float(torch.nn.functional.cross_entropy(spliced[1:-1], ids[0, 2:], reduction="sum"))
            clean += float(torch.nn.functional.cross_entropy(plain[1:-1], ids[0, 2:], reduction="sum"))
            count += ids.shape[1] - 2
        assert spaces[m].hookpoint == f"resid{lm.n_layers - 1}.post"
        assert result.models[m].n_predictions == count
        assert result.models[m].clean.ce == pytest.approx(clean / count, abs=1e-5)
        assert result.models[m].spliced.ce == pytest.approx(surprise / count, abs=1e-5)
        assert result.models[m].replaced == 1.0


def test_with_different_tokenizers_only_shared_positions_are_replaced(models: list[LanguageModel]) -> None:
    other = language_model(
        LMShape(n_layers=1, width=32, n_heads=2, context=64), 7, "other", train_tokenizer(SENTENCES[:1], vocab_size=300)
    )
    lms = [models[0], replace(other, tokenizer_fingerprint="other")]
    text = PairedText(blank(lms).spaces, lms, SENTENCES, block=40)
    for batch in text.batches():
        for m in range(2):
            changed = batch.replaced(m, torch.zeros(batch.n_rows, 32)) != batch.activations[m]
            assert int(changed.any(-1).sum()) == batch.n_rows
            assert not bool(changed[:, 0].any())  # BOS stays
        part = batch.of_pieces(torch.arange(len(batch.document)) % 2 == 0)
        for m in range(2):
            assert torch.equal(part.rows(m), batch.rows(m)[batch.piece % 2 == 0])
    result = spliced_losses(blank(lms), lms, SENTENCES, SpliceSettings(block=40))
    assert result.n_rows == text.n_rows
    assert 0 < result.models[1].replaced < 1
    assert len(result.models[0].alone) == 2


def test_a_dictionary_of_one_model(models: list[LanguageModel]) -> None:
    result = spliced_losses(blank(models[:1], Copying), models[:1], SENTENCES[:1], BLOCK)
    assert result.models[0].alone == []
    assert result.models[0].clean.se is None
    assert result.models[0].recovered in (None, pytest.approx(1.0))


def test_refusals(models: list[LanguageModel], tmp_path: Path) -> None:
    dictionary = blank(models)
    with pytest.raises(UserError, match="models = 1"):
        spliced_losses(dictionary, models[:1], SENTENCES)
    with pytest.raises(UserError, match="other weights"):
        spliced_losses(known_dictionary(models), models[::-1], SENTENCES)
    with pytest.raises(UserError, match="documents = 0"):
        spliced_losses(dictionary, models, [])
    with pytest.raises(UserError, match="block = 0"):
        SpliceSettings(block=0)
    first = dictionary.spaces[0]
    copy = replace(first, copy_of=Copy(original=first.label, rotated=True, seed=0))
    Dictionary([first, copy], dictionary.design).save(tmp_path / "null")
    with pytest.raises(UserError, match="a copy of it"):
        splice(tmp_path / "out", tmp_path / "null", models, SENTENCES)
    assert not (tmp_path / "out").exists()


def test_the_step_writes_what_it_returns(models: list[LanguageModel], tmp_path: Path) -> None:
    known_dictionary(models).save(tmp_path / "dictionary")
    result = splice(tmp_path / "out", tmp_path / "dictionary", models, SENTENCES, BLOCK)
    written = artifact.read_json(tmp_path / "out" / "splice.json")
    assert written == artifact.as_json(result.to_json())
    assert written["models"][1]["spliced"]["ce"] == result.models[1].spliced.ce


def test_a_stopped_run_goes_on_after_its_batches(
    models: list[LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three moments: before, between and among the measured batches; the numbers are those of an unbroken run."""
    known_dictionary(models).save(tmp_path / "dictionary")
    monkeypatch.setattr("suture.interventions.paired.group_by_length", lambda lengths, _: [[i] for i in lengths])
    passes: list[int] = []
    whole = splice(
        tmp_path / "whole", tmp_path / "dictionary", models, SENTENCES, BLOCK, on_progress=lambda n, _: passes.append(n)
    )
    assert passes == sorted(passes)
    n_passes, real = passes[-1], PairedText.surprise
    measured: list[int] = []

    def counted(self: PairedText, *args: object) -> Tensor:
        measured.append(1)
        return real(self, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(PairedText, "surprise", counted)

    def stopping_at(moment: int) -> None:
        def tell(done: int, total: int) -> None:
            assert total == n_passes
            if done == moment:
                raise KeyboardInterrupt

        splice(
            tmp_path / "out", tmp_path / "dictionary", models, SENTENCES, BLOCK, resume=True, on_progress=tell
        )  # fmt: skip

    for moment in (1, n_passes // 2, n_passes - 1):
        with pytest.raises(KeyboardInterrupt):
            stopping_at(moment)
        assert not (tmp_path / "out").exists()
    found = splice(tmp_path / "out", tmp_path / "dictionary", models, SENTENCES, BLOCK, resume=True)
    assert found == whole
    n_batches = n_passes // 11
    assert n_batches > 2
    assert n_passes == 11 * n_batches  # as far as the hookpoints, and five in each of two models
    assert len(measured) < 10 * n_batches + 2 * 10
    before = len(measured)
    assert splice(tmp_path / "out", tmp_path / "dictionary", models, SENTENCES, BLOCK, resume=True) == whole
    assert len(measured) == before
    with pytest.raises(ArtifactError, match="texts"):
        splice(tmp_path / "out", tmp_path / "dictionary", models, SENTENCES[1:], BLOCK, resume=True)


def test_activations_are_computed_once_where_they_fit(
    models: list[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary, made = known_dictionary(models), []
    real = PairedText._run_to_hookpoint
    monkeypatch.setattr(PairedText, "_run_to_hookpoint", lambda *args: made.append(1) or real(*args))
    found = spliced_losses(dictionary, models, SENTENCES, BLOCK)
    once = len(made)
    monkeypatch.setattr("suture.interventions.splice.HELD_BYTES", 0)
    assert spliced_losses(dictionary, models, SENTENCES, BLOCK) == found
    assert len(made) == 3 * once


def _first(out: object) -> Tensor:
    return out[0] if isinstance(out, tuple) else out  # pyright: ignore[reportReturnType]


def _with_first(out: object, value: Tensor) -> object:
    return (value, *out[1:]) if isinstance(out, tuple) else value


def test_the_code_of_one_model_alone_is_of_that_model(models: list[LanguageModel]) -> None:
    """Independently, a sentence at a time by a plain hook; the encoder hears the first model far better."""
    one, two = models[0], language_model(LMShape(n_layers=2, width=32, n_heads=2, context=64), 5, "three")
    lms = [one, replace(two, tokenizer=one.tokenizer)]
    dictionary = known_dictionary(lms)
    dictionary.W_enc[:, dictionary.columns(1)] *= 0.05
    result = spliced_losses(dictionary, lms, SENTENCES, SpliceSettings(block=60))
    for m, lm in enumerate(lms):
        losses = [0.0, 0.0]
        count = 0
        for sentence in SENTENCES:
            ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(sentence, add_special_tokens=False)]])
            seen: list[Tensor] = []
            for x, space in zip(lms, dictionary.spaces, strict=True):
                with edit(x, space.hookpoint, lambda a, seen=seen: (seen.append(a), a)[1]):
                    x.model(ids)
            for source in range(2):
                alone = [rows[0, 1:] if s == source else None for s, rows in enumerate(seen)]
                whole = seen[m].clone()
                whole[0, 1:] = dictionary.decode_raw(dictionary.encode_raw(alone))[m]
                with edit(lm, dictionary.spaces[m].hookpoint, lambda _, whole=whole: whole):
                    spliced = lm.model(ids).logits[0]
                losses[source] += float(torch.nn.functional.cross_entropy(spliced[1:-1], ids[0, 2:], reduction="sum"))
            count += ids.shape[1] - 2
        assert [loss.ce for loss in result.models[m].alone] == pytest.approx([x / count for x in losses], abs=1e-5)
        assert abs(losses[0] - losses[1]) / count > 1e-3
