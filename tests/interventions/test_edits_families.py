"""No edit is silently lost: each kind changes every family's logits, batched and single, with and without cache."""

from __future__ import annotations

import pytest
import torch

from lm.families import FAMILIES, WIDTH, tiny_family
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.interventions import edits
from suture.interventions.graft.part import projection, removal
from suture.lm.continuations import continuations, pads
from suture.lm.hookpoints import available
from suture.lm.hooks import edit as editing
from suture.lm.hooks import logits, record
from suture.lm.load import LanguageModel

HOOKPOINT = "resid0.post"
FEATURES = 12


def dictionary_at(width: int) -> Dictionary:
    """Two spaces of one width, features that fire on nearly anything."""
    spaces = [Space(model=name, hookpoint=HOOKPOINT, width=width, scale=s) for name, s in (("a", 1.0), ("b", 0.5))]
    made = Dictionary(spaces, Design(n_features=FEATURES, sparsity=Sparsity(kind="batchtopk", k=4)))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in ("W_enc", "W_dec"):
            made.get_parameter(name).copy_(torch.randn(FEATURES, 2 * width, generator=draw))
        made.b_enc.fill_(1.0)
    return made.requires_grad_(requires_grad=False)


def kinds(lm: LanguageModel, ids: torch.Tensor) -> dict[str, edits.Edit]:
    (activation,) = record(lm, ids, [HOOKPOINT])
    rows = activation.flatten(0, 1).float()
    width = rows.shape[1]
    made = dictionary_at(width)
    direction = torch.randn(width, generator=torch.Generator().manual_seed(1))
    amount = edits.norm_amount(direction, rows, 2.0)
    removed = removal(made, 1, range(4))
    return {
        "add": edits.steer(direction, amount),
        "clamp": edits.clamp(made, 1, 2, 5.0),
        "ablate": edits.ablate(made, 1, range(6)),
        "replace": edits.replace(made, 1, {0: 3.0, 5: 2.0}),
        "project out": edits.project_out(made.raw_decoder(1)[:3], rows.mean(0)),
        "difference": edits.difference(made, 1, 0, range(6)),
        "removal": removed.edit(),
        "projection": projection(removed, rows.mean(0)).edit(),
        "composed": edits.composed([edits.steer(direction, 0.1 * amount), removed.edit(0.5)]),
        "scheduled": edits.scheduled(removed.edit(), lambda: torch.ones(1, 1)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_changes_the_logits_of_every_family(family: str) -> None:
    lm = tiny_family(family)
    if HOOKPOINT not in available(lm.model):
        pytest.skip("no such hookpoint")
    ids = torch.arange(12).view(2, 6) * 7 % 250 + 3
    plain = logits(lm, ids)
    assert plain.shape[0] == 2
    assert lm.d_model == WIDTH
    for name, edit in kinds(lm, ids).items():
        with editing(lm, HOOKPOINT, edit):
            together = logits(lm, ids)
            single = torch.cat([logits(lm, row[None]) for row in ids])
        assert (together - plain).abs().amax(dim=(1, 2)).min() > 1e-4, name
        torch.testing.assert_close(together, single, atol=2e-3, rtol=1e-3, msg=name)
        with editing(lm, HOOKPOINT, edits.scaled(edit, 0.0)):
            assert torch.equal(logits(lm, ids), plain), name
        with editing(lm, HOOKPOINT, edits.scheduled(edit, lambda: torch.zeros(1, 1))):
            assert torch.equal(logits(lm, ids), plain), name


CONTINUED = ("gpt2", "gpt_neo", "gpt_neox", "llama", "gemma3_text", "qwen3", "opt", "bloom")


@pytest.mark.parametrize("family", CONTINUED)
def test_cached_batched_and_single_generation_agree_under_an_edit(family: str) -> None:
    lm = tiny_family(family)
    ids = torch.arange(12).view(2, 6) * 7 % 250 + 3
    prompts = ["Lily saw", "The cat sat on the mat. The", "Tim and Sue went"]
    plain = continuations(lm, prompts, max_new_tokens=6)
    for name, edit in kinds(lm, ids).items():
        with editing(lm, HOOKPOINT, edit):
            cached = continuations(lm, prompts, max_new_tokens=6)
            whole = continuations(lm, prompts, max_new_tokens=6, use_cache=False)
            single = [continuations(lm, [p], max_new_tokens=6)[0] for p in prompts]
        assert cached == whole == single, name
        if name in ("add", "clamp", "replace"):  # what takes little away need not change the likeliest token
            assert cached != plain, name


def test_a_model_whose_state_runs_over_padding_is_not_padded() -> None:
    assert not pads(tiny_family("mamba"))
    assert pads(tiny_family("llama"))
