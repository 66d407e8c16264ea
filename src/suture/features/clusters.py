"""Two clusters? Whether a dictionary has fallen apart into one private half per model, in four numbers.

1. Usage: the share p_m of a feature's firings that come from model m (each model's rows encoded alone), and its entropy
   -sum p_m log p_m / log M: 0 private, 1 evenly used.
2. The histogram of the entropy, and the share of features below 0.2.
3. The share of the decoded energy (sum f_i^2 ||d_i||^2) that shared features carry.
4. The silhouette of the decoder rows under "which model uses it most": near 1 two separate clouds, near 0 one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import silhouette_score
from torch import Tensor

from suture import seeds
from suture.labels import SHARED

PRIVATE_ENTROPY = 0.2
N_BINS = 20
SILHOUETTE_FEATURES = 2000
"""Sampled where there are more: the silhouette compares all pairs."""


@dataclass(frozen=True, kw_only=True)
class TwoClusters:
    """The four numbers; None where there are too few features to say."""

    entropy_histogram: list[int]
    """Live features per bin of usage entropy, over [0, 1]."""
    private_share: float | None
    """Share of live features with usage entropy below 0.2."""
    shared_energy: float | None
    """Share of the decoded energy carried by features labelled shared."""
    silhouette: float | None


def usage_entropy(counts: Int[Tensor, "feature space"]) -> Float[Tensor, "feature"]:
    """Entropy of each feature's usage over the models, in [0, 1]; NaN where no model ever uses it.

    >>> usage_entropy(torch.tensor([[4, 4], [7, 0]])).tolist()
    [1.0, 0.0]
    """
    p = counts.double() / counts.sum(-1, keepdim=True)
    if counts.shape[1] == 1:
        return torch.where(counts[:, 0] > 0, torch.zeros(()).double(), torch.nan)
    return torch.special.entr(p).sum(-1) / np.log(counts.shape[1])


def two_clusters(
    counts: Int[Tensor, "feature space"],
    energy: Float[Tensor, "feature"],
    decoder: Float[Tensor, "feature D"],
    labels: Sequence[str],
) -> TwoClusters:
    """How far a dictionary's features have split between the models."""
    entropy = usage_entropy(counts)
    live = entropy.isfinite()
    known = entropy[live]
    histogram = np.histogram(known.numpy().clip(0, 1), bins=N_BINS, range=(0, 1))[0]
    shared = torch.tensor([name == SHARED for name in labels])
    whole = float(energy.sum())
    return TwoClusters(
        entropy_histogram=[int(n) for n in histogram],
        private_share=float((known < PRIVATE_ENTROPY).double().mean()) if known.numel() else None,
        shared_energy=float(energy[shared].sum()) / whole if whole > 0 else None,
        silhouette=_silhouette(counts, decoder, live),
    )


def _silhouette(counts: Tensor, decoder: Tensor, live: Bool[Tensor, "feature"]) -> float | None:
    chosen = torch.nonzero(live)[:, 0].numpy()
    if len(chosen) > SILHOUETTE_FEATURES:
        chosen = seeds.numpy_generator("silhouette", 0).choice(chosen, SILHOUETTE_FEATURES, replace=False)
    dominant = counts[torch.from_numpy(chosen)].argmax(-1).numpy()
    if not 2 <= len(np.unique(dominant)) < len(chosen):
        return None
    return float(silhouette_score(decoder[torch.from_numpy(chosen)].float().cpu().numpy(), dominant))
