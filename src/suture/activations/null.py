"""Null pairs: a space against itself, or against a rotated copy of itself, where every difference found is false.

1. The view reads one space twice, or more often.
2. With a seed, each copy is multiplied by a random orthogonal matrix: all norms, distances and angles stay, the
   coordinates mean nothing any more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from suture import seeds
from suture.activations.space import Copy
from suture.activations.store import Store


def self_pair(store: Store, space: int, *, rotation_seed: int | None, n_copies: int = 1) -> Store:
    """A view of the store that pairs `space` with a copy of itself; rotated when a seed is given. No data is copied.

    Of several copies each has a rotation of its own.
    """
    own = store.spaces[space]
    kind = Copy(original=own.label, rotated=rotation_seed is not None).kind
    parts = [(space, own, store.maps[space])]
    for number in range(n_copies):
        change, mean = store.maps[space], own.known_mean
        copy_of = Copy(original=own.label)
        if rotation_seed is not None:  # 2
            copy_of = Copy(original=own.label, rotated=True, seed=rotation_seed + number)
            rotation = random_rotation(own.width, seed=rotation_seed + number)
            change = rotation if change is None else change @ rotation
            mean = mean @ rotation
        parts.append((space, replace(own, mean=mean, copy_of=copy_of), change))
    seed = "" if rotation_seed is None else f", seed {rotation_seed}"
    how_many = f"a {kind}" if n_copies == 1 else f"{n_copies} {kind.replace('copy', 'copies')}"
    return store.derive(parts, view=f"{own.label} against {how_many} of itself{seed}")


def random_rotation(width: int, *, seed: int) -> Float32[Tensor, "width width"]:
    """An orthogonal matrix drawn uniformly (QR of a Gaussian matrix with the signs of R's diagonal taken out)."""
    gaussian = seeds.numpy_generator("rotation", seed).standard_normal((width, width))
    q, r = np.linalg.qr(gaussian)
    return torch.from_numpy((q * np.sign(np.diagonal(r))).astype(np.float32))
