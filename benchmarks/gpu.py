"""How fast is a training step on a GPU? suture, a plain dense step and eai-sparsify, in one run, on the same batches.

1. Per shape: build the contenders on one device and warm each up; note what memory each holds.
2. In rounds, each contender in turn takes some steps, every step timed by itself (CUDA events). The encoder's product
   alone (bf16 on a GPU) is a contender too: its time is the part of a step that no method of this kind can save. So is
   copying what is moved at least once in a step: weights, gradients and both moments. The two together are the floor.
3. Medians over all steps; memory is a contender's peak without what the others hold.

A step is forward, loss, backward, Adam and the decoder's renormalisation, with no auxiliary loss in any of them. The
dense step runs under bf16 autocast with fused Adam; sparsify sets its own autocast, and Adam replaces its sign descent.

    python benchmarks/gpu.py [--device cuda] [--small] [--rounds 8] [--steps 3] [--minutes 6] [--write]

Rounds end when `--minutes` are over, after one at least. On a bare machine `benchmarks/install_gpu.py` comes first: it
is all done in eight minutes, installation included.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from suture.activations.batches import Batch
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels.select import resolve_precision
from suture.training.settings import Objective
from suture.training.step import TrainingState

try:
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]
except ImportError:
    SparseCoder = SparseCoderConfig = None

RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"
LEARNING_RATE = 1e-4
MEASURING = 0.8
"""Part of a shape's time in which rounds begin: the last one has to end, too."""
COPIED = 2 * 4
"""Matrices of the encoder's size that a step moves: of encoder and decoder the weights, gradients and two moments."""
PRODUCT, COPY = "encoder product alone", "weights, gradients, moments copied"
SUTURE, DENSE, SPARSIFY = "suture", "dense PyTorch", "eai-sparsify"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a crosscoder of two models and of its batches."""

    width: int
    """Of each model."""
    n_features: int
    k: int
    n_rows: int

    @property
    def joint_width(self) -> int:
        return 2 * self.width

    @property
    def label(self) -> str:
        return f"2 x {self.width} -> {self.n_features:,}, k {self.k}, {self.n_rows:,} rows"

    @property
    def product_flop(self) -> float:
        """Of the encoder's product."""
        return 2.0 * self.n_rows * self.joint_width * self.n_features


SHAPES = (
    Shape(width=1024, n_features=16_384, k=64, n_rows=8192),
    Shape(width=2304, n_features=73_728, k=100, n_rows=8192),
)
SMALL = (Shape(width=64, n_features=1024, k=8, n_rows=256),)


@dataclass
class Contender:
    """One way to take a step, and what was measured of it."""

    name: str
    step: Callable[[], Tensor]
    resident: int = 0
    """Bytes it holds between steps."""
    peak: int = 0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)


# --- the contenders -------------------------------------------------------------------------------------------------


def start(shape: Shape, device: torch.device) -> Tensor:
    """Decoder rows of norm 1, the same for all."""
    W = torch.randn(shape.n_features, shape.joint_width, generator=torch.Generator().manual_seed(1))
    return (W / W.norm(dim=1, keepdim=True)).to(device)


def suture_step(shape: Shape, device: torch.device, batches: Iterator[Tensor]) -> Callable[[], Tensor]:
    """What `suture train` does to a batch."""
    spaces = [Space(model=name, hookpoint="resid0.post", width=shape.width) for name in "AB"]
    design = Design(n_features=shape.n_features, sparsity=Sparsity(k=shape.k))
    dictionary = Dictionary(spaces, design).to(device)
    dictionary.precision = resolve_precision("auto", device)
    with torch.no_grad():
        W = start(shape, device)
        dictionary.W_dec.copy_(W)
        dictionary.W_enc.copy_(W * 2)  # the code is the mean over two models
    variance = torch.full((2,), float(shape.width))
    state = TrainingState(dictionary, Objective(aux=0.0), variance)

    def step() -> Tensor:
        batch = Batch(activations=next(batches), model=None)
        return state.step(batch, k=float(shape.k), learning_rate=LEARNING_RATE, available=None).terms["reconstruction"]

    return step


