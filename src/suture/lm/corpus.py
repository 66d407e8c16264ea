"""Read documents, one after the other and always in the same order, from files of many kinds, a folder or the hub.

| source                          | documents                                                                        |
|---------------------------------|----------------------------------------------------------------------------------|
| a text file (UTF-8)             | the stretches between separators; without one, the whole file                    |
| `.jsonl`, `.ndjson`, `.parquet` | the text column of every record                                                  |
| `.json`                         | the same of an array of records, or of records line by line; or an array's texts |
| `.csv`, `.tsv`                  | the text column, which the first line names                                      |
| a folder                        | those of its files, sorted by path, hidden files left out                        |
| any other name                  | the text column of that `datasets` name, streamed                                |

Every file may be packed by gzip or zstd. Line ends are those of any system. A separator in angle brackets, such as
`<|endoftext|>`, divides wherever it stands; any other where it has a line to itself. Blank documents are passed over
and not numbered. Nothing is held in memory but the document at hand (of a `.json` array and a packed Parquet file, the
file).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import datasets
import datasets.config
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet

from suture.errors import UserError
from suture.lm.hub import hub_answers
from suture.lm.settings import TextSettings

_logger = logging.getLogger(__name__)

RECORD_SUFFIXES = (".jsonl", ".ndjson", ".parquet")
FOLDER_SUFFIXES = (".txt", ".text", ".json", ".csv", ".tsv", *RECORD_SUFFIXES)
PACKED_SUFFIXES = (".gz", ".zst", ".zstd")
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
REFUSED = {
    b"PK\x03\x04": "a zip archive or an office document",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF",
}
"""How files begin that are not read here, and what they are."""
SPECIAL = re.compile(r"<[^<>\s]+>")
"""A separator that ordinary text does not hold."""
MOST_CHARACTERS = 2**26
"""A longer document is none: tokenizing it would take some ten times its size of memory."""
STRETCH = 2**20
"""Bytes decoded at a time."""
MOST_SUMMED, LEAST_SUMMED = 2**28, 2**12
"""Bytes that a corpus' checksum reads of all files, so that a second is enough, and of each stretch at least: of large
files, and of many, stretches at equal distances."""


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
    files: tuple[Path, ...] = ()
    """What it is read from, where that is local."""

    @property
    def checksum(self) -> str | None:
        """Of its files' sizes and contents: a file written anew under the same name is another corpus. None without
        files."""
        return _checksum(self.files) if self.files else None

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


def as_corpus(corpus: Corpus | str | Path) -> Corpus:
    """A corpus that is given, or opened where it is said to be.

    Raises:
        UserError: as `open_corpus`.
    """
    return corpus if isinstance(corpus, Corpus) else open_corpus(corpus)


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
    UserError, naming the file and the byte or line for damage inside it. Files that turn out to be a single document
    are logged as a warning: splits and intervals need several.
    """
    corpus = _named(source, text_column=text_column, separator=separator, split=split, config=config, offline=offline)
    first = list(itertools.islice(corpus, 2 if corpus.files else 1))
    if corpus.files and len(first) == 1:
        seen = _n_separators(corpus.files, separator)
        size, marks = f"{len(first[0].text):,} characters", f"{seen} separators {separator!r} were seen"
        _logger.warning("%s is one document of %s; %s", corpus.source, size, marks)
    return corpus


def named_corpus(settings: TextSettings) -> Corpus | None:
    """The corpus of these settings, of which nothing was read yet; None where there is none of that name."""
    try:
        return _named(
            settings.corpus, text_column=settings.text_column, separator=settings.separator, split=settings.split,
            config=None, offline=True,
        )  # fmt: skip
    except UserError:
        return None


