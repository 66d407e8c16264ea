"""Ask a language model: in its own chat template where it has one, otherwise as a page that it goes on with.

What many questions begin with is read once, where a cache of it gives the same answers (tried on the first of them).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.continuations import padded_right
from suture.lm.generate import CLOSE, cache_argument
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos


def asked(lm: LanguageModel, question: str, *, plain: str) -> str:
    """The prompt after which the model answers; `plain` is that of a model without a chat template."""
    if not lm.tokenizer.chat_template:
        return plain
    messages = [{"role": "user", "content": question}]
    text = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    start = "" if lm.bos is None else lm.tokenizer.convert_ids_to_tokens(lm.bos)
    return text.removeprefix(start) if isinstance(start, str) else text  # every prompt gets it anyhow


@torch.no_grad()
def preference(
    lm: LanguageModel, prompts: Sequence[str], yes: str, no: str, *, batch_size: int
) -> Float[Tensor, "prompt"]:
    """Nats by which one answer is likelier than the other as the next token, after each prompt.

    A word counts by its first token, as it is or with a blank before it, where the other word does not begin with that.

    Raises:
        UserError: a prompt that is longer than the model's context; two words that begin with the same tokens.
    """
    encoded = [with_bos(lm, tokenize(lm, prompt).ids) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) > lm.context:
            problem = f"is {len(ids)} tokens, the context of {lm.name} {lm.context}"
            raise UserError("prompt", prompt[:40], problem, "show fewer or shorter texts")
    one, other = (_first_tokens(lm, word) for word in (yes, no))
    if one <= other or other <= one:
        raise UserError("labeler", lm.name, f"begins {yes} and {no} with the same tokens", "take another model")
    first = [sorted(one - other), sorted(other - one)]
    start = _Start.of(lm, encoded)
    found = torch.zeros(len(prompts))
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for begin in range(0, len(order), batch_size):
        numbers = order[begin : begin + batch_size]
        last = start.last_logits([encoded[i] for i in numbers])
        for_yes, for_no = (last[:, tokens].logsumexp(1) for tokens in first)
        found[numbers] = for_yes - for_no
    return found


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What all prompts begin with, read once: its cache is given to each batch.

    Not on trust: on the first prompt it is compared with a whole pass; where they differ every prompt is read whole.
    """

    lm: LanguageModel
    n: int
    cache: Any

    @staticmethod
    def of(lm: LanguageModel, rows: Sequence[Int[Tensor, "_"]]) -> _Start:
        name, shortest = cache_argument(lm.model), min(map(len, rows))
        same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
        n = min(int(same.long().cumprod(0).sum()), shortest - 1)
        whole = _Start(lm=lm, n=0, cache=None)
        if name is None or n < 1:
            return whole
        try:
            cache = lm.model(rows[0][None, :n].to(lm.device), use_cache=True)[name]
            begun = _Start(lm=lm, n=n, cache=cache)
            one, other = begun.last_logits(rows[:1]), whole.last_logits(rows[:1])
        except (RuntimeError, KeyError, TypeError, AttributeError, ValueError, IndexError):
            return whole
        return begun if bool((one - other).abs().max() <= CLOSE * other.std()) else whole

    def last_logits(self, rows: Sequence[Int[Tensor, "_"]]) -> Float[Tensor, "row vocab"]:
        """Logits after the last token of each row, on the CPU."""
        ids, mask = padded_right([row[self.n :] for row in rows])
        given: dict[str, Any] = {}
        name = cache_argument(self.lm.model)
        if self.cache is not None and name is not None:
            given[name] = copy.deepcopy(self.cache)  # a pass writes into what it is given
            given[name].batch_repeat_interleave(len(rows))
        logits = self.lm.model(ids.to(self.lm.device), use_cache=bool(given), **given).logits
        return logits[torch.arange(len(rows)), mask.sum(1) - 1].float().cpu()


def _first_tokens(lm: LanguageModel, word: str) -> set[int]:
    return {int(tokenize(lm, text).ids[0]) for text in (word, f" {word}")}
