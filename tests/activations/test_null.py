"""Laws of null pairs: a copy is the same, a rotated copy keeps all geometry, and nothing else of the store changes."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from suture.activations.batches import batches, split_rows
from suture.activations.null import random_rotation, self_pair
from suture.activations.settings import View
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.activations.view import seen
from suture.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(500, 6, generator=g) + 2, torch.randn(500, 17, generator=g)
    return write_store(tmp_path / "s", [x, y], names=[("a", "mlp0.out"), ("b", "resid1.post")], shard_rows=200)


def test_a_plain_copy_is_the_same_twice(store: Store) -> None:
    null = self_pair(store, 1, rotation_seed=None)
    one, two = null.read(torch.tensor([400, 3, 3]))
    assert torch.equal(one, two)
    assert torch.equal(one, store.read(torch.tensor([400, 3, 3]))[1])
    assert [s.label for s in null.spaces] == ["b @ resid1.post", "b (copy) @ resid1.post"]


def test_a_rotated_copy_keeps_distances_scale_and_mean(store: Store) -> None:
    null = self_pair(store, 1, rotation_seed=5)
    rows = torch.arange(500)
    own, rotated = (x.double() for x in null.read(rows))
    assert not torch.allclose(own, rotated, atol=0.1)
    assert torch.allclose(torch.cdist(own, own), torch.cdist(rotated, rotated), atol=1e-5)
    assert torch.allclose(null.spaces[1].known_mean.double(), rotated.mean(dim=0), atol=1e-6)
    assert null.spaces[1].scale == null.spaces[0].scale == store.spaces[1].scale
    assert null.spaces[1].label == "b (rotated copy) @ resid1.post"
    again = self_pair(store, 1, rotation_seed=5).read(rows)[1]
    assert torch.equal(again.double(), rotated)
    assert not torch.equal(self_pair(store, 1, rotation_seed=6).read(rows)[1].double(), rotated)


def test_a_view_can_be_one_side_of_a_null(store: Store) -> None:
    rows = torch.arange(500)
    view = View(spaces=(1,), null=True, rotation_seed=5, copies=2)
    whole = seen(store, view)
    for side in range(3):
        own = seen(store, replace(view, side=side))
        assert own.spaces == (whole.spaces[side],)
        assert torch.equal(own.read(rows)[0], whole.read(rows)[side])
        assert View.from_json(asdict(replace(view, side=side))) == replace(view, side=side)
    for wrong, fix in (
        ({"side": 3}, "give 0 to 2"),
        ({"side": 0, "null": False, "copies": 1, "rotation_seed": None}, "add --null"),
    ):
        with pytest.raises(UserError, match=fix):
            replace(view, **wrong)


def test_several_copies_have_a_rotation_each(store: Store) -> None:
    null = self_pair(store, 1, rotation_seed=5, n_copies=2)
    rows = torch.arange(500)
    own, first, second = (x.double() for x in null.read(rows))
    assert torch.equal(first, self_pair(store, 1, rotation_seed=5).read(rows)[1].double())
    assert not torch.allclose(first, second, atol=0.1)
    assert torch.allclose(torch.cdist(own, own), torch.cdist(second, second), atol=1e-5)
    assert null.view == "b @ resid1.post against 2 rotated copies of itself, seed 5"
    view = View(spaces=(1,), null=True, rotation_seed=5, copies=2)
    assert torch.equal(seen(store, view).read(rows)[2].double(), second)
    assert View.from_json(asdict(view)) == view
    assert View.from_json({"spaces": [], "null": False, "rotation_seed": None}) == View(
        outliers="keep"
    )  # as it was before there was a choice
    with pytest.raises(UserError, match="copies = 2: is for a null"):
        View(copies=2)


def test_the_view_has_the_stores_whole_interface(store: Store) -> None:
    null = self_pair(store, 0, rotation_seed=2)
    assert len(null) == len(store)
    assert torch.equal(null.documents, store.documents)
    assert torch.equal(null.token_ids, store.token_ids[:, [0, 0]])
    assert len(null.alignment) == 2
    train, _ = split_rows(null)
    batch = next(iter(batches(null, train, batch_size=32, seed=0)))
    left, right = batch.activations[:, :6], batch.activations[:, 6:]
    assert torch.allclose(left.norm(dim=1), right.norm(dim=1), rtol=1e-5)
    assert "rotated" in null.view


@pytest.mark.parametrize("width", [1, 2, 50])
def test_a_rotation_is_orthogonal(width: int) -> None:
    q = random_rotation(width, seed=0).double()
    assert torch.allclose(q @ q.T, torch.eye(width, dtype=torch.float64), atol=1e-6)
