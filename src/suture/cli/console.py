"""What the command line says: results on stdout, progress on stderr, a user's mistake as one line and exit code 2."""

import errno
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

from suture import units
from suture.errors import UsageError, UserError
from suture.pipeline import log
from suture.pipeline.files import NO_ROOM

PLAIN_SECONDS = 5.0
"""Where stderr is no terminal, a progress line is written this often at most."""

INTERRUPTED = 130

PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""What the system refuses because of the place named; its other complaints would be our bugs."""

QUIET = "--quiet"
"""Before or behind any command's other words: nothing but the result and what went wrong is said."""

_given: ContextVar[Sequence[str]] = ContextVar("the command's arguments", default=())
_quiet: ContextVar[bool] = ContextVar("nothing but the result and errors", default=False)


def answer(words: Sequence[str], work: Callable[[], None], *, interrupted: str, named: Callable[[str], str]) -> int:
    """Do the work of a command line, and say on one line what went wrong; returns the exit code.

    Args:
        words: the command line, for the manifests.
        work: does it.
        interrupted: what Ctrl-C leaves.
        named: what the user calls a setting that an error names.
    """
    given, quiet = _given.set(tuple(words)), _quiet.set(QUIET in own_words(words))
    before = _on_termination()
    try:
        work()
    except SystemExit as end:  # after --help
        return int(end.code or 0)
    except UserError as error:
        return _refuse(str(UserError(named(error.setting), error.value, error.problem, error.fix)))
    except UsageError as error:
        return _refuse(f"{error}; see {error.program} --help")
    except KeyboardInterrupt:
        complain(f"\ninterrupted; {interrupted}")
        return INTERRUPTED
    except OSError as error:
        return _refuse(_system(error))
    finally:
        _given.reset(given)
        _quiet.reset(quiet)
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def own_words(words: Sequence[str]) -> Sequence[str]:
    """Those before `--`, behind which a word is a word.

    >>> own_words(["activate", "d", "--", "--quiet"])
    ['activate', 'd']
    """
    return words[: words.index("--")] if "--" in words else words


def without_quiet(words: Sequence[str]) -> list[str]:
    """The words that a command reads.

    >>> without_quiet(["--quiet", "train", "d"]), without_quiet(["activate", "d", "--", "--quiet"])
    (['train', 'd'], ['activate', 'd', '--', '--quiet'])
    """
    own = own_words(words)
    return [*(word for word in own if word != QUIET), *words[len(own) :]]


@contextmanager
def said_once() -> Iterator[None]:
    """What is wrong with the words themselves: every process of a run reads the same, so the first alone says it."""
    try:
        yield
    except (UserError, UsageError):
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2) from None
        raise


def _on_termination() -> Any:
    """Take SIGTERM for Ctrl-C, so that a cluster's eviction keeps what was reached; returns what it meant before.

    Not under torchrun, whose agent ends the others with it when one failed: they may be waiting for that one.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def _refuse(message: str) -> int:
    complain("suture: " + " ".join(message.split()))
    return 2


def _system(error: OSError) -> str:
    """One line for what the system refused; raises what no choice of place or space would mend."""
    if error.errno not in {*NO_ROOM, *PLACE}:
        raise error
    fix = "free some space, or choose another disk" if error.errno in NO_ROOM else "choose another place"
    return f"{error.filename or 'the disk'}: {error.strerror}; {fix}"


def command_line() -> str:
    """The command as it was given, for the manifest."""
    return shlex.join(["suture", *_given.get()])


def emit(result: dict[str, Any], *, as_json: bool, text: str) -> None:
    """The result on stdout: one JSON object and nothing else, or text for people."""
    _write(sys.stdout, json.dumps(_plain_json(result), allow_nan=False) if as_json else text)


def _plain_json(value: Any) -> Any:
    """The same with null for NaN and infinities, which JSON has no words for.

    >>> _plain_json({"fvu": [0.5, float("nan")]})
    {'fvu': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: _plain_json(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(stream: Any, line: str) -> None:
    """A line, whatever letters the stream can show: a token may be any character."""
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        # The reader, `head` for one, has what it wanted; the work goes on, and Python must not write the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@runtime_checkable
class Advance(Protocol):
    """Tells how far something is: `advance("training", 3, 10, "fvu 0.21")`."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress() -> Iterator[Advance]:
    """Bars with the time left on a terminal, otherwise a plain line now and then; all on stderr. Quiet: nothing there.

    The logs of the results being written are told in any case.
    """
    with _shown() as show:

        def advance(what: str, done: int, total: int, note: str = "") -> None:
            show(what, done, total, note)
            log.told(what, done, total, note)

        yield advance


@contextmanager
def _shown() -> Iterator[Advance]:
    """What a person sees of it."""
    if _quiet.get():
        yield _unsaid
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bars:
        known: dict[str, Any] = {}

        def advance(what: str, done: int, total: int, note: str = "") -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total, note=note)
            bars.update(known[what], completed=done, total=total, note=note)

        yield advance


def _unsaid(what: str, done: int, total: int, note: str = "") -> None:
    """Says nothing."""


def _plain() -> Advance:
    last: dict[str, float] = {}
    first: dict[str, tuple[float, int]] = {}

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        begun, before = first.setdefault(what, (now, done))
        if done >= total or now - last.get(what, 0.0) >= PLAIN_SECONDS:
            last[what] = now
            left = (now - begun) / (done - before) * (total - done) if before < done < total else None
            words = [f"{what}: {done:,}/{total:,}", *([f"{units.clock(left)} left"] if left is not None else []), note]
            _write(sys.stderr, "  ".join(word for word in words if word))

    return advance


def say(line: str) -> None:
    """A line for people, on stderr, and in the logs that are open; quiet leaves it out of stderr."""
    log.note(line)
    if not _quiet.get():
        _write(sys.stderr, line)


def complain(line: str) -> None:
    """The same of what went wrong, which quiet does not leave out."""
    log.note(line)
    _write(sys.stderr, line)


def percent(value: float) -> str:
    """A share for people.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * value:.1f} %"
