"""Where a dictionary's rows come from: batches to train on, and held-out rows to judge by.

`StoreFeed` reads a store on disk, epoch after epoch; `StreamFeed` runs the language models while it trains and keeps
nothing: fill after fill of rows, each held in memory, each gone over once.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Int
from torch import Tensor

from suture.activations.batches import Batch, batches, split_rows
from suture.activations.store import Store
from suture.dictionary.settings import TrainSettings
from suture.parallel import ALONE, Grid


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

    @cached_property
    def reference(self) -> Store:
        """Rows to take statistics from and to validate on."""
        return self.settings.view.of(self.store)

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


Feed = StoreFeed
Key = tuple[Any, ...]


def feed_key(settings: TrainSettings) -> Key:
    """Dictionaries with the same key see the same batches."""
    return (settings.view, settings.design.joint, settings.batch_size, settings.heldout, settings.order_seed)
