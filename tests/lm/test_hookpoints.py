"""Hookpoint names mean the same place in every family, judged by transformers' own hidden states and submodules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lm.tiny import FAMILIES, N_LAYERS, WIDTH
from suture.errors import UserError
from suture.lm.hookpoints import BLOCK_SITES, Hookpoint, available, parse, resolve, width_of
from suture.lm.hooks import record
from suture.lm.load import LanguageModel

Tiny = Callable[..., LanguageModel]
IDS = torch.tensor([[0, 17, 5, 250, 33, 8, 90], [0, 4, 4, 61, 12, 7, 1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_stream_is_hidden_states(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    states = lm.model(IDS, output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == N_LAYERS + 1
    pre = record(lm, IDS, [f"resid{n}.pre" for n in range(N_LAYERS)])
    post = record(lm, IDS, [f"resid{n}.post" for n in range(N_LAYERS)])
    for n in range(N_LAYERS):
        assert torch.equal(pre[n], states[n])
    for n in range(N_LAYERS - 1):
        assert torch.equal(post[n], states[n + 1])
    # The last hidden state went through the final norm; what comes before it is another vector.
    assert not torch.allclose(post[-1], states[-1], atol=1e-3)
    norm = next(m for name, m in lm.model.base_model.named_children() if name in {"ln_f", "final_layer_norm", "norm"})
    torch.testing.assert_close(norm(post[-1]), states[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_sums_of_their_named_parts(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    block = lm.model.base_model.get_submodule("h" if family in {"gpt2", "gpt_neo"} else "layers")[1]  # pyright: ignore[reportIndexIssue]
    pre, attention, mlp, post = record(lm, IDS, ["resid1.pre", "attn1.out", "mlp1.out", "resid1.post"])
    if family in {"gemma2", "gemma3"}:  # they normalise both before adding
        attention, mlp = block.post_attention_layernorm(attention), block.post_feedforward_layernorm(mlp)
    torch.testing.assert_close(pre + attention + mlp, post)


@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_maps_its_in_to_its_out(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    before, after = record(lm, IDS, ["mlp2.in", "mlp2.out"])
    torch.testing.assert_close(resolve(lm.model, "mlp2.out").module(before), after)


def test_embedding_is_the_token_table(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    table = lm.model.get_input_embeddings().weight
    assert torch.equal(record(lm, IDS, ["embed.out"])[0], table[IDS])  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_listed_is_there(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    names = available(lm.model)
    assert len(names) == len(set(names)) == 1 + N_LAYERS * len(BLOCK_SITES)
    recorded = record(lm, IDS, names)
    assert all(a.shape == (*IDS.shape, WIDTH) for a in recorded)
    assert all(width_of(lm, name) == WIDTH for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_module_path_means_its_output(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    path = resolve(lm.model, "mlp1.out").module_path
    by_path, by_name = record(lm, IDS, [path, "mlp1.out"])
    assert torch.equal(by_path, by_name)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_module_path_with_input_behind_it_means_what_goes_in(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    heads, attention = record(lm, IDS, ["model.layers.1.self_attn.o_proj.input", "attn1.out"])
    torch.testing.assert_close(lm.model.get_submodule("model.layers.1.self_attn.o_proj")(heads), attention)
    block, before = record(lm, IDS, ["model.layers.1.input", "resid1.pre"])
    assert torch.equal(block, before)
    with pytest.raises(UserError, match="no such place"):
        resolve(lm.model, "model.layers.1.nothing.input")


def test_widths_inside_an_mlp_are_its_own(tiny: Tiny) -> None:
    assert width_of(tiny("llama"), "model.layers.0.mlp.up_proj") == 32
    assert width_of(tiny("gpt2"), "transformer.h.1.attn.c_attn") == 3 * WIDTH


@pytest.mark.parametrize("name", ["embed.out", "resid3.pre", "resid12.post", "attn2.out", "mlp0.in"])
def test_parsing_and_naming_are_inverse(name: str) -> None:
    point = parse(name)
    assert point is not None
    assert point.name == name


@pytest.mark.parametrize("name", ["", "mlp", "mlp.out", "mlp0.pre", "resid0.out", "residx.pre", "transformer.h.0.mlp"])
def test_other_names_are_no_short_names(name: str) -> None:
    assert parse(name) is None


@pytest.mark.parametrize("name", ["", "mlp9.out", "mlp0.pre", "resid3.post", "transformer.h.9.mlp", "head.out"])
def test_unknown_places_are_refused_with_what_there_is(tiny: Tiny, name: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(tiny("gpt2").model, name)
    message = str(caught.value)
    assert "embed.out" in message
    assert "mlp{0..2}.out" in message
    assert "\n" not in message


def test_a_mistyped_path_gets_the_nearest_ones(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"transformer\.h\.1\.mlp"):
        resolve(tiny("gpt2").model, "transformer.h.1.mpl")


def test_an_unknown_architecture_still_takes_module_paths() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert available(model) == []
    assert resolve(model, "0").module is model[0]
    with pytest.raises(UserError, match="module path"):
        resolve(model, "mlp0.out")


def test_what_is_no_activation_is_refused(tiny: Tiny) -> None:
    lm = tiny("llama")
    with pytest.raises(UserError, match="not an activation"):
        width_of(tiny("qwen3"), "model.layers.0.self_attn.q_norm")  # one vector per head
    with pytest.raises(UserError, match="does not run"):
        width_of(lm, "model.layers")


def test_hookpoint_equality_is_by_value() -> None:
    assert Hookpoint(1, "mlp.out") == parse("mlp1.out")


def test_containers_keep_their_type(tiny: Tiny) -> None:
    lm = tiny("gpt_neo")  # blocks and attention return tuples, the body a ModelOutput
    ids = IDS[:1]
    plain = lm.model(ids, use_cache=False).logits
    seen: list[tuple[int, ...]] = []

    def doubled(activation: Tensor) -> Tensor:
        seen.append(tuple(activation.shape))
        return activation * 2.0

    for name in ("transformer.h.2", "attn2.out", "transformer", "mlp2.out"):
        handle = resolve(lm.model, name).attach(doubled)
        changed = lm.model(ids, use_cache=False).logits
        handle.remove()
        assert changed.shape == plain.shape
        assert not torch.equal(changed, plain)
    assert seen == [(1, IDS.shape[1], WIDTH)] * 4
    assert torch.equal(lm.model(ids, use_cache=False).logits, plain)


def test_an_activation_of_other_axes_is_refused(tiny: Tiny) -> None:
    lm = tiny("llama")  # its rotary embedding gives [1, token, width], whatever the batch
    with pytest.raises(UserError, match=r"gives shape \(1, 3, 8\) for tokens \(2, 3\)"):
        width_of(lm, "model.rotary_emb")
    with pytest.raises(UserError, match=r"gives shape \(1, 7, 8\) for tokens \(2, 7\)"):
        record(lm, IDS, ["model.rotary_emb"])
