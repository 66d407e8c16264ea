"""Which tokens a feature's direction promotes by the direct path: added to the last residual stream, and nothing else.

1. Each direction, at unit length in the model's own units, times the mean derivative of the model's last step.
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

CHUNK_LOGITS = 16 * 2**20
"""Logits held at a time."""
N_BINS = 31
"""Odd, so that nothing lies in the middle one."""


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
    up, down = chosen.topk(n_top), chosen.topk(n_top, largest=False)
    return Strongest(
        promoted=known[up.indices].cpu(),
        promoted_logit=up.values.cpu(),
        suppressed=known[down.indices].cpu(),
        suppressed_logit=down.values.cpu(),
        counts=counted(chosen, torch.maximum(up.values[:, 0], -down.values[:, 0])),
    )


def counted(logits: Float[Tensor, "feature used"], farthest: Float[Tensor, "feature"]) -> Int[Tensor, "feature bin"]:
    """How many logits of every feature lie in each of `N_BINS` bins between minus and plus the farthest, on the CPU."""
    rows = zip(logits, farthest.tolist(), strict=True)
    found = [torch.histc(row.float(), N_BINS, min=-end, max=end) for row, end in rows if end > 0]
    counts = torch.zeros(len(logits), N_BINS, dtype=torch.int32)
    counts[:, N_BINS // 2] = logits.shape[1]
    if found:
        counts[(farthest > 0).cpu()] = torch.stack(found).int().cpu()
    return counts


def direct_path(
    directions: Float[Tensor, "feature width"],
    unembedding: Float[Tensor, "vocab width"],
    known: Int[Tensor, "known"],
    *,
    n_top: int = 10,
) -> Strongest:
    """The tokens that each direction promotes and suppresses most; a zero direction promotes nothing in particular."""
    centered = (unembedding - unembedding.mean(0)).float()
    parts: list[Strongest] = []
    for chunk in directions.split(max(1, CHUNK_LOGITS // unembedding.shape[0])):
        logits = torch.nn.functional.normalize(chunk.float(), dim=-1).to(centered) @ centered.T
        parts.append(strongest(logits, known, n_top=n_top))
    return Strongest(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Strongest)})


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
