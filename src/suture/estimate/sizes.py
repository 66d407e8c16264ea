"""Sizes: what a dictionary, its checkpoints and its training take, in bytes, from the settings alone.

A dictionary of F features over rows of width D (and D_in at the encoder, with a pooled dictionary's flags) has
F · (D_in + D + 2) + 2 · D numbers. Adam keeps two more for each of them that is trained. Besides, from the start to the
end of a run, there are:

1. what mean and variance were taken from, in float64: the allocator keeps it for the evaluations;
2. the order of the rows: a few numbers for every row of the store;
3. code and tables of the libraries that are only loaded when they are first used.

What a step adds comes and goes, and when all steps are taken makes room for the finished dictionary, read back:

4. W_enc once more where the dense product runs in bf16, and one chunk of pre-activations;
5. copies of the batch: those read ahead, the centred one, the decoded one, the error, their gradients;
6. for each active pair its place in both orders, its values and their gradients;
7. AuxK's copy of the dead features' encoder rows.

Files that are read through a memory map count apart: the system takes that memory back whenever it is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from suture.activations.store import STORAGE, Precision
from suture.dictionary.design import Design
from suture.dictionary.kernels.select import CHUNK_ELEMENTS
from suture.training.checkpoint import KEPT
from suture.training.settings import TrainSettings

FLOAT, COUNTER = 4, 8
READ_AHEAD = 4
"""Batches that wait or are being read, and the one in use."""
BATCH_COPIES = 5
"""Matrices of a batch's shape that a step holds at once."""
STATISTICS_BYTES = 20 * 4096
"""For every column of a row, while 4,096 of them are summed up."""
LIBRARY_BYTES = 20 * 10**6
"""Of libraries, touched by the first step."""
PAIR_BYTES = 96
"""Of an active (row, feature) pair, at the busiest moment of the backward pass."""
ROW_BYTES = 40
"""Of a row of the store while documents are split and rows are put in order."""
CHUNKS_HELD = 2
"""A chunk of pre-activations, and what selecting in it takes."""
DEAD_SHARE = 0.1
"""Features assumed dead, where AuxK is at work."""
DESCRIPTION_BYTES = 4096
"""Manifest, evaluation and description of a dictionary."""
METRICS_BYTES = 450
"""A line of metrics."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dictionary's numbers."""

    n_features: int
    width: int
    """D: of a row that is reconstructed."""
    width_in: int
    """Of a row that meets the encoder."""
    n_own: int
    """Trained numbers of a feature that only its kind of sparsity has."""
    n_kept: int
    """Of those, numbers that stay with the dictionary."""

    @property
    def per_feature(self) -> int:
        """Trained numbers of a feature."""
        return self.width_in + self.width + 1 + self.n_own

    @property
    def trained(self) -> int:
        """All trained numbers."""
        return self.n_features * self.per_feature + self.width


def shape_of(design: Design, widths: Sequence[int]) -> Shape:
    """The shape of a dictionary over spaces of these widths."""
    width = sum(widths) if design.joint else max(widths)
    return Shape(
        n_features=design.n_features,
        width=width,
        width_in=width + (len(widths) if design.flag else 0),
        n_own=design.sparsity.activation.n_own,
        n_kept=len(design.sparsity.activation.weights),
    )


def weights_bytes(shape: Shape) -> int:
    """A dictionary on disk: encoder, decoder, encoder bias and threshold per feature, decoder bias and centre.

    >>> weights_bytes(Shape(n_features=8, width=3, width_in=3, n_own=0, n_kept=0))
    280
    """
    return FLOAT * (shape.n_features * (shape.width_in + shape.width + 2 + shape.n_kept) + 2 * shape.width)


def checkpoint_bytes(shape: Shape) -> int:
    """A training checkpoint: trained numbers with two moments each, the counters of silence, the centre."""
    return 3 * FLOAT * shape.trained + COUNTER * shape.n_features + FLOAT * shape.width


def n_checkpoints(settings: TrainSettings) -> int:
    """Checkpoints written in all: none after the last step."""
    return (settings.n_steps - 1) // settings.checkpoint_every


