"""Which tokens a feature's direction promotes by the direct path: added to the last residual stream, and nothing else.

1. Each direction, at unit length in the model's own units, times the mean derivative of the model's last step: first
   what the head is given, then, in products of many directions at once, what it makes of that.
2. The mean over the vocabulary is taken off: a constant on all logits changes no probability.
3. The largest are promoted, the smallest suppressed, of the entries that the tokenizer knows.
4. All of them together are counted in bins from minus to plus the farthest.

Later layers that read the direction are not in this (`promoted` runs them).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.lm.unembedding import Derivative

CHUNK_LOGITS = 16 * 2**20
"""Logits held at a time."""
N_BINS = 31
"""Odd, so that nothing lies in the middle one."""
BLOCKS = 4096
"""Into which a vocabulary is dealt to find its largest logits; of fewer entries for each than HELD, it is not."""
HELD = 8


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """Token ids and centred logits, strongest first."""

    promoted: Int[Tensor, "feature top"]
    promoted_logit: Float[Tensor, "feature top"]
    suppressed: Int[Tensor, "feature top"]
    suppressed_logit: Float[Tensor, "feature top"]
    counts: Int[Tensor, "feature bin"]
    """Entries of the vocabulary by their logit, from minus to plus the farthest of them."""


def strongest(logits: Float[Tensor, "feature vocab"], known: Int[Tensor, "known"], *, n_top: int) -> Strongest:
    """Of the known entries those with the largest and the smallest logits, on the CPU."""
    known = known.to(logits.device)
    chosen = logits if len(known) == logits.shape[1] else logits[:, known]
    n_top = min(n_top, len(known))
    (up, where_up), (down, where_down) = (largest(chosen, n_top, sign=sign) for sign in (1, -1))
    return Strongest(
        promoted=known[where_up].cpu(),
        promoted_logit=up.cpu(),
        suppressed=known[where_down].cpu(),
        suppressed_logit=down.cpu(),
        counts=counted(chosen, torch.maximum(up[:, 0], -down[:, 0])),
    )


def largest(
    values: Float[Tensor, "row entry"], n: int, *, sign: int = 1
) -> tuple[Float[Tensor, "row n"], Int[Tensor, "row n"]]:
    """Every row's `n` largest values and their columns, in order; its smallest with `sign` -1.

    Long rows are dealt into `BLOCKS`: the `n` largest lie in the `n` blocks whose own largest are, so that all others
    are read once and never sorted.
    """
    held = values.shape[1] // BLOCKS
    if held < HELD or n > BLOCKS:
        found = values.topk(n, largest=sign > 0)
        return found.values, found.indices
    dealt = values[:, : held * BLOCKS].unflatten(1, (held, BLOCKS))  # column c lies in block c mod BLOCKS
    best = dealt.amax(1) if sign > 0 else dealt.amin(1)
    blocks = best.topk(n, largest=sign > 0).indices
    inside = torch.arange(held, device=values.device) * BLOCKS
    left = torch.arange(held * BLOCKS, values.shape[1], device=values.device)
    columns = torch.cat([(blocks[:, :, None] + inside).flatten(1), left.expand(len(values), -1)], dim=1)
    found = values.gather(1, columns).topk(n, largest=sign > 0)
    return found.values, columns.gather(1, found.indices)


def counted(logits: Float[Tensor, "feature used"], farthest: Float[Tensor, "feature"]) -> Int[Tensor, "feature bin"]:
    """How many logits of every feature lie in each of `N_BINS` bins between minus and plus the farthest, on the CPU."""
    counts = torch.zeros(len(logits), N_BINS + 1, dtype=torch.int32)
    per_logit = torch.where(farthest > 0, N_BINS / 2 / farthest, 0.0).float()
    for feature, (row, scale) in enumerate(zip(logits, per_logit.tolist(), strict=True)):
        bins = torch.add(N_BINS / 2, row.float(), alpha=scale).to(torch.uint8)
        counts[feature] = torch.bincount(bins, minlength=N_BINS + 1)[: N_BINS + 1].cpu()
    counts[:, N_BINS - 1] += counts[:, N_BINS]  # the farthest itself
    return counts[:, :N_BINS]


def direct_path(
    directions: Float[Tensor, "feature width"],
    derivative: Derivative,
    known: Int[Tensor, "known"],
    *,
    n_top: int = 10,
) -> Strongest:
    """The tokens that each direction promotes and suppresses most; a zero direction promotes nothing in particular."""
    head, inner = derivative.head.float(), derivative.inner
    mean = head.mean(0)
    if len(known) < len(head):
        head = head[known.to(head.device)]
    parts: list[Strongest] = []
    for chunk in directions.split(max(1, CHUNK_LOGITS // len(head))):
        given = torch.nn.functional.normalize(chunk.float(), dim=-1).to(inner) @ inner
        parts.append(strongest(centred_logits(given, head, mean), known, n_top=n_top))
    return Strongest(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Strongest)})


def centred_logits(
    given: Float[Tensor, "feature inner"], head: Float[Tensor, "known inner"], mean: Float[Tensor, "inner"]
) -> Float[Tensor, "feature known"]:
    """What the head makes of its inputs, less the vocabulary's mean."""
    return torch.addmm((given @ -mean)[:, None], given, head.T)


def spelled(found: Strongest, texts: tuple[str, ...], feature: int) -> dict[str, Any]:
    """One feature's side of logits.json: (token, logit) pairs, `texts` being the vocabulary; counts and their end."""

    def pairs(ids: Tensor, logits: Tensor) -> list[tuple[str, float]]:
        values = zip(ids[feature].tolist(), logits[feature].tolist(), strict=True)
        return [(texts[i], float(f"{v:.4g}")) for i, v in values]

    side: dict[str, Any] = {
        "promoted": pairs(found.promoted, found.promoted_logit),
        "suppressed": pairs(found.suppressed, found.suppressed_logit),
    }
    farthest = max(abs(float(found.promoted_logit[feature, 0])), abs(float(found.suppressed_logit[feature, 0])))
    return side | {"farthest": float(f"{farthest:.4g}"), "counts": found.counts[feature].tolist()}
