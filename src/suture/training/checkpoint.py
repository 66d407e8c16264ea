"""Training checkpoints: everything the next step depends on, checksummed, written aside and renamed, never pickled.

1. A checkpoint is a folder: what has a row per feature in one file for each rank that holds features, the rest in one
   more, and beside each file its checksum and which features it holds.
2. It is written under another name and renamed once everything is on the disk.
3. Reading takes the newest one whose checksums are right. It may have been written by another number of ranks: each
   reads the rows of its own features from whichever files have them.

Batches, masks and schedules are pure functions of (settings, step), so weights, moments, counters and the step number
are all there is to keep. The newest two are kept, until the finished folder has its own name.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.errors import DiskSpaceError
from suture.parallel import ALONE, Grid
from suture.pipeline import artifact
from suture.pipeline.files import NO_ROOM

FOLDER = "checkpoints"
COMMON = "common"
KEPT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Where training stood after a step."""

    step: int
    per_feature: Mapping[str, Tensor]
    """What has a row for each of this rank's features."""
    common: Mapping[str, Tensor]
    """The rest: the same on every rank."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, n_features: int, grid: Grid = ALONE) -> None:
    """Write it to `folder/checkpoints/STEP` whole or not at all, and drop all but the newest two.

    Raises:
        DiskSpaceError: there is no room for it; older ones stay.
    """
    aside = folder / FOLDER / f"{checkpoint.step:012d}.tmp"
    try:
        with room_for("a checkpoint", folder):
            if grid.world.leads:
                for stale in aside.parent.glob("*.tmp"):  # of a run that was killed while it wrote
                    shutil.rmtree(stale)
                aside.mkdir(parents=True)
            grid.world.wait()
            if grid.data.leads:  # the others of the same features would write the same
                own = grid.features.share(n_features)
                held = {"first_feature": own.start, "last_feature": own.stop, "n_features": n_features}
                _write_part(aside / f"features-{grid.features.rank:05d}.safetensors", checkpoint.per_feature, held)
            if grid.world.leads:
                _write_part(aside / f"{COMMON}.safetensors", checkpoint.common, {})
            grid.world.wait()
            if grid.world.leads:
                _put_in_place(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def load_checkpoint(folder: Path, *, grid: Grid = ALONE) -> Checkpoint | None:
    """The newest checkpoint that is whole, with the rows of this rank's features; None where there is none."""
    good = None
    if grid.world.leads:
        good = _newest_whole(folder)
    chosen = grid.world.agree(good)
    if chosen is None:
        return None
    found = folder / FOLDER / chosen
    parts = [artifact.read_json(note) | {"file": note.with_suffix("")} for note in _notes(found) if _has_features(note)]
    own = grid.features.share(parts[0]["n_features"])
    return Checkpoint(
        step=int(chosen), per_feature=_read_rows(parts, own), common=load_file(found / f"{COMMON}.safetensors")
    )


def _newest_whole(folder: Path) -> str | None:
    for found in _newest_first(folder):
        if _is_whole(found):
            return found.name
        logging.getLogger(__name__).warning("%s is damaged and passed over", found)
    return None


@contextmanager
def room_for(what: str, folder: Path) -> Iterator[None]:
    """Say of a full disk what had no room there and how to go on.

    Raises:
        DiskSpaceError: the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _system_error(error)
        if number in NO_ROOM:
            problem = f"has no room for {what} ({os.strerror(number)})"
            raise DiskSpaceError("out", folder, problem, "free some disk, then go on with --resume") from None
        if isinstance(error, OSError) or number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from None


def _system_error(error: OSError | SafetensorError) -> int | None:
    """The system's error number; safetensors tells it only in words."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _put_in_place(aside: Path) -> None:
    """Give a checkpoint its name, and drop those that will not be read again."""
    _flush(aside)
    final = aside.with_suffix("")
    shutil.rmtree(final, ignore_errors=True)  # it is damaged, or these steps would not have been taken again
    os.replace(aside, final)
    _flush(final.parent)
    found = _newest_first(final.parent.parent)
    newer = found.index(final)  # damaged as well: they must not be counted among the newest
    for old in found[:newer] + found[newer + KEPT :]:
        shutil.rmtree(old, ignore_errors=True)


def _write_part(file: Path, tensors: Mapping[str, Tensor], note: Mapping[str, int]) -> None:
    save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, file)
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    artifact.write_json(file.with_name(file.name + ".json"), {"sha256": artifact.sha256_of(file), **note})


def _read_rows(parts: list[dict[str, object]], wanted: slice) -> dict[str, Tensor]:
    """The rows `wanted` of every per-feature tensor, put together from the files that overlap them."""
    pieces: dict[str, list[Tensor]] = {}
    for part in parts:
        first, last = int(str(part["first_feature"])), int(str(part["last_feature"]))
        begin, end = max(first, wanted.start), min(last, wanted.stop)
        if begin < end:
            with safe_open(str(part["file"]), framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (a safetensors handle is no dict)
                    rows = opened.get_slice(name)[begin - first : end - first]
                    pieces.setdefault(name, []).append(rows)
    return {name: torch.cat(rows) for name, rows in pieces.items()}


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file is there with the bytes that were written."""
    try:
        notes = {note: artifact.read_json(note) for note in _notes(checkpoint)}
        parts = sorted((n["first_feature"], n["last_feature"], n["n_features"]) for n in notes.values() if len(n) > 1)
        borders = [0, *(last for _, last, _ in parts)]
        complete = [first for first, _, _ in parts] == borders[:-1] and borders[-1] == parts[0][2]
        return (
            complete
            and len(notes) == len(parts) + 1
            and all(artifact.sha256_of(note.with_suffix("")) == n["sha256"] for note, n in notes.items())
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _notes(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("*.json"))


def _has_features(file: Path) -> bool:
    return file.name.startswith("features-")


def _newest_first(folder: Path) -> list[Path]:
    where = folder / FOLDER
    return sorted((f for f in where.glob("*") if f.name.isdecimal() and f.is_dir()), reverse=True)


def _flush(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
