"""A language model's last step as one matrix: from a direction in its last residual stream to logits.

1. The final norm's weights are folded into the unembedding (Gemma's norms multiply by 1 + weight).
2. A LayerNorm takes the mean over the stream off first; that is a projection, folded in too.
3. Its division by the stream's size, and any soft cap on logits, are left out: they change no order among tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from suture.lm.load import LanguageModel
from suture.lm.vocabulary import displayed, token_texts

FINAL_NORMS = ("ln_f", "final_layer_norm", "norm")
"""What the families call the norm before the unembedding (GPT-2 and GPT-Neo, GPT-NeoX, Llama and its kin)."""


@dataclass(frozen=True, kw_only=True)
class Unembedding:
    """From the last residual stream to logits, and the vocabulary's texts."""

    weight: Float[Tensor, "vocab width"]
    """Float32, on the CPU, the final norm folded in."""
    texts: tuple[str, ...]
    """What each entry looks like; special tokens and parts of characters by the tokenizer's own spelling."""


def unembedding(lm: LanguageModel) -> Unembedding:
    """The model's unembedding with its final norm folded in; without a known final norm, as it is."""
    head = lm.model.get_output_embeddings()
    assert head is not None, "a causal language model has an output embedding"
    weight = head.weight.detach().float().cpu()
    norm = next(
        (found for name in FINAL_NORMS if (found := getattr(lm.model.base_model, name, None)) is not None), None
    )
    texts = token_texts(lm)
    return Unembedding(
        weight=weight if norm is None else _fold(weight, norm),
        texts=tuple(displayed(lm, texts, i) for i in range(len(texts))),
    )


def _fold(weight: Float[Tensor, "vocab width"], norm: nn.Module) -> Float[Tensor, "vocab width"]:
    own = getattr(norm, "weight", None)
    if own is not None:
        factor = own.detach().float().cpu()
        weight = weight * (1 + factor if "Gemma" in type(norm).__name__ else factor)  # 1
    return weight - weight.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else weight  # 2
