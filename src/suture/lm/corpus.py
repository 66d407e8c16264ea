"""Read documents, one after the other and always in the same order, from text, JSONL, Parquet, a folder or the hub.

| source                        | documents                                                                          |
|-------------------------------|------------------------------------------------------------------------------------|
| a text file (UTF-8)           | the stretches between lines that equal the separator; without one, the whole file  |
| `.jsonl`, `.ndjson`, `.parquet` | the text column of every record                                                   |
| a folder                      | those of its files, sorted by path, hidden files left out                          |
| any other name                | the text column of that `datasets` name, streamed                                  |

Blank documents are passed over and not numbered. Nothing is held in memory but the document at hand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet

from suture.errors import UserError
from suture.lm.hub import hub_answers
from suture.lm.settings import TextSettings

RECORD_SUFFIXES = (".jsonl", ".ndjson", ".parquet")
FOLDER_SUFFIXES = (".txt", *RECORD_SUFFIXES)


@dataclass(frozen=True)
class Document:
    """One text of a corpus."""

    number: int
    """Its place in the corpus, from 0; blank documents have none."""
    text: str
    """Never blank."""


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read any number of times, in the same order each time."""

    source: str
    """As the caller wrote it."""
    description: str
    """What is read, in words, for reports."""
    texts: Callable[[], Iterator[str]]
    """Opens the source and yields its documents' texts, blank ones included."""

    def __iter__(self) -> Iterator[Document]:
        """Every document with its number; UserError if there is none, or the source turns out to be unreadable."""
        empty = True
        for number, text in enumerate(text for text in self.texts() if text.strip()):
            empty = False
            yield Document(number, text)
        if empty:
            raise UserError("corpus", self.source, "it holds no text", "give a corpus with at least one document")


def corpus_of(settings: TextSettings, *, offline: bool = False) -> Corpus:
    """The corpus that settings name, as `open_corpus` opens it."""
    return open_corpus(
        settings.corpus,
        text_column=settings.text_column,
        separator=settings.separator,
        split=settings.split,
        offline=offline,
    )


def open_corpus(
    source: str | Path,
    *,
    text_column: str = "text",
    separator: str = "<|endoftext|>",
    split: str = "train",
    config: str | None = None,
    offline: bool = False,
) -> Corpus:
    """The corpus at `source`: an existing file or folder, else a `datasets` name.

    `separator` divides text files, `text_column` names the text in records; `split`, `config` and `offline` matter to
    `datasets` names only. The first document is read, so that an empty or unreadable source is refused here:
    UserError, naming the file and the byte or line for damage inside it.
    """
    path, name = Path(source).expanduser(), str(source)
    if name and path.is_dir():  # an empty name would be the working directory
        files = _files_of(path, name)
        corpus = Corpus(name, f"{len(files)} files in {path}", lambda: _of_files(files, separator, text_column))
    elif path.is_file():
        corpus = Corpus(name, f"file {path}", lambda: _of_files([path], separator, text_column))
    elif _looks_local(name):
        raise UserError("corpus", name, "no such file or folder", "give an existing path or a datasets name")
    else:
        cached_only = offline or not hub_answers()
        corpus = datasets_corpus(name, text_column=text_column, split=split, config=config, offline=cached_only)
    next(iter(corpus))
    return corpus


def datasets_corpus(
    name: str, *, text_column: str = "text", split: str = "train", config: str | None = None, offline: bool = False
) -> Corpus:
    """The documents of a `datasets` name, streamed; offline, those of its local cache."""
    described = f"datasets {name}{f' ({config})' if config else ''}, split {split}"
    return Corpus(name, described, lambda: _of_dataset(name, config, split, text_column, offline=offline))


def _looks_local(name: str) -> bool:
    known_ending = name.endswith((*FOLDER_SUFFIXES, ".json", ".csv", ".gz"))
    return not name or known_ending or name.startswith((".", "/", "~")) or name.count("/") > 1


