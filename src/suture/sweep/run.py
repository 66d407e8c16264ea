"""The one runner of jobs: what is done is kept, what fails is told at the end, what was killed is tried again.

1. A job is ready when the jobs it needs are done; one that needs a failed job is not run. A job that is done already,
   with the same settings and inputs, is kept.
2. Ready jobs go to this process, to processes of this machine, or to a Ray cluster; each runs one job at a time.
3. Where a worker is killed its job is tried again, and goes on from what it had reached; a lock keeps two from writing
   one output, also where the worker of a killed runner lives a moment longer than it.
4. Whatever happens, what is finished is finished: running the same jobs again does only what is left.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch

from suture import units
from suture.errors import InUseError, UserError
from suture.pipeline.job import Context, Job, silent
from suture.pipeline.lock import STALE
from suture.sweep.ray import Cluster

MAX_TRIES = 4
"""Of a job whose worker was killed."""
PATIENCE = 5.0
"""Seconds that a sweep's job waits for an output that another process writes: the worker of a killed runner may end a
moment after it."""
AGAIN = 0.2
"""Seconds between two tries to have that output."""
GRACE = 10.0
"""Seconds that workers have after Ctrl-C to write down what they reached."""

State = Literal["made", "kept", "failed", "not run"]


class JobError(Exception):
    """What is told of a job where the user made no mistake: a bug's traceback, a worker that was killed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job went, told by whoever ran it."""

    seconds: float
    error: Exception | None = None
    """None where it is done."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What became of a job."""

    job: Job
    state: State
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether its result is there."""
        return self.state in ("made", "kept")


def run_jobs(
    jobs: Sequence[Job], context: Context | None = None, *, workers: int = 1, ray: str | None = None
) -> tuple[JobResult, ...]:
    """Run jobs, each after those it needs; failures do not stop the others.

    Args:
        jobs: in an order in which needed ones come first.
        context: how each is run.
        workers: processes of this machine; 1 is this process itself.
        ray: address of a Ray cluster (`auto`: the one started here), instead.

    Raises:
        UserError: no worker, no Ray, two jobs with one output.
    """
    if workers < 1:
        raise UserError("workers", workers, "is less than 1", "give a positive number")
    outs: set[Path] = set()
    for job in jobs:
        if job.out in outs:
            raise UserError("out", job.out, "is the output of two jobs", "give each its own")
        outs.add(job.out)
    with closing(_pool(min(workers, max(len(jobs), 1)), ray)) as pool:
        return _Run(jobs, context or Context(), pool).to_the_end()


def make(jobs: Iterable[Job], context: Context | None = None, *, workers: int = 1) -> None:
    """Run jobs that are nothing one without the other: the first error is raised, when all that can be done is done.

    Raises:
        Exception: whatever a job raised.
    """
    for result in run_jobs(list(jobs), context, workers=workers):
        if result.error is not None:
            raise result.error


def execute(job: Job, context: Context) -> Outcome:
    """Run one job; its error is part of the outcome."""
    started = time.monotonic()
    while True:
        error = None
        try:
            job.work(job, context)
        except InUseError as held:
            if time.monotonic() - started < context.patience:
                time.sleep(AGAIN)
                continue
            error = held
        except Exception as found:  # noqa: BLE001  (it is told at the end, and the other jobs go on)
            error = found
        return Outcome(seconds=round(time.monotonic() - started, 2), error=error)


def execute_elsewhere(job: Job, context: Context) -> Outcome:
    """`execute` in a process that answers with what can travel: of a bug that is the text of its traceback.

    SIGTERM ends the job as Ctrl-C does in a process of its own, so that it can write down what it reached.
    """
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = execute(job, context)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if outcome.error is None or isinstance(outcome.error, UserError | OSError):
        return outcome
    return replace(outcome, error=JobError(in_words(outcome.error)))


def in_words(error: Exception | None) -> str:
    """What a person is told of an error: a user's mistake is one line, a bug its traceback."""
    if error is None or isinstance(error, UserError | OSError | JobError):
        return str(error or "")
    return "".join(traceback.format_exception(error))


@runtime_checkable
class Pool(Protocol):
    """Where jobs are run."""

    @property
    def has_room(self) -> bool: ...

    def start(self, job: Job, context: Context) -> None:
        """Begin a job."""
        ...

    def ended(self) -> Iterator[tuple[Job, Outcome | None]]:
        """Wait for jobs to end; None where the worker was lost with its job."""
        ...

    def close(self) -> None:
        """End every worker."""
        ...


