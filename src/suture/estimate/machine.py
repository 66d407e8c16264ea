"""What this process took of the machine's memory, and what the machine has left of memory and disk.

Linux tells all of it in /proc and, inside a container, in its control group. Elsewhere a peak cannot be reset, so that
it is an upper bound, and all memory counts as free.
"""

import ctypes
import gc
import os
import resource
import shutil
import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


def reset_peak() -> None:
    """Let `peak_bytes` count from now, and give back what was freed but is still held."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        RESET.write_text("5")
    except OSError:
        return  # no Linux, or a sandbox that forbids it: the peak stays an upper bound


def peak_bytes() -> int:
    """The most memory that this process has held at once, mapped files included."""
    # getrusage would also count the process that started this one, whose memory it shared for a moment
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def held_bytes() -> int:
    """The memory that this process holds now, mapped files included."""
    return _status("VmRSS") or peak_bytes()


def free_memory() -> int:
    """Memory that a new process can have: what the system counts as available, within the container's limit."""
    if not MEMORY.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _kilobytes(MEMORY, "MemAvailable")
    limit, used = _number(GROUP / "memory.max"), _number(GROUP / "memory.current")
    return available if limit is None or used is None else min(available, max(limit - used, 0))


def free_disk(folder: Path) -> int:
    """Disk that is free at a folder, or where it would be made."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _status(name: str) -> int:
    return _kilobytes(STATUS, name) if STATUS.exists() else 0


def _kilobytes(file: Path, name: str) -> int:
    """The bytes of a line `NAME: 123 kB`; 0 where there is none."""
    for line in file.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _number(file: Path) -> int | None:
    """A control group's number; None where there is no group or no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
