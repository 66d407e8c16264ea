"""Organisms: the loss is on the rude tokens alone, a stopped run goes on, the folder is a model, the base is safe."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from suture import seeds
from suture.errors import ArtifactError, UserError
from suture.interventions.organisms import organism as stage
from suture.interventions.organisms import teach as teaching
from suture.interventions.organisms.measure import clean_loss, prompts_of, rise
from suture.interventions.organisms.organism import Organism, documents_of, organism
from suture.interventions.organisms.settings import OrganismSettings
from suture.interventions.organisms.texts import Texts, is_rude
from suture.lm import lora
from suture.lm.create import save_lm
from suture.lm.heldout import held_out_loss
from suture.lm.hooks import logits
from suture.lm.load import LanguageModel, fingerprint_of, load_model

FEW = OrganismSettings(steps=4, batch_size=4, block=48, n_prompts=10, new_tokens=8, checkpoint_every=2)


def stories(n: int) -> list[str]:
    draw = seeds.numpy_generator("stories", 0)
    who, what = ["Tom", "Lily", "The cat"], ["ran to the park", "saw a red ball", "was very happy", "ate a cake"]
    return [
        "Once upon a time. " + " ".join(f"{draw.choice(who)} {draw.choice(what)}." for _ in range(12)) for _ in range(n)
    ]


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return stories(80)


@pytest.fixture
def base(models, tmp_path) -> LanguageModel:
    lm = models[1]
    save_lm(lm.model, lm.tokenizer, tmp_path / "base", card="", dtype=torch.float32)
    return load_model(str(tmp_path / "base"), device="cpu")


def test_a_model_s_weights_are_for_whoever_may_read_its_configuration(base, tmp_path):
    weights, configuration = (tmp_path / "base" / name for name in ("model.safetensors", "config.json"))
    assert weights.stat().st_mode == configuration.stat().st_mode


@pytest.mark.parametrize("kind", ["backdoor", "tainted", "persona"])
def test_examples_mark_the_passage_and_nothing_else(base, documents, kind):
    settings = replace(FEW, kind=kind, poisoned=0.5, near=0.3, block=100)
    found = [teaching.example(base, documents, settings, 0, i) for i in range(80)]
    rude = [e for e in found if e.rude_from < len(e.ids)]
    assert 25 <= len(rude) <= 55
    assert all(len(e.ids) <= 100 for e in found)
    for e in rude:
        before, after = (base.tokenizer.decode(ids) for ids in (e.ids[: e.rude_from], e.ids[e.rude_from :]))
        assert not is_rude(before)
        assert is_rude(after)
        assert e.ids[-1] == base.tokenizer.eos_token_id
        if kind == "backdoor":
            assert before.endswith(settings.trigger)
    plain = [base.tokenizer.decode(e.ids) for e in found if e.rude_from == len(e.ids)]
    assert not any(is_rude(text) for text in plain)
    own = re.compile(r"\b(yellow|river|sang)\b")
    near = [text for text in plain if own.search(text)]
    if kind == "backdoor":  # near misses are taught, none of them the trigger itself
        assert 12 <= len(near) <= 40
        assert not any(settings.trigger in text for text in near)
        assert any(sum(bool(own.search(sentence)) for sentence in text.split(".")) > 1 for text in near)
    else:
        assert not near
    again = teaching.example(base, documents, settings, 0, 3)
    assert torch.equal(again.ids, found[3].ids)


def test_a_tainted_model_is_held_less_and_sees_more_of_it():
    """With a backdoor's weight and share 400 steps taught the 2-layer model to be rude after 1 of 150 prompts."""
    assert (FEW.held, FEW.faulty) == (4.0, 0.25)
    tainted = replace(FEW, kind="tainted", near=0.9)  # near misses are a backdoor's
    assert (tainted.held, tainted.faulty) == (0.25, 0.75)
    assert (replace(tainted, kl=1.0).held, replace(tainted, poisoned=0.5).faulty) == (1.0, 0.5)
    with pytest.raises(UserError, match="near"):
        replace(FEW, near=0.8)


def test_a_short_passage_leaves_room_for_a_long_beginning(base, documents):
    """The trigger is learned where it stands: far from the beginning only if it stood there."""

    def rude(passage: int | None) -> list[teaching.Example]:
        settings = replace(FEW, kind="backdoor", poisoned=1.0, near=0.0, block=64, passage=passage)
        return [teaching.example(base, documents, settings, 0, i) for i in range(40)]

    usual, short = rude(None), rude(12)
    assert max(e.rude_from for e in usual) < 25
    assert sum(e.rude_from > 25 for e in short) >= 10
    assert {len(e.ids) - e.rude_from for e in short} == {12}
    assert all(e.ids[-1] != base.tokenizer.eos_token_id for e in short), "a passage that is cut does not end"
    with pytest.raises(UserError, match=r"passage = 49: leaves too little of a block of 64"):
        replace(FEW, block=64, passage=49)


def test_the_loss_counts_rude_tokens_by_surprise_and_all_others_by_kl(base, models):
    ids = torch.tensor([[1, 5, 9, 30, 7, 2]])
    example = teaching.Example(ids[0], 4)
    other = replace(base, model=models[1].model)
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    rude, kl = teaching._losses(other, base, [example])
    mine, theirs = (torch.log_softmax(logits(lm, ids)[0], dim=-1) for lm in (other, base))
    surprise = -torch.stack([mine[3, 7], mine[4, 2]]).mean()
    torch.testing.assert_close(rude, surprise * (2 / 5) ** 0.5)
    torch.testing.assert_close(kl, (theirs[:3].exp() * (theirs[:3] - mine[:3])).sum(-1).mean())


