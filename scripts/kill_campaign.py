"""Kill sweeps at random moments, and say what was lost: nothing may be, and nothing may be made twice.

1. A runner with two workers is started on jobs that write folders. A random time after the first of them is begun it
   gets Ctrl-C or SIGKILL, or one of its workers gets SIGKILL; a runner that lives on is let go on for a while.
2. After every kill: what has a name is whole (every file's checksum), and what was finished before is still the same.
3. At the end the jobs are run to their end: all are done, nothing half-written is left, every result was made once.

    python scripts/kill_campaign.py --kills 20           # toy jobs
    python scripts/kill_campaign.py --kills 5 --real     # suture sweep on two shipped models
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from suture.pipeline import artifact
from suture.pipeline.job import Context, Job
from suture.sweep.run import PATIENCE, run_jobs

STUDY = """
[collect]
model = ["tinystories-1l", "tinystories-2l"]
at = ["mlp0.out", ["mlp*.out"]]
corpus = "stories.txt"
tokens = 3000
shard-rows = 500
offline = true
device = "cpu"

[train]
features = 32
rows = 60000
batch-size = 250
checkpoint-every = 50

[features]
rows = 600

[sweep]
"train.k" = [2, 4]
"""
TOY_SECONDS = 0.5


@dataclass
class Campaign:
    """What was seen."""

    kills: dict[str, int] = field(default_factory=dict)
    done_after: list[int] = field(default_factory=list)
    """Finished results after every kill."""
    lost: list[str] = field(default_factory=list)
    """Finished results that were gone, damaged or made again."""
    left: list[str] = field(default_factory=list)
    """Half-written folders at the end."""
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, made twice or left over."""
        return not self.lost and not self.left


@dataclass(frozen=True)
class Toy:
    """What a toy job writes, and how long it takes."""

    value: int
    seconds: float = TOY_SECONDS


def write(job: Job, context: Context) -> None:
    """A stage that takes its time between two files, and writes a sum of its inputs."""
    toy: Toy = job.settings
    with artifact.create(
        job.out, stage="toy", settings=asdict(toy), parents=job.parents, resumable=True, resume=context.resume
    ) as draft:
        (draft.folder / "first").write_bytes(os.urandom(4096))
        time.sleep(toy.seconds)
        before = sum(int((parent / "value").read_text()) for parent in job.parents)
        (draft.folder / "value").write_text(str(before + toy.value))


def toys(folder: Path, n_toys: int) -> list[Job]:
    """Jobs in chains of three."""
    jobs: list[Job] = []
    for n in range(n_toys):
        inputs = {"before": jobs[n - 1]} if n % 3 else {}
        job = Job(name=f"toy{n}", stage="toy", work=write, out=folder / f"toy{n}", settings=Toy(n), inputs=inputs)
        jobs.append(job)
    return jobs


def campaign(folder: Path, words: Sequence[str], n_kills: int, *, seed: int, within: float) -> Campaign:
    """1 and 2, on whatever `words` starts; the folder holds its results."""
    chance, found, started = random.Random(seed), Campaign(), time.monotonic()
    known: dict[Path, bytes] = {}
    for _ in range(3 * n_kills):  # a moment may come before there is a worker, or after the end: it does not count
        if sum(found.kills.values()) == n_kills:
            break
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as runner:
            until_begun(folder, runner)
            time.sleep(chance.uniform(0, within))
            whom = chance.choice(["runner, SIGKILL", "runner, Ctrl-C", "worker, SIGKILL"])
            victims = workers_of(runner.pid) if whom.startswith("worker") else [runner.pid]
            if runner.poll() is None and victims:
                os.kill(chance.choice(victims), signal.SIGINT if whom.endswith("Ctrl-C") else signal.SIGKILL)
                found.kills[whom] = found.kills.get(whom, 0) + 1
            if whom != "runner, Ctrl-C":
                time.sleep(chance.uniform(0, within / 2))  # it goes on where only a worker was killed
                runner.kill()
        found.done_after.append(look(folder, known, found))
        print(f"{whom}: {sum(found.kills.values())} kills, {found.done_after[-1]} results", file=sys.stderr, flush=True)
    found.seconds = round(time.monotonic() - started, 1)
    return found


