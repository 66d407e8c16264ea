"""Continue a prompt, token by token with a KV cache, under whatever edits are in force at each token.

1. The prompt is BOS and its tokens, one row per wanted sample.
2. What a pass returns as its cache is handed to the next under the model's own argument, which names it differently
   from release to release; a model that returns none reads its whole sequence anew.
3. Temperature 0 takes the likeliest token; otherwise tokens are drawn on the CPU from the seed, alike on every device.
4. A row ends at EOS, all rows at `max_new_tokens` or where the model's context is full.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from suture import seeds
from suture.errors import UserError
from suture.lm.load import LanguageModel
from suture.lm.positions import HANDED_ON, generating
from suture.lm.tokens import tokenize, with_bos

KEPT = "logits_to_keep"
"""The argument of a forward pass that says after how many tokens, the last ones, logits are wanted."""
CLOSE = 1e-3
"""Logits that a cache, or padding, changes by no more than this part of their spread are the same."""


def generate(
    lm: LanguageModel,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    use_cache: bool = True,
) -> str:
    """`prompt` and its continuation as one text; see `samples`."""
    return samples(
        lm,
        prompt,
        n_samples=1,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        use_cache=use_cache,
    )[0]


@torch.no_grad()
def samples(
    lm: LanguageModel,
    prompt: str,
    *,
    n_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    use_cache: bool = True,
) -> list[str]:
    """Several continuations of one prompt in one batch, each returned with the prompt and without special tokens.

    `top_k` keeps only that many likeliest tokens. `use_cache=False` runs the whole sequence anew for every token: slow,
    and the reference the cache is tested against. Raises UserError for a prompt that fills the model's context, or an
    empty prompt where the tokenizer has no token to start from.
    """
    every = steps(
        lm,
        prompt,
        n_samples=n_samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        use_cache=use_cache,
    )
    (last,) = deque(every, maxlen=1)  # at least one token, of a prompt that leaves it room
    return last.texts(lm)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where the continuations, a row each, stand after one more token."""

    ids: Int[Tensor, "row token"]
    """The prompt, with whatever starts it, and what was written so far."""
    logits: Float[Tensor, "row vocab"]
    """What the newest token was chosen from."""
    n_prompt: int

    def texts(self, lm: LanguageModel) -> list[str]:
        """Per sample the prompt and what follows, without special tokens."""
        stops = set(stops_of(lm).tolist())
        return [_text(lm, row, self.n_prompt, stops) for row in self.ids.tolist()]

    def written(self, lm: LanguageModel) -> list[str]:
        """Per sample what follows the prompt; a tokenizer drops the space of the first token where nothing precedes."""
        n = len(_text(lm, self.ids[0, : self.n_prompt].tolist(), self.n_prompt, set()))
        return [text[n:] for text in self.texts(lm)]


@torch.no_grad()
def steps(
    lm: LanguageModel,
    prompt: str,
    *,
    n_samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    use_cache: bool = True,
) -> Iterator[Step]:
    """The continuations that `samples` gives, token by token: one pass of the model whenever the next is asked for.

    Edits must be in force whenever it is asked, and need not be in between.
    """
    _check(max_new_tokens, temperature, top_k)
    prompt_ids = with_bos(lm, tokenize(lm, prompt).ids)  # 1
    if not 0 < len(prompt_ids) < lm.context:
        problem = f"it is {len(prompt_ids)} tokens, the model's context {lm.context}"
        raise UserError("prompt", prompt, problem, "give a shorter, non-empty prompt")
    ids = prompt_ids.repeat(n_samples, 1).to(lm.device)
    n_prompt_tokens = torch.full((n_samples,), len(prompt_ids), device=lm.device)
    generator = seeds.generator("continuation", seed)
    stops = stops_of(lm).to(lm.device)
    ended = torch.zeros(n_samples, dtype=torch.bool, device=lm.device)
    argument = cache_argument(lm.model) if use_cache else None
    cache = None
    for _ in range(min(max_new_tokens, lm.context - ids.shape[1])):  # 4
        with generating(n_prompt_tokens):
            if argument is None or cache is None:
                output = lm.model(ids, use_cache=argument is not None, **last_only(lm.model))
            else:
                output = lm.model(ids[:, -1:], use_cache=True, **{argument: cache}, **last_position(lm.model, ids))
        # An argument alone promises nothing: some models take a cache that only their own `generate` prepares.
        cache = output.get(argument) if argument is not None else None  # 2
        logits = output.logits[:, -1].float()
        token = _next_token(logits, temperature, top_k, generator)  # 3
        # An ended row repeats a stop token, which its text leaves out, until the others have ended too.
        token = torch.where(ended, ids[:, -1], token)
        ids = torch.cat([ids, token[:, None]], dim=1)
        ended |= torch.isin(token, stops)
        yield Step(ids=ids, logits=logits, n_prompt=len(prompt_ids))
        if bool(ended.all()):
            break


def cache_argument(model: PreTrainedModel) -> str | None:
    """The argument of `model`'s forward pass, and entry of its outputs, that holds a cache; None where none does."""
    arguments = inspect.signature(model.forward).parameters
    return next((name for name in HANDED_ON if name in arguments), None)


def last_only(model: PreTrainedModel) -> dict[str, int]:
    """What asks a model for the logits after the last token alone, where it can be asked; the head is dear."""
    return {KEPT: 1} if KEPT in inspect.signature(model.forward).parameters else {}


def last_position(model: PreTrainedModel, ids: Int[Tensor, "batch token"]) -> dict[str, Tensor]:
    """Where the last token stands, for a model that can be told: not every family asks its cache, some count from 0."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": torch.full_like(ids[:, -1:], ids.shape[1] - 1)}


def _check(max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    if max_new_tokens < 1:
        raise UserError("max_new_tokens", max_new_tokens, "nothing would be generated", "use at least 1")
    if not 0.0 <= temperature < float("inf"):
        raise UserError("temperature", temperature, "is not a temperature", "use 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise UserError("top_k", top_k, "no token would be left", "use at least 1")


def _next_token(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int | None, generator: torch.Generator
) -> Int[Tensor, "batch"]:
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    chances = torch.softmax(logits / temperature, dim=-1).cpu()
    return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)


def stops_of(lm: LanguageModel) -> Int[Tensor, "stop"]:
    """The ids that end a text: the tokenizer's EOS and those of the model's generation settings."""
    configured = lm.model.generation_config.eos_token_id if lm.model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return torch.tensor(sorted({i for i in [lm.tokenizer.eos_token_id, *ids] if i is not None}), dtype=torch.long)


def _text(lm: LanguageModel, ids: list[int], n_prompt: int, stops: set[int]) -> str:
    n = next((i for i in range(n_prompt, len(ids)) if ids[i] in stops), len(ids))
    text = lm.tokenizer.decode(ids[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
