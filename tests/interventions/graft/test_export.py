"""Outside of suture: the hook file and the folded weights give what the attached graft gives."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from lm.tiny import save_tiny
from modules import module_of
from suture.errors import ArtifactError, UserError
from suture.interventions.graft.export import export_hook, fold_into
from suture.interventions.graft.graft import Graft
from suture.interventions.graft.part import projection
from suture.interventions.graft.settings import Schedule
from suture.lm.fold import _linear_write
from suture.lm.hooks import logits
from suture.lm.load import LanguageModel, load_model

from .test_graft import graft_for, removal_at

IDS = torch.tensor([[1, 5, 9, 30, 7, 2]])


@pytest.fixture
def tiny(tmp_path_factory):
    """tiny(family) -> that model, the same one at every call of a test."""

    def load(family: str) -> LanguageModel:
        return load_model(str(save_tiny(tmp_path_factory.mktemp(family) / "lm", family)), device="cpu")

    return cache(load)


def projections(lm, mean: float) -> Graft:
    parts = tuple(
        projection(removal_at(place, lm.d_model, seed), torch.full((lm.d_model,), mean))
        for seed, place in enumerate(("attn0.out", "mlp1.out"))
    )
    return Graft(model=lm.name, fingerprint=lm.fingerprint, parts=parts)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "gemma3"])
def test_the_hook_file_gives_what_the_graft_gives(tiny, tmp_path, family):
    lm = tiny(family)
    made = graft_for(lm)
    file = export_hook(made, lm, tmp_path / "graft_hook.py")
    with made.attach(lm):
        wanted = logits(lm, IDS)
    plain = logits(lm, IDS)
    module = module_of(file)
    handles = module.attach(lm.model)
    torch.testing.assert_close(logits(lm, IDS), wanted, atol=1e-5, rtol=1e-5)
    module.detach(handles)
    assert torch.equal(logits(lm, IDS), plain)
    assert (wanted - plain).abs().max() > 1e-3


def test_the_hook_file_draws_outlier_rows_in(tiny, tmp_path):
    lm = tiny("gpt2")

    def within(radius: float) -> Graft:
        part = removal_at("mlp0.out", lm.d_model, radius=radius)
        return Graft(model=lm.name, fingerprint=lm.fingerprint, parts=(part,))

    results = []
    for number, radius in enumerate((torch.inf, 2.0)):
        file = export_hook(within(radius), lm, tmp_path / f"hook{number}.py")
        with within(radius).attach(lm):
            wanted = logits(lm, IDS)
        module = module_of(file)
        handles = module.attach(lm.model)
        torch.testing.assert_close(logits(lm, IDS), wanted, atol=1e-5, rtol=1e-5)
        module.detach(handles)
        results.append(wanted)
    assert (results[0] - results[1]).abs().max() > 1e-3  # some rows lie beyond 2


def test_the_hook_file_needs_torch_and_safetensors_alone(tiny, tmp_path):
    file = export_hook(graft_for(tiny("gpt2")), tiny("gpt2"), tmp_path / "graft_hook.py")
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"json", "pathlib", "torch", "safetensors"}
    code = "import sys; sys.path.insert(0, '.'); import graft_hook; assert 'suture' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize(("family", "mean"), [("gpt2", 0.5), ("gpt_neo", 0.5), ("llama", 0.0), ("gpt_neox", 0.5)])
def test_folded_weights_give_what_the_projections_give(tmp_path, family, mean):
    lm = load_model(str(save_tiny(tmp_path / "lm", family)), device="cpu")
    place = "attn0.out" if family != "gpt_neo" else "mlp0.out"
    part = projection(removal_at(place, lm.d_model), torch.full((lm.d_model,), mean))
    if family == "gpt_neo":  # its attention writes with a bias too, both are folded
        other = projection(removal_at("attn1.out", lm.d_model, 2), torch.full((lm.d_model,), mean))
        parts = (part, other)
    else:
        parts = (part,)
    made = Graft(model=lm.name, fingerprint=lm.fingerprint, parts=parts)
    with made.attach(lm):
        wanted = logits(lm, IDS)
    plain = logits(lm, IDS)
    fold_into(made, lm, tmp_path / "folded")
    found = load_model(str(tmp_path / "folded"), device="cpu")
    torch.testing.assert_close(logits(found, IDS), wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - plain).abs().max() > 1e-2
    assert torch.equal(logits(lm, IDS), plain), "the model given stays as it is"
    with pytest.raises(ArtifactError, match="overwrite"):
        fold_into(made, lm, tmp_path / "folded")


def test_what_weights_cannot_hold_is_refused_and_nothing_is_written(tiny, tmp_path):
    lm = tiny("llama")
    with pytest.raises(UserError, match="thresholds"):
        fold_into(graft_for(lm), lm, tmp_path / "out")
    with pytest.raises(UserError, match="without a bias"):
        fold_into(projections(lm, 0.5), lm, tmp_path / "out")
    stream = projection(removal_at("resid0.post", lm.d_model), torch.zeros(lm.d_model))
    made = Graft(model=lm.name, fingerprint=lm.fingerprint, parts=(stream,))
    with pytest.raises(UserError, match="not what one matrix writes"):
        fold_into(made, lm, tmp_path / "out")
    with pytest.raises(UserError, match="some tokens only"):
        fold_into(Graft(**{**vars(made), "schedule": Schedule(on_first=False)}), lm, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_linear_write_is_the_last_matrix_and_not_one_beside_it(tiny):
    assert isinstance(_linear_write(tiny("llama"), "mlp0.out"), nn.Linear)
    assert _linear_write(tiny("llama"), "mlp0.out") is tiny("llama").model.model.layers[0].mlp.down_proj
    assert _linear_write(tiny("gpt2"), "attn1.out") is tiny("gpt2").model.transformer.h[1].attn.c_proj
    with pytest.raises(UserError, match="one matrix"):
        _linear_write(tiny("llama"), "mlp0.in")


@pytest.mark.parametrize(
    ("name", "said"), [("graft-hook.py", "no name"), ("hook.txt", "no name"), ("no/where.py", "no folder")]
)
def test_a_hook_file_that_could_not_be_imported_is_refused(tiny, tmp_path, name, said):
    lm = tiny("gpt2")
    with pytest.raises(UserError, match=said):
        export_hook(graft_for(lm), lm, tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="some tokens"):
        export_hook(graft_for(lm, Schedule(on_prompt=False)), lm, tmp_path / "hook.py")


def test_a_hook_file_is_not_overwritten_unasked(tiny, tmp_path: Path):
    lm = tiny("gpt2")
    file = export_hook(graft_for(lm), lm, tmp_path / "hook.py")
    with pytest.raises(UserError, match="exists already"):
        export_hook(graft_for(lm), lm, file)
    export_hook(graft_for(lm), lm, file, overwrite=True)