def dense_step(shape: Shape, device: torch.device, batches: Iterator[Tensor]) -> Callable[[], Tensor]:
    """The same step as one would write it first, with every code a dense matrix."""
    W = start(shape, device)
    W_enc, W_dec = torch.nn.Parameter(W.clone()), torch.nn.Parameter(W)
    b_enc = torch.nn.Parameter(torch.zeros(shape.n_features, device=device))
    b_dec = torch.nn.Parameter(torch.zeros(shape.joint_width, device=device))
    adam = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=LEARNING_RATE, fused=True)

    def step() -> Tensor:
        x = next(batches)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            pre = functional.linear(x - b_dec, W_enc, b_enc).relu()
            best = pre.topk(shape.k, dim=-1, sorted=False)
            codes = torch.zeros_like(pre).scatter(1, best.indices, best.values)
            error = x - (codes @ W_dec + b_dec)
        loss = error.float().square().sum() / x.shape[0]
        adam.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            adam.step()
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
        return loss.detach()

    return step


def sparsify_step(shape: Shape, device: torch.device, batches: Iterator[Tensor]) -> Callable[[], Tensor]:
    """`SparseCoder` in the order of its own training loop."""
    assert SparseCoder is not None
    assert SparseCoderConfig is not None
    settings = SparseCoderConfig(num_latents=shape.n_features, k=shape.k)
    coder = SparseCoder(shape.joint_width, settings, device=device, dtype=torch.float32)
    adam = torch.optim.Adam(coder.parameters(), lr=LEARNING_RATE)

    def step() -> Tensor:
        x = next(batches)
        coder.set_decoder_norm_to_unit_norm()
        loss = coder(x=x, y=x).fvu
        loss.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        return loss.detach()

    return step


def product_step(shape: Shape, device: torch.device, batches: Iterator[Tensor]) -> Callable[[], Tensor]:
    """What all of them have to compute: every feature's pre-activation on every row."""
    dtype = torch.bfloat16 if resolve_precision("auto", device) == "bfloat16" else torch.float32
    W, x = start(shape, device).to(dtype), next(batches).to(dtype)
    out = torch.empty(shape.n_rows, shape.n_features, dtype=dtype, device=device)

    def step() -> Tensor:
        return torch.mm(x, W.t(), out=out)[0, 0]

    return step


def copy_step(shape: Shape, device: torch.device, batches: Iterator[Tensor]) -> Callable[[], Tensor]:  # noqa: ARG001
    """Encoder and decoder with their gradients and moments, each read and written once."""
    one = start(shape, device)
    other = torch.empty_like(one)

    def step() -> Tensor:
        for _ in range(COPIED):
            other.copy_(one)
        return other[0, 0]

    return step


# --- measuring ------------------------------------------------------------------------------------------------------


def held(device: torch.device) -> int:
    """Bytes in use on a GPU; 0 elsewhere, where nobody counts them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def timed(step: Callable[[], Tensor], device: torch.device) -> float:
    """Milliseconds of one step, on the device's own clock where it has one."""
    if device.type != "cuda":
        started = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - started)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def contenders(shape: Shape, device: torch.device) -> list[Contender]:
    """1: all that can be measured here, warmed up."""
    draw = torch.Generator().manual_seed(0)
    pool = [torch.randn(shape.n_rows, shape.joint_width, generator=draw).to(device) for _ in range(4)]
    makers = {PRODUCT: product_step, COPY: copy_step, SUTURE: suture_step, DENSE: dense_step}
    if SparseCoder is not None:
        makers[SPARSIFY] = sparsify_step
    out: list[Contender] = []
    for name, make in makers.items():
        before = held(device)
        step = make(shape, device, cycle(pool))
        for _ in range(2):  # compiles kernels, makes the optimiser's moments
            assert bool(step().isfinite()), f"{name} computes no finite loss"
        out.append(Contender(name, step, resident=held(device) - before))
    return out


