"""Copies of this process that are killed at a chosen moment, or tell how they ended."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def child(work: Callable[[], object]) -> int:
    """Start `work` in a copy of this process."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:  # noqa: BLE001  (nothing may return into the parent's code)
        print(repr(error), file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)
    os._exit(0)


def ended_well(pid: int) -> bool:
    """Whether a child ended by itself; False where it was killed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def dying_at(moment: int, work: Callable[[], object]) -> int:
    """A child that is killed when, for the `moment`th time, it is about to change what lies on the disk."""

    def run() -> None:
        count = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for module, name in ((os, "fsync"), (os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "rmdir")):
            setattr(module, name, counted(getattr(module, name)))
        work()

    return child(run)
