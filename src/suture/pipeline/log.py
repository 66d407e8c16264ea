"""A run's log beside its result: what was asked for, with which versions, how far it came and when, what went wrong.

1. `keeping` opens `run.log` in the folder being written and appends to it, so that a resumed run goes on in it. A line
   is on disk as soon as it is written: a killed run has its log too.
2. While it is open, `note` and `told` write to it, and so do Python's warnings and the warnings of `logging`, which
   still reach whoever they reached before.
3. Progress is thinned to milestones: the first word of each thing, and then one a tenth, or a minute.

The log is no part of the result: manifests do not list it, and no comparison of results reads it.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from suture import units

LOG = "run.log"
VERSIONS = ("suture", "torch", "transformers", "tokenizers", "numpy")
"""Packages that results may depend on."""
MILESTONE_SECONDS = 60.0
"""Between two milestones of one thing, where a tenth of it takes longer."""

_open: ContextVar[tuple[Log, ...]] = ContextVar("logs of the results being written", default=())
"""By this thread's stage: progress of one is not in the log of another that runs beside it."""


class Log:
    """The log of one result being written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = time.monotonic()
        self._last: dict[str, tuple[int, float]] = {}
        """Of each thing, the tenths done and the time at its last milestone."""

    def line(self, text: str) -> None:
        """One line with the time; a disk that is full, or gone, does not end the work for the sake of its log."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with suppress(OSError, ValueError):
            self._stream.write(f"{stamp}  {' '.join(text.split())}\n")
            self._stream.flush()

    def told(self, what: str, done: int, total: int, note: str) -> None:  # 3
        """How far something is, if that is a milestone."""
        tenth, now = 10 * done // max(total, 1), time.monotonic()
        before, when = self._last.get(what, (None, now))
        if tenth != before or now - when >= MILESTONE_SECONDS:
            self._last[what] = tenth, now
            self.line(f"{what}: {done:,}/{total:,} {note}")

    @property
    def taken(self) -> str:
        """Time since it was opened, in words."""
        return units.clock(time.monotonic() - self._begun)


@contextmanager
def keeping(
    folder: Path, what: str, *, command: str | None, inputs: Sequence[str] = (), goes_on: bool
) -> Iterator[Log]:
    """Keep the log of a result that is written into `folder`, until the block ends, however it ends.

    Args:
        folder: where it is written; the log follows it when it gets its name.
        what: what is made.
        command: the shell command, where there is one.
        inputs: what it is made from.
        goes_on: whether this run goes on with an unfinished one.
    """
    with (folder / LOG).open("a", encoding="utf-8", errors="backslashreplace") as stream:
        log = Log(stream)
        log.line(f"{what}: {'gone on with' if goes_on else 'begun'}")
        log.line(f"versions: {versions()}")
        for name, value in (("command", command), ("made from", ", ".join(inputs))):
            if value:
                log.line(f"{name}: {value}")
        _open.set((*_open.get(), log))
        _listen(log)
        try:
            yield log
        except BaseException as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {type(error).__name__}: {error}"
            log.line(f"{why}, after {log.taken}")
            raise
        else:
            log.line(f"finished, after {log.taken}")
        finally:
            _unlisten(log)
            _open.set(tuple(own for own in _open.get() if own is not log))


def note(text: str) -> None:
    """Write a line to the logs that are open."""
    for log in _open.get():
        log.line(text)


def told(what: str, done: int, total: int, note: str = "") -> None:
    """How far something is, for the logs that are open."""
    for log in _open.get():
        log.told(what, done, total, note)


def versions() -> str:
    """Of Python, the system, and what results may depend on."""
    found = [f"{name} {number}" for name in VERSIONS if (number := _version(name))]
    return ", ".join([*found, f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


class _Ear(logging.Handler):
    """Hears what `logging` warns of, for the logs that are open."""

    def emit(self, record: logging.LogRecord) -> None:
        """Note it; where nobody else listens it is said on stderr, as if this one were not there."""
        _heard(record.getMessage())
        if logging.lastResort is not None and not self._others_hear(record.name):
            logging.lastResort.handle(record)

    def _others_hear(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


_ear = _Ear(logging.WARNING)
_guard = threading.Lock()
_ears_of: list[Log] = []
"""The logs that are open, of all threads."""
_shown_before: Any = warnings.showwarning
"""What showed Python's warnings before the first of them was opened."""


def _listen(log: Log) -> None:  # 2
    global _shown_before
    with _guard:
        if not _ears_of:
            logging.getLogger().addHandler(_ear)
            _shown_before, warnings.showwarning = warnings.showwarning, _show
        _ears_of.append(log)


def _unlisten(log: Log) -> None:
    with _guard:
        _ears_of.remove(log)
        if not _ears_of:
            logging.getLogger().removeHandler(_ear)
            if warnings.showwarning is _show:
                warnings.showwarning = _shown_before


def _show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
    _heard(f"{category.__name__}: {message} ({Path(filename).name}:{lineno})")
    _shown_before(message, category, filename, lineno, *rest)


def _heard(warning: str) -> None:
    """Whichever thread it came from: stages read ahead in threads of their own."""
    for log in list(_ears_of):
        log.line(f"warning: {warning}")
