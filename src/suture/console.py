"""What the command line says: results on stdout, progress on stderr, a user's mistake as one line and exit code 2."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from suture.errors import UserError

PLAIN_SECONDS = 5.0
"""Where stderr is no terminal, a progress line is written this often at most."""

INTERRUPTED = 130

USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for a command it cannot read; only its subclass has a public name."""


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        result = app(list(arguments), standalone_mode=False, prog_name="suture")
    except UserError as error:
        return _refuse(str(error))
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted; what was finished is kept, --resume goes on from there\n")
        return INTERRUPTED
    except USAGE_ERROR as error:
        return _refuse(_usage(app, error, arguments))
    except OSError as error:
        if error.errno is None:
            raise
        return _refuse(f"{error.filename or 'the system'}: {error.strerror}; free space or choose another place")
    return result if isinstance(result, int) else 0


def _refuse(message: str) -> int:
    sys.stderr.write("suture: " + " ".join(message.replace("Value error, ", "").split()) + "\n")
    return 2


def _usage(app: typer.Typer, error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with the command as it was given, and where to look."""
    known = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    place = f"{arguments[0]} " if arguments and arguments[0] in known else ""
    message = error.format_message().rstrip(".") or "no command was given"
    return f"{message}; see suture {place}--help"


def command_line() -> str:
    """The command as it was given, for the manifest."""
    return shlex.join(["suture", *sys.argv[1:]])


def emit(result: dict[str, Any], *, as_json: bool, text: str) -> None:
    """The result on stdout: one JSON object and nothing else, or text for people."""
    sys.stdout.write((json.dumps(result, ensure_ascii=False) if as_json else text) + "\n")


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

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - last.get(what, 0.0) >= PLAIN_SECONDS:
            last[what] = now
            sys.stderr.write(f"{what}: {done:,}/{total:,}{'  ' + note if note else ''}\n")
            sys.stderr.flush()

    return advance


def say(line: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def percent(value: float) -> str:
    """A share for people.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * value:.1f} %"


OnStep = Callable[[str, int, int, str], None]