def measure(
    shape: Shape, device: torch.device, *, rounds: int, steps: int, until: float = float("inf")
) -> list[Contender]:
    """2, 3: the contenders of a shape with their times and peaks; no round begins after the time `until`."""
    found = contenders(shape, device)
    for number in range(rounds):
        if number and time.time() > until:
            break
        for contender in found:
            contender.step()  # the caches and the clock are another contender's
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            others = held(device) - contender.resident
            contender.milliseconds += [timed(contender.step, device) for _ in range(steps)]
            if device.type == "cuda":
                contender.peak = max(contender.peak, torch.cuda.max_memory_allocated(device) - others)
    return found


# --- the table ------------------------------------------------------------------------------------------------------


def table(shape: Shape, found: list[Contender]) -> str:
    """A shape's measurements as Markdown."""
    by_name = {c.name: c for c in found}
    product, suture = by_name[PRODUCT].median, by_name[SUTURE].median
    floor = product + by_name[COPY].median
    lines = [
        f"{shape.label}; the product runs at {shape.product_flop / product / 1e9:.3g} TFLOP/s, "
        f"{len(by_name[SUTURE].milliseconds)} steps; suture's step is {suture / floor:.2f} times the floor of "
        f"{floor:.2f} ms:",
        "",
        "| | ms per step | rows/s | share of the matrix rate | peak memory, GB | times suture's step |",
        "|---|---|---|---|---|---|",
    ]
    for c in found:
        low, high = min(c.milliseconds), max(c.milliseconds)
        peak = f"{c.peak / 1e9:.2f}" if c.peak else "-"
        lines.append(
            f"| {c.name} | {c.median:.2f} ({low:.2f} - {high:.2f}) | {1e3 * shape.n_rows / c.median:,.0f} "
            f"| {product / c.median:.1%} | {peak} | {c.median / suture:.2f} |"
        )
    return "\n".join(lines)


def section(tables: list[str], device: torch.device) -> str:
    """The tables with what they were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = [f"torch {torch.__version__}"]
    if SparseCoder is not None:
        versions.append(f"eai-sparsify {version('eai-sparsify')}")
    circumstances = f"`python benchmarks/gpu.py`, {datetime.now(UTC):%Y-%m-%d}, {name}, {', '.join(versions)}."
    notes = "Median per step (fastest - slowest), contenders alternating in one process; no auxiliary losses."
    return "\n\n".join([BEGIN, "## A step on a GPU", circumstances, notes, *tables, END])


def write_section(text: str, file: Path = RESULTS) -> None:
    """Replace this benchmark's section, or add it at the end."""
    before = file.read_text(encoding="utf-8") if file.exists() else "# Results\n"
    if BEGIN in before:
        head, rest = before.split(BEGIN, 1)
        after = head + text + rest.split(END, 1)[1]
    else:
        after = before.rstrip("\n") + "\n\n" + text + "\n"
    file.write_text(after, encoding="utf-8")


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny shape, to see that everything runs")
    parser.add_argument("--rows", type=int, help="rows of a batch, where not the shape's own")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each contender in a round")
    parser.add_argument("--minutes", type=float, default=6.0, help="in all, about")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/RESULTS.md")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here; --device cpu --small shows that it runs", file=sys.stderr)
        sys.exit(2)
    tables: list[str] = []
    shapes = SMALL if given.small else SHAPES
    ends = time.time() + 60 * given.minutes
    for number, shape in enumerate(shapes):
        until = time.time() + (ends - time.time()) / (len(shapes) - number) * MEASURING
        sized = shape if given.rows is None else Shape(**{**vars(shape), "n_rows": given.rows})
        tables.append(table(sized, measure(sized, device, rounds=given.rounds, steps=given.steps, until=until)))
        print(tables[-1], end="\n\n", flush=True)
    if given.write:
        write_section(section(tables, device))


if __name__ == "__main__":
    main()
