"""Continue a prompt, token by token with a KV cache, under whatever edits are in force.

1. The prompt is BOS and its tokens, one row per wanted sample.
2. Temperature 0 takes the likeliest token; otherwise tokens are drawn on the CPU from the seed, alike on every device.
3. A row ends at EOS, all rows at `max_new_tokens` or where the model's context is full.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos


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
    _check(max_new_tokens, temperature, top_k)
    prompt_ids = with_bos(lm, tokenize(lm, prompt).ids)  # 1
    if not 0 < len(prompt_ids) < lm.context:
        problem = f"it is {len(prompt_ids)} tokens, the model's context {lm.context}"
        raise UserError("prompt", prompt, problem, "give a shorter, non-empty prompt")
    ids = prompt_ids.repeat(n_samples, 1).to(lm.device)
    generator = torch.Generator().manual_seed(seed)
    stops = _stops(lm).to(lm.device)
    ended = torch.zeros(n_samples, dtype=torch.bool, device=lm.device)
    cache = None
    for _ in range(min(max_new_tokens, lm.context - ids.shape[1])):  # 3
        fresh = ids if cache is None else ids[:, -1:]
        output = lm.model(fresh, past_key_values=cache, use_cache=use_cache)
        cache = output.past_key_values if use_cache else None
        token = _next_token(output.logits[:, -1].float(), temperature, top_k, generator)  # 2
        # An ended row repeats a stop token, which its text leaves out, until the others have ended too.
        token = torch.where(ended, ids[:, -1], token)
        ids = torch.cat([ids, token[:, None]], dim=1)
        ended |= torch.isin(token, stops)
        if bool(ended.all()):
            break
    stop_set = set(stops.tolist())
    return [_text(lm, row, len(prompt_ids), stop_set) for row in ids.tolist()]


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


def _stops(lm: LanguageModel) -> Int[Tensor, "stop"]:
    """The ids that end a text: the tokenizer's EOS and those of the model's generation settings."""
    configured = lm.model.generation_config.eos_token_id if lm.model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    return torch.tensor(sorted({i for i in [lm.tokenizer.eos_token_id, *ids] if i is not None}), dtype=torch.long)


def _text(lm: LanguageModel, ids: list[int], n_prompt: int, stops: set[int]) -> str:
    n = next((i for i in range(n_prompt, len(ids)) if ids[i] in stops), len(ids))
    text = lm.tokenizer.decode(ids[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
