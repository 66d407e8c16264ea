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
    return Unembedding(weight=weight if norm is None else _fold(weight, norm), texts=entry_texts(lm, len(weight)))


def _fold(weight: Float[Tensor, "vocab width"], norm: nn.Module) -> Float[Tensor, "vocab width"]:
    own = getattr(norm, "weight", None)
    if own is not None:
        factor = own.detach().float().cpu()
        weight = weight * (1 + factor if "Gemma" in type(norm).__name__ else factor)  # 1
    return weight - weight.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else weight  # 2


def entry_texts(lm: LanguageModel, n_entries: int) -> tuple[str, ...]:
    """Each vocabulary entry as it reads after a letter, so that a leading space shows."""
    tokenizer = lm.tokenizer
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = str(tokenizer.decode(anchor, clean_up_tokenization_spaces=False))
    n_known = min(len(tokenizer), n_entries)
    decoded = tokenizer.batch_decode([[*anchor, i] for i in range(n_known)], clean_up_tokenization_spaces=False)
    spelled = tokenizer.convert_ids_to_tokens(list(range(n_known)))
    special = set(tokenizer.all_special_ids)
    texts = [
        text[len(before) :] if i not in special and text.startswith(before) and "\ufffd" not in text else str(own)
        for i, (text, own) in enumerate(zip(decoded, spelled, strict=True))
    ]
    return tuple(texts + [f"<{i}>" for i in range(n_known, n_entries)])
