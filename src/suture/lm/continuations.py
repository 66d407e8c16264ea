"""Continue many prompts at once, and score many texts at once: different lengths in one batch.

1. Prompts are padded on the left, with a mask and positions, where the model gives the same with padding as without;
   that is tried on two short texts. Where it does not, prompts of one length make a batch.
2. Each prompt draws from a stream of its own, so that what is written does not depend on who shares its batch.
3. Texts to be scored are padded on the right, where causal attention never looks back at it; what stands after a
   prompt is scored by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds
from suture.errors import UserError
from suture.lm.generate import CLOSE, cache_argument, stops_of
from suture.lm.load import LanguageModel
from suture.lm.partial import Partial
from suture.lm.positions import generating
from suture.lm.tokens import tokenize, with_bos

Told = tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]
ROWS_AT_ONCE = 8


@torch.no_grad()
def continuations(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    batch_size: int = 128,
) -> list[str]:
    """What the model writes after each prompt, without the prompt and without special tokens.

    Args:
        lm: the model, under whatever edits are in force.
        prompts: texts; each begins with the model's starting token.
        max_new_tokens: at most.
        temperature: 0 takes the likeliest token.
        seed: of the draws; prompt i draws the same numbers whatever stands beside it.
        use_cache: off, every pass reads the whole sequence anew.
        batch_size: prompts in one batch.

    Raises:
        UserError: a prompt that leaves the model's context no room.
    """
    encoded = [with_bos(lm, tokenize(lm, prompt).ids) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not 0 < len(ids) <= lm.context - max_new_tokens:
            problem = f"it is {len(ids)} tokens; {max_new_tokens} more do not fit the context of {lm.context}"
            raise UserError("prompt", prompt, problem, "give a shorter, non-empty prompt, or ask for fewer new tokens")
    written: list[str] = [""] * len(prompts)
    for numbers in _batches([len(ids) for ids in encoded], batch_size, padded=pads(lm)):
        rows = [encoded[i] for i in numbers]
        draws = [seeds.generator("continuations", seed, i) for i in numbers]
        for i, text in zip(numbers, _continued(lm, rows, draws, max_new_tokens, temperature, use_cache), strict=True):
            written[i] = text
    return written


@torch.no_grad()
def pads(lm: LanguageModel) -> bool:
    """Whether padding on the left, behind a mask, leaves the model's logits what they are (1)."""
    # A state that is carried over padding is not told apart by a mask, be it at once or with the next token.
    if "attention_mask" not in inspect.signature(lm.model.forward).parameters or cache_argument(lm.model) is None:
        return False
    long, short = torch.arange(1, 7) % lm.vocab_size, torch.arange(3, 6) % lm.vocab_size
    try:
        both, alone = _two_passes(lm, [long, short])[-1], _two_passes(lm, [short])[-1]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return bool((both - alone).abs().max() <= CLOSE * alone.std().clamp_min(1e-6))


def _two_passes(lm: LanguageModel, rows: Sequence[Int[Tensor, "_"]]) -> Float[Tensor, "batch _ vocab"]:
    """Logits at the last token, and at one more that is read with the cache."""
    ids, mask = (t.to(lm.device) for t in padded_left(rows))
    name = cache_argument(lm.model)
    first = lm.model(ids, use_cache=True, **_told(lm, mask))
    more = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    held = {} if name is None else {name: first[name]}
    second = lm.model(ids[:, -1:], use_cache=True, **held, **_told(lm, more, 1))
    return torch.stack([first.logits[:, -1], second.logits[:, -1]], dim=1).float()


def padded_left(rows: Sequence[Int[Tensor, "_"]]) -> Told:
    """Rows of different lengths as one batch that ends together, and which of its tokens are theirs."""
    n = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), n, dtype=torch.long), torch.zeros(len(rows), n, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, n - len(row) :], mask[i, n - len(row) :] = row, True
    return ids, mask


