"""How what a steered model writes reads: how much of it repeats, and how little the model left alone expected it.

1. Repetition: of a text's runs of three tokens, the share that stood in it before.
2. Self-perplexity, as its logarithm: nats per written token under the same model without steering, after the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from suture.lm.continuations import nats_after
from suture.lm.load import LanguageModel
from suture.lm.partial import Partial
from suture.lm.tokens import tokenize

RUN = 3
"""Tokens of a run that counts as repeated."""


def repetition(tokens: Sequence[int]) -> float | None:
    """The share of runs that stood in the text before; None of a text too short for two runs.

    >>> repetition([1, 2, 3, 4, 5, 6]), repetition([7, 8, 7, 8, 7, 8]), repetition([1, 2, 3])
    (0.0, 0.5, None)
    """
    runs = [tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else None


def fluency(
    lm: LanguageModel, prompt: str, texts: Sequence[str], partial: Partial | None = None
) -> list[tuple[float | None, float | None]]:
    """Of each text, which begins with the prompt: (repetition, nats per token) of what was written after it."""
    written = [text.removeprefix(prompt) for text in texts]
    nats, count = nats_after(lm, [prompt] * len(texts), written, partial=partial)
    return [
        (repetition(tokenize(lm, own).ids.tolist()), float(total / n) if n else None)
        for own, total, n in zip(written, nats, count.tolist(), strict=True)
    ]
