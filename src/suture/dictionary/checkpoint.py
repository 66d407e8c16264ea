"""Training checkpoints: everything the next step depends on, written aside and renamed, never pickled.

Batches, masks and schedules are pure functions of (seed, step), so weights, moments, counters and the step number are
all there is to keep. The newest two are kept; a damaged newest one is passed over for the one before.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FOLDER = "checkpoints"
KEPT = 2


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Write `folder/checkpoints/STEP.safetensors` whole or not at all, and drop all but the newest two."""
    where = folder / FOLDER
    where.mkdir(exist_ok=True)
    final = where / f"{step:012d}.safetensors"
    aside = final.with_suffix(".tmp")
    save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, aside, metadata={"step": str(step)})
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(aside, final)
    for old in _newest_first(where)[KEPT:]:
        old.unlink()


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor]] | None:
    """(step, tensors) of the newest readable checkpoint, or None."""
    for file in _newest_first(folder / FOLDER):
        try:
            with safe_open(file, framework="pt") as opened:
                return int(opened.metadata()["step"]), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError):
            continue
    return None


def remove_checkpoints(folder: Path) -> None:
    """Drop them all: the run is finished."""
    where = folder / FOLDER
    if where.exists():
        for file in where.iterdir():
            file.unlink()
        where.rmdir()


def _newest_first(where: Path) -> list[Path]:
    return sorted(where.glob("*.safetensors"), reverse=True) if where.exists() else []
