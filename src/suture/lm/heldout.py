"""Score a language model on documents it was not trained on: nats per token and per byte, each document by itself.

1. A document becomes `[BOS] + its tokens`.
2. One that is longer than the model's context is cut into windows that overlap by half.
3. Every text token is scored once, given at least half a context (or all) of what stands before it.
4. The sum is divided by the tokens, and by the UTF-8 bytes of the text, so that tokenizers compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from suture.errors import UserError

IGNORED = -100
"""A target that does not count, as in torch's cross_entropy."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The loss on documents that were not trained on: text tokens only, each seen from its document's BOS on."""

    nats_per_token: float
    nats_per_byte: float
    n_tokens: int
    n_bytes: int


def encode_documents(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[Int[Tensor, "_"]]:
    """Token ids of each non-empty document, from its BOS; closed by EOS only where EOS is not the next one's BOS.

    Raises:
        UserError: the tokenizer has neither BOS nor EOS, or there is no document.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise UserError("tokenizer", tokenizer.name_or_path, "has neither BOS nor EOS", "set its bos_token")
    end = tokenizer.eos_token_id
    close = [end] if end is not None and end != start else []
    texts = [text for text in documents if text]
    if not texts:
        raise UserError("documents", "0", "is too few to train on", "give at least one non-empty document")
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [torch.tensor([start, *ids, *close]) for ids in encoded]


def next_token_loss(
    logits: Float[Tensor, "batch token vocab"],
    targets: Int[Tensor, "batch token"],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """Cross-entropy, in nats, of each token given those before it; targets of -100 do not count."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), reduction=reduction)


def _windows(ids: Int[Tensor, "token"], context: int) -> Iterator[tuple[Tensor, int]]:
    """Windows of at most `context` tokens that overlap by half, each with the index of its first token to be scored."""
    yield ids[:context], 1
    begin, stride = 0, max(context // 2, 1)
    while begin + context < len(ids):
        scored_to = begin + context
        begin = min(begin + stride, len(ids) - context)
        yield ids[begin : begin + context], scored_to - begin


@torch.no_grad()
def held_out_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Iterable[str], *, batch_size: int = 16
) -> HeldOutLoss:
    """Score each document on its own, from its BOS; its text tokens count, the closing token does not.

    Documents longer than the model's context are scored in windows that overlap by half, every token once. Nats per
    byte divide by the text's UTF-8 bytes, so models with different tokenizers compare.

    Raises:
        UserError: no document, or a tokenizer without BOS and EOS.
    """
    texts = [text for text in documents if text]
    start_only = [ids[: len(ids) - _n_closing(tokenizer)] for ids in encode_documents(texts, tokenizer)]
    context = int(model.config.max_position_embeddings)
    # Sorted by length, so that a batch holds little padding.
    windows = sorted((w for ids in start_only for w in _windows(ids, context)), key=lambda window: len(window[0]))
    was_training = model.training
    model.eval()
    total, n_tokens = 0.0, 0
    for first in range(0, len(windows), batch_size):
        chunk = windows[first : first + batch_size]
        longest = len(chunk[-1][0])
        tokens = torch.zeros(len(chunk), longest, dtype=torch.long)
        targets = torch.full_like(tokens, IGNORED)
        for row, (ids, scored_from) in enumerate(chunk):
            tokens[row, : len(ids)] = ids
            targets[row, scored_from : len(ids)] = ids[scored_from:]
        # Padding stands right of the text, where causal attention never looks back at it, so no mask is needed.
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits
        total += float(next_token_loss(logits, targets.to(model.device), reduction="sum"))
        n_tokens += int((targets[:, 1:] != IGNORED).sum())
    model.train(was_training)
    n_bytes = sum(len(text.encode()) for text in texts)
    return HeldOutLoss(
        nats_per_token=total / n_tokens, nats_per_byte=total / n_bytes, n_tokens=n_tokens, n_bytes=n_bytes
    )


def _n_closing(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens `encode_documents` puts after a text."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(bos is not None and eos is not None and bos != eos)
