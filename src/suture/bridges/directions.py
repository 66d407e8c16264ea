"""Directions of one space carried over a bridge into the other: v P_up, without the means, of length 1 again.

A direction is a difference of rows, so that the means fall away. Reading them from a file, carrying them, and the stage
that writes them.

| file                   | content                                                        |
|------------------------|----------------------------------------------------------------|
| directions.safetensors | the carried ones, of length 1, in the other model's own units  |
| carried.json           | what the map kept of each                                      |
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.bridges.bridge import Bridge
from suture.bridges.carry import affine
from suture.bridges.settings import CarrySettings
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact
from suture.pipeline.result import read_typed

STAGE = "directions"
SUMMARY, VECTORS = "carried.json", "directions.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class CarriedDirections:
    """Directions in the other model's own units, of length 1."""

    vectors: Float[Tensor, "direction width"]
    norm_kept: Float[ndarray, "direction"]
    """Length after the map as a part of that before, scaled units."""
    round_trip: Float[ndarray, "direction"]
    """Cosine with what there and back leaves, scaled units."""


def carried_directions(
    bridge: Bridge, vectors: Float[Tensor, "direction width"], source: int, kind: str = "ridge"
) -> CarriedDirections:
    """Directions of a space (0: A, 1: B), in its model's own units, in the other.

    Raises:
        UserError: vectors of another width, one without length, or a map that is no matrix.
    """
    space = bridge.spaces[source]
    if vectors.shape[1] != space.width:
        problem = f"has directions {vectors.shape[1]} wide, {space.label} is {space.width} wide"
        raise UserError("direction", tuple(vectors.shape), problem, "give directions of one of the bridge's spaces")
    scaled = vectors.double() * space.scale
    if not bool(scaled.isfinite().all()) or bool((scaled.norm(dim=1) == 0).any()):
        raise UserError("direction", tuple(vectors.shape), "holds one that is zero or not finite", "leave it out")
    up, down = (affine(bridge, s, kind).matrix.double() for s in (source, 1 - source))
    there = scaled @ up
    raw = there / bridge.spaces[1 - source].scale
    return CarriedDirections(
        vectors=torch.nn.functional.normalize(raw, dim=1).float(),
        norm_kept=(there.norm(dim=1) / scaled.norm(dim=1)).numpy(),
        round_trip=torch.nn.functional.cosine_similarity(scaled, there @ down, dim=1).numpy(),
    )


def direction_space(bridge: Bridge, width: int, given: int | None) -> int:
    """Of which of the bridge's spaces directions of a width are.

    Raises:
        UserError: of neither, or of either and none was named.
    """
    widths = [space.width for space in bridge.spaces]
    if width not in widths:
        raise UserError("direction", width, f"is not the width of a space of the bridge ({widths[0]}, {widths[1]})",
                        "give directions of one of them")  # fmt: skip
    if given is not None:
        return given
    if widths[0] == widths[1]:
        problem = f"is needed: both spaces are {width} wide"
        names = ", ".join(f"{i} for {space.label}" for i, space in enumerate(bridge.spaces))
        raise UserError("from-space", None, problem, f"give {names}")
    return widths.index(width)


def read_directions(file: str | Path) -> Float[Tensor, "direction width"]:
    """Directions from a file: one tensor of shape [width] or [direction, width], as safetensors or NumPy's .npy.

    Raises:
        ArtifactError: it is something else.
    """
    file = Path(file)
    try:
        if file.suffix == ".npy":
            found = torch.from_numpy(np.load(file, allow_pickle=False))
        else:
            (found,) = load_file(file).values()
        if found.dim() not in (1, 2) or not found.is_floating_point() or found.numel() == 0:
            raise ValueError(f"shape {tuple(found.shape)} of {found.dtype}")
    except (OSError, ValueError, TypeError, EOFError, SafetensorError) as error:
        fix = "give one tensor [width] or [direction, width] of floats as .safetensors or .npy"
        raise ArtifactError("direction", file, f"cannot be read ({error})", fix) from None
    return found.float().reshape(-1, found.shape[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectionsSummary:
    """What became of directions."""

    source: str
    target: str
    kind: str
    norm_kept: tuple[float, ...]
    """Of each, its length after the map as a part of that before, scaled units."""
    round_trip: tuple[float, ...]
    """Of each, the cosine with what there and back leaves of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Directions that were carried."""

    vectors: Float[Tensor, "direction width"]
    """Of length 1, in the model's own units."""
    summary: DirectionsSummary
    path: Path | None = field(default=None, compare=False)

    @staticmethod
    def load(path: str | Path) -> Directions:
        """Read what `carry_directions` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged, or something else.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="directions")
        summary = read_typed(path / SUMMARY, DirectionsSummary, setting="directions")
        return Directions(vectors=load_file(path / VECTORS)["directions"], summary=summary, path=path)


def carry_directions(
    out: str | Path,
    bridge: Bridge | str | Path,
    vectors: Float[Tensor, "direction width"] | str | Path,
    settings: CarrySettings | None = None,
    *,
    overwrite: bool = False,
    command: str | None = None,
) -> Directions:
    """Carry directions of one of a bridge's spaces into the other, written to `out`.

    Args:
        out: the folder to be made.
        bridge: its folder, or what was loaded from it.
        vectors: in the model's own units, [direction, width], or a file of them (`read_directions`).
        settings: by which map, and of which space they are where the widths do not tell.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: directions of another width, or without length.
        ArtifactError: something cannot be read, or `out` is taken.
    """
    settings = settings or CarrySettings()
    folder = artifact.folder_of(bridge, setting="bridge")
    bridge = Bridge.load(folder)
    where = str(vectors) if isinstance(vectors, str | Path) else "in memory"
    given = vectors if isinstance(vectors, Tensor) else read_directions(vectors)
    source = direction_space(bridge, given.shape[1], settings.from_space)
    found = carried_directions(bridge, given, source, settings.kind)
    recorded = {"carry": asdict(settings) | {"bridge": str(folder), "directions": where}}
    summary = DirectionsSummary(
        source=bridge.spaces[source].label,
        target=bridge.spaces[1 - source].label,
        kind=settings.kind,
        norm_kept=tuple(float(v) for v in found.norm_kept),
        round_trip=tuple(float(v) for v in found.round_trip),
    )
    with artifact.create(
        out, stage=STAGE, settings=recorded, parents=(folder,), overwrite=overwrite, command=command
    ) as draft:
        save_file({"directions": found.vectors}, draft.folder / VECTORS)
        artifact.write_json(draft.folder / SUMMARY, asdict(summary))
    return Directions.load(out)
