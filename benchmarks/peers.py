"""Other libraries' training steps, each in its own virtual environment and its own process.

1. `environment` makes a peer's virtual environment once, under `.bench/`, with the torch that suture is tested with.
2. `Worker` starts this same file there. The worker loads the data, builds the library's own trainer, and waits.
3. It is asked in lines of JSON: {"steps": n} runs n training steps and answers their times and the peak of memory.
4. A peer's step is the library's: its forward, loss, backward, optimiser and decoder normalisation, called as its own
   training loop calls them. For dead features the library's own counters are set, and its auxiliary loss is checked to
   have been at work.

What runs in a worker imports libraries inside functions: each exists in one environment only.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".bench"
WARMUP_STEPS = 2
"""Steps before any is timed: first allocations, a library's initialisation from its first batch."""


class Unavailable(Exception):  # noqa: N818  (a state of affairs, reported in the table)
    """A peer that cannot be measured here, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker is given: the same rows, sizes and sparsity."""

    data: str
    """A .npy file, float32 [row, width of all models]."""
    widths: tuple[int, ...]
    n_features: int
    k: int
    batch_size: int
    dead: float = 0.0
    """Share of the features that are dead at every step."""
    threads: int = 1
    precision: str = "auto"
    """Of suture's encoder product; peers run in their default."""

    @property
    def width(self) -> int:
        return sum(self.widths)

    @property
    def n_dead(self) -> int:
        return round(self.dead * self.n_features)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Some steps of one worker."""

    wall_ms: list[float]
    cpu_ms: list[float]
    """Processor time of all its threads; with one thread, what other programs on the machine disturb less."""
    peak_mb: float
    """Highest resident memory since before the first step, beyond what imports, data and weights take."""


@dataclass
class Model:
    """A library's model in training, as a worker holds it."""

    step: Callable[[Any], object]
    """One training step on a batch."""
    prepare: Callable[[], object] = field(default=lambda: None)
    """Before each step, outside its time: sets the library's own dead-feature counters."""
    aux_worked: Callable[[], bool] = field(default=lambda: False)
    """Whether the auxiliary loss of the last step was at work."""
    note: str = ""


# --- virtual environments -------------------------------------------------------------------------------------------


def environment(name: str, requirements: tuple[str, ...], *, root: Path = ENVIRONMENTS) -> Path:
    """The Python of a virtual environment that holds `requirements`, made when there is none yet.

    Torch is held to `constraints-torch.txt`: a plain installation would fetch gigabytes of CUDA libraries, and every
    library should run on the same one.

    Raises:
        Unavailable: pip cannot install them together, with its last words.
    """
    folder = root / name
    python, record = folder / "bin" / "python", folder / "requirements.json"
    if record.exists() and json.loads(record.read_text()) == list(requirements):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints-torch.txt"), *requirements]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        raise Unavailable(last_words(installed.stderr))
    # the build on PyPI needs CUDA, and transformers imports it wherever it is, whether it works or not
    subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    record.write_text(json.dumps(list(requirements)))
    return python