def _named(
    source: str | Path, *, text_column: str, separator: str, split: str, config: str | None, offline: bool
) -> Corpus:
    """A corpus of which nothing was read yet."""
    path, name = Path(source).expanduser(), str(source)
    if name and path.is_dir():  # an empty name would be the working directory
        files = _files_of(path, name)
        described = f"{len(files)} files in {path}"
    elif path.is_file():
        files, described = (path,), f"file {path}"
    elif _looks_local(name):
        raise UserError("corpus", name, "no such file or folder", "give an existing path or a datasets name")
    else:
        cached_only = offline or not hub_answers()
        return datasets_corpus(name, text_column=text_column, split=split, config=config, offline=cached_only)
    return Corpus(name, described, lambda: _of_files(files, separator, text_column), files)


def _checksum(files: Sequence[Path]) -> str:
    each = MOST_SUMMED // len(files)
    stretch = min(STRETCH, max(each // 2, LEAST_SUMMED))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{size};".encode())
        n = min(-(-size // stretch), max(each // stretch, 2))
        with file.open("rb") as stream:
            for i in range(n):
                stream.seek(i * max(size - stretch, 0) // max(n - 1, 1))
                digest.update(stream.read(stretch))
    return digest.hexdigest()


def datasets_corpus(
    name: str, *, text_column: str = "text", split: str = "train", config: str | None = None, offline: bool = False
) -> Corpus:
    """The documents of a `datasets` name, streamed; offline, those of its local cache."""
    described = f"datasets {name}{f' ({config})' if config else ''}, split {split}"
    return Corpus(name, described, lambda: _of_dataset(name, config, split, text_column, offline=offline))


def _looks_local(name: str) -> bool:
    return not name or _is_named_as_text(Path(name)) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _is_named_as_text(file: Path) -> bool:
    return _suffix(file) in FOLDER_SUFFIXES


def _suffix(file: Path) -> str:
    """The ending that says what a file holds: `.jsonl` of `a.jsonl.gz`."""
    name = file.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _files_of(folder: Path, name: str) -> tuple[Path, ...]:
    inside = [(file.relative_to(folder), file) for file in folder.rglob("*") if file.is_file()]
    wanted = [
        (relative.as_posix(), file)
        for relative, file in inside
        if _is_named_as_text(file) and not any(part.startswith(".") for part in relative.parts)
    ]
    if not wanted:
        raise UserError("corpus", name, "the folder holds no text", f"put {', '.join(FOLDER_SUFFIXES)} files in it")
    return tuple(file for _, file in sorted(wanted))


def _of_files(files: Sequence[Path], separator: str, text_column: str) -> Iterator[str]:
    for file in files:
        for text in _of_file(file, separator, text_column):
            if len(text) > MOST_CHARACTERS:
                problem = f"holds a document of {len(text):,} characters"
                raise UserError(
                    "corpus", str(file), problem, "divide it: name what stands between documents (separator)"
                )
            yield text


def _of_file(file: Path, separator: str, text_column: str) -> Iterator[str]:
    if _beginning(file).startswith(b"PAR1") or _suffix(file) == ".parquet":
        return _of_parquet(file, text_column)
    if _suffix(file) in (".csv", ".tsv"):
        return _of_table(file, text_column, "," if _suffix(file) == ".csv" else "\t")
    if _suffix(file) == ".json":
        return _of_json(file, text_column)
    return _of_jsonl(file, text_column) if _suffix(file) in RECORD_SUFFIXES else _of_text(file, separator)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where they are packed; refused by name where they are nothing that is read here."""
    with file.open("rb") as raw:
        head = raw.read(8)
        raw.seek(0)
        kind = next((kind for magic, kind in REFUSED.items() if head.startswith(magic)), None)
        if kind is not None:
            raise UserError("corpus", str(file), f"is {kind}, not text", "unpack it, or save its text")
        try:
            if head.startswith(GZIP):
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            elif head.startswith(ZSTD):
                with io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd")) as unpacked:
                    yield unpacked
            else:
                yield raw
        except (EOFError, gzip.BadGzipFile, zlib.error, pyarrow.ArrowException, OSError) as error:
            problem = f"cannot be unpacked: {str(error).splitlines()[0] if str(error) else 'it ends too early'}"
            raise UserError("corpus", str(file), problem, "fetch or pack it again") from error


def _beginning(file: Path) -> bytes:
    """The first bytes of what the file holds."""
    with _opened(file) as stream:
        return stream.read(4)


def _decoded(file: Path) -> Iterator[str]:
    """The text of a UTF-8 file in stretches, every line end a newline."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    position = 0
    with _opened(file) as stream:
        while True:
            raw = stream.read(STRETCH)
            if 0 in raw:
                problem = f"not text: a zero byte at byte {position + raw.index(0)}"
                raise UserError("corpus", str(file), problem, "give UTF-8 text or a format that is read here")
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 at byte {position - pending + error.start}"
                raise UserError("corpus", str(file), problem, "save the file as UTF-8") from error
            yield newlines.decode(text, final=not raw)
            position += len(raw)
            if not raw:
                return


def _lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends, be they those of Unix, Windows or an old Mac."""
    held: list[str] = []
    for stretch in _decoded(file):
        first, *others = stretch.split("\n")
        held.append(first)
        for line in others:
            yield "".join(held)
            held = [line]
    yield "".join(held)


def _of_text(file: Path, separator: str) -> Iterator[str]:
    anywhere = bool(SPECIAL.fullmatch(separator))
    lines: list[str] = []
    for line in _lines(file):
        if line.strip() != separator and not (anywhere and separator in line):
            lines.append(line)
            continue
        before, *parts = line.split(separator)
        lines.append(before)
        for part in parts:
            yield "\n".join(lines).strip("\n")
            lines = [part]
    yield "\n".join(lines).strip("\n")


def _n_separators(files: Sequence[Path], separator: str) -> int:
    """How often the separator stands in files of text, wherever in a line."""
    texts = [file for file in files if _suffix(file) not in (*RECORD_SUFFIXES, ".json", ".csv", ".tsv")]
    return sum(line.count(separator) for file in texts for line in _lines(file))


def _of_jsonl(file: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            record = _json(line, file, f"line {number} is not JSON", "write one JSON object per line")
            yield _text_of(record, text_column, f"{file}, line {number}")


def _of_json(file: Path, text_column: str) -> Iterator[str]:
    """A `.json` file is one array, of records or of texts, or has a record on every line."""
    first = next((line for line in _lines(file) if line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from _of_jsonl(file, text_column)
        return
    records = _json("\n".join(_lines(file)), file, "is not JSON", "write one array, or one JSON object per line")
    assert isinstance(records, list), "what begins with a bracket is an array"
    for number, record in enumerate(records):
        whole = {text_column: record} if isinstance(record, str) else record
        yield _text_of(whole, text_column, f"{file}, entry {number}")


def _json(text: str, file: Path, problem: str, fix: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError("corpus", str(file), f"{problem}: {error.msg}", fix) from error


def _of_table(file: Path, text_column: str, delimiter: str) -> Iterator[str]:
    """The text column of a CSV or TSV file; its first line names the columns, quoted entries may have lines in them."""
    csv.field_size_limit(MOST_CHARACTERS)
    rows = csv.reader((line + "\n" for line in _lines(file)), delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        if text_column not in names:
            raise _no_column(text_column, names, str(file))
        at = names.index(text_column)
        for row in rows:
            if row and len(row) != len(names):
                problem = f"line {rows.line_num} has {len(row)} entries, the first line {len(names)}"
                raise UserError("corpus", str(file), problem, "quote entries that hold the delimiter")
            if row:
                yield row[at].removesuffix("\n")
    except csv.Error as error:
        problem = f"line {rows.line_num} cannot be read: {error}"
        raise UserError("corpus", str(file), problem, "write the file again") from error


def _of_parquet(file: Path, text_column: str) -> Iterator[str]:
    with _opened(file) as stream:
        packed = not isinstance(stream, io.BufferedReader) or stream.raw.__class__ is not io.FileIO
        source = pyarrow.BufferReader(stream.read()) if packed else file  # Parquet is read from its end
    try:
        with pyarrow.parquet.ParquetFile(source) as table:
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
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        problem = f"holds half of a surrogate pair at character {error.start}, which is no text"
        raise UserError("corpus", where, problem, "write the record again") from error
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
