"""What vectors added at a hookpoint do to the next token's logits, run through all that comes after, at real positions.

1. Contexts are short pieces of real text, all of one length, BOS first.
2. A vector is added at a context's last position; the logits there are compared with the untouched model's.
3. Per vector the changes are averaged over the contexts, and the mean over the vocabulary is taken off: a constant on
   all logits changes no probability.

Many vectors are one batch: as many sequences as vectors and contexts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.hooks import edit
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos

CONTEXTS = 8
CONTEXT_TOKENS = 12
"""Tokens of each, without BOS."""
LOGITS_AT_ONCE = 2**24
BATCH_TOKENS = 1024


def contexts_of(lm: LanguageModel, documents: Sequence[str]) -> Int[Tensor, "context token"]:
    """The openings of up to `CONTEXTS` documents, all as long as the shortest of them.

    Raises:
        UserError: no document has a token.
    """
    room = min(CONTEXT_TOKENS, lm.context - (lm.bos is not None))
    openings = [ids for text in documents if len(ids := tokenize(lm, text).ids[:room])]
    long = [ids for ids in openings if len(ids) == room][:CONTEXTS] or openings[:CONTEXTS]
    if not long:
        raise UserError("documents", len(documents), f"hold no token of {lm.name}", "give some text")
    length = min(len(ids) for ids in long)
    return torch.stack([with_bos(lm, ids[:length]) for ids in long])


def changes(
    lm: LanguageModel, hookpoint: str, vectors: Float[Tensor, "vector width"], contexts: Int[Tensor, "context token"]
) -> Iterator[Float[Tensor, "some vocab"]]:
    """For every vector, some at a time, the mean change of the centred logits after the contexts; float32.

    Raises:
        UserError: the model has no such hookpoint, or it has another width.
    """
    plain = last_logits(lm, contexts)
    n = len(contexts)
    at_once = max(1, min(LOGITS_AT_ONCE // plain.numel(), BATCH_TOKENS // contexts.numel()))
    for some in vectors.split(at_once):
        added = some.repeat_interleave(n, 0)
        with edit(lm, hookpoint, _added_last(added)):
            moved = last_logits(lm, contexts.repeat(len(some), 1))
        change = (moved.view(len(some), n, -1) - plain).mean(1)
        yield change - change.mean(-1, keepdim=True)


def last_logits(lm: LanguageModel, ids: Int[Tensor, "sequence token"]) -> Float[Tensor, "sequence vocab"]:
    """The logits after every sequence's last token, in float32; only these, where a model can be asked for less."""
    only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(lm.model.forward).parameters else {}
    with torch.no_grad():
        return lm.model(ids.to(lm.device), use_cache=False, **only).logits[:, -1].float()


def _added_last(vectors: Float[Tensor, "sequence width"]) -> Callable[[Tensor], Tensor]:
    """An edit that adds to each sequence its vector at its last position."""

    def fn(activation: Tensor) -> Tensor:
        moved = activation.clone()
        moved[:, -1] += vectors.to(activation)
        return moved

    return fn
