"""Laws of batches: an epoch is a permutation, a batch is a function of its number, no thread outlives its reader."""

import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.activations.batches import batches, epoch_order, read_ahead, sequential, split_rows
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.errors import UserError

N_ROWS = 240


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Row r is (r, 1, 1) in the first space and (0.5 r, 2) in the second: a batch tells which rows it holds."""
    r = torch.arange(N_ROWS, dtype=torch.float32)
    one, two = torch.stack([r, r * 0 + 1, r * 0 + 1], 1), torch.stack([0.5 * r, r * 0 + 2], 1)
    path = tmp_path_factory.mktemp("batches") / "s"
    return write_store(path, [one, two], documents=torch.arange(N_ROWS) // 12, shard_rows=100)


def rows_of(store: Store, joint: torch.Tensor) -> list[int]:
    first = joint[:, 0] / store.spaces[0].scale
    second = joint[:, 3] / store.spaces[1].scale * 2
    assert torch.allclose(first, second, atol=1e-3), "the spaces must be shuffled alike"
    return first.round().int().tolist()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_an_epochs_order_is_a_permutation_of_its_own(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == epoch_order(n, seed=seed, epoch=epoch).tolist()
    if n >= 30:
        assert order.tolist() != epoch_order(n, seed=seed, epoch=epoch + 1).tolist()
        assert order.tolist() != epoch_order(n, seed=seed + 1, epoch=epoch).tolist()


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.sampled_from([1, 7, 16, 60]),
    seed=st.integers(0, 99),
    chosen=st.sets(st.integers(0, 239), min_size=60),
)
def test_an_epoch_holds_every_chosen_row_at_most_once_and_only_those(store, batch_size, seed, chosen) -> None:
    rows = torch.tensor(sorted(chosen))
    per_epoch = len(rows) // batch_size
    seen = [
        rows_of(store, b.activations)
        for b in batches(store, rows, batch_size=batch_size, seed=seed, n_steps=2 * per_epoch)
    ]
    for epoch in (seen[:per_epoch], seen[per_epoch:]):
        flat = [r for batch in epoch for r in batch]
        assert len(set(flat)) == len(flat) == per_epoch * batch_size
        assert set(flat) <= chosen


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 60), pooled=st.booleans(), seed=st.integers(0, 5))
def test_starting_at_b_is_skipping_b(store: Store, start: int, pooled: bool, seed: int) -> None:
    rows = torch.arange(0, N_ROWS, 2)
    options = {"batch_size": 16, "seed": seed, "pooled": pooled}
    skipped = list(batches(store, rows, n_steps=start + 4, **options))[start:]
    for a, b in zip(skipped, batches(store, rows, start=start, n_steps=4, **options), strict=True):
        assert torch.equal(a.activations, b.activations)
        assert (a.model is None) == (b.model is None) == (not pooled)
        if a.model is not None and b.model is not None:
            assert torch.equal(a.model, b.model)


def test_a_joint_batch_is_scaled_and_side_by_side(store: Store) -> None:
    batch = next(iter(batches(store, torch.arange(N_ROWS), batch_size=N_ROWS, seed=1)))
    rows = torch.tensor(rows_of(store, batch.activations))
    expected = [x * s.scale for x, s in zip(store.read(rows), store.spaces, strict=True)]
    assert torch.allclose(batch.activations, torch.cat(expected, dim=1), rtol=1e-6)
    for x, space in zip(expected, store.spaces, strict=True):
        assert (x - x.mean(0)).square().sum(1).mean().item() == pytest.approx(space.width, rel=1e-4)


def test_a_pooled_epoch_holds_every_pair_of_row_and_space_once_padded_with_zeros(store: Store) -> None:
    seen = []
    for batch in batches(store, torch.arange(N_ROWS), batch_size=48, seed=3, pooled=True, n_steps=10):
        assert batch.activations.shape == (48, 3)
        assert batch.model is not None
        assert 0 < batch.model.sum() < 48, "the models are mixed within a batch"
        assert bool((batch.activations[batch.model == 1, 2] == 0).all())
        for x, m in zip(batch.activations, batch.model.tolist(), strict=True):
            row = x[0].item() / store.spaces[m].scale * (2 if m else 1)
            seen.append((round(row), m))
    assert sorted(seen) == [(r, m) for r in range(N_ROWS) for m in (0, 1)]


def test_sequential_gives_every_row_in_order(store: Store) -> None:
    rows = torch.arange(5, N_ROWS, 3)
    got = list(sequential(store, rows, batch_size=32))
    assert torch.equal(torch.cat([r for r, _ in got]), rows)
    assert [r for _, b in got for r in rows_of(store, b.activations)] == rows.tolist()
    pooled = list(sequential(store, rows, batch_size=32, pooled=True))
    for m in (0, 1):
        mine = [(r, b) for r, b in pooled if b.model is not None and bool((b.model == m).all())]
        assert torch.equal(torch.cat([r for r, _ in mine]), rows)
        width = store.spaces[m].width
        values = torch.cat([b.activations for _, b in mine])[:, :width] / store.spaces[m].scale
        assert torch.allclose(values, store.read(rows)[m], rtol=1e-6)


@pytest.mark.parametrize("batch_size", [0, N_ROWS + 1])
def test_a_batch_that_does_not_fit_is_refused(store: Store, batch_size: int) -> None:
    with pytest.raises(UserError, match="batch_size"):
        batches(store, torch.arange(N_ROWS), batch_size=batch_size, seed=0)


def reader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("suture-batches")]


def test_no_thread_outlives_its_reader(store: Store) -> None:
    stream = batches(store, torch.arange(N_ROWS), batch_size=8, seed=0)
    next(iter(stream))
    assert reader_threads()
    stream.close()
    assert not reader_threads()
    list(batches(store, torch.arange(N_ROWS), batch_size=8, seed=0, n_steps=5))
    assert not reader_threads()


def test_an_error_while_reading_reaches_the_reader_at_its_own_turn() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise OSError("the disk went away")
        return item

    stream = read_ahead(read, iter(range(10)), 2)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="went away"):
        next(stream)
    assert not reader_threads()


def test_reading_ahead_stays_within_its_bound() -> None:
    started: list[int] = []
    stream = read_ahead(lambda i: started.append(i) or i, iter(range(100)), 2)
    for _ in range(5):
        next(stream)
    stream.close()
    assert len(started) <= 8


@settings(max_examples=30, deadline=None)
@given(heldout=st.floats(0.01, 0.9), seed=st.integers(0, 2**63))
def test_a_split_is_by_document_disjoint_complete_and_never_empty(store: Store, heldout: float, seed: int) -> None:
    train, held = split_rows(store, heldout=heldout, seed=seed)
    assert sorted(train.tolist() + held.tolist()) == list(range(N_ROWS))
    documents = store.documents
    assert not set(documents[train].tolist()) & set(documents[held].tolist())
    assert len(train)
    assert len(held)
    again = split_rows(store, heldout=heldout, seed=seed)
    assert torch.equal(train, again[0])


def test_a_documents_side_depends_on_its_number_alone_and_the_share_is_right(tmp_path: Path) -> None:
    def held_documents(n: int, seed: int = 0) -> set[int]:
        store = write_store(tmp_path / f"{n}-{seed}", [torch.arange(n).float()[:, None]], documents=torch.arange(n))
        return set(split_rows(store, heldout=0.1, seed=seed)[1].tolist())

    few, many = held_documents(2000), held_documents(20_000)
    assert few == {d for d in many if d < 2000}
    assert len(many) == pytest.approx(2000, abs=150)
    assert len(many & held_documents(20_000, seed=1)) < 400


def test_what_cannot_be_split_is_refused(tmp_path: Path, store: Store) -> None:
    single = write_store(tmp_path / "s", [torch.eye(9, 2)], documents=torch.zeros(9, dtype=torch.int64))
    with pytest.raises(UserError, match="one document"):
        split_rows(single)
    assert len(split_rows(single, heldout=0.0)[0]) == 9
    for share in (-0.1, 1.0):
        with pytest.raises(UserError, match="heldout"):
            split_rows(store, heldout=share)
