"""Where a dictionary's rows come from: batches to train on, and held-out rows to judge by.

`StoreFeed` reads a store on disk, epoch after epoch; `StreamFeed` runs the language models while it trains and keeps
nothing: fill after fill of rows, each held in memory, each gone over once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from suture.activations.batches import Batch, batches, split_rows
from suture.activations.store import Store
from suture.activations.stream import Stream
from suture.activations.view import seen
from suture.errors import UserError
from suture.parallel import ALONE, Grid
from suture.pipeline import artifact
from suture.training.settings import TrainSettings

POSITIONS = "stream.json"
KEPT_POSITIONS = 4
"""Of the newest fills: a checkpoint to go on from may be some fills old; older ones are found by tokenizing again."""


@dataclass(frozen=True)
class StoreFeed:
    """Rows of a store on disk."""

    store: Store
    settings: TrainSettings
    """Of any of the dictionaries that this feeds: they agree on what matters here, see `Key`."""
    grid: Grid = ALONE

    @property
    def name(self) -> str:
        """What to call the rows in a message."""
        return str(self.store.path)

    @property
    def made_from(self) -> dict[str, Any]:
        """What the rows are, for the records."""
        return {"store": str(self.store.path), "n_spaces": len(self.reference.spaces)}

    @property
    def parents(self) -> tuple[Path, ...]:
        """Artifacts that the rows come from."""
        return (self.store.path,)

    def keep_position_in(self, folders: Sequence[Path]) -> None:
        """A batch of a store is found by its number: there is nothing to keep."""

    @cached_property
    def reference(self) -> Store:
        """Rows to take statistics from and to validate on."""
        return seen(self.store, self.settings.view)

    @cached_property
    def split(self) -> tuple[Int[Tensor, "train"], Int[Tensor, "heldout"]]:
        """Rows of `reference`: those for training, and those that are never trained on."""
        return split_rows(self.reference, heldout=self.settings.heldout, seed=self.settings.order_seed)

    def batches(self, start: int, n_steps: int) -> Generator[Batch, None, None]:
        """This rank's part of each batch, beginning with batch number `start`."""
        return batches(
            self.reference,
            self.split[0],
            batch_size=self.settings.batch_size,
            seed=self.settings.order_seed,
            pooled=not self.settings.design.joint,
            start=start,
            n_steps=n_steps,
            ranks=self.grid.data,
        )


class StreamFeed:
    """Rows of language models that run while their activations are trained on.

    Fill after fill of rows, each gone over once in an order of its own; the held-out documents of every fill are left
    out. Fill 0 stays in memory: it gives the units, the statistics, and the held-out rows to judge by.
    """

    def __init__(self, stream: Stream, settings: TrainSettings, grid: Grid = ALONE) -> None:
        self.stream = stream
        self.settings = settings
        self.grid = grid
        self._first_steps = [0]
        self._kept_in: list[Path] = []

    @property
    def name(self) -> str:
        """What to call the rows in a message."""
        return f"a fill of {self.stream.fill_rows} rows of {self.stream.corpus.source}"

    @property
    def made_from(self) -> dict[str, Any]:
        """What the rows are, for the records."""
        return {"stream": self.stream.settings, "n_spaces": len(self.reference.spaces)}

    @property
    def parents(self) -> tuple[Path, ...]:
        """Artifacts that the rows come from: none."""
        return ()

    @cached_property
    def reference(self) -> Store:
        """Rows to take statistics from and to validate on."""
        return self._fill(0)

    @cached_property
    def split(self) -> tuple[Int[Tensor, "train"], Int[Tensor, "heldout"]]:
        """Rows of `reference`: those for training, and those that are never trained on."""
        return self._split(self.reference)

    def keep_position_in(self, folders: Sequence[Path]) -> None:
        """Write down there where each fill begins, and go on from what an earlier run wrote."""
        self._kept_in = list(folders)
        for folder in folders:
            if (folder / POSITIONS).is_file():
                found = artifact.read_json(folder / POSITIONS)
                self._first_steps = found["first_steps"]
                self.stream.go_on_from({int(n): position for n, position in found["positions"].items()})
                return

    def batches(self, start: int, n_steps: int) -> Generator[Batch, None, None]:
        """This rank's part of each batch, beginning with batch number `start`."""
        number = bisect_right(self._first_steps, start) - 1
        at, end = start, start + n_steps
        while at < end:
            fill = self.reference if number == 0 else self._fill(number)
            rows = self.split[0] if number == 0 else self._split(fill)[0]
            n_items = len(rows) * (1 if self.settings.design.joint else len(fill.spaces))
            first, n_here = self._first_steps[number], n_items // self.settings.batch_size
            if n_here == 0:
                problem = f"exceeds the {n_items} training rows of fill {number}"
                raise UserError("batch-size", self.settings.batch_size, problem, "raise --fill-rows")
            if at < first + n_here:
                wanted = min(end, first + n_here) - at
                # a large odd constant gives every fill another order
                seed = (self.settings.order_seed + number * 1_000_003) % 2**63
                with closing(self._batches_of(fill, rows, seed, at - first, wanted)) as here:
                    yield from here
                at += wanted
            number += 1
            if at < end:
                self._mark(number, first + n_here)

    def _batches_of(
        self, fill: Store, rows: Tensor, seed: int, start: int, n_steps: int
    ) -> Generator[Batch, None, None]:
        return batches(
            fill,
            rows,
            batch_size=self.settings.batch_size,
            seed=seed,
            pooled=not self.settings.design.joint,
            start=start,
            n_steps=n_steps,
            ranks=self.grid.data,
        )

    def _fill(self, number: int) -> Store:
        return seen(self.stream.fill(number), self.settings.view)

    def _split(self, fill: Store) -> tuple[Tensor, Tensor]:
        try:
            return split_rows(fill, heldout=self.settings.heldout, seed=self.settings.order_seed)
        except UserError as error:
            raise UserError("fill-rows", self.stream.fill_rows, error.problem, "raise it, or give more text") from None

    def _mark(self, number: int, first_step: int) -> None:
        """Remember with which step a fill begins, on disk before any of its steps is taken."""
        if number == len(self._first_steps):
            self._first_steps.append(first_step)
        if self.grid.world.leads and self._kept_in:
            recent = range(max(0, number - KEPT_POSITIONS + 1), number + 1)
            positions = {str(n): self.stream.position(n) for n in recent}
            for folder in self._kept_in:
                if folder.exists():  # it has another name once its dictionary is finished
                    artifact.write_json(folder / POSITIONS, {"first_steps": self._first_steps, "positions": positions})


Feed = StoreFeed | StreamFeed


def feed_of(rows: Store | Stream, settings: TrainSettings, grid: Grid) -> Feed:
    """What feeds these settings from a store or a stream."""
    return StreamFeed(rows, settings, grid) if isinstance(rows, Stream) else StoreFeed(rows, settings, grid)


Key = tuple[Any, ...]


def feed_key(settings: TrainSettings) -> Key:
    """Dictionaries with the same key see the same batches."""
    return (settings.view, settings.design.joint, settings.batch_size, settings.heldout, settings.order_seed)
