"""The store: activations of two or more models at the same text positions, on disk, read by row number.

1. A store is a folder of shards; a shard holds one raw row-major file per space and int32 side columns.
2. `read` sorts the rows asked for, gathers them shard by shard from the memory-mapped files, and restores the order.
3. bfloat16 is widened to float32 by moving its 16 bits up, in numpy: the batches' thread then never competes with
   torch's own threads.
4. A view names other columns, each with an optional linear map, over the same files: nothing is copied.
5. A file that was cut short while it is mapped would kill the process at the next read, so its size is asked first; a
   folder that was deleted or replaced could be read on, but what follows would name rows that nobody finds any more.
6. A shard's files are read only if they hold what was written: their checksums are compared when they are first used.
7. The rows of a stream are held in memory, as one shard, and read in the same way.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from suture.activations.outliers import Extremes, clipped, measure, typical_rows
from suture.activations.settings import MULTIPLE, Treatment
from suture.activations.space import Space, spaces_from_json
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact

STAGE = "store"
INDEX = "store.json"
MEANS = "means.safetensors"
UNITS = "centred"
"""What the scales of a store's index are of. Those of older stores, which say nothing, were of uncentred rows."""
UNITS_ROWS = 65_536
"""Rows, evenly spread, from which an older store's units are measured when it is opened."""
STORAGE = {"bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4")}
"""How each precision lies on disk; bfloat16 as its bits, which numpy has no type for."""

Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What became of one model's tokens on the way to rows."""

    n_tokens: int
    """Tokens of the text seen, the sequence-starting BOS not counted."""
    n_kept: int
    """Tokens that became rows."""
    n_special: int
    """Special tokens left out: those in the text, and the BOS put before each piece."""

    @property
    def kept_share(self) -> float:
        """The share of the text's tokens that became rows."""
        return self.n_kept / max(self.n_tokens, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """The rows of a store that has no files, as they would lie in them."""

    activations: tuple[np.ndarray, ...]
    """Per space [row, width], in the type of `STORAGE`."""
    documents: Int32[Tensor, "row"]
    ends: Int32[Tensor, "row"]
    token_ids: Int32[Tensor, "row space"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shard:
    """One space's rows of one shard."""

    name: str
    values: np.ndarray
    """[row, width], in the type of `STORAGE`."""
    mapped: mmap.mmap | None
    """What the values lie in, where that is a file."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Store:
    """Paired activations, opened by `Store.open`; `read` gives the rows, the other fields say where they come from.

    Rows lie in document order. Row r of every space belongs to the same text position: the character where the token
    ends, in the same document.
    """

    path: Path
    manifest: artifact.Manifest
    spaces: tuple[Space, ...]
    alignment: tuple[Alignment, ...]
    """Per space, how many of its model's tokens became rows."""
    dtype: Precision
    shards: tuple[int, ...]
    """Rows per shard."""
    columns: tuple[int, ...]
    """Which space of the files each space reads."""
    maps: tuple[Float[Tensor, "width width"] | None, ...]
    """What each space's activations are multiplied by on the right, where it is a transformed view."""
    view: str = ""
    """What was changed, in words, where this is a view of the files and not the files themselves."""
    extremes: tuple[Extremes, ...] | None = None
    """What stands out in every space of the files; None where it was not measured (an older store)."""
    radii: tuple[float, ...] | None = None
    """How far from its centre the rows of every space of the files are drawn in, where the view clips them."""
    kept: Int64[Tensor, "row"] | None = None
    """Which rows of the files the view has, where it leaves some out."""
    held: Held | None = None
    """The rows themselves, where they are in memory; `path` is then only what they are called."""
    identity: tuple[int, int] | None = None
    """Inode and time of the manifest that was opened."""

    @staticmethod
    def open(path: str | Path) -> Store:
        """Open a finished store.

        Raises:
            ArtifactError: missing, unfinished, of another step or version, truncated, or inconsistent.
        """
        path = Path(path)
        manifest = artifact.open_artifact(path, stage=STAGE, setting="store")
        try:
            index = artifact.read_json(path / INDEX)
            means = load_file(path / MEANS)
            spaces = spaces_from_json(index["spaces"], means)
            extremes = index.get("extremes")
            store = Store(
                path=path,
                manifest=manifest,
                spaces=spaces,
                alignment=tuple(Alignment(**a) for a in index["alignment"]),
                dtype=index["dtype"],
                shards=tuple(index["shards"]),
                columns=tuple(range(len(spaces))),
                maps=(None,) * len(spaces),
                identity=_identity(path),
                extremes=extremes
                and tuple(Extremes.from_json(e, means[f"centre.{m}"]) for m, e in enumerate(extremes)),
            )
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ArtifactError("store", path, f"cannot be read ({error})", "collect it again") from None
        _check_sizes(store)
        return store if index.get("units") == UNITS else _in_centred_units(store)

    def __len__(self) -> int:
        return sum(self.shards) if self.kept is None else len(self.kept)

    def __repr__(self) -> str:
        places = " x ".join(f"{space.label} ({space.width})" for space in self.spaces)
        seen = f"; {self.view}" if self.view else ""
        return f"Store({len(self):,} rows of {places}, {self.dtype}; {self.path}{seen})"

    def read(self, rows: Int64[Tensor, "row"]) -> list[Float32[Tensor, "row _"]]:
        """The raw activations of these rows, one tensor [row, width] per space; any order, repetitions allowed.

        Raises:
            ArtifactError: the store was deleted, replaced or truncated since it was opened.
        """
        return [self.read_space(rows, space) for space in range(len(self.spaces))]

    def read_space(self, rows: Int64[Tensor, "row"], space: int) -> Float32[Tensor, "row width"]:
        """The raw activations of these rows in one space."""
        self._check_there()  # 5
        wanted = rows.numpy()
        assert wanted.size == 0 or (wanted.min() >= 0 and wanted.max() < len(self)), "row numbers outside the store"
        if self.kept is not None:
            wanted = self.kept.numpy()[wanted]
        ascending = bool((wanted[1:] >= wanted[:-1]).all())
        order = None if ascending else np.argsort(wanted)  # 2: rows in file order turn random access into a sweep
        values = self._gather(wanted if order is None else wanted[order], self.columns[space])
        if order is not None:
            inverse = np.empty_like(order)
            inverse[order] = np.arange(len(order))
            values = values[inverse]
        activations = widen(values)
        if self.radii is not None and self.extremes is not None:
            column = self.columns[space]
            own = self.extremes[column]
            activations = clipped(torch.from_numpy(activations), own.centre, self.radii[column]).numpy()
        change = self.maps[space]
        if change is not None:
            # not numpy's product: its threads wait by spinning, and take the processor from torch's (2.3 times as slow)
            return torch.from_numpy(activations) @ change
        return torch.from_numpy(activations)

    def _gather(self, ascending: np.ndarray, column: int) -> np.ndarray:
        """Stored values [row, width] of ascending rows."""
        files = self._files[column]
        values = np.empty((len(ascending), files[0].values.shape[1]), dtype=STORAGE[self.dtype])
        bounds = np.searchsorted(ascending, self._starts)
        for shard, file in enumerate(files):
            first, last = bounds[shard], bounds[shard + 1]
            if first < last:
                if file.mapped is not None and file.mapped.size() < file.values.nbytes:  # 5
                    raise self._lost(f"its file {file.name} was truncated")
                if file.mapped is not None:
                    self._file(shard, space_file(column))
                # mode="clip" lets numpy write into `out` directly; the rows were checked before.
                here = ascending[first:last] - self._starts[shard]
                if here[-1] - here[0] + 1 == len(here):
                    values[first:last] = file.values[here[0] : here[-1] + 1]
                else:
                    np.take(file.values, here, axis=0, out=values[first:last], mode="clip")
        return values

    @cached_property
    def _checked(self) -> set[str]:
        """Which files of the shards are known to hold what was written."""
        return set()

    @cached_property
    def _entries(self) -> dict[str, artifact.FileEntry]:
        return {entry.name: entry for entry in self.manifest.files}

    def _file(self, shard: int, name: str) -> Path:
        """A file of a shard, if it holds what was written.  (6)

        Raises:
            ArtifactError: it is damaged.
        """
        name = f"{shard_folder(Path(), shard)}/{name}"
        if self.identity is not None and name not in self._checked:  # one that is being written has no checksums yet
            artifact.checked(self.path, self._entries[name], setting="store")
            self._checked.add(name)
        return self.path / name

    def _check_there(self) -> None:
        """The folder must still be the one that was opened."""
        if self.identity is None:
            return
        try:
            found = _identity(self.path)
        except OSError:
            raise self._lost("its folder was deleted or moved") from None
        if found != self.identity:
            raise self._lost("its folder was replaced by another")

    def _lost(self, what: str) -> ArtifactError:
        fix = "leave a store alone while it is in use; if it is gone, collect it again"
        return ArtifactError("store", self.path, f"changed while it was read: {what}", fix)

    @cached_property
    def _starts(self) -> np.ndarray:
        """First row of every shard, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.shards)]).astype(np.int64)

    @cached_property
    def _files(self) -> dict[int, list[_Shard]]:
        """Per space of the files that is read here, its shards, mapped or held in memory."""
        widths = {column: space.width for column, space in zip(self.columns, self.spaces, strict=True)}
        if self.held is not None:  # 7
            return {c: [_Shard(name="memory", values=self.held.activations[c], mapped=None)] for c in widths}
        return {
            column: [self._map(shard, column, rows, width) for shard, rows in enumerate(self.shards)]
            for column, width in widths.items()
        }

    def _map(self, shard: int, column: int, rows: int, width: int) -> _Shard:
        """One file of activations, mapped into memory."""
        file = shard_folder(self.path, shard) / space_file(column)
        kind = STORAGE[self.dtype]
        try:
            with file.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), rows * width * kind.itemsize, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                problem = "has more shards than this process may have files open"
                fix = "raise that limit (ulimit -n), or collect with more rows per shard"
                raise UserError("store", self.path, problem, fix) from None
            raise self._lost(f"its file {file.parent.name}/{file.name} cannot be mapped ({error})") from None
        values = np.frombuffer(mapped, dtype=kind).reshape(rows, width)
        return _Shard(name=f"{file.parent.name}/{file.name}", values=values, mapped=mapped)

    def _side(self, name: str) -> np.ndarray:
        files = (self._file(shard, name) for shard in range(len(self.shards)))
        return np.concatenate([np.fromfile(file, dtype="<i4") for file in files])

    @cached_property
    def documents(self) -> Int32[Tensor, "row"]:
        """The document number of every row; ascending."""
        return self._kept(
            self.held.documents if self.held is not None else torch.from_numpy(self._side("document.bin"))
        )

    @cached_property
    def ends(self) -> Int32[Tensor, "row"]:
        """The character offset in its document where every row's token ends (exclusive)."""
        return self._kept(self.held.ends if self.held is not None else torch.from_numpy(self._side("end.bin")))

    @cached_property
    def token_ids(self) -> Int32[Tensor, "row space"]:
        """The token that ends at every row, in each space's model."""
        if self.held is not None:
            return self._kept(self.held.token_ids[:, list(self.columns)])
        found = self._side("token.bin").reshape(sum(self.shards), -1)
        return self._kept(torch.from_numpy(found[:, list(self.columns)]))

    def _kept(self, column: Tensor) -> Tensor:
        return column if self.kept is None else column[self.kept]

    @cached_property
    def _texts(self) -> np.ndarray:
        """Per document: its number, its shard, the bytes of that shard's text file it lies between."""
        if self.held is not None:  # of which no text is kept
            return np.empty((0, 4), dtype=np.int64)
        parts = []
        for shard in range(len(self.shards)):
            entries = np.fromfile(self._file(shard, "text_index.bin"), dtype="<i8").reshape(-1, 2)
            begins = np.concatenate([[0], entries[:-1, 1]])[: len(entries)]
            parts.append(np.stack([entries[:, 0], np.full(len(entries), shard), begins, entries[:, 1]], axis=1))
        return np.concatenate(parts)

    def text(self, document: int) -> str:
        """The whole text of a document that has rows here.

        Raises:
            KeyError: no row belongs to this document.
        """
        at = int(np.searchsorted(self._texts[:, 0], document))
        if at == len(self._texts) or self._texts[at, 0] != document:
            raise KeyError(f"document {document} has no rows in {self.path}")
        _, shard, begin, end = (int(v) for v in self._texts[at])
        with self._file(shard, "text.bin").open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin).decode("utf-8")

    def row_context(self, row: int, *, before: int, after: int) -> list[tuple[str, int]]:
        """The text around a row, cut where rows end: (text, row) for the rows near it in the same document.

        Text between two rows (tokens that not every model shares, special tokens) belongs to the later row.
        """
        documents, ends = self.documents, self.ends
        document = documents[row]
        first, last = max(row - before, 0), min(row + after + 1, len(self))
        rows = [r for r in range(first, last) if documents[r] == document]
        text = self.text(int(document))
        begins = [int(ends[r - 1]) if r > 0 and documents[r - 1] == document else 0 for r in rows]
        return [(text[begin : int(ends[r])], r) for begin, r in zip(begins, rows, strict=True)]

    def without_outliers(self, treatment: Treatment, multiple: float = MULTIPLE) -> Store:
        """A view whose outlier rows are left out of every space, or drawn in to `multiple` medians from the centre.

        Mean and scale are then those of the typical rows. Nothing is changed by `keep`, or where no row is out; of a
        stream's fill, which is measured by the first one, only the rows tell.
        """
        if treatment == "keep":
            return self
        assert self.kept is None, "a view without outliers of another"
        assert self.radii is None, "a view without outliers of another"
        extremes = self.extremes or measure(self)
        own = [extremes[column] for column in self.columns]
        none_is_out = multiple == MULTIPLE and not any(e.n_outliers for e in own)
        if none_is_out and self.held is None:
            return self
        spaces = tuple(
            space if none_is_out else replace(space, mean=e.centre, scale=space.width**0.5 / e.spread)
            for space, e in zip(self.spaces, own, strict=True)
        )
        words = f"outliers beyond {multiple:g} medians {'left out' if treatment == 'drop' else 'clipped'}"
        whole = replace(self, extremes=extremes, spaces=spaces, view=f"{self.view}; {words}" if self.view else words)
        if treatment == "clip":
            return replace(whole, radii=tuple(multiple * e.median for e in extremes))
        return replace(whole, kept=typical_rows(self, own, multiple).nonzero().flatten())

    def typical(self, space: int) -> tuple[Float[Tensor, "width"], float] | None:
        """A space's centre and the median distance of its rows from it, raw units; None where it was not measured."""
        if self.extremes is None:
            return None
        own, change = self.extremes[self.columns[space]], self.maps[space]
        return (own.centre if change is None else own.centre @ change), own.median

    @property
    def remarks(self) -> list[str]:
        """What a user should know of these spaces, a line each; nothing where nothing stands out."""
        if self.extremes is None:
            return []
        found = zip(self.columns, self.spaces, strict=True)
        lines = [self.extremes[column].sentence(space.label) for column, space in found]
        return [line for line in dict.fromkeys(lines) if line]

    def select(self, spaces: Sequence[int]) -> Store:
        """A view of some of the spaces, in this order."""
        description = "spaces " + ", ".join(self.spaces[space].label for space in spaces)
        return self.derive(
            [(space, self.spaces[space], self.maps[space]) for space in spaces],
            view=f"{self.view}; {description}" if self.view else description,
        )

    def derive(self, parts: Sequence[tuple[int, Space, Float[Tensor, "width width"] | None]], *, view: str) -> Store:
        """A view made of parts (space of this store, what it is now, the whole map from the stored activations)."""
        return replace(
            self,
            spaces=tuple(space for _, space, _ in parts),
            alignment=tuple(self.alignment[source] for source, _, _ in parts),
            columns=tuple(self.columns[source] for source, _, _ in parts),
            maps=tuple(change for _, _, change in parts),
            view=view,
        )


def widen(values: np.ndarray) -> np.ndarray:
    """Stored values as float32: bfloat16 bits are the upper half of the float32 with the same value.

    >>> widen(np.array([0x3F80, 0xC000], dtype=np.uint16))
    array([ 1., -2.], dtype=float32)
    """
    if values.dtype == np.float32:
        return values
    wide = values.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def shard_folder(store: Path, shard: int) -> Path:
    """Where a shard lies in a store."""
    return store / f"shard-{shard:05d}"


def space_file(column: int) -> str:
    """The file of one space in a shard."""
    return f"space{column}.bin"


def _in_centred_units(store: Store) -> Store:
    """An older store, whose statistics do not tell how far its rows lie from their mean: some of them are read."""
    rows = torch.arange(0, len(store), -(-len(store) // UNITS_ROWS))
    spaces = []
    for space, values in zip(store.spaces, store.read(rows), strict=True):
        spread = float((values - space.known_mean).double().square().sum(1).mean())
        spaces.append(replace(space, scale=(space.width / spread) ** 0.5 if spread > 0 else space.scale))
    return replace(store, spaces=tuple(spaces))


def _identity(path: Path) -> tuple[int, int]:
    """What tells a folder from another of the same name; an inode alone may be given again."""
    found = (path / artifact.MANIFEST).stat()
    return found.st_ino, found.st_mtime_ns


def _check_sizes(store: Store) -> None:
    """The files must hold what the index says; the manifest only vouches for the files as they were written."""
    size = STORAGE[store.dtype].itemsize
    for shard, rows in enumerate(store.shards):
        folder = shard_folder(store.path, shard)
        expected = {space_file(m): rows * space.width * size for m, space in enumerate(store.spaces)}
        expected |= {"document.bin": rows * 4, "end.bin": rows * 4, "token.bin": rows * 4 * len(store.spaces)}
        for name, n_bytes in expected.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != n_bytes:
                problem = f"shard file {folder.name}/{name} is missing or has not the {n_bytes} bytes it should have"
                raise ArtifactError("store", store.path, problem, "collect it again")


def as_store(store: Store | str | Path) -> Store:
    """A store that is given, or that lies in a folder.

    Raises:
        ArtifactError: the folder is no finished store.
    """
    return store if isinstance(store, Store) else Store.open(store)
