"""The folded unembedding against the model's own final norm and head, for every family."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lm.tiny import FAMILIES, WIDTH
from suture.lm.load import LanguageModel, load_model
from suture.lm.unembedding import FINAL_NORMS, unembedding


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_final_norm_and_the_head_up_to_the_streams_size(
    family: str, tiny_folder: Callable[..., Path]
) -> None:
    lm = load_model(str(tiny_folder(family)), device="cpu")
    norm = next(getattr(lm.model.base_model, n) for n in FINAL_NORMS if hasattr(lm.model.base_model, n))
    head = lm.model.get_output_embeddings()
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.data.add_(0.5 * torch.randn(WIDTH, generator=generator))  # away from ones and zeros
    stream = torch.randn(7, WIDTH, generator=generator) + 1
    bias = norm.bias if getattr(norm, "bias", None) is not None else torch.zeros(WIDTH)
    with torch.no_grad():
        expected = head(norm(stream) - bias)
    found = stream @ unembedding(lm).weight.T
    size = (found * expected).sum(-1, keepdim=True) / (expected**2).sum(-1, keepdim=True)
    assert bool((size > 0).all())
    assert torch.allclose(found, size * expected, rtol=1e-4, atol=1e-5 * float(found.abs().max()))


def test_a_model_without_a_known_final_norm_is_taken_as_it_is(tiny_folder: Callable[..., Path]) -> None:
    lm = load_model(str(tiny_folder("gpt2")), device="cpu")
    lm.model.base_model.final = lm.model.base_model.ln_f
    del lm.model.base_model.ln_f
    assert torch.equal(unembedding(lm).weight, lm.model.get_output_embeddings().weight.detach())


def test_entries_show_their_spaces(tiny: Callable[..., LanguageModel]) -> None:
    lm = tiny("gpt2")
    out = unembedding(lm)
    assert len(out.texts) == out.weight.shape[0] == lm.model.get_output_embeddings().weight.shape[0]
    ids = lm.tokenizer.encode(" the cat", add_special_tokens=False)
    assert "".join(out.texts[i] for i in ids) == " the cat"
    assert out.texts[lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")] == "<|endoftext|>"
