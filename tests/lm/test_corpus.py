"""Corpora: every kind of source gives the same documents in the same order, and damage is named where it lies."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suture.errors import UserError
from suture.lm import corpus
from suture.lm.corpus import ZSTD, Corpus, datasets_corpus, open_corpus

TEXTS = ["One day, a fox.\nIt ran.", "日本 naïve 😀", "  spaced  ", "<script>alert(1)</script>"]


def texts_of(corpus: Corpus) -> list[str]:
    documents = list(corpus)
    assert [d.number for d in documents] == list(range(len(documents)))
    return [d.text for d in documents]


def write_jsonl(file: Path, texts: list[str | None], column: str = "text") -> Path:
    file.write_text("".join(json.dumps({"id": i, column: t}) + "\n" for i, t in enumerate(texts)), "utf-8")
    return file


def write_parquet(file: Path, texts: list[str | None]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), file)
    return file


def refused(source: object, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        list(open_corpus(str(source), **options))  # pyright: ignore[reportArgumentType]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_text_file_is_divided_by_separator_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n<|endoftext|>\n".join(TEXTS) + "\n<|endoftext|>\n\n", "utf-8")
    read = open_corpus(file)
    assert texts_of(read) == TEXTS
    assert texts_of(read) == TEXTS  # any number of times
    assert texts_of(open_corpus(file, separator="---")) == [file.read_text("utf-8").strip("\n")]


def test_without_a_separator_the_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "a.text"
    file.write_text("one\n\ntwo\n", "utf-8")
    assert texts_of(open_corpus(file)) == ["one\n\ntwo"]


def test_line_ends_and_byte_order_mark_do_not_reach_the_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n<|endoftext|>\r\nthree")
    assert texts_of(open_corpus(file)) == ["one\ntwo", "three"]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=6))
def test_jsonl_and_parquet_give_back_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    expected = [t for t in texts if t and t.strip()]
    for file in (write_jsonl(folder / "a.jsonl", texts), write_parquet(folder / "a.parquet", texts)):
        if expected:
            assert texts_of(open_corpus(file)) == expected
        else:
            assert "no text" in refused(file)


def test_blank_and_null_records_are_passed_over_and_not_numbered(tmp_path: Path) -> None:
    some = ["one", "", None, "   ", "two"]
    assert texts_of(open_corpus(write_jsonl(tmp_path / "a.jsonl", some))) == ["one", "two"]
    assert texts_of(open_corpus(write_parquet(tmp_path / "a.parquet", some))) == ["one", "two"]


def test_the_checksum_tells_files_written_anew_from_the_same_files_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("first", "utf-8")
        (tmp_path / name / "b.txt").write_text("second", "utf-8")
    one, two = (open_corpus(tmp_path / name) for name in ("one", "two"))
    assert one.checksum == two.checksum
    before = one.checksum
    (tmp_path / "one" / "b.txt").write_text("sec0nd", "utf-8")
    assert one.checksum != before
    assert Corpus("list", "a list", lambda: iter(["x"])).checksum is None
    monkeypatch.setattr("suture.lm.corpus.STRETCH", 4)
    monkeypatch.setattr("suture.lm.corpus.MOST_SUMMED", 8)  # two stretches of a large file: its ends
    large = tmp_path / "large.txt"
    found = []
    for text in ("abcd" + 20 * "." + "wxyz", "Abcd" + 20 * "." + "wxyz", "abcd" + 20 * "." + "wxyZ", "abcd.wxyz"):
        large.write_text(text, "utf-8")
        found.append(open_corpus(large).checksum)
    assert len(set(found)) == 4


def test_of_many_files_the_checksum_reads_little_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text("x" * 50_000, "utf-8")
    monkeypatch.setattr("suture.lm.corpus.MOST_SUMMED", 2**16)
    read: list[int] = []
    real = hashlib.sha256

    class Counting:
        def __init__(self) -> None:
            self.inner = real()

        def update(self, part: bytes) -> None:
            read.append(len(part))
            self.inner.update(part)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    some = open_corpus(tmp_path)
    monkeypatch.setattr("suture.lm.corpus.hashlib.sha256", Counting)
    before = some.checksum
    assert 2**15 < sum(read) <= 2**16 + 100
    (tmp_path / "5.txt").write_text("x" * 49_999 + "y", "utf-8")
    assert some.checksum != before


def test_another_column(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", ["one"], column="story")
    assert texts_of(open_corpus(file, text_column="story")) == ["one"]
    assert "use one of id, story" in refused(file)
    assert "int, not text" in refused(file, text_column="id")
    assert "use one of text" in refused(write_parquet(tmp_path / "a.parquet", ["x"]), text_column="story")


def test_a_folder_is_read_in_path_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    write_jsonl(tmp_path / "c.jsonl", ["5"])
    write_parquet(tmp_path / "deep" / "a.parquet", ["6"])
    (tmp_path / "b.txt").write_text("3\n<|endoftext|>\n4", "utf-8")
    (tmp_path / "a2.txt").write_text("2", "utf-8")
    (tmp_path / "a1.txt").write_text("1", "utf-8")
    (tmp_path / ".hidden" / "a.txt").write_text("no", "utf-8")
    (tmp_path / "notes.md").write_text("no", "utf-8")
    read = open_corpus(tmp_path)
    assert texts_of(read) == ["1", "2", "3", "4", "5", "6"]
    assert "5 files" in read.description


def test_a_datasets_name_is_streamed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [*TEXTS, None])  # `datasets` takes a folder where it takes a hub name
    streamed = datasets_corpus(str(tmp_path))
    assert texts_of(streamed) == texts_of(streamed) == TEXTS
    with pytest.raises(UserError, match="use one of id, text"):
        list(datasets_corpus(str(tmp_path), text_column="story"))
    with pytest.raises(UserError, match="could not open"):
        list(datasets_corpus(str(tmp_path), split="nowhere"))


def test_offline_reads_no_network_and_leaves_the_switches_as_they_were() -> None:
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(UserError) as caught:
        open_corpus("nobody/no-such-dataset", offline=True)
    assert "not in the datasets cache" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


@pytest.mark.parametrize("name", ["/absent/file", "./absent", "absent.txt", "absent.jsonl", "a/b/c", ""])
def test_a_missing_file_is_not_taken_for_a_hub_name(name: str) -> None:
    assert "no such file" in refused(name)


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    assert "folder holds no text" in refused(tmp_path)
    for name, content in {"a.txt": "", "b.txt": " \n<|endoftext|>\n\n", "c.jsonl": "\n"}.items():
        (tmp_path / name).write_text(content, "utf-8")
        assert "no text" in refused(tmp_path / name)
    assert "no text" in refused(tmp_path)


def test_damage_is_named_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nbad \xff here")
    assert "byte 9" in refused(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": \n', "utf-8")
    assert "line 3" in refused(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('["x"]\n', "utf-8")
    assert "line 1: the record is not an object" in refused(tmp_path / "b.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert "Parquet" in refused(tmp_path / "a.parquet")


def as_json(texts: list[str]) -> bytes:
    return json.dumps([{"id": i, "text": t} for i, t in enumerate(texts)], indent=1).encode()


def as_csv(texts: list[str], delimiter: str = ",") -> bytes:
    with io.StringIO(newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([("id", "text"), *enumerate(texts)])
        return stream.getvalue().encode()


def as_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()


def as_parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), sink)
    return sink.getvalue()


KINDS = {
    "a.json": as_json(TEXTS),
    "b.json": as_lines(TEXTS),
    "c.json": json.dumps(TEXTS).encode(),
    "a.csv": as_csv(TEXTS),
    "a.tsv": as_csv(TEXTS, "\t"),
    "a.jsonl": as_lines(TEXTS),
    "a.parquet": as_parquet(TEXTS),
    "a.txt": "<|endoftext|>".join(TEXTS).encode(),
    "b.txt": "\n<|endoftext|>\n".join(TEXTS).encode(),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_every_kind_packed_or_not_give_the_same_documents(name: str, tmp_path: Path) -> None:
    content = KINDS[name]
    zstd = pyarrow.compress(content, codec="zstd", asbytes=True)
    for file, packed in ((name, content), (f"{name}.gz", gzip.compress(content)), (f"{name}.zst", zstd)):
        (tmp_path / file).write_bytes(packed)
        assert texts_of(open_corpus(tmp_path / file)) == TEXTS
    (tmp_path / name).write_bytes(gzip.compress(content))  # what it is, not what it is called
    assert texts_of(open_corpus(tmp_path)) == TEXTS * 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "STRETCH", 3)  # they and characters are cut apart
    file = tmp_path / "a.txt"
    file.write_bytes(end.join(["é one", "two", "---", "three ---", "\u2028four"]).encode())
    assert texts_of(open_corpus(file, separator="---")) == ["é one\ntwo", "three ---\n\u2028four"]
    file = tmp_path / "a.csv"
    file.write_bytes(end.join(['text,"n"', '"a ""b""\nc",1', "d,2", ""]).encode())
    assert texts_of(open_corpus(file)) == ['a "b"\nc', "d"]


def test_special_separators_divide_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one<|endoftext|>two\nmore<|endoftext|><|endoftext|>\nthree", "utf-8")
    assert texts_of(open_corpus(file)) == ["one", "two\nmore", "three"]


def test_a_single_document_is_said_with_the_separators_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n--- two\n", "utf-8")
    open_corpus(file, separator="---")
    assert "is one document of 11 characters; 1 separators '---' were seen" in caplog.text
    caplog.clear()
    file.write_text("one\n---\ntwo\n", "utf-8")
    open_corpus(file, separator="---")
    assert not caplog.text


def test_what_is_not_read_here_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content, words in (
        ("a.zip", b"PK\x03\x04 and more", "zip archive"),
        ("a.txt.xz", b"\xfd7zXZ\x00", "packed by xz"),
        ("a.pdf", b"%PDF-1.4", "a PDF"),
        ("a.txt", "text".encode("utf-16"), "zero byte"),
        ("a.txt.gz", gzip.compress(b"some text" * 99)[:30], "cannot be unpacked"),
        ("a.txt.zst", ZSTD + b"???????????", "cannot be unpacked"),
        ("a.csv", b"text,n\none,1\ntwo,2,3\n", "line 3 has 3 entries"),
        ("b.csv", b'text,n\n"one,1\n', "line 3 cannot be read"),
        ("c.csv", b"id,story\n", "use one of id, story"),
        ("a.json", b"[1, 2", "is not JSON"),
        ("b.json", b"[1]", "entry 0: the record is not an object"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\\ud800"}\n', "line 2: holds half of a surrogate pair"),
    ):
        (tmp_path / name).write_bytes(content)
        message = refused(tmp_path / name)
        assert words in message, message
        assert name in message or "column" in message
    monkeypatch.setattr(corpus, "MOST_CHARACTERS", 20)
    (tmp_path / "long.txt").write_text("x" * 21, "utf-8")
    assert "21 characters" in refused(tmp_path / "long.txt")
