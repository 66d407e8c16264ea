"""Writing a store: rows are appended in order, cut into shards, and counted; a shard exists when its shard.json does.

1. Rows go straight to the current shard's files: one per space, and int32 columns for document, end and token ids.
2. A document's text is written once, in the shard of its first row.
3. A full shard is flushed to disk, its sums are taken from the files in blocks of fixed size, and shard.json is written
   last, with the caller's state: whatever the caller appended in, the bytes and sums are the same.
4. The store's means and scales are combined from the shards' float64 sums in shard order.
5. Once they are known, the rows are gone over again for what stands out among them (`outliers`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from safetensors.torch import save_file
from torch import Tensor

from suture.activations.outliers import measure
from suture.activations.space import Space, mark_copies
from suture.activations.store import (
    INDEX,
    MEANS,
    STAGE,
    STORAGE,
    UNITS,
    Alignment,
    Precision,
    Store,
    shard_folder,
    space_file,
    widen,
)
from suture.errors import NumericalError, UserError
from suture.pipeline import artifact

SHARD = "shard.json"
SUM_ROWS = 1024
"""Rows per block of the sums: fixed, because the order of additions decides the last bits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows to append, in document order."""

    activations: Sequence[Float[Tensor, "row _"]]
    """Per space, in the precision to be written."""
    documents: Int32[Tensor, "row"]
    ends: Int32[Tensor, "row"]
    token_ids: Int32[Tensor, "row space"]
    texts: Mapping[int, str]
    """The text of (at least) every document that begins here."""


class ShardWriter:
    """Goes over rows and writes those of its own shards in `folder` that are not finished there already.

    Shard s is rank s mod n_ranks's, so that every rank of several finds the same rows in the same shards.
    """

    def __init__(
        self,
        folder: Path,
        *,
        spaces: Sequence[Space],
        dtype: Precision,
        shard_rows: int,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        if shard_rows < 1:
            raise UserError("shard_rows", shard_rows, "is not a number of rows", "give at least 1")
        self.folder = folder
        self.spaces: tuple[Space, ...] = tuple(spaces)
        self.shard_rows = shard_rows
        self.dtype: Precision = dtype
        self.n_rows: int = 0
        """Rows gone over: written, finished before, or another rank's."""
        self._rank, self._n_ranks = rank, n_ranks
        numbers = {int(shard.name.removeprefix("shard-")): shard for shard in folder.glob("shard-*")}
        self._finished = {number for number, shard in numbers.items() if (shard / SHARD).is_file()}
        for number in numbers.keys() - self._finished:
            if number % n_ranks == rank:
                shutil.rmtree(numbers[number])
        self._last_document = -1
        self._open: dict[str, BinaryIO] = {}
        self._n_open = 0
        self._n_text_bytes = 0

    @property
    def first_wanted(self) -> int:
        """The first row that is this writer's and not finished, if the store gets so far."""
        return self.shard_rows * next(n for n in count(self._rank, self._n_ranks) if n not in self._finished)

    def state_before(self) -> dict[str, Any] | None:
        """The caller's state from which all wanted rows come, kept by a finished shard before them; None without one.

        The caller sets `n_rows` to where it stands.
        """
        before = [number for number in self._finished if number * self.shard_rows < self.first_wanted]
        return artifact.read_json(shard_folder(self.folder, max(before)) / SHARD)["state"] if before else None

    def wanted(self, rows: Int64[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Which rows of the store this writer will write."""
        shards, which = torch.unique(rows // self.shard_rows, return_inverse=True)
        return torch.tensor([self._wants(shard) for shard in shards.tolist()], dtype=torch.bool)[which]

    def _wants(self, shard: int) -> bool:
        return shard % self._n_ranks == self._rank and shard not in self._finished

    def append(self, rows: Rows, *, state: Mapping[str, Any]) -> None:
        """Go over rows; `state` is kept in the last shard that is finished during this call, for the caller to resume.

        Only the activations of wanted rows are looked at.
        """
        first, n = 0, len(rows.documents)
        while first < n:
            shard, begin = divmod(self.n_rows, self.shard_rows)
            last = min(first + self.shard_rows - begin, n)
            if self._wants(shard):
                if not self._open:
                    assert begin == 0, "a shard is written from its first row on"
                    self._begin(shard)
                self._write(rows, first, last)
            self._last_document = int(rows.documents[last - 1])
            self.n_rows += last - first
            if self._n_open == self.shard_rows:
                self._finish(state)
            first = last

    def finish(self, state: Mapping[str, Any]) -> None:
        """Finish the last, shorter shard."""
        if self._open:
            self._finish(state)

    def close(self) -> None:
        """Let go of the files of an unfinished shard."""
        for stream in self._open.values():
            stream.close()
        self._open = {}

    def _begin(self, shard: int) -> None:
        folder = shard_folder(self.folder, shard)
        folder.mkdir()
        names = [space_file(m) for m in range(len(self.spaces))]
        names += ["document.bin", "end.bin", "token.bin", "text.bin", "text_index.bin"]
        self._open = {name: (folder / name).open("wb") for name in names}
        self._n_open = self._n_text_bytes = 0

    def _write(self, rows: Rows, first: int, last: int) -> None:
        for m, activations in enumerate(rows.activations):  # 1
            self._open[space_file(m)].write(stored_bytes(activations[first:last], self.dtype).data)
        for name, column in (("document", rows.documents), ("end", rows.ends), ("token", rows.token_ids)):
            self._open[f"{name}.bin"].write(column[first:last].contiguous().numpy().astype("<i4", copy=False).data)
        for document in torch.unique_consecutive(rows.documents[first:last]).tolist():  # 2
            if document > self._last_document:
                self._n_text_bytes += self._open["text.bin"].write(rows.texts[document].encode("utf-8"))
                self._open["text_index.bin"].write(np.array([document, self._n_text_bytes], dtype="<i8").data)
        self._n_open += last - first

    def _finish(self, state: Mapping[str, Any]) -> None:  # 3
        for stream in self._open.values():
            stream.flush()
            os.fsync(stream.fileno())
        self.close()
        folder = shard_folder(self.folder, (self.n_rows - 1) // self.shard_rows)
        shard: dict[str, Any] = {"n_rows": self._n_open, "last_document": self._last_document, "state": dict(state)}
        sums = [
            sums_of(np.memmap(folder / space_file(m), STORAGE[self.dtype], "r", shape=(self._n_open, space.width)))
            for m, space in enumerate(self.spaces)
        ]
        shard["sum"] = [own.total.tolist() for own in sums]
        shard["spread"] = [own.spread for own in sums]
        artifact.write_json(folder / SHARD, shard)
        self._n_open = 0


def write_index(writer: ShardWriter, alignment: Sequence[Alignment]) -> None:
    """Write the store's index, scales and means; every shard must be finished, whoever wrote it.  (4)

    Raises:
        NumericalError: a space is the same on every row, so that it has no scale.
    """
    n_rows = writer.n_rows
    n_shards = -(-n_rows // writer.shard_rows)
    shards = [artifact.read_json(shard_folder(writer.folder, number) / SHARD) for number in range(n_shards)]
    spaces, means = [], {}
    for m, space in enumerate(writer.spaces):
        parts = (Sums(s["n_rows"], np.array(s["sum"][m], dtype=np.float64), s["spread"][m]) for s in shards)
        scale, means[str(m)] = scale_and_mean(space, reduce(Sums.plus, parts))
        spaces.append(replace(space, scale=scale, mean=means[str(m)]))
    index = {
        "units": UNITS,
        "dtype": writer.dtype,
        "shards": [shard["n_rows"] for shard in shards],
        "spaces": [space.to_json() for space in spaces],
        "alignment": [asdict(a) for a in alignment],
    }
    extremes = measure(_written(writer, spaces, index["shards"], alignment))  # 5
    index["extremes"] = [own.to_json() for own in extremes]
    save_file(means | {f"centre.{m}": own.centre for m, own in enumerate(extremes)}, writer.folder / MEANS)
    artifact.write_json(writer.folder / INDEX, index)


def _written(
    writer: ShardWriter, spaces: Sequence[Space], shards: Sequence[int], alignment: Sequence[Alignment]
) -> Store:
    """The rows in a folder that has no manifest yet."""
    return Store(
        path=writer.folder,
        manifest=artifact.Manifest(stage=STAGE, settings={}, suture=artifact.package_version()),
        spaces=tuple(spaces),
        alignment=tuple(alignment),
        dtype=writer.dtype,
        shards=tuple(shards),
        columns=tuple(range(len(spaces))),
        maps=(None,) * len(spaces),
    )


def write_store(
    path: str | Path,
    activations: Sequence[Float[Tensor, "row _"]],
    *,
    names: Sequence[tuple[str, str]] | None = None,
    documents: Int64[Tensor, "row"] | None = None,
    dtype: Precision = "float32",
    shard_rows: int = 65536,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> Store:
    """Write a store from tensors in memory (planted data, activations recorded elsewhere), one [row, width] per space.

    Args:
        path: the store's folder.
        activations: raw activations, row-aligned.
        names: (model, hookpoint) per space; "model 0", "planted" and so on without.
        documents: ascending document numbers; 64 rows to a document without.
        dtype: precision on disk.
        shard_rows: rows per shard.
        settings: what made the activations, for the manifest.
        seed: its seed.
        overwrite: replace a finished store.

    Raises:
        NumericalError: a NaN or an infinity, with its row.
    """
    n_rows = len(activations[0])
    assert n_rows > 0, "a store needs rows"
    assert all(len(a) == n_rows for a in activations), "the spaces must have the same rows"
    for m, values in enumerate(activations):
        finite = torch.isfinite(values).all(dim=1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise NumericalError("activations", f"space {m}", f"is not finite in row {row}", "mend the data")
    documents = torch.arange(n_rows) // 64 if documents is None else documents
    assert bool((documents[1:] >= documents[:-1]).all()), "document numbers must ascend"
    changes = torch.nonzero(documents[1:] != documents[:-1]).flatten() + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), changes])
    lengths = torch.diff(torch.cat([starts, torch.tensor([n_rows])]))
    within = torch.arange(n_rows) - torch.repeat_interleave(starts, lengths)
    names = names or [(f"model {m}", "planted") for m in range(len(activations))]
    spaces = mark_copies(
        Space(model=model, hookpoint=hookpoint, width=values.shape[1])
        for (model, hookpoint), values in zip(names, activations, strict=True)
    )
    rows = Rows(
        activations=activations,
        documents=documents.to(torch.int32),
        ends=(within + 1).to(torch.int32),
        token_ids=torch.zeros(n_rows, len(activations), dtype=torch.int32),
        texts={
            int(d): "." * int(length) for d, length in zip(documents[starts].tolist(), lengths.tolist(), strict=True)
        },
    )
    alignment = [Alignment(n_tokens=n_rows, n_kept=n_rows, n_special=0)] * len(activations)
    made = {"n_rows": n_rows, "dtype": dtype, **(settings or {})}
    with artifact.create(path, stage=STAGE, settings=made, seed=seed, overwrite=overwrite) as draft:
        writer = ShardWriter(draft.folder, spaces=spaces, dtype=dtype, shard_rows=shard_rows)
        writer.append(rows, state={})
        writer.finish({})
        write_index(writer, alignment)
    return Store.open(path)


def stored_bytes(activations: Float[Tensor, "row width"], dtype: Precision) -> np.ndarray:
    """The values as they lie on disk, rounded to nearest (even) where the precision is lower."""
    kept = activations.to(getattr(torch, dtype)).contiguous().cpu()
    values = kept.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else kept.numpy()
    return values.astype(STORAGE[dtype], copy=False)


@dataclass(frozen=True)
class Sums:
    """Sums over some rows that lose no digits however far from zero the rows lie (Chan, Golub and LeVeque 1983)."""

    n_rows: int
    total: np.ndarray
    """Sum of the rows, float64 [width]."""
    spread: float
    """Sum of their squared distances from their own mean."""

    def plus(self, other: Sums) -> Sums:
        """The sums over both sets of rows."""
        gap = other.total / other.n_rows - self.total / self.n_rows
        n_rows = self.n_rows + other.n_rows
        between = self.n_rows * other.n_rows / n_rows * float(gap @ gap)
        return Sums(n_rows, self.total + other.total, self.spread + other.spread + between)


def sums_of(stored: np.ndarray) -> Sums:
    """The sums of stored rows [row, width], block after block."""

    def of_block(first: int) -> Sums:
        block = widen(np.array(stored[first : first + SUM_ROWS])).astype(np.float64)
        total = block.sum(axis=0)
        block -= total / len(block)
        return Sums(len(block), total, float(np.einsum("ij,ij->", block, block)))

    return reduce(Sums.plus, map(of_block, range(0, len(stored), SUM_ROWS)))


def scale_and_mean(space: Space, sums: Sums) -> tuple[float, Float32[Tensor, "width"]]:
    """A space's scale and mean from the sums over its rows.

    Raises:
        NumericalError: it is the same on every row, so that it has no scale.
    """
    mean = torch.from_numpy((sums.total / sums.n_rows).astype(np.float32))
    spread = sums.spread / sums.n_rows
    # what is left of a constant is rounding, of the order of the constant's own last bit
    if spread <= 1e-12 * float(mean.double().square().sum()):
        raise NumericalError("at", space.hookpoint, f"is the same on every row in {space.model}", "choose another")
    return float(np.sqrt(space.width / spread)), mean