def until_begun(folder: Path, runner: subprocess.Popen[bytes]) -> None:
    """Wait for the runner's first job: starting Python takes many times as long as a toy does."""
    before = unfinished(folder)
    while runner.poll() is None and not unfinished(folder) - before:
        time.sleep(0.02)


def unfinished(folder: Path) -> set[tuple[Path, int]]:
    """Folders being written, with the time of their last change."""
    try:
        return {(f, f.stat().st_mtime_ns) for f in folder.rglob("*.partial")}
    except FileNotFoundError:  # one was given its name in between
        return set()


def look(folder: Path, known: dict[Path, bytes], found: Campaign) -> int:
    """2; returns how many results there are. `known` are the manifests seen before."""
    now: dict[Path, bytes] = {}
    for manifest in folder.rglob(artifact.MANIFEST):
        if not any(part.endswith((".partial", ".replaced")) for part in manifest.parts):
            artifact.verify(manifest.parent)
            now[manifest] = manifest.read_bytes()
    # the table of a sweep is written anew as cells come to it
    found.lost += [str(m) for m, content in known.items() if now.get(m) != content and m.parent.name != "sweep"]
    known |= now
    return len(now)


def finish(folder: Path, words: Sequence[str], found: Campaign) -> None:
    """3."""
    known: dict[Path, bytes] = {}
    look(folder, known, found)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found.done_after.append(look(folder, known, found))
    found.left += [str(f) for f in folder.rglob("*") if f.name.endswith((".partial", ".replaced", ".tmp"))]


def workers_of(pid: int) -> list[int]:
    """The processes that a runner started and that run jobs, where the system tells."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    except OSError:
        return []


def toy_campaign(folder: Path, n_kills: int, *, seed: int, n_toys: int) -> Campaign:
    """The campaign on toy jobs."""
    words = [sys.executable, __file__, "--run-toys", str(folder), "--toys", str(n_toys)]
    found = campaign(folder, words, n_kills, seed=seed, within=n_toys * TOY_SECONDS / 16)
    finish(folder, words, found)
    wanted = {f"toy{n}": str(sum(range(n - n % 3, n + 1))) for n in range(n_toys)}
    found.lost += [name for name, value in wanted.items() if (folder / name / "value").read_text() != value]
    return found


def real_campaign(folder: Path, n_kills: int, *, seed: int) -> Campaign:
    """The campaign on a sweep of four cells."""
    stories = [f"Once upon a time there was a {a} {b}. It ran home." for a in ("red", "big", "sad") for b in "abcdefgh"]
    (folder / "stories.txt").write_text("\n<|endoftext|>\n".join(stories * 16))
    (folder / "study.toml").write_text(STUDY.replace("stories.txt", str(folder / "stories.txt")))
    words = [sys.executable, "-m", "suture", "sweep", str(folder / "study.toml"), "--workers", "2"]
    found = campaign(folder / "study", words, n_kills, seed=seed, within=5.0)
    finish(folder / "study", words, found)
    return found


def main() -> None:
    """Run a campaign, and print what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--toys", type=int, default=48, help="toy jobs")
    parser.add_argument("--real", action="store_true", help="a small suture sweep instead of toy jobs")
    parser.add_argument("--run-toys", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_toys is not None:
        import kill_campaign  # noqa: PLC0415  (workers find its functions by this name)

        run_jobs(kill_campaign.toys(given.run_toys, given.toys), Context(patience=PATIENCE), workers=2)
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.real:
            found = real_campaign(Path(folder), given.kills, seed=given.seed)
        else:
            found = toy_campaign(Path(folder), given.kills, seed=given.seed, n_toys=given.toys)
    print(json.dumps(asdict(found)))
    sys.exit(0 if found.is_clean else 1)


if __name__ == "__main__":
    main()
