"""Which tokens a feature's direction promotes by the direct path: added to the last residual stream, and nothing else.

1. Each direction, at unit length in the model's own units, times the unembedding (final norm's weights folded in).
2. The mean over the vocabulary is taken off: a constant on all logits changes no probability.
3. The largest are promoted, the smallest suppressed.

Later layers that read the direction are not in this; steering measures them. The final norm's division by the stream's
size is left out too, so values compare within one model, not between models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_LOGITS = 16 * 2**20
"""Logits held at a time."""


@dataclass(frozen=True, kw_only=True)
class DirectPath:
    """Token ids and centred logits per unit length, strongest first."""

    promoted: Int[Tensor, "feature top"]
    promoted_logit: Float[Tensor, "feature top"]
    suppressed: Int[Tensor, "feature top"]
    suppressed_logit: Float[Tensor, "feature top"]


def direct_path(
    directions: Float[Tensor, "feature width"], unembedding: Float[Tensor, "vocab width"], *, n_top: int = 10
) -> DirectPath:
    """The tokens that each direction promotes and suppresses most; a zero direction promotes nothing in particular."""
    centered = (unembedding - unembedding.mean(0)).float()
    n_top = min(n_top, unembedding.shape[0])
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for chunk in directions.split(max(1, CHUNK_LOGITS // unembedding.shape[0])):
        logits = torch.nn.functional.normalize(chunk.float(), dim=-1) @ centered.T
        up, down = logits.topk(n_top), logits.topk(n_top, largest=False)
        parts.append((up.indices, up.values, down.indices, down.values))
    promoted, promoted_logit, suppressed, suppressed_logit = (torch.cat(c) for c in zip(*parts, strict=True))
    return DirectPath(
        promoted=promoted,
        promoted_logit=promoted_logit,
        suppressed=suppressed,
        suppressed_logit=suppressed_logit,
    )


def spelled(path: DirectPath, texts: tuple[str, ...], feature: int) -> dict[str, list[tuple[str, float]]]:
    """One feature's side of logits.json: (token, logit) pairs, `texts` being the vocabulary."""

    def pairs(ids: Tensor, logits: Tensor) -> list[tuple[str, float]]:
        values = zip(ids[feature].tolist(), logits[feature].tolist(), strict=True)
        return [(texts[i], float(f"{v:.4g}")) for i, v in values]

    return {
        "promoted": pairs(path.promoted, path.promoted_logit),
        "suppressed": pairs(path.suppressed, path.suppressed_logit),
    }
