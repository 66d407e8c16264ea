"""What vectors added at a hookpoint do to the next token's logits, run through all that comes after, at real positions.

1. Contexts are short pieces of real text, all of one length, BOS first.
2. A vector is added at a context's last position; the logits there are compared with the untouched model's.
3. Per vector the changes are averaged over the contexts, and the mean over the vocabulary is taken off: a constant on
   all logits changes no probability.

Many vectors are one batch: as many sequences as vectors and contexts. What comes before the last position is the same
for all of them, and is read once: its cache is given to every batch. That is not taken on trust; a model that gives
other logits with it reads whole contexts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.generate import CLOSE, cache_argument, last_only, last_position
from suture.lm.hooks import edit
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos

CONTEXTS = 8
CONTEXT_TOKENS = 12
"""Tokens of each, without BOS."""
LOGITS_AT_ONCE = 2**24
BATCH_TOKENS = 1024
_FAILURES = (RuntimeError, KeyError, IndexError, TypeError, AttributeError, ValueError)
"""What a model may raise that cannot go on from a cache."""


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
    begun = _Begun.of(lm, contexts)
    plain = begun.last_logits(1)
    n = len(contexts)
    at_once = max(1, min(LOGITS_AT_ONCE // plain.numel(), BATCH_TOKENS // contexts.numel()))
    for some in vectors.split(at_once):
        added = some.repeat_interleave(n, 0)
        with edit(lm, hookpoint, _added_last(added)):
            moved = begun.last_logits(len(some))
        change = (moved.view(len(some), n, -1) - plain).mean(1)
        yield change - change.mean(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """Contexts of which all but the last token was read."""

    lm: LanguageModel
    contexts: Int[Tensor, "context token"]
    cache: Any
    """None where the model reads the whole of them."""

    @staticmethod
    def of(lm: LanguageModel, contexts: Int[Tensor, "context token"]) -> _Begun:
        whole = _Begun(lm=lm, contexts=contexts, cache=None)
        name = cache_argument(lm.model)
        if name is None or contexts.shape[1] < 2:
            return whole
        try:
            with torch.no_grad():
                cache = lm.model(contexts[:, :-1].to(lm.device), use_cache=True, **last_only(lm.model))[name]
            begun = _Begun(lm=lm, contexts=contexts, cache=cache)
            one, other = begun.last_logits(2), whole.last_logits(2)
        except _FAILURES:
            return whole
        return begun if bool((one - other).abs().max() <= CLOSE * other.std()) else whole

    @torch.no_grad()
    def last_logits(self, n: int) -> Float[Tensor, "sequence vocab"]:
        """The logits after the last token of the contexts, `n` times over, under whatever edits are in force; float32.

        Only these are computed, where the model can be asked for less than all.
        """
        ids = self.contexts.repeat(n, 1).to(self.lm.device)
        name, given = cache_argument(self.lm.model), {}
        if self.cache is not None and name is not None:
            cache = copy.deepcopy(self.cache)  # a pass writes into what it is given
            cache.reorder_cache(torch.arange(len(self.contexts), device=self.lm.device).repeat(n))
            given = {name: cache, "use_cache": True, **last_position(self.lm.model, ids)}
            ids = ids[:, -1:]
        return self.lm.model(ids, **({"use_cache": False} | given), **last_only(self.lm.model)).logits[:, -1].float()


def _added_last(vectors: Float[Tensor, "sequence width"]) -> Callable[[Tensor], Tensor]:
    """An edit that adds to each sequence its vector at its last position."""

    def fn(activation: Tensor) -> Tensor:
        moved = activation.clone()
        moved[:, -1] += vectors.to(activation)
        return moved

    return fn
