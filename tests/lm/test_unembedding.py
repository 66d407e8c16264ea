"""The derivative of a model's last step against difference quotients of that step, for every family."""

import pytest
import torch
from torch import Tensor

from lm.families import FAMILIES, VOCABULARY, WIDTH, tiny_family
from suture.errors import UserError
from suture.lm import unembedding as lm_unembedding
from suture.lm.load import LanguageModel
from suture.lm.unembedding import last_stream, mean_derivative, unembedding

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself
TEXTS = ("Once upon a time, there was a little dog.", "The cat sat on the mat, and Lily saw a ball.")


def last_block(lm: LanguageModel) -> torch.nn.Module:
    """By a way of its own: the last of the first list that has as many modules as there are layers."""
    lists = [m for m in lm.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == lm.n_layers]
    return lists[0][-1]


def quotient(lm: LanguageModel, text: str, position: int, direction: Tensor, step: float = 1e-2) -> Tensor:
    """d(logits) by a difference quotient of whole passes over a text, the last block's output moved at one position."""
    ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(text, add_special_tokens=False)]])

    def passed(amount: float) -> Tensor:
        def moved(_module: object, _args: object, output: object) -> object:
            if not isinstance(output, Tensor):
                return type(output)([moved(_module, _args, output[0]), *output[1:]])  # pyright: ignore
            stream = output.clone()
            stream[0, position] += amount * direction
            return stream

        handle = last_block(lm).register_forward_hook(moved)
        try:
            return lm.model(ids, use_cache=False).logits[0, position].detach()
        finally:
            handle.remove()

    return (passed(step) - passed(-step)) / (2 * step)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_difference_quotient_of_the_last_step(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_unembedding, "POINTS", 2)
    lm = tiny_family(family)
    found = mean_derivative(lm, last_stream(lm, TEXTS)).whole()
    assert found.shape == (VOCABULARY, WIDTH)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(WIDTH, generator=generator)
    ends = [len(lm.tokenizer.encode(text, add_special_tokens=False)) for text in TEXTS]
    expected = torch.stack([quotient(lm, t, n, direction) for t, n in zip(TEXTS, ends, strict=True)]).mean(0)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(found @ direction, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))


def test_what_no_plain_head_explains_is_derived_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft cap leaves no common factor between the head's product and the whole; a scaling does."""
    stops: list[bool] = []
    derivative = lm_unembedding._derivative

    def counted(*args: object, stop_at: object, **rest: object) -> object:
        stops.append(stop_at is None and args[2].shape[0] == WIDTH)  # pyright: ignore
        return derivative(*args, stop_at=stop_at, **rest)  # pyright: ignore

    monkeypatch.setattr(lm_unembedding, "_derivative", counted)
    for family, capped in (("gemma2", True), ("cohere", False), ("granite", False), ("opt", False)):
        stops.clear()
        lm = tiny_family(family)
        mean_derivative(lm, last_stream(lm, TEXTS))
        assert any(stops) is capped, family


def test_entries_show_their_spaces_and_lone_bytes_and_none_lies_beyond_the_tokenizer() -> None:
    lm = tiny_family("llama")
    out = unembedding(lm, TEXTS)
    assert out.derivative.whole().shape == (VOCABULARY, WIDTH)
    assert len(out.texts) == VOCABULARY
    assert out.ids.tolist() == list(range(len(lm.tokenizer)))
    assert len(lm.tokenizer) < VOCABULARY
    ids = lm.tokenizer.encode(" the cat", add_special_tokens=False)
    assert "".join(out.texts[i] for i in ids) == " the cat"
    assert out.texts[lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")] == "<|endoftext|>"
    first, *_, last = lm.tokenizer.encode("é", add_special_tokens=False)
    assert (out.texts[first], out.texts[last]) == ("<0xC3>", "<0xA9>")


def test_points_are_spread_over_the_documents() -> None:
    lm = tiny_family("gpt2")
    points = last_stream(lm, TEXTS)
    assert points.shape == (lm_unembedding.POINTS, WIDTH)
    assert len(points.unique(dim=0)) == len(points)
    with pytest.raises(UserError, match="hold no token"):
        last_stream(lm, [""])
