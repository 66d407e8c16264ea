"""Maps: the features of two dictionaries as points in the plane, near those whose decoder rows point the same way.

1. Decoder rows of norm 1. `umap` (1802.03426): 15 neighbours by cosine, seeded, so that the same rows give the same
   map. `pca`: the two directions of largest variance; nothing to install, and it shows less.
2. Each map is centred and scaled, the middle distance from its centre 1.
3. The second map is turned (and mirrored, where that fits better) so that one-to-one partners come to lie alike: where
   a map lies says nothing by itself, so that this costs nothing and helps the eye.

What is near on a map has a like direction; what is far may still be alike. No number is taken from a map.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.decomposition import PCA

from suture import seeds
from suture.errors import UserError
from suture.matching.assign import Pairs
from suture.matching.settings import MapKind

N_NEIGHBOURS = 15
LEAST = 5
"""Features below which there is nothing to lay out."""


def places(rows: Float[ndarray, "feature width"], how: MapKind, *, seed: int = 0) -> Float[ndarray, "feature 2"] | None:
    """Where every feature lies, from its decoder row; None where no map is wanted or there is nothing to lay out.

    Raises:
        UserError: `umap` is not installed.
    """
    if how == "none" or len(rows) < LEAST or rows.shape[1] < 2:
        return None
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    flat = _umap(unit, seed) if how == "umap" else PCA(2, svd_solver="covariance_eigh").fit_transform(unit)
    flat = np.asarray(flat, dtype=np.float64)
    flat -= flat.mean(0)
    return flat / max(float(np.median(np.linalg.norm(flat, axis=1))), 1e-12)  # 2


def turned(
    moved: Float[ndarray, "feature 2"], onto: Float[ndarray, "other 2"], pairs: Pairs
) -> Float[ndarray, "feature 2"]:
    """3: `moved`, turned so that its side of the pairs (of `onto`, of `moved`) lies near the other."""
    there, own = onto[pairs[0]], moved[pairs[1]]
    left, _, right = np.linalg.svd(own.T @ there)
    return moved @ left @ right


def load_umap() -> Any:
    """The library, or how to get it.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("umap")
    except ImportError:
        problem = "needs umap-learn, which is not installed"
        raise UserError("maps", "umap", problem, "pip install 'suture[maps]', or take --maps pca") from None


def _umap(unit: Float[ndarray, "feature width"], seed: int) -> Any:
    state = int(seeds.numpy_generator("maps", seed).integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reducer = load_umap().UMAP(
            n_neighbors=min(N_NEIGHBOURS, len(unit) - 1), metric="cosine", init="pca", random_state=state, n_jobs=1
        )
        return reducer.fit_transform(unit.astype(np.float32))