class _Run:
    """Jobs on their way through a pool."""

    def __init__(self, jobs: Sequence[Job], context: Context, pool: Pool) -> None:
        self.jobs, self.context, self.pool = jobs, context, pool
        self.outs = {job.out for job in jobs}
        self.waiting, self.n_running = list(jobs), 0
        self.found: dict[Path, JobResult] = {}
        self.tries: dict[Path, int] = {}
        self.began, self.n_made = time.monotonic(), 0

    def to_the_end(self) -> tuple[JobResult, ...]:
        while self.waiting or self.n_running:
            self._start_what_is_ready()
            if self.n_running:
                for job, outcome in self.pool.ended():
                    self._end(job, outcome)
        return tuple(self.found[job.out] for job in self.jobs)

    def _start_what_is_ready(self) -> None:
        for job in list(self.waiting):
            needs = [need.out for need in job.needs if need.out in self.outs]
            if any(out not in self.found for out in needs):  # 1
                continue
            missing = [self.found[out].job.name for out in needs if not self.found[out].is_done]
            if missing:
                self.waiting.remove(job)
                self._settle(job, "not run", error=JobError(f"needs what failed: {missing[0]}"))
            elif not self.pool.has_room:
                return
            else:
                self.waiting.remove(job)
                if self.context.resume and job.is_done:
                    self._settle(job, "kept")
                    continue
                again = self.tries.get(job.out, 0) > 0  # on another machine a dead writer's lock lives for a while
                self.n_running += 1
                self.pool.start(job, replace(self.context, patience=STALE + PATIENCE) if again else self.context)

    def _end(self, job: Job, outcome: Outcome | None) -> None:
        self.n_running -= 1
        if outcome is None:  # 3
            self.tries[job.out] = self.tries.get(job.out, 0) + 1
            if self.tries[job.out] < MAX_TRIES:
                self.waiting.insert(0, job)
                return
            why = f"its worker was killed {MAX_TRIES} times; is there enough memory?"
            outcome = Outcome(seconds=0.0, error=JobError(why))
        self.n_made += 1
        self._settle(job, "made" if outcome.error is None else "failed", seconds=outcome.seconds, error=outcome.error)

    def _settle(self, job: Job, state: State, *, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.found[job.out] = JobResult(job=job, state=state, seconds=seconds, error=error)
        if len(self.jobs) > 1:
            self.context.tell("jobs", len(self.found), len(self.jobs), f"{job.name} {state}{self._left()}")

    def _left(self) -> str:
        """How long the rest will take, going by what was done so far."""
        n_left = len(self.waiting) + self.n_running
        if not self.n_made or not n_left:
            return ""
        return f", about {units.clock((time.monotonic() - self.began) / self.n_made * n_left)} left"


def _pool(workers: int, ray: str | None) -> Pool:
    if ray is not None:
        return Cluster(ray, execute_elsewhere, lambda error: Outcome(seconds=0.0, error=error))
    return Here() if workers == 1 else Processes(workers)


class Here:
    """This process."""

    def __init__(self) -> None:
        self._ended: list[tuple[Job, Outcome]] = []

    @property
    def has_room(self) -> bool:
        """Whether a job can be started."""
        return not self._ended

    def start(self, job: Job, context: Context) -> None:
        """Run it."""
        self._ended.append((job, execute(job, context)))

    def ended(self) -> Iterator[tuple[Job, Outcome | None]]:
        """What was run."""
        yield self._ended.pop()

    def close(self) -> None:
        """Nothing is left over."""


@dataclass(frozen=True, eq=False)
class _Worker:
    """A process, and the pipe through which it gets jobs and answers."""

    process: BaseProcess
    pipe: Connection


class Processes:
    """Processes of this machine, each with its share of the threads; one that is killed takes nobody with it."""

    def __init__(self, workers: int) -> None:
        self._most, self._threads = workers, max(1, (os.cpu_count() or 1) // workers)
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[Job, _Worker]] = {}

    @property
    def has_room(self) -> bool:
        """Whether one is idle, or may still be started."""
        return len(self._busy) < self._most

    def start(self, job: Job, context: Context) -> None:
        """Hand it to an idle process, which tells of its progress nobody."""
        worker = self._idle.pop() if self._idle else self._worker()
        self._busy[worker.pipe] = (job, worker)
        with suppress(BrokenPipeError):  # killed while it was idle: `ended` finds out
            worker.pipe.send((job, replace(context, tell=silent)))

    def ended(self) -> Iterator[tuple[Job, Outcome | None]]:
        """Wait for one or more."""
        for pipe in wait(list(self._busy)):
            assert isinstance(pipe, Connection)
            job, worker = self._busy.pop(pipe)
            try:
                outcome = pipe.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                pipe.close()
                yield job, None
            else:
                self._idle.append(worker)
                yield job, outcome

    def close(self) -> None:
        """End them: what is finished is finished, and what is running has a moment to write down what it reached."""
        busy = [worker for _, worker in self._busy.values()]
        for worker in busy:
            worker.process.terminate()
        for worker in [*self._idle, *busy]:
            worker.pipe.close()
        deadline = time.monotonic() + GRACE
        for worker in [*self._idle, *busy]:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()

    def _worker(self) -> _Worker:
        processes = get_context("spawn")
        own, other = processes.Pipe()
        process = processes.Process(target=_serve, args=(other, self._threads), daemon=True)
        process.start()
        other.close()  # so that the end of the process is the end of the pipe
        assert isinstance(own, Connection)
        return _Worker(process, own)


def _serve(pipe: Connection, threads: int) -> None:
    """What a worker does: job after job. It leaves Ctrl-C to its runner, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_runner, daemon=True).start()
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            job, context = pipe.recv()
            pipe.send(execute_elsewhere(job, context))


def _end_with_runner() -> None:
    runner = parent_process()
    assert runner is not None
    wait([runner.sentinel])
    os._exit(1)
