"""Tables: columns that know their name, sentence, unit, format and axes; what is measured per anything is one.

1. A row is an entry of the table's axes (a feature; a pair; a layer of one model and a layer of another). A column may
   have further axes (a space): laid flat, it becomes a column for each of their entries, `NAME_ENTRY`.
2. A table is saved as one safetensors file: the numbers, and beside them, as its metadata, the columns and the texts.
3. Readers everywhere (the report, `--json`, pandas, a notebook, the documentation) take titles, sentences and formats
   from the columns, so that a new column is declared once.
"""

from __future__ import annotations

import html
import importlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from suture import units
from suture.errors import ArtifactError, UserError

if TYPE_CHECKING:
    from pandas import DataFrame

Format = Literal["integer", "number", "share", "percent", "correlation", "p", "text"]
N_SHOWN = 50
"""Rows of a table that a notebook shows."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What the numbers of a column are."""

    name: str
    """In files, in pandas and in code."""
    title: str
    """In headings."""
    sentence: str
    """What it says, for someone who sees it for the first time."""
    unit: str = ""
    """`nats`, `rows`; empty for a number without one."""
    format: Format = "number"
    axes: tuple[str, ...] = ()
    """What there is a number for: the table's axes, and further ones; the table's where empty."""
    group: str = ""
    """The heading that it stands under with others."""
    better: Literal["high", "low"] | None = None
    """Which way is better, where one is."""

    def write(self, value: Any) -> str:
        """A value for a reader."""
        if self.format == "text":
            return str(value)
        if value is None or not math.isfinite(value):
            return units.DASH
        write = {
            "integer": units.count,
            "percent": units.percent,
            "correlation": units.correlation,
            "share": units.fvu,
        }
        return write.get(self.format, units.number)(float(value))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"axes": list(self.axes)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Column:
        """What `to_json` wrote."""
        return Column(**{**record, "axes": tuple(record["axes"])})