def _files_of(folder: Path, name: str) -> list[Path]:
    inside = [(file.relative_to(folder), file) for file in folder.rglob("*") if file.is_file()]
    wanted = [
        (relative.as_posix(), file)
        for relative, file in inside
        if file.suffix.lower() in FOLDER_SUFFIXES and not any(part.startswith(".") for part in relative.parts)
    ]
    if not wanted:
        raise UserError("corpus", name, "the folder holds no text", f"put {', '.join(FOLDER_SUFFIXES)} files in it")
    return [file for _, file in sorted(wanted)]


def _of_files(files: list[Path], separator: str, text_column: str) -> Iterator[str]:
    for file in files:
        suffix = file.suffix.lower()
        if suffix == ".parquet":
            yield from _of_parquet(file, text_column)
        elif suffix in RECORD_SUFFIXES:
            yield from _of_jsonl(file, text_column)
        else:
            yield from _of_text(file, separator)


def _lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends."""
    position = 0
    with file.open("rb") as stream:
        for raw in stream:
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 at byte {position + error.start}"
                raise UserError("corpus", str(file), problem, "save the file as UTF-8") from error
            if "\0" in line:
                problem = f"not text: a zero byte at byte {position + raw.index(0)}"
                raise UserError("corpus", str(file), problem, "give text, JSONL or Parquet")
            yield line.removeprefix("\ufeff").rstrip("\r\n") if position == 0 else line.rstrip("\r\n")
            position += len(raw)


def _of_text(file: Path, separator: str) -> Iterator[str]:
    lines: list[str] = []
    for line in _lines(file):
        if line.strip() == separator:
            yield "\n".join(lines).strip("\n")
            lines = []
        else:
            lines.append(line)
    yield "\n".join(lines).strip("\n")


def _of_jsonl(file: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"line {number} is not JSON: {error.msg}"
            raise UserError("corpus", str(file), problem, "write one JSON object per line") from error
        yield _text_of(record, text_column, f"{file}, line {number}")


def _of_parquet(file: Path, text_column: str) -> Iterator[str]:
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            if text_column not in (names := table.schema_arrow.names):
                raise _no_column(text_column, list(names), str(file))
            for batch in table.iter_batches(columns=[text_column], batch_size=1024):
                for record in batch.to_pylist():
                    yield _text_of(record, text_column, str(file))
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"not a readable Parquet file: {str(error).splitlines()[0]}"
        raise UserError("corpus", str(file), problem, "write the file again") from error


def _of_dataset(name: str, config: str | None, split: str, text_column: str, *, offline: bool) -> Iterator[str]:
    try:
        with _without_network() if offline else _as_it_is():
            # Nothing of a streamed dataset stays behind: what the cache holds was downloaded whole.
            records: Any = datasets.load_dataset(name, config, split=split, streaming=not offline)
            rows = iter(records)
            head = list(itertools.islice(rows, 1))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        where = "is not in the datasets cache" if offline else "is no file or folder, and datasets could not open it"
        detail = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        fix = "download it first (datasets.load_dataset) or give a local file or folder"
        raise UserError("corpus", name, f"{where} ({detail})", fix) from error
    for record in itertools.chain(head, rows):
        yield _text_of(record, text_column, name)


def _text_of(record: object, text_column: str, where: str) -> str:
    """A record's text; a null counts as blank."""
    if not isinstance(record, dict):
        raise UserError("corpus", where, "the record is not an object", "write one JSON object per line")
    if text_column not in record:
        raise _no_column(text_column, list(record), where)
    text = record[text_column]
    if text is not None and not isinstance(text, str):
        raise UserError("text_column", text_column, f"holds {type(text).__name__}, not text ({where})", "name another")
    return text or ""


def _no_column(text_column: str, names: list[str], where: str) -> UserError:
    return UserError("text_column", text_column, f"no such column in {where}", f"use one of {', '.join(names)}")


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _without_network() -> Iterator[None]:
    """Hold datasets and huggingface_hub offline; both read their switch from module state, not from an argument."""
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before
