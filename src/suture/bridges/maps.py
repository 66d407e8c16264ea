"""Maps from one space's rows to another's: affine ones, and one with a hidden layer; and how they lie in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from suture.activations.moments import AffineMap
from suture.errors import ArtifactError


@dataclass(frozen=True)
class ReluMap:
    """Rows of a space from rows of another: mean_t + relu((x_s - mean_s) W + b) V (2503.04429)."""

    into: Float[Tensor, "source inner"]
    bias: Float[Tensor, "inner"]
    out: Float[Tensor, "inner target"]
    source_mean: Float[Tensor, "source"]
    target_mean: Float[Tensor, "target"]

    def __call__(self, x: Float[Tensor, "row source"]) -> Float[Tensor, "row target"]:
        """The rows carried over, in the precision and on the device of `x`."""
        into, bias, out, source, target = (getattr(self, f.name).to(x) for f in fields(self))
        return torch.addmm(target, torch.addmm(bias, x - source, into).relu(), out)


Map = AffineMap | ReluMap
Pair = tuple[Map, Map]
"""From the first space to the second, and back: each fitted in its own right."""
PARTS: Mapping[str, type[Map]] = {"matrix": AffineMap, "into": ReluMap}
"""A tensor that only this kind of map has."""


def save_maps(maps: Mapping[str, Pair], file: Path) -> None:
    """All maps as one file; a map's tensors are KIND.WAY.NAME, matrices in float32."""
    tensors = {}
    for kind, pair in maps.items():
        for way, own in enumerate(pair):
            for part in fields(own):
                tensor = getattr(own, part.name).detach().cpu()
                kept = tensor if part.name.endswith("mean") else tensor.float()
                tensors[f"{kind}.{way}.{part.name}"] = kept.contiguous()
    save_file(tensors, file)


def load_maps(file: Path) -> dict[str, Pair]:
    """What `save_maps` wrote.

    Raises:
        ArtifactError: it is something else.
    """
    try:
        found: dict[str, dict[str, dict[str, Tensor]]] = {}
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                kind, way, part = name.split(".")
                found.setdefault(kind, {}).setdefault(way, {})[part] = tensors.get_tensor(name)
        return {kind: (_made(ways["0"]), _made(ways["1"])) for kind, ways in found.items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            "bridge", file.parent, f"file {file.name} cannot be read ({error})", "fit it again"
        ) from None


def _made(tensors: Mapping[str, Tensor]) -> Map:
    kind = next(kind for name, kind in PARTS.items() if name in tensors)
    return kind(**tensors)
