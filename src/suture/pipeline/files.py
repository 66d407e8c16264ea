"""Small things done to files: JSON written all at once, checksums, how much disk is free.

A checksum is remembered for as long as this process lives, by the file's inode, size and time, so that what is opened
again and again is read once.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec

from suture import units
from suture.errors import DiskSpaceError
from suture.pipeline.garbage import uncollected

TEMPORARY = ".tmp"
"""What ends in this is no part of any result."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SETTLED_NS = 2_000_000_000
"""A file changed more recently could change again without its time telling: its checksum is not remembered."""

_known: dict[tuple[str, int, int, int], str] = {}
_MASK = os.umask(0o077)
os.umask(_MASK)  # there is no way to read it without setting it; at import, no other thread writes files


def sha256_of(file: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_sha256_of(file: Path) -> str:
    """The same, of a file that this process has read before from memory."""
    found = file.stat()
    key = (str(file.absolute()), found.st_ino, found.st_size, found.st_mtime_ns)
    if key in _known:
        return _known[key]
    digest = sha256_of(file)
    if time_ns() - found.st_mtime_ns > SETTLED_NS:
        _known[key] = digest
    return digest


def write_json(file: Path, value: object) -> None:
    """Write `value` as JSON, all at once: a reader sees the old file or the new one, never half of one."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(file) as aside, aside.open("w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def share(file: Path) -> None:
    """Let those read a file who may read what this process writes: safetensors makes files for their owner alone."""
    mode = file.stat().st_mode & 0o777
    if mode == 0o600 != 0o666 & ~_MASK:
        with suppress(OSError):  # a file system without such rights
            file.chmod(0o666 & ~_MASK)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Where to write what shall be `file`: it has that name once the block has ended, and is gone where it failed."""
    aside = file.with_name(file.name + TEMPORARY)
    try:
        yield aside
        share(aside)
        os.replace(aside, file)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def read_json(file: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: it is none.
    """
    whole = file.read_bytes()
    try:
        with uncollected():
            return msgspec.json.decode(whole)
    except msgspec.DecodeError:  # what Python's own reader takes besides (NaN, half a surrogate), and its message
        return json.loads(whole.decode("utf-8"))


def json_line(value: object) -> bytes:
    """A value as JSON on one line, as long files have it.

    Raises:
        ValueError: a NaN or an infinity is inside (not JSON).
    """
    line = msgspec.json.encode(value)
    if b"null" in line:  # as which a NaN is written
        json.dumps(value, allow_nan=False)
    return line


def as_json(value: Any) -> Any:
    """A value as it will be read back from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value, allow_nan=False))


def free_bytes(path: Path) -> int:
    """Free disk at the nearest folder that exists."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def bytes_in(folder: Path) -> int:
    """What a folder holds; 0 where it does not exist."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_room(path: Path, n_bytes: int, fix: str, *, n_free: int | None = None) -> None:
    """Refuse what would not fit on the disk, before any work is done.

    Raises:
        DiskSpaceError: fewer than `n_bytes` are free at `path`.
    """
    n_free = free_bytes(path) if n_free is None else n_free
    if n_bytes > n_free:
        problem = f"needs {units.size(n_bytes)} of disk, {units.size(n_free)} are free"
        raise DiskSpaceError("out", path, problem, f"{fix}, or name a folder on another disk")
