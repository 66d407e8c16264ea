"""Laws of the store: what was written is read, in any order, whatever the shards; a damaged store is refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forged import forge
from suture.activations.shards import Rows, ShardWriter, stored_bytes, write_index, write_store
from suture.activations.space import Space
from suture.activations.store import Store, widen
from suture.errors import ArtifactError, NumericalError
from suture.pipeline import artifact

N_ROWS = 1000


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(N_ROWS, 24, generator=g) * 3 + 1, torch.randn(N_ROWS, 10, generator=g) * 0.2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, data) -> Store:
    documents = torch.arange(N_ROWS) // 37 * 2  # gaps: a document without rows has no text here
    path = tmp_path_factory.mktemp("store") / "s"
    return write_store(path, data, documents=documents, dtype="bfloat16", shard_rows=128)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, N_ROWS - 1), max_size=200))
def test_any_rows_read_back_in_any_order_as_they_were_rounded(store: Store, data, rows: list[int]) -> None:
    wanted = torch.tensor(rows, dtype=torch.int64)
    for read, written in zip(store.read(wanted), data, strict=True):
        assert torch.equal(read, written[wanted].bfloat16().float())


def test_rows_outside_are_our_own_mistake(store: Store) -> None:
    for row in (-1, N_ROWS):
        with pytest.raises(AssertionError):
            store.read(torch.tensor([row]))


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bfloat16_on_disk_is_torchs_bfloat16(values: list[float]) -> None:
    x = torch.tensor(values).reshape(-1, 1)
    kept = x.bfloat16()
    assert torch.equal(torch.from_numpy(widen(stored_bytes(x, "bfloat16"))), kept.float())
    assert np.array_equal(widen(stored_bytes(x, "float32")), x.numpy())


def test_float32_stores_lose_nothing(tmp_path: Path, data) -> None:
    store = write_store(tmp_path / "s", data, dtype="float32", shard_rows=300)
    everything = torch.arange(N_ROWS)
    assert all(torch.equal(a, b) for a, b in zip(store.read(everything), data, strict=True))


def test_scale_and_mean_are_those_of_the_stored_rows(store: Store) -> None:
    for space, rows in zip(store.spaces, store.read(torch.arange(N_ROWS)), strict=True):
        exact = rows.double()
        assert torch.allclose(space.known_mean.double(), exact.mean(dim=0), atol=1e-7)
        centred = (exact - exact.mean(dim=0)) * space.scale
        assert centred.square().sum(dim=1).mean().item() == pytest.approx(space.width, rel=1e-12)


def test_a_far_constant_costs_the_scale_no_digits(tmp_path: Path) -> None:
    rows = torch.randint(-512, 512, (700, 6), generator=torch.Generator().manual_seed(0)) / 64
    plain, far = (write_store(tmp_path / name, [x], shard_rows=90) for name, x in (("a", rows), ("b", rows + 2.0**16)))
    assert far.spaces[0].scale == pytest.approx(plain.spaces[0].scale, rel=1e-12)


def test_an_older_store_is_read_in_the_units_of_today(store: Store, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(store.path, old)
    index = artifact.read_json(old / "store.json")
    del index["units"]
    for space in index["spaces"]:
        space["scale"] *= 7
    artifact.write_json(old / "store.json", index)
    manifest = artifact.read_json(old / "manifest.json")
    (entry,) = (file for file in manifest["files"] if file["name"] == "store.json")
    changed = old / "store.json"
    entry |= {"n_bytes": changed.stat().st_size, "sha256": artifact.sha256_of(changed)}
    artifact.write_json(old / "manifest.json", manifest)
    for now, before in zip(Store.open(old).spaces, store.spaces, strict=True):
        assert now.scale == pytest.approx(before.scale, rel=1e-5)


def test_a_space_that_never_changes_has_no_scale(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match="same on every row"):
        write_store(tmp_path / "s", [torch.full((40, 3), 0.1), torch.randn(40, 3)])


def test_shard_size_changes_neither_rows_nor_statistics(tmp_path: Path, store: Store, data) -> None:
    other = write_store(tmp_path / "s", data, documents=store.documents.long(), dtype="bfloat16", shard_rows=999)
    assert torch.equal(other.documents, store.documents)
    assert torch.equal(other.ends, store.ends)
    for a, b in zip(other.spaces, store.spaces, strict=True):
        assert a.scale == pytest.approx(b.scale, rel=1e-12)
        assert torch.allclose(a.mean, b.mean, atol=1e-7)


def test_the_way_rows_are_appended_changes_no_byte(tmp_path: Path, store: Store, data) -> None:
    names = [Space(model=s.model, hookpoint=s.hookpoint, width=s.width) for s in store.spaces]
    with artifact.create(tmp_path / "s", stage="store", settings={}) as draft:
        writer = ShardWriter(draft.folder, spaces=names, dtype="bfloat16", shard_rows=128)
        first = 0
        for n in (1, 127, 300, 5, 0, N_ROWS - 433):
            part = slice(first, first + n)
            texts = {int(d): store.text(int(d)) for d in store.documents[part].unique()}
            rows = Rows(
                activations=[x[part] for x in data],
                documents=store.documents[part],
                ends=store.ends[part],
                token_ids=store.token_ids[part],
                texts=texts,
            )
            writer.append(rows, state={})
            first += n
        writer.finish({})
        write_index(writer, store.alignment)
    assert artifact.verify(tmp_path / "s").files == store.manifest.files


def test_documents_have_their_text_once_and_others_have_none(store: Store) -> None:
    texts = b"".join((store.path / f"shard-{i:05d}" / "text.bin").read_bytes() for i in range(len(store.shards)))
    assert len(texts) == N_ROWS
    for document in store.documents.unique().tolist():
        assert len(store.text(document)) == int((store.documents == document).sum())
    for missing in (1, -1, 10_000):
        with pytest.raises(KeyError):
            store.text(missing)


def test_context_stays_in_the_document_and_spells_its_text(store: Store) -> None:
    row = 37 * 3 + 2
    context = store.row_context(row, before=5, after=50)
    assert [r for _, r in context] == list(range(37 * 3, 37 * 4))
    assert "".join(text for text, _ in context) == store.text(6)


def test_select_is_a_view_of_the_same_rows(store: Store) -> None:
    rows = torch.tensor([5, 900, 3])
    both, swapped = store.read(rows), store.select([1, 0])
    assert all(torch.equal(a, b) for a, b in zip(swapped.read(rows), reversed(both), strict=True))
    assert [s.width for s in swapped.spaces] == [10, 24]
    assert len(store.select([1]).read(rows)) == 1
    assert store.token_ids.shape == (N_ROWS, 2)
    assert swapped.view
    assert not store.view


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("store.json", None, "cannot be read"),
        ("store.json", b"{}", "cannot be read"),
        ("store.json", b"not json", "cannot be read"),
        ("means.safetensors", b"rubbish", "cannot be read"),
        ("shard-00000/space1.bin", b"1234", "space1.bin is missing or has not"),
        ("shard-00001/token.bin", None, "token.bin is missing or has not"),
    ],
)
def test_an_inconsistent_store_is_refused_in_one_line(tmp_path: Path, data, name: str, content, said: str) -> None:
    path = write_store(tmp_path / "s", data, shard_rows=600).path
    forge(path, name, content)
    with pytest.raises(ArtifactError, match=said) as caught:
        Store.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["space1.bin", "document.bin", "token.bin", "text.bin", "text_index.bin"])
def test_one_flipped_bit_of_a_shard_is_seen_when_it_is_first_used(tmp_path: Path, data, name: str) -> None:
    path = write_store(tmp_path / "s", data, shard_rows=600).path
    file = path / "shard-00001" / name
    flipped = bytearray(file.read_bytes())
    flipped[len(flipped) // 2] ^= 4
    file.write_bytes(flipped)
    store = Store.open(path)
    use = {
        "space1.bin": lambda: store.read_space(torch.tensor([600]), 1),
        "document.bin": lambda: store.documents,
        "token.bin": lambda: store.token_ids,
        "text.bin": lambda: store.text(int(store.documents[-1])),
        "text_index.bin": lambda: store.text(0),
    }[name]
    store.read_space(torch.tensor([599]), 1)
    with pytest.raises(ArtifactError, match=rf"store = .*: file shard-00001/{name} is damaged"):
        use()


def test_a_truncated_shard_another_version_and_another_step_are_refused(tmp_path: Path, data) -> None:
    path = write_store(tmp_path / "s", data).path
    shard = path / "shard-00000" / "space0.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ArtifactError, match="truncated"):
        Store.open(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ArtifactError, match="format version 99"):
        Store.open(path)
    with artifact.create(tmp_path / "d", stage="dictionary", settings={}):
        pass
    with pytest.raises(ArtifactError, match="is a dictionary, not a store"):
        Store.open(tmp_path / "d")


def test_numbers_that_are_none_and_spaces_that_are_zero_are_refused(tmp_path: Path) -> None:
    x = torch.ones(10, 4)
    x[7, 2] = torch.nan
    with pytest.raises(NumericalError, match="row 7"):
        write_store(tmp_path / "nan", [torch.ones(10, 4), x])
    with pytest.raises(NumericalError, match="same on every row"):
        write_store(tmp_path / "zero", [torch.zeros(10, 4)])
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_deleted_or_replaced_while_it_is_read_is_named(tmp_path: Path, data) -> None:
    store = write_store(tmp_path / "s", data, shard_rows=600)
    view = store.select([1])
    rows = torch.tensor([3, 999])
    view.read(rows)
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    for gone in (store, view):
        with pytest.raises(ArtifactError, match=r"/s: changed while it was read: its folder was deleted"):
            gone.read(rows)
    write_store(tmp_path / "s", data, shard_rows=600)
    with pytest.raises(ArtifactError, match="replaced by another"):
        store.read(rows)
    assert len(Store.open(tmp_path / "s").read(rows)) == 2


def test_a_file_that_is_cut_short_while_it_is_read_is_named_and_kills_nobody(tmp_path: Path, data) -> None:
    store = write_store(tmp_path / "s", data, shard_rows=600)
    rows = torch.tensor([3, 999])
    store.read(rows)
    os.truncate(tmp_path / "s" / "shard-00001" / "space0.bin", 100)
    store.read(rows[:1])
    with pytest.raises(ArtifactError, match=r"its file shard-00001/space0.bin was truncated"):
        store.read(rows)
    os.remove(tmp_path / "s" / "shard-00000" / "space0.bin")
    with pytest.raises(ArtifactError, match=r"its file shard-00000/space0.bin cannot be mapped"):
        Store.read(replace(store), rows)  # a view that has opened nothing yet