def padded_right(rows: Sequence[Int[Tensor, "_"]]) -> Told:
    """The same with rows that begin together."""
    n = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), n, dtype=torch.long), torch.zeros(len(rows), n, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    return ids, mask


def surprise(
    lm: LanguageModel, ids: Int[Tensor, "batch token"], log_probs: Float[Tensor, "batch token vocab"] | None = None
) -> Float[Tensor, "batch token"]:
    """Nats of every token given those before it, under whatever edits are in force; 0 for the first."""
    if log_probs is None:
        log_probs = torch.log_softmax(lm.model(ids.to(lm.device), use_cache=False).logits.float(), dim=-1)
    nats = -log_probs[:, :-1].gather(2, ids[:, 1:, None].to(log_probs.device))[..., 0]
    return torch.nn.functional.pad(nats, (1, 0))


@torch.no_grad()
def nats_after(
    lm: LanguageModel,
    prompts: Sequence[str],
    written: Sequence[str],
    *,
    batch_size: int = 32,
    partial: Partial | None = None,
) -> tuple[Float[Tensor, "text"], Int[Tensor, "text"]]:
    """Of what was written after each prompt: nats in all, under whatever edits are in force, and tokens.  (3)

    With the model's `partial` logits are computed only where they count.
    """
    nats, count = torch.zeros(len(written), dtype=torch.float64), torch.zeros(len(written), dtype=torch.long)
    heads = [with_bos(lm, tokenize(lm, prompt).ids) for prompt in prompts]
    rows = [torch.cat([head, tokenize(lm, text).ids])[: lm.context] for head, text in zip(heads, written, strict=True)]
    for first in range(0, len(rows), batch_size):
        chosen = slice(first, first + batch_size)
        ids, own = padded_right(rows[chosen])
        for i, head in enumerate(heads[chosen]):
            own[i, : max(len(head), 1)] = False
        if not bool(own.any()):
            continue
        if partial is not None:
            before = torch.nn.functional.pad(own[:, 1:], (0, 1))
            logits = partial.logits(ids, before, None)
            found = torch.zeros(own.shape, dtype=torch.float64)
            found[own] = -_log_prob(logits, ids[own]).cpu().double()
            nats[chosen], count[chosen] = found.sum(1), own.sum(1)
        else:
            nats[chosen], count[chosen] = (surprise(lm, ids).cpu().double() * own).sum(1), own.sum(1)
    return nats, count


def _log_prob(logits: Float[Tensor, "row vocab"], token: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Of each row's token; a few rows at a time, so that no second table of the vocabulary's size is made."""
    own = logits.gather(1, token[:, None].to(logits.device))[:, 0]
    return own - torch.cat([torch.logsumexp(some, dim=-1) for some in logits.split(ROWS_AT_ONCE)])


def _batches(lengths: Sequence[int], size: int, *, padded: bool) -> Iterator[list[int]]:
    """Numbers of prompts that run together, alike in length."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == size or (not padded and lengths[i] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _told(lm: LanguageModel, mask: Bool[Tensor, "batch token"], n: int | None = None) -> dict[str, Tensor]:
    """Mask, and positions of the last `n` tokens where the model can be told them; nothing where nothing is padded."""
    takes = inspect.signature(lm.model.forward).parameters
    told: dict[str, Tensor] = (
        {} if bool(mask.all()) or "attention_mask" not in takes else {"attention_mask": mask.long()}
    )
    if "position_ids" in takes:
        places = (mask.long().cumsum(1) - 1).clamp_min(0)
        told["position_ids"] = places if n is None else places[:, -n:]
    return told


def _continued(
    lm: LanguageModel,
    rows: Sequence[Tensor],
    draws: Sequence[torch.Generator],
    max_new_tokens: int,
    temperature: float,
    use_cache: bool,  # noqa: FBT001
) -> list[str]:
    ids, mask = (t.to(lm.device) for t in padded_left(rows))
    first, stops = ids.shape[1], stops_of(lm).to(lm.device)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=lm.device)
    argument = cache_argument(lm.model) if use_cache else None
    cache: Any = None
    with generating(mask.sum(1)):
        for _ in range(max_new_tokens):
            step = {} if argument is None or cache is None else {argument: cache}
            now = ids[:, -1:] if step else ids
            told = _told(lm, mask, now.shape[1] if step else None)
            output = lm.model(now, use_cache=argument is not None, **step, **told)
            cache = output.get(argument) if argument is not None else None
            token = _next(output.logits[:, -1].float(), temperature, draws)
            token = torch.where(ended, stops[:1].expand_as(token) if len(stops) else ids[:, -1], token)
            ids = torch.cat([ids, token[:, None]], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            ended |= torch.isin(token, stops)
            if bool(ended.all()):
                break
    stop_set = set(stops.tolist())
    return [_text(lm, row, stop_set) for row in ids[:, first:].tolist()]


def _next(logits: Tensor, temperature: float, draws: Sequence[torch.Generator]) -> Int[Tensor, "batch"]:
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    chances = torch.softmax(logits / temperature, dim=-1).cpu()
    tokens = [torch.multinomial(own, 1, generator=draw) for own, draw in zip(chances, draws, strict=True)]
    return torch.cat(tokens).to(logits.device)


def _text(lm: LanguageModel, ids: list[int], stops: set[int]) -> str:
    n = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    text = lm.tokenizer.decode(ids[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
