"""Recording looks without touching and stops early; editing replaces, nests, survives the KV cache and always ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lm.tiny import FAMILIES, N_LAYERS, STATEFUL, WIDTH
from suture.errors import UserError
from suture.lm.generate import cache_argument, generate, samples
from suture.lm.hookpoints import BLOCK_SITES, available, resolve
from suture.lm.hooks import edit, logits, record
from suture.lm.load import LanguageModel

Tiny = Callable[..., LanguageModel]
IDS = torch.tensor([[0, 17, 5, 250, 33, 8, 90], [0, 4, 4, 61, 12, 7, 1]])


def hook_count(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("hookpoint", "deepest"), [("mlp0.out", 0), ("resid1.post", 1), ("resid1.pre", 0), ("embed.out", -1)]
)
def test_recording_stops_at_the_deepest_hookpoint(tiny: Tiny, family: str, hookpoint: str, deepest: int) -> None:
    lm = tiny(family)
    ran: list[int] = []
    # Counted at a block's attention, the first thing a block runs.
    counters = [
        resolve(lm.model, f"attn{n}.in").attach(lambda _a, n=n: ran.append(n))  # pyright: ignore[reportArgumentType]
        for n in range(N_LAYERS)
    ]
    head = lm.model.get_output_embeddings()
    assert head is not None
    counters.append(head.register_forward_hook(lambda *_: ran.append(99)))
    try:
        record(lm, IDS, [hookpoint, "embed.out"])
    finally:
        for counter in counters:
            counter.remove()
    assert ran == list(range(deepest + 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_many_hookpoints_in_one_pass_equal_one_at_a_time(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    names = available(lm.model)[::-1]  # not in the order of the pass
    together = record(lm, IDS, names)
    for name, activation in zip(names, together, strict=True):
        assert torch.equal(record(lm, IDS, [name])[0], activation)


def test_the_same_hookpoint_twice_and_none_at_all(tiny: Tiny) -> None:
    first, second = record(tiny("gpt2"), IDS, ["mlp0.out", "mlp0.out"])
    assert torch.equal(first, second)
    assert record(tiny("gpt2"), IDS, []) == []


def test_right_padding_changes_nothing_before_it(tiny: Tiny) -> None:
    for family in ("gpt2", "gpt_neo", "llama", "gemma3"):
        lm = tiny(family)
        padded = torch.cat([IDS, torch.zeros(2, 5, dtype=torch.long)], dim=1)
        short, long = record(lm, IDS, ["resid2.post"])[0], record(lm, padded, ["resid2.post"])[0]
        torch.testing.assert_close(long[:, : IDS.shape[1]], short, rtol=1e-5, atol=1e-5)


def test_recording_leaves_no_trace(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    before, hooks = logits(lm, IDS), hook_count(lm)
    activation = record(lm, IDS, ["mlp1.out"])[0]
    assert not activation.requires_grad
    with pytest.raises(UserError):
        record(lm, IDS, ["mlp1.out", "transformer.h"])  # a list of modules never runs itself
    with pytest.raises(UserError):
        record(lm, IDS, ["mlp7.out"])
    assert hook_count(lm) == hooks
    assert torch.equal(logits(lm, IDS), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["embed.out", *(s.replace(".", "1.") for s in BLOCK_SITES)])
def test_an_edit_replaces_and_then_ends(tiny: Tiny, family: str, site: str) -> None:
    lm = tiny(family)
    plain = logits(lm, IDS)
    with edit(lm, site, lambda a: a):
        assert torch.equal(logits(lm, IDS), plain)
    marker = torch.linspace(-1.0, 1.0, WIDTH)
    with edit(lm, site, lambda a: marker.expand_as(a)):
        assert torch.equal(record(lm, IDS, [site])[0], marker.expand(*IDS.shape, WIDTH))
        assert not torch.allclose(logits(lm, IDS), plain)
    assert torch.equal(logits(lm, IDS), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_replacing_the_stream_by_another_texts_gives_its_logits(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    source, target = IDS[:1], IDS[1:]
    stream = record(lm, source, ["resid1.post"])[0]
    with edit(lm, "resid1.post", lambda _a: stream):
        torch.testing.assert_close(logits(lm, target), logits(lm, source))


def test_edits_nest_in_order(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    plain = record(lm, IDS, ["mlp0.out"])[0]
    with edit(lm, "mlp0.out", lambda a: a + 1.0):
        with edit(lm, "mlp0.out", lambda a: a * 3.0):
            assert torch.equal(record(lm, IDS, ["mlp0.out"])[0], (plain + 1.0) * 3.0)
        assert torch.equal(record(lm, IDS, ["mlp0.out"])[0], plain + 1.0)
    assert torch.equal(record(lm, IDS, ["mlp0.out"])[0], plain)


def test_an_edit_ends_when_the_block_fails(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    hooks = hook_count(lm)
    with pytest.raises(ZeroDivisionError), edit(lm, "mlp0.out", lambda a: a):
        raise ZeroDivisionError
    assert hook_count(lm) == hooks


def test_an_edit_of_another_shape_is_refused(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    with pytest.raises(UserError, match="shape"), edit(lm, "mlp0.out", lambda a: a[..., :-1]):
        logits(lm, IDS)


def test_an_edit_where_nothing_runs_is_not_silently_lost(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    hooks = hook_count(lm)
    lm.model.transformer.idle = torch.nn.Linear(WIDTH, WIDTH)
    try:
        with pytest.raises(UserError, match="does not run"), edit(lm, "transformer.idle", lambda a: a + 1.0):
            logits(lm, IDS)
        with edit(lm, "transformer.idle", lambda a: a + 1.0):
            record(lm, IDS, ["mlp0.out"])  # a pass that was stopped says nothing
    finally:
        del lm.model.transformer.idle
    assert hook_count(lm) == hooks


def test_an_edit_keeps_the_models_dtype(tiny_folder: Callable[..., object]) -> None:
    from suture.lm.load import load_model

    lm = load_model(str(tiny_folder("gpt2")), dtype="bfloat16", device="cpu")
    with edit(lm, "mlp0.out", lambda a: a.double()):
        assert record(lm, IDS, ["resid0.post"])[0].dtype == torch.bfloat16
    assert logits(lm, IDS).dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_cache_equals_generation_without_under_an_edit(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    push = 3.0 * torch.sin(torch.arange(WIDTH, dtype=torch.float32))
    lengths: list[int] = []

    def steer(activation: Tensor) -> Tensor:
        lengths.append(activation.shape[1])
        return activation + push

    ids = IDS[:1].repeat(1, 3)  # longer than GPT-Neo's and Gemma's local windows
    plain = logits(lm, ids)
    argument = cache_argument(lm.model)
    assert argument is not None
    with edit(lm, "mlp1.out", steer), torch.no_grad():
        whole, cache = logits(lm, ids), None
        for n in range(ids.shape[1]):
            step = lm.model(ids[:, n : n + 1], use_cache=True, **{argument: cache})
            cache = step[argument]
            torch.testing.assert_close(step.logits[:, 0], whole[:, n], rtol=1e-4, atol=1e-4)
        lengths.clear()
        cached = generate(lm, "The cat", max_new_tokens=20)
        assert lengths[1:] == [1] * (len(lengths) - 1)  # the edit meets every new token alone
        assert cached == generate(lm, "The cat", max_new_tokens=20, use_cache=False)
    assert (whole - plain).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES + STATEFUL)
@pytest.mark.parametrize("prompt", ["The cat", "Once upon a time, there was a little dog named Max."])
def test_text_is_the_same_with_and_without_a_cache(tiny: Tiny, family: str, prompt: str) -> None:
    lm = tiny(family)
    text = generate(lm, prompt, max_new_tokens=24)
    assert text == generate(lm, prompt, max_new_tokens=24, use_cache=False)
    # A greedy tiny model may repeat itself, where a wrong cache would not show.
    drawn = samples(lm, prompt, n_samples=2, max_new_tokens=24, seed=3)
    assert drawn[0] != drawn[1]
    assert drawn == samples(lm, prompt, n_samples=2, max_new_tokens=24, seed=3, use_cache=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_models_own_cache_argument_is_used_and_no_other(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    handed: list[dict[str, object]] = []
    lm.model.register_forward_pre_hook(lambda _m, _a, given: handed.append(dict(given)), with_kwargs=True)
    generate(lm, "The cat", max_new_tokens=4)
    argument = cache_argument(lm.model)
    assert {given.pop("logits_to_keep", 1) for given in handed} == {1}, "no logits but those of the next token"
    first, *later = [set(given) for given in handed]
    assert first == {"use_cache"}
    assert later == [{"use_cache", argument, "position_ids"}] * 3


def test_a_model_that_keeps_no_cache_reads_its_sequence_anew(tiny: Tiny) -> None:
    lm = tiny("openai-gpt")
    lengths: list[int] = []
    lm.model.register_forward_pre_hook(lambda _m, given: lengths.append(given[0].shape[1]))
    generate(lm, "The cat", max_new_tokens=4)
    assert lengths == [lengths[0] + n for n in range(4)]


def test_a_cache_argument_that_comes_back_empty_is_none(tiny: Tiny) -> None:
    lm = tiny("llama")
    argument = cache_argument(lm.model)
    lengths: list[int] = []

    def without(_module: object, given: tuple[Tensor, ...], output: dict[str, object]) -> dict[str, object]:
        lengths.append(given[0].shape[1])
        return type(output)({name: value for name, value in output.items() if name != argument})

    expected = generate(lm, "The cat", max_new_tokens=4)
    lm.model.register_forward_hook(without)
    assert generate(lm, "The cat", max_new_tokens=4) == expected
    assert lengths == [lengths[0] + n for n in range(4)]


def test_greedy_generation_is_transformers_own(tiny: Tiny) -> None:
    lm = tiny("llama")
    assert lm.bos is not None
    prompt = torch.tensor([[lm.bos, *lm.tokenizer.encode("The cat", add_special_tokens=False)]])
    reference = lm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=15, do_sample=False, pad_token_id=0
    )
    expected = lm.tokenizer.decode(reference[0], skip_special_tokens=True)
    assert generate(lm, "The cat", max_new_tokens=15) == expected


def test_sampling_follows_its_seed(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    first = samples(lm, "The", n_samples=4, max_new_tokens=10, seed=1)
    state = torch.get_rng_state()
    assert samples(lm, "The", n_samples=4, max_new_tokens=10, seed=1) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert samples(lm, "The", n_samples=4, max_new_tokens=10, seed=2) != first
    assert len(set(first)) > 1
    assert set(samples(lm, "The", n_samples=3, max_new_tokens=10, top_k=1)) == {generate(lm, "The", max_new_tokens=10)}


def test_generation_stops_at_eos_and_at_the_context(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    head = lm.model.get_output_embeddings()
    assert head is not None

    def only(token: int) -> Callable[..., Tensor]:
        return lambda _m, _a, out: (
            torch.nn.functional.one_hot(torch.tensor(token), out.shape[-1]).expand_as(out).float()
        )

    with head.register_forward_hook(only(0)):  # end of text
        assert generate(lm, "The cat", max_new_tokens=10) == "The cat"
    letter = lm.tokenizer.convert_tokens_to_ids("a")
    assert isinstance(letter, int)
    with head.register_forward_hook(only(letter)):
        text = generate(lm, "", max_new_tokens=1000)
    assert text == "a" * (lm.context - 1)


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}]
)
def test_wrong_generation_settings_are_refused(tiny: Tiny, options: dict) -> None:
    with pytest.raises(UserError):
        samples(tiny("gpt2"), "The", n_samples=1, **({"max_new_tokens": 3} | options))
    with pytest.raises(UserError, match="context"):
        generate(tiny("gpt2"), "The cat sat. " * 50, max_new_tokens=3)
