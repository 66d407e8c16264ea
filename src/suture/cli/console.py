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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from suture.errors import UserError

PLAIN_SECONDS = 5.0
"""Where stderr is no terminal, a progress line is written this often at most."""

INTERRUPTED = 130

USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for a command it cannot read; only its subclass has a public name."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""What the system refuses because of the place named; its other complaints would be our bugs."""

OPTION_OF = {
    "collect": {"out": "store", "n_rows": "tokens", "hookpoint": "at"},
    "train": {"out": "dictionary", "n_rows": "rows"},
    "features": {"n_rows": "rows", "n_top": "top"},
    "match": {"n_rows": "rows"},
    "steer": {
        "features": "table", "strengths": "strength", "reference": "strength", "max_new_tokens": "new-tokens",
    },
    "report": {"folders": "folder"},
    "study": {
        "widths": "width", "n_concepts": "concepts", "n_features": "features", "n_rows": "rows", "n_stored": "stored",
        "described_rows": "described", "collect.at": "at", "collect.tokens": "tokens", "collect.block": "block",
        "collect.revision": "revision", "hookpoint": "at",
    },
}  # fmt: skip
"""Per command, what a step's setting is called where its option has another name."""

RESUMABLE = ("collect", "train")
"""The commands with --resume."""

_given: ContextVar[Sequence[str]] = ContextVar("the command's arguments", default=())


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    command = arguments[0] if arguments else ""
    given = _given.set(tuple(arguments))
    before = _on_termination()
    try:
        result = app(list(arguments) or ["--help"], standalone_mode=False, prog_name="suture")
        return _interrupted(command) if result == INTERRUPTED else int(result or 0)  # typer turns Ctrl-C into 130
    except UserError as error:
        return _refuse(_in_options(error, command))
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted(command)
    except USAGE_ERROR as error:
        return _refuse(_usage(app, error, arguments))
    except OSError as error:
        return _refuse(_system(error))
    finally:
        _given.reset(given)
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _on_termination() -> Any:
    """Take SIGTERM for Ctrl-C, so that a cluster's eviction keeps what was reached; returns what it meant before.

    Not under torchrun, whose agent ends the others with it when one failed: they may be waiting for that one.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def _interrupted(command: str) -> int:
    kept = "nothing is half-written"
    if command in RESUMABLE:
        kept = "what was finished is kept, --resume goes on from there"
    if command == "demo":
        kept = "the same command goes on after the steps that are done"
    if command == "study":
        kept = "the same command goes on after the cells that are done"
    say(f"\ninterrupted; {kept}")
    return INTERRUPTED


def _refuse(message: str) -> int:
    say("suture: " + " ".join(message.replace("Value error, ", "").split()))
    return 2


def _in_options(error: UserError, command: str) -> str:
    """The error's message, its setting called what the command calls it."""
    option = OPTION_OF.get(command, {}).get(error.setting, error.setting).replace("_", "-")
    return str(UserError(option, error.value, error.problem, error.fix))


def _usage(app: typer.Typer, error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with the command as it was given, and where to look."""
    known = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    known |= {group.name or "" for group in app.registered_groups}
    place = f"{arguments[0]} " if arguments and arguments[0] in known else ""
    message = error.format_message().rstrip(".")
    value = _value_of(getattr(getattr(error, "param", None), "opts", []), arguments)
    if value is not None and f"'{value}'" not in message:
        message += f", not '{value}'"
    return f"{message}; see suture {place}--help"


def _value_of(options: Sequence[str], arguments: Sequence[str]) -> str | None:
    """What was given for an option, the last time.

    >>> _value_of(["--k"], ["train", "d", "--k", "many"]), _value_of(["--k"], ["--k=few"]), _value_of(["--k"], ["--k"])
    ('many', 'few', None)
    """
    value = None
    for argument, after in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, rest = argument.partition("=")
        if name in options:
            value = rest if equals else after
    return value


def _system(error: OSError) -> str:
    """One line for what the system refused; raises what no choice of place or space would mend."""
    if error.errno not in FULL | PLACE:
        raise error
    fix = "free some space, or choose another disk" if error.errno in FULL else "choose another place"
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
    """Bars on a terminal, otherwise a plain line now and then; all on stderr."""
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


def _plain() -> Advance:
    last: dict[str, float] = {}
    first: dict[str, tuple[float, int]] = {}

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        begun, before = first.setdefault(what, (now, done))
        if done >= total or now - last.get(what, 0.0) >= PLAIN_SECONDS:
            last[what] = now
            left = (now - begun) / (done - before) * (total - done) if before < done < total else None
            words = [f"{what}: {done:,}/{total:,}", *([f"{clock(left)} left"] if left is not None else []), note]
            say("  ".join(word for word in words if word))

    return advance


def clock(seconds: float) -> str:
    """A length of time as a clock shows it.

    >>> clock(75.4), clock(7322)
    ('1:15', '2:02:02')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(line: str) -> None:
    """A line for people, on stderr."""
    _write(sys.stderr, line)


def percent(value: float) -> str:
    """A share for people.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * value:.1f} %"
