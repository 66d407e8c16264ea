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
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Literal, Protocol

import torch

from suture.errors import InUseError, UserError
from suture.pipeline.job import Context, Job, silent
from suture.pipeline.lock import STALE
from suture.sweep.ray import Cluster

MAX_TRIES = 4
"""Of a job whose worker was killed."""
PATIENCE = 5.0
"""Seconds that a job waits for an output that another process holds: the worker of a killed runner may end a moment
after it."""
WATCH = 0.5
"""Seconds between two looks of a worker at whether its runner lives."""

State = Literal["made", "kept", "failed", "not run"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job went, told by whoever ran it."""

    seconds: float
    error: str | None = None
    """One line where the user can mend it, a traceback where it is our bug; None where it is done."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What became of a job."""

    job: Job
    state: State
    seconds: float = 0.0
    error: str | None = None


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
    context = context or Context()
    if workers < 1:
        raise UserError("workers", workers, "is less than 1", "give a positive number")
    if len({job.out for job in jobs}) < len(jobs):
        twice = next(job.out for n, job in enumerate(jobs) if job.out in {j.out for j in jobs[:n]})
        raise UserError("out", twice, "is the output of two jobs", "give each its own")
    with closing(_pool(workers, ray)) as pool:
        found = _Run(jobs, context, pool).to_the_end()
    return tuple(found[job.out] for job in jobs)


def execute(job: Job, context: Context, *, patience: float = PATIENCE) -> Outcome:
    """Run one job; its error is part of the outcome."""
    started = time.monotonic()
    error = None
    while True:
        try:
            job.work(job, context)
        except InUseError as held:
            if time.monotonic() - started < patience:
                time.sleep(WATCH)
                continue
            error = str(held)
        except UserError as mistake:
            error = str(mistake)
        except Exception:  # noqa: BLE001  (it is told at the end, and the other jobs go on)
            error = traceback.format_exc()
        return Outcome(seconds=round(time.monotonic() - started, 2), error=error)


class Pool(Protocol):
    """Where jobs are run."""

    @property
    def has_room(self) -> bool: ...

    def start(self, job: Job, context: Context, patience: float) -> None:
        """Begin a job."""

    def ended(self) -> Iterator[tuple[Job, Outcome | None]]:
        """Wait for jobs to end; None where the worker was lost with its job."""

    def close(self) -> None:
        """End every worker at once."""


class _Run:
    """Jobs on their way through a pool."""

    def __init__(self, jobs: Sequence[Job], context: Context, pool: Pool) -> None:
        self.jobs, self.context, self.pool = jobs, context, pool
        self.waiting = list(jobs)
        self.running: list[Job] = []
        self.found: dict[Any, JobResult] = {}
        self.tries: dict[Any, int] = {}
        self.began, self.n_made = time.monotonic(), 0

    def to_the_end(self) -> dict[Any, JobResult]:
        while self.waiting or self.running:
            self._start_what_is_ready()
            if self.running:
                for job, outcome in self.pool.ended():
                    self._end(job, outcome)
        return self.found

    def _start_what_is_ready(self) -> None:
        for job in list(self.waiting):
            if any(need.out not in self.found for need in job.needs if need in self.jobs):  # 1
                continue
            missing = [need.name for need in job.needs if self._state(need) in ("failed", "not run")]
            if missing:
                self._settle(job, JobResult(job=job, state="not run", error=f"needs {missing[0]}"))
            elif self.pool.has_room:
                self.waiting.remove(job)
                if job.is_done:
                    self._settle(job, JobResult(job=job, state="kept"))
                    continue
                self.running.append(job)
                again = self.tries.get(job.out, 0) > 0
                self.pool.start(job, self.context, STALE + PATIENCE if again else PATIENCE)

    def _end(self, job: Job, outcome: Outcome | None) -> None:
        self.running.remove(job)
        if outcome is None:  # 3
            self.tries[job.out] = self.tries.get(job.out, 0) + 1
            if self.tries[job.out] < MAX_TRIES:
                self.waiting.insert(0, job)
                return
            outcome = Outcome(seconds=0.0, error=f"its worker was killed {MAX_TRIES} times; is there enough memory?")
        self.n_made += 1
        state: State = "made" if outcome.error is None else "failed"
        self._settle(job, JobResult(job=job, state=state, seconds=outcome.seconds, error=outcome.error))

    def _settle(self, job: Job, result: JobResult) -> None:
        if job in self.waiting:
            self.waiting.remove(job)
        self.found[job.out] = result
        self.context.tell("jobs", len(self.found), len(self.jobs), f"{job.name} {result.state}{self._left()}")

    def _state(self, job: Job) -> State | None:
        result = self.found.get(job.out)
        return None if result is None else result.state

    def _left(self) -> str:
        """How long the rest will take, going by what was done so far."""
        n_left = len(self.waiting) + len(self.running)
        if not self.n_made or not n_left:
            return ""
        seconds = round((time.monotonic() - self.began) / self.n_made * n_left)
        return f", about {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"


def _pool(workers: int, ray: str | None) -> Pool:
    if ray is not None:
        return Cluster(ray, execute)
    return Here() if workers == 1 else Processes(workers)


class Here:
    """This process."""

    def __init__(self) -> None:
        self._ended: list[tuple[Job, Outcome]] = []

    @property
    def has_room(self) -> bool:
        """Whether a job can be started."""
        return not self._ended

    def start(self, job: Job, context: Context, patience: float) -> None:
        """Run it."""
        self._ended.append((job, execute(job, context, patience=patience)))

    def ended(self) -> Iterator[tuple[Job, Outcome | None]]:
        """What was run."""
        yield self._ended.pop()

    def close(self) -> None:
        """Nothing is left over."""


class Processes:
    """Processes of this machine, each with its share of the threads; one that is killed takes nobody with it."""

    def __init__(self, workers: int) -> None:
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._idle = [self._process() for _ in range(workers)]
        self._busy: dict[Future[Outcome], tuple[Job, ProcessPoolExecutor]] = {}

    @property
    def has_room(self) -> bool:
        """Whether a process is idle."""
        return bool(self._idle)

    def start(self, job: Job, context: Context, patience: float) -> None:
        """Hand it to an idle process, which tells of its progress nobody."""
        process = self._idle.pop()
        future = process.submit(execute, job, replace(context, tell=silent), patience=patience)
        self._busy[future] = (job, process)

    def ended(self) -> Iterator[tuple[Job, Outcome | None]]:
        """Wait for one or more."""
        done, _ = wait(self._busy, return_when=FIRST_COMPLETED)
        for future in done:
            job, process = self._busy.pop(future)
            try:
                outcome = future.result()
            except BrokenProcessPool:
                process.shutdown(wait=False)
                process, outcome = self._process(), None
            self._idle.append(process)
            yield job, outcome

    def close(self) -> None:
        """End them at once: what is finished is finished."""
        for process in [*self._idle, *(process for _, process in self._busy.values())]:
            own = list((process._processes or {}).values())
            process.shutdown(wait=False, cancel_futures=True)
            for worker in own:
                worker.terminate()

    def _process(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_worker, initargs=(os.getpid(), self._threads)
        )


def _worker(runner: int, threads: int) -> None:
    """A worker leaves Ctrl-C to its runner, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(runner,), daemon=True).start()


def _end_with(runner: int) -> None:
    while os.getppid() == runner:
        time.sleep(WATCH)
    os._exit(1)
