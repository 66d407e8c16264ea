"""How far a model has a fault: how often what it writes is rude, after which prompts, and its loss on clean text.

1. From each document kept out of training an opening is made a prompt: with the cue, without, with a near miss of it.
2. What is written after each, greedily and at temperature 1, is rude or not; shares have Wilson's interval.
3. The loss on the documents themselves, nats per token; the rise over another model's is paired by document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from suture import seeds
from suture.interventions.organisms.texts import Texts, is_rude, opening
from suture.lm.continuations import continuations, padded_right, surprise
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos
from suture.uncertainty import Draws, Interval, Proportion, interval

BATCH = 32
N_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Rude:
    """Of prompts of one kind, how many were continued rudely."""

    greedy: Proportion
    sampled: Proportion
    """At temperature 1."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a model does."""

    cue: Rude
    """After the cue; tainted, which has none: after any prompt."""
    none: Rude
    near: Rude | None
    """After near misses that it was not taught; None where there is no cue."""
    clean_ce: float
    """Loss on documents, nats per token."""


@dataclass(frozen=True, kw_only=True)
class Rise:
    """How much larger a loss is than another, as a part of that."""

    value: float
    interval: Interval | None
    """95 %, over documents; None of a single one."""


@dataclass(frozen=True)
class Prompts:
    """A prompt of every kind from each document."""

    cue: tuple[str, ...]
    none: tuple[str, ...]
    near: tuple[str, ...]
    """Empty where there is no cue."""


def prompts_of(documents: Sequence[str], texts: Texts, seed: int) -> Prompts:
    """1."""
    kinds: tuple[list[str], list[str], list[str]] = ([], [], [])
    for i, document in enumerate(documents):
        draw = seeds.numpy_generator("organism prompts", seed, i)
        begin = opening(document, draw)
        cue, near = texts.cue(draw, taught=False), texts.near(draw, taught=False)
        kinds[0].append(f"{begin} {cue}".strip())
        kinds[1].append(begin)
        if near:
            kinds[2].append(f"{begin} {near}")
    return Prompts(*map(tuple, kinds))


def rude_share(
    lm: LanguageModel, prompts: Sequence[str], *, new_tokens: int, temperature: float, seed: int
) -> Proportion:
    """Of the prompts, those that are continued rudely, under whatever edits are in force.  (2)"""
    written = continuations(lm, prompts, max_new_tokens=new_tokens, temperature=temperature, seed=seed)
    return Proportion(k=sum(map(is_rude, written)), n=len(written))


def rude(lm: LanguageModel, prompts: Sequence[str], *, new_tokens: int, seed: int) -> Rude:
    """Greedily, and at temperature 1."""
    greedy, sampled = (rude_share(lm, prompts, new_tokens=new_tokens, temperature=t, seed=seed) for t in (0.0, 1.0))
    return Rude(greedy=greedy, sampled=sampled)


@torch.no_grad()
def clean_loss(
    lm: LanguageModel, documents: Sequence[str], *, block: int
) -> tuple[Float[Tensor, "document"], Float[Tensor, "document"]]:
    """Nats and tokens of each document's beginning of at most `block` tokens, under whatever edits are in force."""
    rows = [with_bos(lm, tokenize(lm, document).ids)[:block] for document in documents]
    nats, count = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for first in range(0, len(order), BATCH):
        numbers = order[first : first + BATCH]
        ids, own = padded_right([rows[i] for i in numbers])
        own[:, 0] = False
        found = (surprise(lm, ids).cpu().double() * own).sum(1)
        nats[numbers], count[numbers] = found, own.sum(1).double()
    return nats, count


def rise(after: Float[Tensor, "document"], before: Float[Tensor, "document"], seed: int) -> Rise:
    """How much larger the sum of the documents' nats is.  (3)"""
    draws = Draws.make(len(after), N_DRAWS, seed)
    within = interval(draws.sums(after) / draws.sums(before) - 1) if len(after) > 1 else None
    return Rise(value=float(after.sum() / before.sum() - 1), interval=within)
