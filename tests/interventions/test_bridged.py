"""Mapped activations in a model's place: a perfect map costs nothing, one that knows the mean what the mean costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions.conftest import SENTENCES, language_model
from suture.activations.moments import AffineMap
from suture.activations.space import Space
from suture.bridges.bridge import Bridge, BridgeSummary, bridge
from suture.bridges.columns import AXES, SCORES
from suture.bridges.settings import BridgeSettings
from suture.cli.app import run
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions.bridged import bridged_losses
from suture.interventions.paired import PairedText
from suture.interventions.settings import SpliceSettings
from suture.interventions.splice import mean_rows, spliced_losses
from suture.lm.create import LMShape
from suture.lm.load import LanguageModel
from suture.pipeline.table import Table

BLOCK = SpliceSettings(block=24)


def by_hand(spaces: tuple[Space, Space], **maps: tuple[AffineMap, AffineMap]) -> Bridge:
    values = {column.name: np.full((len(maps), 2), np.nan) for column in SCORES}
    coordinates = {"kind": list(maps), "way": ["A to B", "B to A"]}
    scores = Table(axes=AXES, columns=SCORES, values=values, coordinates=coordinates)
    told = tuple(space.to_json() for space in spaces)
    summary = BridgeSummary(spaces=told, n_fit=0, n_check=0, n_judge=0, n_documents=0, null=False)
    return Bridge(spaces=spaces, maps=maps, scores=scores, summary=summary)


def test_the_same_model_under_another_scale_is_crossed_for_nothing() -> None:
    """Two copies of one model: the map that undoes their scales is perfect, one that gives the mean knows nothing."""
    one, other = (language_model(LMShape(n_layers=2, width=32, n_heads=2, context=64), 3, name) for name in "ab")
    a, b = (Space(model=lm.name, hookpoint="resid0.post", width=32, scale=s) for lm, s in ((one, 1.5), (other, 0.5)))
    nothing, eye = torch.zeros(32), torch.eye(32)
    perfect = AffineMap(eye / 3, nothing, nothing), AffineMap(eye * 3, nothing, nothing)
    means = mean_rows(PairedText([a, b], [one, other], SENTENCES, block=24), lambda _: None)
    blind = (
        AffineMap(eye * 0, nothing, means[1] * b.scale),
        AffineMap(eye * 0, nothing, means[0] * a.scale),
    )
    found = bridged_losses(by_hand((a, b), ridge=perfect, anchors=blind), [one, other], SENTENCES, BLOCK)
    kinds = found.of_kinds
    for m in range(2):
        assert found.mapped["ridge"][m].ce == pytest.approx(found.clean[m].ce, abs=1e-5)
        assert found.mapped["anchors"][m].ce == pytest.approx(found.mean[m].ce, abs=1e-5)
        assert kinds["ridge"][m].clean == pytest.approx(kinds["ridge"][m].loss, abs=1e-5)
    gain = [found.mean[m].ce - found.clean[m].ce for m in range(2)]
    assert all(kinds["ridge"][way].recovered == pytest.approx(1, abs=0.01) for way in range(2) if gain[1 - way] > 1e-3)
    assert found.n_documents == len(SENTENCES)


def test_it_is_the_loss_of_splicing_the_same_rows(models: list[LanguageModel]) -> None:
    """A dictionary that adds a constant to nothing: the same rows in place of the second model's."""
    spaces = tuple(Space(model=lm.name, hookpoint="resid0.post", width=lm.d_model, scale=2.0) for lm in models)
    draw = torch.Generator().manual_seed(0)
    offsets = [torch.randn(space.width, generator=draw) for space in spaces]
    maps = (
        AffineMap(torch.zeros(spaces[0].width, spaces[1].width), torch.zeros(spaces[0].width), offsets[1]),
        AffineMap(torch.zeros(spaces[1].width, spaces[0].width), torch.zeros(spaces[1].width), offsets[0]),
    )
    found = bridged_losses(by_hand((spaces[0], spaces[1]), ridge=maps), models, SENTENCES, BLOCK).of_kinds["ridge"]
    constant = Dictionary(spaces, Design(n_features=1, sparsity=Sparsity(k=1)))
    constant.b_dec.data.copy_(torch.cat(offsets))
    constant.b_enc.data.fill_(-1)
    theirs = spliced_losses(constant, models, SENTENCES, BLOCK).models
    assert found[0].loss == pytest.approx(theirs[1].spliced.ce, abs=1e-5)
    assert found[1].loss == pytest.approx(theirs[0].spliced.ce, abs=1e-5)


def test_a_null_is_refused(models: list[LanguageModel]) -> None:
    spaces = tuple(Space(model=lm.name, hookpoint="resid0.post", width=lm.d_model) for lm in models)
    own = by_hand((spaces[0], spaces[1]))
    null = replace(own, summary=replace(own.summary, null=True))
    with pytest.raises(UserError, match="a model and a copy of it"):
        bridged_losses(null, models, SENTENCES, BLOCK)


def test_the_stage_keeps_the_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shipped models, a little of their own kind of text."""
    text = tmp_path / "stories.txt"
    stories = [f"Once upon a time, {SENTENCES[i % 4]} It was day {i}. {SENTENCES[(i + 1) % 4]}" for i in range(120)]
    text.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    store, out = str(tmp_path / "store"), str(tmp_path / "bridge")
    words = [word for m in ("1l", "2l") for word in ("--model", f"tinystories-{m}", "--at", "mlp0.out")]
    assert run(["collect", store, *words, "--corpus", str(text), "--tokens", "5000", "--device", "cpu"]) == 0
    words = ["bridge", "--store", store, "--out", out, "--kind", "ridge", "--heldout", "0.5", "--no-control"]
    assert run([*words, "--splice", "--documents", "4", "--device", "cpu"]) == 0
    assert "recovered" in capsys.readouterr().out
    found = Bridge.load(out)
    assert (np.abs(found.scores["loss"] / found.scores["loss_clean"] - 1) < 0.3).all()
    assert (found.scores["recovered"] > 0.3).all()
    plain = bridge(tmp_path / "plain", store, BridgeSettings(kinds=("ridge",), heldout=0.5, control=False))
    assert np.isnan(plain.scores["loss"]).all()
