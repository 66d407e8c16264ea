"""Where the tokens of the pass that is under way stand: their place in the text, and which of them were generated.

1. A hook before the model reads what the pass is given: the mask where texts are padded on the left, else positions,
   else how much its cache holds. Padding stands below 0.
2. Who generates says how many tokens each prompt has (`generating`); only so does a pass without a cache, which reads
   everything anew, know what is prompt. Without it, all of the first pass is prompt and what comes to its cache is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from suture.lm.load import LanguageModel

_prompts: ContextVar[Int[Tensor, "batch"] | None] = ContextVar("tokens of each prompt", default=None)


@contextmanager
def generating(n_prompt_tokens: Int[Tensor, "batch"]) -> Iterator[None]:
    """While inside, passes are a generation's whose prompts have so many tokens, the starting token included."""
    before = _prompts.set(n_prompt_tokens)
    try:
        yield
    finally:
        _prompts.reset(before)


class Positions:
    """What is known of the pass under way; filled by `watched`."""

    def __init__(self) -> None:
        self._at: Int[Tensor, "batch token"] | None = None
        self._n_prompt: Int[Tensor, "batch"] | None = None
        self._end = 0

    @property
    def at(self) -> Int[Tensor, "batch token"]:
        """Place of each token in its text, from 0 on."""
        assert self._at is not None, "no pass was seen"
        return self._at

    @property
    def generated(self) -> Int[Tensor, "batch token"]:
        """0 for a prompt's tokens, n for the n-th that was generated."""
        assert self._n_prompt is not None, "no pass was seen"
        return (self.at - self._n_prompt[:, None] + 1).clamp_min(0)

    def see(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take in what a pass is given."""
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            ids = kwargs["inputs_embeds"][..., 0]
        n = ids.shape[1]
        mask, places, past = kwargs.get("attention_mask"), kwargs.get("position_ids"), self._past(kwargs)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self._at = (mask.long().cumsum(1) - 1).masked_fill(mask == 0, -1)[:, -n:]
        elif isinstance(places, Tensor):
            self._at = places.expand(len(ids), n)
        else:
            self._at = (torch.arange(n, device=ids.device) + past).expand(len(ids), n)
        self._end = past + n
        told = _prompts.get()
        if told is not None:
            self._n_prompt = told.to(ids.device)
        elif past == 0 or self._n_prompt is None or len(self._n_prompt) != len(ids):
            self._n_prompt = self._at[:, -1] + 1

    def _past(self, kwargs: Mapping[str, Any]) -> int:
        """How many tokens the cache given holds; a state without a length holds all that was read."""
        cache = next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)
        if cache is None:
            return 0
        length: Any = getattr(cache, "get_seq_length", None)
        return self._end if length is None else int(length())


HANDED_ON = ("cache", "past_key_values")
"""One argument, after and before its renaming: what a pass returns under this name is handed to the next."""
CACHE_NAMES = (*HANDED_ON, "cache_params", "state")
"""What families call the argument that holds a cache. State-space models of older releases name theirs otherwise and
want more beside it: `generate` goes without."""


@contextmanager
def watched(lm: LanguageModel) -> Iterator[Positions]:
    """While inside, what this gives knows the places of the pass under way."""
    seen = Positions()
    handle = lm.model.register_forward_pre_hook(lambda _module, args, kwargs: seen.see(args, kwargs), with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
