"""Jobs that take no time and tell when they were begun, for the runner's tests."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from suture.errors import UserError
from suture.pipeline import artifact
from suture.pipeline.job import Context, Job


@dataclass(frozen=True)
class Toy:
    """What a toy stage makes, and how it goes wrong."""

    value: int
    seconds: float = 0.0
    fails: str = ""
    killed_once: bool = False


def note(job: Job, word: str) -> None:
    with (job.out.parent / f"{job.out.name}.log").open("a") as log:
        log.write(f"{word}\n")


def write(job: Job, context: Context) -> None:
    """A stage that writes its value after those of its inputs; each time it begins it leaves a line beside."""
    toy: Toy = job.settings
    parents = job.parents
    with artifact.create(
        job.out, stage="toy", settings={"value": toy.value}, parents=parents, overwrite=context.overwrite
    ) as draft:
        note(job, "begun")
        note(job, f"sees {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}")
        if toy.killed_once and (job.out.parent / f"{job.out.name}.log").read_text().count("begun") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(toy.seconds)
        if toy.fails == "user":
            raise UserError("value", toy.value, "is wrong", "mend it")
        if toy.fails == "bug":
            raise AssertionError
        before = [(parent / "value").read_text() for parent in parents]
        (draft.folder / "value").write_text(" ".join([*before, str(toy.value)]))
    note(job, "done")


def toy(folder: Path, name: str, value: int = 0, *needs: Job | Path, **options: object) -> Job:
    settings = Toy(value, **options)  # pyright: ignore[reportArgumentType]
    inputs = {str(n): need for n, need in enumerate(needs)}
    return Job(
        name=name, stage="toy", work=write, out=folder / name, settings=settings, inputs=inputs,
        results={folder / name: {"value": value}},
    )  # fmt: skip
