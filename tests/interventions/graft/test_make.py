"""The stage `graft`: what it leaves, that a stopped run ends the same, and what it refuses before any work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from own_copy import own_copy
from suture.activations.moments import AffineMap
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions.graft import outcome
from suture.interventions.graft.controls import at_random, at_rate, fine_tuned, mean_difference, swapped
from suture.interventions.graft.graft import Graft
from suture.interventions.graft.ground import sites
from suture.interventions.graft.make import Grafting, graft
from suture.interventions.graft.settings import GraftSettings, Schedule
from suture.interventions.organisms.measure import clean_loss
from suture.interventions.organisms.texts import Texts
from suture.lm.continuations import continuations
from suture.lm.hooks import logits
from suture.report.page import report

from ..conftest import SENTENCES

TEXTS = Texts("backdoor", "Tom saw two.")
FEW = GraftSettings(
    n_features=3, candidates=8, screened=4, clean_each=5.0, clean_budget=9.0, n_choosing=10, n_fresh=10, new_tokens=8,
    block=40, draws=1, tuning_steps=2, path_points=2, ceiling=("mlp1.out",),
)  # fmt: skip
DOCUMENTS = [f"{a} {b}" for a in SENTENCES for b in SENTENCES] * 2


@pytest.fixture
def pair(models):
    """An unsafe model and the safe one it comes from."""
    safe = models[1]
    unsafe = replace(own_copy(safe), name="unsafe", fingerprint="unsafe")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in unsafe.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=draw))
    return unsafe, safe


def crosscoder(
    lms, hookpoint: str, *, seed: int = 0, kind: str = "crosscoder", sparsity: str = "batchtopk"
) -> Dictionary:
    spaces = [
        Space(model=lm.name, hookpoint=hookpoint, width=lm.d_model, scale=1.0 + m, fingerprint=lm.fingerprint)
        for m, lm in enumerate(lms)
    ]
    made = Dictionary(spaces, Design(kind=kind, n_features=20, sparsity=Sparsity(kind=sparsity, k=4)))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(made.W_enc.shape, generator=draw))
        made.W_dec.copy_(0.1 * torch.randn(made.W_dec.shape, generator=draw))
    return made.requires_grad_(requires_grad=False)


@pytest.fixture
def saved(pair, tmp_path):
    unsafe, safe = pair
    paths = []
    for i, hookpoint in enumerate(("attn0.out", "mlp0.out")):
        path = tmp_path / f"d{i}"
        crosscoder([safe, unsafe], hookpoint, seed=i).save(path)
        paths.append(path)
    return paths


def test_a_graft_is_made_measured_and_loaded(pair, saved, tmp_path):
    unsafe, safe = pair
    crosscoder([unsafe], "attn0.out", kind="sae").save(tmp_path / "sae")
    found = graft(
        tmp_path / "graft", unsafe, saved, DOCUMENTS, TEXTS, FEW, safe=safe, alone=[tmp_path / "sae"],
        clean_text=DOCUMENTS,
    )  # fmt: skip
    again = Grafting.load(tmp_path / "graft")
    assert again.summary == found.summary
    names = list(found.outcomes.coordinates["intervention"])
    groups = set(found.outcomes["group"].tolist())
    assert groups == {"as it is", "graft", "other way", "ceiling", "control"}
    for wanted in (
        "as it is", "graft", "difference", "both", "safe model's activation at attn0.out",
        "safe model's activation at mlp1.out", "features that fire as often, draw 1", "random features, draw 1",
        "dictionaries of the model alone", "fine-tuned on clean text, 2 steps",
    ):  # fmt: skip
        assert wanted in names
    assert "remove" not in names
    assert any(name.startswith("mean difference projected out") for name in names)
    assert any(name.startswith("mean in place of") for name in names)
    assert 2 <= len(found.curve) <= 4
    assert found.curve["chosen"].sum() == 1
    assert found.summary.n_features == int(np.flatnonzero(found.curve["chosen"])[0])
    taken = found.candidates["taken"] == 1
    assert sorted(found.candidates["feature"][taken]) == sorted(f for own in found.summary.features for f in own)
    assert found.of("as it is")["clean"] == 0.0
    assert found.of("as it is")["kl"] == pytest.approx(0.0, abs=1e-6)
    kinds = found.detectors["kind"].tolist()
    assert kinds.count("difference of models") == kinds.count("linear probe") == 2
    assert kinds.count("feature") == found.summary.n_features
    assert ((found.detectors["auc_all"] >= 0) & (found.detectors["auc_all"] <= 1)).all()
    # the numbers are of what the folder holds
    fresh = DOCUMENTS[10:20]
    plain = clean_loss(unsafe, fresh, block=FEW.block)[0].sum()
    with Graft.load(tmp_path / "graft").attach(unsafe):
        edited = clean_loss(unsafe, fresh, block=FEW.block)[0].sum()
    assert found.of("graft")["clean"] == pytest.approx(float(edited / plain - 1))
    assert "features of unsafe" in repr(found)
    with pytest.raises(UserError, match="was not measured"):
        found.of("nothing")
    page = report(tmp_path / "report.html", [tmp_path / "graft"]).read_text(encoding="utf-8")
    assert "A behaviour taken out" in page
    assert all(name in page for name in names)
    assert 'data-figure="graft-0"' in page


def test_a_stopped_run_ends_as_an_unbroken_one(pair, saved, tmp_path, monkeypatch):
    unsafe, safe = pair
    settings = replace(FEW, draws=0, ceiling=(), tuning_steps=0, n_features=2, screened=2)
    whole = graft(tmp_path / "whole", unsafe, saved, DOCUMENTS, TEXTS, settings, safe=safe)
    original, calls = outcome.Bench.outcome, []

    def stopping(self, name, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(name)
        return original(self, name, *args)

    monkeypatch.setattr(outcome.Bench, "outcome", stopping)
    with pytest.raises(KeyboardInterrupt):
        graft(tmp_path / "stopped", unsafe, saved, DOCUMENTS, TEXTS, settings, safe=safe)
    assert not (tmp_path / "stopped").exists()
    done, again = list(calls), []

    def counting(self, name, *args):
        again.append(name)
        return original(self, name, *args)

    monkeypatch.setattr(outcome.Bench, "outcome", counting)
    found = graft(tmp_path / "stopped", unsafe, saved, DOCUMENTS, TEXTS, settings, safe=safe, resume=True)
    assert done == ["as it is", "graft"]
    assert not set(done) & set(again)
    assert found.summary == whole.summary
    for name in ("outcomes", "curve", "candidates"):
        one, other = getattr(whole, name), getattr(found, name)
        for column in one.columns:
            assert np.array_equal(one[column.name], other[column.name], equal_nan=column.format != "text"), column.name
    assert not list((tmp_path / "stopped").glob("*notes*"))


@pytest.mark.parametrize("way", ["difference", "both", "bridge", "project"])
def test_every_way_is_made_and_does_what_it_says(pair, saved, tmp_path, way):
    unsafe, safe = pair
    settings = replace(FEW, way=way, draws=0, ceiling=(), tuning_steps=0, n_features=2, screened=3)
    width = unsafe.d_model
    bridge = AffineMap(0.5 * torch.eye(width), torch.zeros(width), torch.zeros(width))
    bridges = {"attn0.out": bridge, "mlp0.out": bridge}
    found = graft(tmp_path / way, unsafe, saved, DOCUMENTS, TEXTS, settings, safe=safe, bridges=bridges)
    for part in found.graft.parts:
        dictionary = Dictionary.load(saved[("attn0.out", "mlp0.out").index(part.hookpoint)])
        own, other = (dictionary.raw_decoder(m)[list(part.features)] for m in (1, 0))
        if way == "project":
            assert len(part.directions) == len(part.features)
            continue
        for i, write in enumerate(part.write):
            choices = {"difference": [own[i] - other[i]], "bridge": [own[i] - 0.5 * other[i]]}
            allowed = choices.get(way, [own[i], own[i] - other[i]])
            assert any(torch.allclose(write, one, atol=1e-6) for one in allowed)


def test_a_dictionary_of_another_model_is_refused_and_nothing_is_written(pair, saved, tmp_path):
    unsafe, safe = pair
    other = replace(unsafe, fingerprint="another organism", name="other")
    for lm, match in ((other, "not those of other"), (unsafe, "no space of")):
        wrong = replace(safe, fingerprint="?", name="wrong") if lm is unsafe else safe
        with pytest.raises(UserError, match=match):
            graft(tmp_path / "graft", lm, saved, DOCUMENTS, TEXTS, FEW, safe=wrong)
    with pytest.raises(UserError, match="second one at"):
        graft(tmp_path / "graft", unsafe, [saved[0], saved[0]], DOCUMENTS, TEXTS, FEW, safe=safe)
    with pytest.raises(UserError, match="nothing is given"):
        graft(tmp_path / "graft", unsafe, [], DOCUMENTS, TEXTS, FEW, safe=safe)
    with pytest.raises(UserError, match="too few"):
        graft(tmp_path / "graft", unsafe, saved, DOCUMENTS[:12], TEXTS, FEW, safe=safe)
    crosscoder([safe, unsafe], "attn0.out", sparsity="topk").save(tmp_path / "topk")
    with pytest.raises(UserError, match="suture refit"):
        graft(tmp_path / "graft", unsafe, [tmp_path / "topk"], DOCUMENTS, TEXTS, FEW, safe=safe)
    crosscoder([unsafe], "attn0.out", kind="sae").save(tmp_path / "sae")
    with pytest.raises(UserError, match="alone"):
        graft(
            tmp_path / "graft", unsafe, [tmp_path / "sae"], DOCUMENTS, TEXTS, replace(FEW, way="difference"), safe=safe
        )
    with pytest.raises(UserError, match="no second moments"):
        graft(tmp_path / "graft", unsafe, saved, DOCUMENTS, TEXTS, replace(FEW, way="bridge"), safe=safe)
    assert not list(tmp_path.glob("graft*"))


def test_a_model_swapped_for_itself_changes_nothing_and_the_safe_one_puts_its_own_in(pair):
    unsafe, safe = pair
    ids = torch.tensor([[1, 5, 9, 30, 7]])
    with pytest.raises(UserError, match="very model"), swapped(unsafe, unsafe, {"mlp0.out": "mlp0.out"})():
        pass
    with swapped(unsafe, own_copy(unsafe), {"mlp0.out": "mlp0.out"})():
        torch.testing.assert_close(logits(unsafe, ids), logits(own_copy(unsafe), ids))
    with swapped(unsafe, safe, {f"resid{unsafe.n_layers - 1}.post": f"resid{unsafe.n_layers - 1}.post"})():
        mixed = logits(unsafe, ids)
    assert (mixed - logits(unsafe, ids)).abs().max() > 1e-3
    prompts = ["Tom saw a", "The cat sat under the tree and"]
    with swapped(unsafe, safe, {"mlp0.out": "mlp0.out"})():
        cached = continuations(unsafe, prompts, max_new_tokens=6)
        assert cached == continuations(unsafe, prompts, max_new_tokens=6, use_cache=False)
        assert cached == [continuations(unsafe, [p], max_new_tokens=6)[0] for p in prompts]


def test_controls_are_what_they_say(pair):
    rate = torch.tensor([0.0, 0.10, 0.11, 0.5, 0.12, 0.13, 0.105, 0.49, 0.115])
    near = at_rate([1, 3], rate, 0)
    assert len(set(near) | {1, 3}) == 4
    assert all(float(rate[i]) > 0 for i in near)
    assert float(rate[near[0]]) < 0.2
    drawn = at_random(4, rate, [1, 3], 0)
    assert not {0, 1, 3} & set(drawn)
    assert len(set(drawn)) == 4
    shown, clean = torch.randn(50, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0]), torch.randn(50, 6)
    part = mean_difference("x", shown, clean)
    moved = part.edit()(shown[None])[0]
    assert float((moved.mean(0) - clean.mean(0)) @ part.directions[0]) == pytest.approx(0.0, abs=1e-4)
    unsafe, _ = pair
    before = {n: t.clone() for n, t in unsafe.model.state_dict().items()}
    tuned = fine_tuned(unsafe, DOCUMENTS, steps=12, block=40, seed=0)
    assert all(torch.equal(before[n], t) for n, t in unsafe.model.state_dict().items())
    loss = [float(clean_loss(lm, DOCUMENTS, block=40)[0].sum()) for lm in (unsafe, tuned)]
    assert loss[1] < loss[0]


def test_a_site_knows_whose_its_spaces_are(pair):
    unsafe, safe = pair
    dictionary = crosscoder([safe, unsafe], "attn0.out")
    (site,) = sites(unsafe, [dictionary], safe=safe, bridges={})
    assert (site.unsafe, site.safe, site.hookpoint, site.there) == (1, 0, "attn0.out", "attn0.out")
    own, other = dictionary.decoder_norms()[:, 1], dictionary.decoder_norms()[:, 0]
    torch.testing.assert_close(site.share, own / (own + other))
    (flipped,) = sites(safe, [dictionary], safe=unsafe, bridges={})
    assert (flipped.unsafe, flipped.safe) == (0, 1)


def test_a_schedule_is_kept_with_the_graft(pair, saved, tmp_path):
    unsafe, safe = pair
    schedule = Schedule(on_first=False)
    settings = replace(FEW, schedule=schedule, draws=0, ceiling=(), tuning_steps=0, n_features=1, screened=1)
    found = graft(tmp_path / "graft", unsafe, saved, DOCUMENTS, TEXTS, settings, safe=safe)
    assert found.graft.schedule == schedule