def kept_disk(settings: TrainSettings, shape: Shape) -> int:
    """What a finished dictionary's folder takes."""
    n_lines = -(-settings.n_steps // settings.validate_every)
    moments = moments_bytes(shape.width) if settings.design.kind == "crosscoder" else 0
    return weights_bytes(shape) + moments + DESCRIPTION_BYTES + METRICS_BYTES * n_lines


def moments_bytes(width: int) -> int:
    """The second moments beside a crosscoder, from which a missing model is imputed: one set to fit, one to check.

    >>> moments_bytes(256)
    528384
    """
    return 2 * (FLOAT * width * width + COUNTER * width)


def peak_disk(settings: TrainSettings, shape: Shape) -> int:
    """The most that the folder takes while it is made: a checkpoint beside the two kept, or the result beside them."""
    n = n_checkpoints(settings)
    checkpoint = checkpoint_bytes(shape)
    return max(min(n, KEPT + 1) * checkpoint, min(n, KEPT) * checkpoint + kept_disk(settings, shape))


def pairs_per_row(settings: TrainSettings) -> float:
    """Active pairs of a row at the start, when they are most: k, or half of the features where none are ranked."""
    design = settings.design
    return settings.k_at(0) if design.sparsity.selects_k else design.n_features / 2


def training_parts(settings: TrainSettings, widths: Sequence[int], n_rows: int, precision: str) -> dict[str, int]:
    """Bytes in memory while a dictionary is trained, by what they are for, without the libraries themselves.

    Args:
        settings: how it is trained.
        widths: of the spaces.
        n_rows: rows of the store.
        precision: of the dense product, "float32" or "bfloat16".
    """
    shape = shape_of(settings.design, widths)
    step = _step_parts(settings, shape, precision)
    return {
        "weights": weights_bytes(shape),
        "moments": 2 * FLOAT * shape.trained + COUNTER * shape.n_features,
        "statistics": STATISTICS_BYTES * sum(widths),
        "order of the rows": ROW_BYTES * n_rows * (1 if settings.design.joint else len(widths)),
        "libraries in use": LIBRARY_BYTES,
        **step,
        # zeros to be filled and the file's tensors, both at once
        "result beyond a step's": max(2 * weights_bytes(shape) - sum(step.values()), 0),
    }


def device_bytes(parts: Mapping[str, int]) -> int:
    """Which of a training's parts lie on an accelerator, where there is one."""
    on_host = ("statistics", "order of the rows", "libraries in use")
    return sum(n for name, n in parts.items() if name not in on_host)


def host_bytes(settings: TrainSettings, widths: Sequence[int], n_rows: int) -> int:
    """Host memory while an accelerator trains: rows, and what passes through on its way to the disk."""
    parts = training_parts(settings, widths, n_rows, "float32")
    shape = shape_of(settings.design, widths)
    passing = max(checkpoint_bytes(shape) if n_checkpoints(settings) else 0, 2 * weights_bytes(shape))
    kept = sum(parts[name] for name in ("statistics", "order of the rows", "libraries in use"))
    return kept + READ_AHEAD * FLOAT * settings.batch_size * shape.width + passing


def _step_parts(settings: TrainSettings, shape: Shape, precision: str) -> dict[str, int]:
    """What lasts as long as a step."""
    batch = FLOAT * settings.batch_size * max(shape.width, shape.width_in)
    pairs = settings.batch_size * pairs_per_row(settings)
    element = 2 if precision == "bfloat16" else FLOAT
    chunk = max(CHUNK_ELEMENTS, 64 * shape.n_features)
    return {
        "encoder in bf16": 2 * shape.n_features * shape.width_in if precision == "bfloat16" else 0,
        "pre-activations": CHUNKS_HELD * element * min(chunk, settings.batch_size * shape.n_features),
        "active pairs": round(PAIR_BYTES * pairs),
        "batches": (READ_AHEAD + BATCH_COPIES) * batch,
        "dead features": auxiliary_bytes(settings, shape),
    }


def auxiliary_bytes(settings: TrainSettings, shape: Shape) -> int:
    """AuxK's copy of the dead features' encoder rows, once any can be dead."""
    if settings.objective.aux == 0 or settings.n_rows <= settings.objective.dead_after:
        return 0
    return round(DEAD_SHARE * FLOAT * shape.n_features * shape.width_in)


def mapped_bytes(widths: Sequence[int], n_rows: int, dtype: Precision) -> int:
    """Activations that are read through a memory map; they stay in memory while nothing else needs it."""
    return n_rows * sum(widths) * STORAGE[dtype].itemsize


def largest(fits: Callable[[int], bool], below: int) -> int:
    """The largest number under `below` that fits, 0 if none does, rounded down to two digits; `fits` is monotone.

    >>> largest(lambda n: n <= 1357, 5000)
    1300
    """
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    step = 10 ** max(len(str(low)) - 2, 0)
    return low // step * step
