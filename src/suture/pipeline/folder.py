"""A folder that appears whole: written as NAME.partial, marked as ours and locked, then given its name.

1. What cannot be written is refused first: a link, a mount point, a folder that is not ours, one that is being written.
2. NAME.partial holds `unfinished.json`, which says whose it is and what is being made; nothing else of that name is
   ever touched.
3. When everything is there the mark says so; what NAME was is renamed to NAME.replaced, NAME.partial to NAME; then the
   mark, what only a resumed run needs, and the old folder are removed.
4. `settle` brings to its end what a process left that was killed between two of these.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.errors import ArtifactError
from suture.pipeline.files import TEMPORARY, read_json, write_json
from suture.pipeline.lock import LOCK, is_lock, living_holder, take

PARTIAL, REPLACED = ".partial", ".replaced"
MARK = "unfinished.json"
OLD_MARK = "replaced.json"
FINISHED, SCRATCH = "finished", "scratch"
"""Keys of the mark: everything is there; what is to be removed then."""
MOUNTS = Path("/proc/self/mountinfo")


@dataclass
class Writing:
    """A folder being written."""

    folder: Path
    """NAME.partial."""
    begun: Mapping[str, Any] | None
    """The mark of the unfinished run that this one goes on with; None where it begins anew."""
    scratch: list[str] = field(default_factory=list)
    """Names in the folder that only a resumed run needs: they are removed when it is finished."""


def partial_path(path: Path) -> Path:
    """Where the folder `path` is written until it is finished."""
    if path.name in ("", "..") or path.name.endswith((PARTIAL, REPLACED)):
        raise ArtifactError("out", path, "does not name a new folder", "give the folder a name of its own")
    return path.with_name(path.name + PARTIAL)


@contextmanager
def writing(
    path: Path,
    mark: Mapping[str, Any],
    *,
    may_take: Callable[[], None] = lambda: None,
    resume: bool = False,
    resumable: bool = False,
) -> Iterator[Writing]:
    """Write the folder `path`: it appears when the block ends without error.

    Args:
        path: the folder.
        mark: what is being made, kept in the unfinished folder.
        may_take: raises where `path` may not be taken, or replaced.
        resume: go on with an unfinished folder; otherwise it is emptied.
        resumable: keep the unfinished folder where the block fails, as `resume` does; otherwise it is removed.

    Raises:
        InUseError: another process is writing it.
        ArtifactError: it cannot be written, or what is there is not ours.
    """
    partial, lock = partial_path(path), None
    while lock is None:
        settle(path)  # 4
        _refuse_unusable(path)  # 1
        may_take()
        partial.mkdir(parents=True, exist_ok=True)
        try:
            lock = take(partial, path)
        except OSError:
            _remove_folder(partial)
            raise
    try:
        may_take()  # somebody may have finished it a moment ago
        begun = _open(partial, mark, resume=resume)  # 2
        draft = Writing(partial, begun)
        yield draft
        _give_name(draft, path)  # 3
    except BaseException:
        lock.release(partial)
        mark = _mark_of(partial)
        if not (mark.get(FINISHED) or ((resume or resumable) and mark)):
            _remove_folder(partial)
        raise
    _tidy(path)
    lock.release(path)


def settle(path: Path) -> None:
    """End what a killed process began: give a folder its name that only lacked it, or give the old one its name back.

    Nothing is touched that a living process is writing.
    """
    partial, old = partial_path(path), _replaced_path(path)
    if living_holder(partial) or living_holder(path):
        return
    finished = _mark_of(partial).get(FINISHED)
    if finished and (path / OLD_MARK).is_file() and not old.exists():
        os.replace(path, old)
    if finished and not path.exists():
        os.replace(partial, path)
    elif not path.exists() and (old / OLD_MARK).is_file():
        os.replace(old, path)
        (path / OLD_MARK).unlink()
    _tidy(path)


def begun(path: Path) -> Mapping[str, Any]:
    """The mark of an unfinished folder; empty where there is none."""
    return _mark_of(partial_path(path))


def _mark_of(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / MARK)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "suture" in found else {}


def _replaced_path(path: Path) -> Path:
    return path.with_name(path.name + REPLACED)


def _refuse_unusable(path: Path) -> None:
    """What would fail only after all the work, or cost the user something of his own."""
    if path.is_symlink():
        fix = f"name {path.resolve()} itself, or another folder"
        raise ArtifactError("out", path, "is a symbolic link, which a finished folder cannot replace", fix)
    if path.exists() and (path.is_mount() or str(path.resolve()) in _mount_points()):
        problem = "is a mount point, which a finished folder cannot replace"
        raise ArtifactError("out", path, problem, "name a folder inside of it")
    old, partial = _replaced_path(path), partial_path(path)
    for folder, ours in ((partial, _mark_of(partial) or is_lock(partial / LOCK)), (old, (old / OLD_MARK).is_file())):
        if folder.is_symlink() or (folder.exists() and not ours and not _is_empty(folder)):
            problem = f"is to be written by way of {folder.name}, which is there and was not made by suture"
            raise ArtifactError("out", path, problem, "move that away, or name another folder")


def _open(partial: Path, mark: Mapping[str, Any], *, resume: bool) -> Mapping[str, Any] | None:
    """Make the folder ready; the mark of the run that is gone on with."""
    begun = _mark_of(partial)
    if resume and begun:
        return begun
    for left in partial.iterdir():
        if left.name != LOCK:
            _remove(left)
    write_json(partial / MARK, {"suture": "a folder that is being written", **mark})
    return None


def _give_name(draft: Writing, path: Path) -> None:
    for left in draft.folder.rglob("*" + TEMPORARY):  # of a run that was killed while it wrote
        _remove(left)
    write_json(draft.folder / MARK, _mark_of(draft.folder) | {FINISHED: True, SCRATCH: draft.scratch})
    old = _replaced_path(path)
    replaces = path.exists() and not _is_empty(path)
    if replaces:
        write_json(path / OLD_MARK, {"replaced_by": str(path)})
        os.replace(path, old)
    try:
        os.replace(draft.folder, path)
    except OSError:
        if replaces:
            os.replace(old, path)
        raise


def _tidy(path: Path) -> None:
    """Remove what a folder that has its name needs no more."""
    old, mark = _replaced_path(path), _mark_of(path)
    if path.exists() and (old / OLD_MARK).is_file():
        _remove_folder(old)
    if mark.get(FINISHED):
        for name in mark[SCRATCH]:
            _remove(path / name)
        (path / LOCK).unlink(missing_ok=True)
        (path / MARK).unlink(missing_ok=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and all(f.name == LOCK + TEMPORARY for f in folder.iterdir())


def _remove_folder(folder: Path) -> None:
    """Remove a folder of ours; what says whose it is goes last, so that it is known for ours whenever this ends."""
    if not folder.exists():
        return
    for found in sorted(folder.iterdir(), key=lambda f: f.name in (MARK, OLD_MARK)):
        _remove(found)
    folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _mount_points() -> set[str]:
    """Mount points that the device number does not give away: a folder bound to another of the same disk."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[4].encode().decode("unicode_escape") for line in lines}