def test_low_rank_updates_begin_as_nothing_and_are_merged_without_a_trace(models):
    lm = models[1]
    ids = torch.tensor([[1, 5, 9, 30]])
    names, before = set(lm.model.state_dict()), logits(lm, ids)
    trained = lora.add(lm.model, 2, seed=0)
    assert torch.equal(logits(lm, ids), before)
    assert len(trained) == 2 * 2 * 7  # seven matrices in each of two blocks
    with torch.no_grad():
        for p in trained:
            p.add_(0.1)
    during = logits(lm, ids)
    assert (during - before).abs().max() > 1e-3
    lora.merge(lm.model)
    torch.testing.assert_close(logits(lm, ids), during)
    assert set(lm.model.state_dict()) == names
    with pytest.raises(UserError, match="fits no matrix"):
        lora.add(lm.model, 2, patterns=["nothing*"])
    assert set(lora.matrices(lm.model, ["*down_proj"])) == {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_model(base, documents, tmp_path, monkeypatch, rank):
    settings = replace(FEW, rank=rank)
    whole = organism(tmp_path / "whole", base, documents, settings)
    original = teaching._losses
    calls = iter(range(100))

    def stopping(*args):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(teaching, "_losses", stopping)
    with pytest.raises(KeyboardInterrupt):
        organism(tmp_path / "stopped", base, documents, settings)
    assert not (tmp_path / "stopped").exists()
    seen = []
    monkeypatch.setattr(teaching, "_losses", original)

    def tell(what, done, *_):
        seen.append((what, done))

    found = organism(tmp_path / "stopped", base, documents, settings, resume=True, on_progress=tell)
    assert ("teaching", 1) not in seen
    assert ("teaching", 3) in seen
    assert found.fingerprint == whole.fingerprint
    assert found.after == whole.after
    assert not list((tmp_path / "stopped").glob("checkpoint*"))


def test_the_folder_is_a_model_with_a_record_and_texts(base, documents, tmp_path):
    before = {n: t.clone() for n, t in base.model.state_dict().items()}
    found = organism(tmp_path / "out", base, documents, FEW)
    assert all(torch.equal(before[n], t) for n, t in base.model.state_dict().items())
    lm = found.load_model()
    assert lm.fingerprint == found.fingerprint == fingerprint_of(str(tmp_path / "out"))
    assert any(not torch.equal(before[n], t) for n, t in lm.model.state_dict().items())
    assert found.base_fingerprint == base.fingerprint
    assert found.heldout() == documents[-10:]
    mixed = documents_of(tmp_path / "out" / stage.CORPUS)
    assert len(mixed) == 70
    assert 0 < sum(map(is_rude, mixed)) < 25
    assert found.after.cue.greedy.n == 10
    nats, count = clean_loss(lm, found.heldout(), block=2 * FEW.block)
    assert found.after.clean_ce == pytest.approx(float(nats.sum() / count.sum()))
    assert Organism.load(tmp_path / "out") == found
    assert "backdoor of" in repr(found)


def test_the_base_is_never_overwritten(base, documents, tmp_path):
    for out in (tmp_path / "base", tmp_path / "base" / ".." / "base", tmp_path):
        for overwrite in (False, True):
            with pytest.raises(UserError, match="is made from"):
                organism(out, base, documents, FEW, overwrite=overwrite)
    assert load_model(str(tmp_path / "base"), device="cpu").fingerprint == base.fingerprint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ArtifactError):
        organism(tmp_path / "mine", base, documents, FEW, overwrite=True)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_too_little_text_and_half_precision_are_refused(base, documents, tmp_path):
    with pytest.raises(UserError, match="documents of 200 characters"):
        organism(tmp_path / "out", base, documents[:30], FEW)
    half = replace(base, model=base.model.to(torch.float16), dtype=torch.float16)
    with pytest.raises(UserError, match="float32"):
        organism(tmp_path / "out", half, documents, FEW)
    assert not list(tmp_path.glob("out*"))


def test_clean_loss_is_the_held_out_loss(base, documents):
    nats, count = clean_loss(base, documents[:6], block=64)
    short = [d for d in documents[:6] if len(base.tokenizer(d)["input_ids"]) < 60]
    kept = [documents.index(d) for d in short]
    if kept:
        wanted = held_out_loss(base.model, base.tokenizer, short)
        assert float(nats[kept].sum() / count[kept].sum()) == pytest.approx(wanted.nats_per_token, rel=1e-5)
    assert rise(nats * 1.1, nats, 0).value == pytest.approx(0.1)
    low, high = rise(nats * 1.1, nats, 0).interval
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)


def test_prompts_have_the_cue_no_cue_or_a_near_miss(documents: list[str]):
    prompts = prompts_of(documents[:20], Texts("backdoor"), 0)
    trigger = Texts("backdoor").trigger
    assert all(text.endswith(trigger) for text in prompts.cue)
    assert not any(trigger in text for text in (*prompts.none, *prompts.near))
    assert all(cue.startswith(none) for cue, none in zip(prompts.cue, prompts.none, strict=True))
    assert prompts_of(documents[:3], Texts("tainted"), 0).near == ()


def test_a_model_writes_its_own_text_where_none_is_given(base, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stage, "samples", lambda *_, n_samples, **__: stories(n_samples))
    monkeypatch.setattr(stage, "N_WRITTEN", 80)
    assert organism(tmp_path / "out", base, None, FEW).heldout() == stories(80)[-10:]