class Tabular(ABC):
    """What can be laid out as a table has these ways out."""

    @property
    @abstractmethod
    def table(self) -> Table:
        """It, as columns."""

    def to_pandas(self) -> DataFrame:
        """A pandas DataFrame, a row per entry of the axes; `attrs["columns"]` says what each column is.

        Raises:
            UserError: pandas is not installed.
        """
        table = self.table
        try:
            frame = importlib.import_module("pandas").DataFrame({name: _writable(own) for name, own in table.flat()})
        except ImportError:
            raise UserError("pandas", "(none)", "is not installed", "pip install pandas") from None
        frame.attrs["columns"] = {column.name: column.sentence for column in table.flat_columns()}
        return frame

    def to_csv(self, path: str | Path) -> None:
        """Write the rows as CSV, with a header; no number is an empty cell.

        Raises:
            UserError: pandas is not installed.
        """
        self.to_pandas().to_csv(path, index=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write the rows as Parquet.

        Raises:
            UserError: pandas or pyarrow is not installed.
        """
        try:
            self.to_pandas().to_parquet(path, index=False)
        except ImportError:
            raise UserError("pyarrow", "(none)", "is not installed", "pip install pyarrow") from None

    def _repr_html_(self) -> str:
        """The first rows, for a notebook; a click on a heading sorts them."""
        return as_html(self.table, caption=repr(self))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Table(Tabular):
    """Columns of one shape, opened by `Table.load` or made by what measured them."""

    axes: tuple[str, ...]
    """What a row is an entry of."""
    columns: tuple[Column, ...]
    values: Mapping[str, np.ndarray]
    """Name -> an array with an axis for each of the column's; texts are arrays of `object`."""
    coordinates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What the entries of an axis are called; their numbers where it is not here."""

    def __post_init__(self) -> None:
        assert self.columns, "a table needs a column"
        assert [column.name for column in self.columns] == list(self.values), "one array for each column, in order"
        sizes: dict[str, int] = {axis: len(names) for axis, names in self.coordinates.items()}
        for column in self.columns:
            axes, shape = self._axes_of(column), self.values[column.name].shape
            assert axes[: len(self.axes)] == self.axes, f"column {column.name} has not the table's axes"
            assert len(axes) == len(shape), f"column {column.name} has {len(shape)} axes, not {axes}"
            for axis, size in zip(axes, shape, strict=True):
                assert sizes.setdefault(axis, size) == size, f"column {column.name} has {size} of {axis}"

    @property
    def table(self) -> Table:
        """Itself."""
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Entries of each of the table's axes."""
        return self.values[self.columns[0].name].shape[: len(self.axes)]

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        size = " x ".join(f"{n:,} {axis}" for n, axis in zip(self.shape, self.axes, strict=True))
        names = ", ".join(column.name for column in self.columns[:6]) + (", .." if len(self.columns) > 6 else "")
        return f"Table({size}; {len(self.columns)} columns: {names})"

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of a column.

        Raises:
            KeyError: no such column.
        """
        return self.values[name]

    def _axes_of(self, column: Column) -> tuple[str, ...]:
        return column.axes or self.axes

    def _entries(self, axis: str, size: int) -> Sequence[str]:
        return self.coordinates.get(axis, [str(i) for i in range(size)])

    def flat(self) -> list[tuple[str, np.ndarray]]:  # 1
        """(name, values of every row) of all columns; before them the axes' entries, where they have names."""
        found: list[tuple[str, np.ndarray]] = []
        if self.coordinates.keys() & set(self.axes) or len(self.axes) > 1:
            rows = list(product(*(self._entries(a, n) for a, n in zip(self.axes, self.shape, strict=True))))
            found += [(axis, np.array([row[i] for row in rows], dtype=object)) for i, axis in enumerate(self.axes)]
        for column in self.columns:
            values, further = self.values[column.name].reshape(len(self), -1), self._further(column)
            found += [(f"{column.name}{end}", values[:, i]) for i, (end, _) in enumerate(further)]
        return found

    def records(self) -> list[dict[str, Any]]:
        """Its rows as `flat` lays them out, plain values; what is no number is None."""
        flat = self.flat()
        rows = zip(*(values.tolist() for _, values in flat), strict=True)
        return [
            {
                n: None if isinstance(v, float) and not math.isfinite(v) else v
                for (n, _), v in zip(flat, row, strict=True)
            }
            for row in rows
        ]

    def flat_columns(self) -> list[Column]:
        """The columns as `flat` lays them out, the axes' own left out."""
        return [
            Column(
                name=f"{column.name}{end}",
                title=f"{column.title}{said}",
                sentence=column.sentence,
                unit=column.unit,
                format=column.format,
                group=column.group,
                better=column.better,
            )
            for column in self.columns
            for end, said in self._further(column)
        ]

    def _further(self, column: Column) -> list[tuple[str, str]]:
        """What is added to the name and title for every entry of a column's further axes."""
        axes, shape = self._axes_of(column), self.values[column.name].shape
        n = len(self.axes)
        entries = [self._entries(axis, size) for axis, size in zip(axes[n:], shape[n:], strict=True)]
        return [("".join(f"_{e}" for e in one), "".join(f", {e}" for e in one)) for one in product(*entries)]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per numeric column what it is and how many numbers it has, the least, the middle and the largest one."""
        found = {}
        for column, (_, values) in zip(self.flat_columns(), self.flat()[-len(self.flat_columns()) :], strict=True):
            if column.format != "text":
                known = values[np.isfinite(values.astype(float))].astype(float)
                three = (known.min(), np.median(known), known.max()) if known.size else (None, None, None)
                least, middle, most = (None if v is None else float(v) for v in three)
                said = {"title": column.title, "sentence": column.sentence, "unit": column.unit}
                found[column.name] = said | {"n": int(known.size), "min": least, "median": middle, "max": most}
        return found

    def save(self, path: str | Path) -> None:  # 2
        """Write the table as one file."""
        numbers = {c.name: np.ascontiguousarray(self.values[c.name]) for c in self.columns if c.format != "text"}
        texts = {c.name: self.values[c.name].tolist() for c in self.columns if c.format == "text"}
        described = {
            "axes": list(self.axes),
            "columns": [column.to_json() for column in self.columns],
            "coordinates": {axis: list(names) for axis, names in self.coordinates.items()},
            "texts": texts,
        }
        save_file(numbers, path, metadata={"table": json.dumps(described, ensure_ascii=False)})

    @staticmethod
    def load(path: str | Path) -> Table:
        """Read what `save` wrote.

        Raises:
            ArtifactError: no such file, or not a table.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                described = json.loads(file.metadata()["table"])
                columns = tuple(Column.from_json(record) for record in described["columns"])
                texts = {name: np.array(text, dtype=object) for name, text in described["texts"].items()}
                values = {c.name: texts[c.name] if c.format == "text" else file.get_tensor(c.name) for c in columns}
            return Table(
                axes=tuple(described["axes"]), columns=columns, values=values, coordinates=described["coordinates"]
            )
        except (OSError, ValueError, KeyError, TypeError, AssertionError, SafetensorError) as error:
            raise ArtifactError("table", path, f"cannot be read ({error})", "make it again") from None


def _writable(values: np.ndarray) -> np.ndarray:
    """Texts without lone surrogates (halves of a character cut by a tokenizer), which no file of text can hold."""
    if values.dtype != object:
        return values
    whole = [str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in values]
    return np.array(whole, dtype=object)


def explained(columns: Iterable[Column], about: Mapping[str, str]) -> str:
    """The columns as Markdown tables, one for each group, with what each says: what the documentation shows.

    `about` says something of a group as a whole, before its table.
    """
    by_group: dict[str, list[Column]] = {}
    for column in columns:
        by_group.setdefault(column.group, []).append(column)
    parts = []
    for group, own in by_group.items():
        lines = [f"### {group}", ""] if group else []
        lines += [about[group], ""] if group in about else []
        lines += ["| column | title | meaning |", "|---|---|---|"]
        lines += [f"| `{column.name}` | {column.title} | {_in_cell(column.sentence)} |" for column in own]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


_SORT = (
    "const th=event.target.closest('th');if(th){const i=[...th.parentNode.children].indexOf(th);"
    "const up=th.dataset.up!=='1';th.dataset.up=up?'1':'0';"
    "const body=th.closest('table').tBodies[0],key=(r)=>r.children[i].dataset.v;"
    "const order=(x,y)=>x===''||y===''?(x==='')-(y===''):(isNaN(x)||isNaN(y)?x.localeCompare(y):x-y)*(up?1:-1);"
    "[...body.rows].sort((a,b)=>order(key(a),key(b))).forEach((r)=>body.append(r))}"
)
"""Sorts the rows shown by the column whose heading is clicked, empty cells last. No script of its own: a notebook that
is opened again does not run those."""


def as_html(table: Table, *, caption: str, n_rows: int = N_SHOWN) -> str:
    """The first rows as an HTML table, everything escaped."""
    laid = table.flat()
    specs = {column.name: column for column in table.flat_columns()}
    cells = [_heading(specs.get(name), name) for name, _ in laid]
    rows = []
    for r in range(min(n_rows, len(table))):
        shown = [_cell(values[r], specs.get(name)) for name, values in laid]
        rows.append(f"<tr>{''.join(shown)}</tr>")
    left = len(table) - len(rows)
    more = f" First {len(rows)} rows of {len(table):,}." if left else ""
    return (
        f'<div style="max-width:100%;overflow-x:auto"><table><caption style="text-align:left;white-space:pre-line">'
        f"{html.escape(caption)}{more}</caption>"
        f'<thead onclick="{html.escape(_SORT)}"><tr>{"".join(cells)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heading(column: Column | None, name: str) -> str:
    title, said = (column.title, column.sentence) if column else (name, "")
    return f'<th title="{html.escape(said, quote=True)}" style="cursor:pointer">{html.escape(title)}</th>'


def _cell(value: Any, column: Column | None) -> str:
    if column is None or column.format == "text":
        return f'<td data-v="{html.escape(str(value), quote=True)}">{html.escape(str(value))}</td>'
    known = f"{float(value):.9g}" if value is not None and math.isfinite(value) else ""
    return f'<td data-v="{known}" style="text-align:right">{html.escape(column.write(value))}</td>'