def last_words(text: str) -> str:
    """The last error of pip's, or else the last line of anything.

    >>> last_words("ERROR: no matching distribution\\nWARNING: old pip\\n")
    'ERROR: no matching distribution'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1].strip()


# --- the asking side ------------------------------------------------------------------------------------------------


class Worker:
    """A process that trains one model of one library and answers questions."""

    def __init__(self, name: str, python: Path, job: Job) -> None:
        """Start it and wait until it is ready to step.

        Raises:
            Unavailable: it ended instead, with its last words.
        """
        self.name = name
        threads = str(job.threads)
        plain = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "VIRTUAL_ENV")}
        if not Path("/dev/nvidiactl").exists():
            plain["SPARSIFY_DISABLE_TRITON"] = "1"  # triton comes along, and then stops for want of a GPU
        if name in OWN:
            plain["PYTHONPATH"] = str(ROOT / "src")  # the tree this file stands in is what is measured
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed on exit)
        self._process = subprocess.Popen(
            [str(python), __file__, name, json.dumps(asdict(job))],
            env=plain | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "WANDB_MODE": "disabled"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        try:
            self.about: dict[str, str] = self._answer()
        except Unavailable:
            self.stop()
            raise

    def steps(self, n: int) -> Measured:
        """Run some training steps.

        Raises:
            Unavailable: it has ended, with its last words.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps({"steps": n}) + "\n")
            self._process.stdin.flush()
        return Measured(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._complaints.seek(0)
            raise Unavailable(f"{self.name} ended: {last_words(self._complaints.read())}")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let it end: it does when nobody can ask any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._complaints.close()


# --- the answering side ---------------------------------------------------------------------------------------------


def work(name: str, job: Job, answers: TextIO) -> None:
    """2-4: build the model, say that it is ready, and run steps until nobody asks any more."""
    import numpy
    import torch

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    rows = torch.from_numpy(numpy.load(job.data))
    batches = cycle(rows.split(job.batch_size))
    model = MODELS[name](job, batches)
    baseline = reset_peak()
    for _ in range(WARMUP_STEPS):
        model.prepare()
        model.step(next(batches))
    if job.n_dead:
        assert model.aux_worked(), f"{name}: the auxiliary loss was not at work"
    print(json.dumps({"note": model.note, "torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        wall, cpu = [], []
        for _ in range(json.loads(line)["steps"]):
            batch = next(batches)
            model.prepare()
            started, worked = time.perf_counter(), time.process_time()
            model.step(batch)
            wall.append(1e3 * (time.perf_counter() - started))
            cpu.append(1e3 * (time.process_time() - worked))
        measured = Measured(wall_ms=wall, cpu_ms=cpu, peak_mb=peak_mb() - baseline)
        print(json.dumps(asdict(measured)), file=answers, flush=True)


def reset_peak() -> float:
    """Forget the peak of memory so far; what is resident now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """Highest resident memory (VmHWM); getrusage's number cannot be reset."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def suture(job: Job, batches: Iterator[Any], grid: Any = None) -> Model:
    """This library: the training step of `suture train`; in several processes, `grid` is this one's place."""
    from torch import arange, device

    from suture.activations.batches import Batch
    from suture.activations.shards import write_store
    from suture.dictionary.activation import Sparsity
    from suture.dictionary.design import Design
    from suture.dictionary.kernels.select import resolve_precision
    from suture.parallel import ALONE
    from suture.training.settings import Objective
    from suture.training.start import data_statistics, new_dictionary
    from suture.training.step import TrainingState

    rows = next(batches)
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", [part.contiguous() for part in rows.split(job.widths, dim=1)])
        statistics = data_statistics(store, arange(len(rows)), seed=0)
        kind = "sae" if len(job.widths) == 1 else "crosscoder"
        design = Design(kind=kind, n_features=job.n_features, sparsity=Sparsity(kind="topk", k=job.k))
        dictionary = new_dictionary(store, design, statistics, seed=0, grid=grid or ALONE)
    dictionary.precision = resolve_precision(job.precision, device("cpu"))
    last: dict[str, Any] = {}

    @cache
    def state() -> TrainingState:
        # made in the first step, as other libraries' optimisers make their moments: memory is then counted alike
        return TrainingState(dictionary, Objective(), statistics.variance)

    def step(batch: Any) -> None:
        known = Batch(activations=batch, model=None)
        last["terms"] = state().step(known, k=job.k, learning_rate=1e-4, available=None).terms

    def prepare() -> None:
        state().silent[: job.n_dead] = 10**9

    return Model(step, prepare, lambda: "aux" in last["terms"], f"{dictionary.precision} product")


def product(job: Job, dtype: str) -> Model:
    """The one dense product that no exact step can avoid, in the row chunks that suture uses."""
    import torch

    from suture.dictionary.kernels.select import CHUNK_ELEMENTS

    W = torch.randn(job.n_features, job.width).to(getattr(torch, dtype))
    n_rows = max(64, CHUNK_ELEMENTS // job.n_features)
    buffer = torch.empty(n_rows, job.n_features, dtype=W.dtype)

    @torch.no_grad()
    def step(batch: torch.Tensor) -> None:
        for part in batch.split(n_rows):
            torch.mm(part.to(W.dtype), W.t(), out=buffer[: len(part)])

    return Model(step, aux_worked=lambda: True)


def floor(job: Job, dtype: str) -> Model:
    """What no exact step can do without: the product, and weights, gradients and two moments each moved once.

    They move at the rate of a copy between blocks as large as they are, and a copy of n bytes moves 2 n.
    """
    import torch

    multiply = product(job, dtype).step
    moved = torch.ones(4, 2 * job.n_features * job.width)
    source, target = moved[:2], moved[2:]

    def step(batch: torch.Tensor) -> None:
        multiply(batch)
        target.copy_(source)

    return Model(step, aux_worked=lambda: True)


def sae_lens(job: Job, batches: Iterator[Any]) -> Model:
    """`SAETrainer.step` on a TopKTrainingSAE."""
    from sae_lens import LoggingConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=job.width, d_sae=job.n_features, k=job.k, device="cpu"))
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=job.batch_size,
        lr=1e-4,
        lr_end=1e-5,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(config, sae, batches)
    last: dict[str, Any] = {}

    def step(batch: Any) -> None:
        last["losses"] = trainer.step(batch).losses
        trainer.n_training_steps += 1  # as `fit` does

    def prepare() -> None:
        trainer.n_forward_passes_since_fired[: job.n_dead] = 10**6

    return Model(
        step, prepare, lambda: last["losses"]["auxiliary_reconstruction_loss"].item() > 0, _version("sae-lens")
    )


def dictionary_learning(job: Job, batches: Iterator[Any]) -> Model:  # noqa: ARG001  (all builders have one signature)
    """`TopKTrainer.update`."""
    from dictionary_learning.trainers import TopKTrainer  # pyright: ignore[reportMissingImports]

    trainer = TopKTrainer(
        steps=10**6, activation_dim=job.width, dict_size=job.n_features, k=job.k, layer=0, lm_name="none", lr=1e-4,
        device="cpu",
    )  # fmt: skip
    # a feature that fires is not dead in the same step: these never fire
    trainer.ae.encoder.bias.data[: job.n_dead] = -50.0
    n_steps = iter(range(10**6))

    def prepare() -> None:
        trainer.num_tokens_since_fired[: job.n_dead] = 10**9

    return Model(
        lambda batch: trainer.update(next(n_steps), batch),
        prepare,
        lambda: float(trainer.pre_norm_auxk_loss) > 0,
        _version("dictionary-learning"),
    )


def sparsify(job: Job, batches: Iterator[Any]) -> Model:
    """SparseCoder, in the order of `Trainer.fit`, whose loop cannot be had without a language model around it.

    Its optimiser is Adam here (the library's default, sign descent, keeps one moment less): all peers do the same work.
    """
    import torch
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    coder = SparseCoder(job.width, SparseCoderConfig(num_latents=job.n_features, k=job.k), dtype=torch.float32)
    coder.b_dec.data = next(batches).mean(0)
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-4)
    silent = torch.zeros(job.n_features, dtype=torch.long)
    fired = torch.zeros(job.n_features, dtype=torch.bool)
    last: dict[str, float] = {}

    def step(batch: torch.Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (batch - batch.mean(0)).pow(2).sum()
        out = coder(x=batch, y=batch, dead_mask=silent > 10_000_000, total_variance=total_variance)
        fired[out.latent_indices.flatten()] = True
        last["fvu"], last["aux"] = float(out.fvu.detach()), float(out.auxk_loss.detach())
        (out.fvu + out.auxk_loss / 32 + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            silent.add_(len(batch))
            silent[fired] = 0
            fired.zero_()

    def prepare() -> None:
        silent[: job.n_dead] = 10**9

    return Model(step, prepare, lambda: last["aux"] > 0, _version("eai-sparsify"))


def overcomplete(job: Job, batches: Iterator[Any]) -> Model:  # noqa: ARG001
    """`train_sae` on batches of one; it has no dead-feature counters: its auxiliary loss uses the next best codes."""
    import torch

    # its collection of vision models wants it on import; the training of dictionaries does not
    vision = ModuleType("torchvision")
    vision.__dict__["transforms"] = ModuleType("torchvision.transforms")
    sys.modules["torchvision"] = vision
    from overcomplete.sae import TopKSAE, train_sae  # pyright: ignore[reportMissingImports]
    from overcomplete.sae.losses import top_k_auxiliary_loss  # pyright: ignore[reportMissingImports]

    sae = TopKSAE(job.width, nb_concepts=job.n_features, top_k=job.k, device="cpu")
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4)

    def squared_error(x: torch.Tensor, x_hat: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return (x - x_hat).square().mean()

    loss = top_k_auxiliary_loss if job.n_dead else squared_error
    return Model(
        lambda batch: train_sae(sae, [batch], loss, optimizer, nb_epochs=1, monitoring=0),
        aux_worked=lambda: loss is top_k_auxiliary_loss,
        note=_version("overcomplete"),
    )


def _version(package: str) -> str:
    from importlib.metadata import version

    return f"{package} {version(package)}"


MODELS: dict[str, Callable[[Job, Iterator[Any]], Model]] = {
    "suture": suture,
    "product float32": lambda job, _: product(job, "float32"),
    "product bfloat16": lambda job, _: product(job, "bfloat16"),
    "floor float32": lambda job, _: floor(job, "float32"),
    "floor bfloat16": lambda job, _: floor(job, "bfloat16"),
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
    "eai-sparsify": sparsify,
    "overcomplete": overcomplete,
}
OWN = ("suture", "product float32", "product bfloat16", "floor float32", "floor bfloat16")
"""What runs in suture's own environment."""
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "sae-lens": ("sae-lens",),
    "dictionary-learning": ("dictionary-learning",),
    "eai-sparsify": ("eai-sparsify",),
    "overcomplete": ("overcomplete", "matplotlib<3.9"),  # it calls what matplotlib 3.9 took away
}
PEERS = tuple(REQUIREMENTS)
MISSING = {
    "crosscode": "not on PyPI",
    "the crosscoder fork of dictionary-learning": "not on PyPI",
}
"""Peers that would belong here."""


def start(name: str, job: Job) -> Worker:
    """A worker, with its environment made first.

    Raises:
        Unavailable: its package cannot be installed, or the worker does not start.
    """
    return Worker(name, Path(sys.executable) if name in OWN else environment(name, REQUIREMENTS[name]), job)


if __name__ == "__main__":
    # libraries print on import: the answers go out by the door that stdout was, and everything else to stderr
    door = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    given = json.loads(sys.argv[2])
    # this folder has files named as other people's packages may be
    sys.path.remove(str(Path(__file__).parent))
    work(sys.argv[1], Job(**given | {"widths": tuple(given["widths"])}), door)
