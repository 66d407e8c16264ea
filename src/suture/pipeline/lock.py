"""One writer at a time: a lock file that names its holder, and is taken over where the holder is dead.

1. The lock is `lock.json` in the folder being written: the holder's process number, when that process began, and the
   place where the number means something (host, boot, namespace).
2. In the same place a holder lives as long as its process. Of another place only the file's time tells: a thread of
   the holder touches it every `BEAT` seconds, and a lock that was not touched for `STALE` seconds is dead.
3. Judging and taking happen under flock on the folder, so that no two processes find the same lock dead.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from suture.errors import InUseError
from suture.pipeline.files import read_json, write_json

LOCK = "lock.json"
BEAT = 10.0
STALE = 90.0
PROCESSES = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process, so that it can be told from another of the same number."""

    pid: int
    start: str
    """In the system's own counting; empty where it tells none."""
    host: str
    place: str
    """The boot and the namespace that the process number is of."""
    since: str
    """When the lock was taken, for people."""

    @staticmethod
    def this() -> "Holder":
        """This process."""
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return Holder(pid=os.getpid(), start=_start(os.getpid()), host=socket.gethostname(), place=_place(), since=now)

    def lives(self, touched: float, now: float) -> bool:
        """Whether it still runs, the lock having been touched at `touched`."""
        if (self.host, self.place) != (socket.gethostname(), _place()):  # 2
            return now - touched < STALE
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        return _start(self.pid) == self.start


class Lock:
    """A lock that this process holds until `release`."""

    def __init__(self, file: Path) -> None:
        self._handle = os.open(file, os.O_RDONLY)  # the folder may get another name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="suture-lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):
                os.utime(self._handle)

    def release(self, folder: Path) -> None:
        """Give it up; `folder` is where it is now, if it is there at all."""
        self._over.set()
        self._thread.join()
        os.close(self._handle)
        (folder / LOCK).unlink(missing_ok=True)


def take(folder: Path, out: Path) -> Lock | None:
    """Take the lock of a folder in which `out` is written; None where the folder was given its name meanwhile.

    Raises:
        InUseError: a process that lives holds it.
    """
    with _alone(folder) as still_there:  # 3
        if not still_there:
            return None
        if (holder := living_holder(folder)) is not None:
            problem = f"is being written by process {holder.pid} on {holder.host} since {holder.since}"
            raise InUseError("out", out, problem, "wait for it, or name another folder")
        write_json(folder / LOCK, asdict(Holder.this()))
        return Lock(folder / LOCK)


def living_holder(folder: Path) -> Holder | None:
    """Who writes in this folder now."""
    file = folder / LOCK
    try:
        holder, touched = Holder(**read_json(file)), file.stat().st_mtime
    except (OSError, ValueError, TypeError):  # a lock is written all at once: this is none
        return None
    return holder if holder.lives(touched, time.time()) else None


def is_lock(file: Path) -> bool:
    """Whether a file is a lock of ours."""
    try:
        return isinstance(Holder(**read_json(file)).pid, int)
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Alone among those who ask for this folder's lock; whether the folder is still the one of that name."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder.exists() and os.fstat(handle).st_ino == folder.stat().st_ino
    finally:
        os.close(handle)


def _start(pid: int) -> str:
    """When a process began; empty where the system does not tell, or it is over and only waited for."""
    try:
        fields: list[Any] = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _place() -> str:
    """What a process number is relative to."""
    try:
        boot = (PROCESSES / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROCESSES / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
