"""Laws of spaces: saving and reading is identity, and what is a copy of what is decided once, also for old folders."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from suture.activations.null import self_pair
from suture.activations.shards import write_store
from suture.activations.space import Copy, Space, are_null, mark_copies, spaces_from_json
from suture.activations.store import Store

ONE = Space(model="one", hookpoint="mlp0.out", width=4, scale=2.0, fingerprint="f", revision="main")
TWO = Space(model="two", hookpoint="mlp0.out", width=6, scale=0.5)
TURNED = replace(ONE, copy_of=Copy(original=ONE.label, rotated=True, seed=7))


def old(model: str, **more: object) -> dict[str, object]:
    """A space as format version 1 wrote it."""
    return {"model": model, "hookpoint": "mlp0.out", "width": 4, "scale": 2.0, "fingerprint": "f", **more}


def test_reading_gives_what_was_written() -> None:
    spaces = (ONE, TWO, TURNED)
    assert spaces_from_json([space.to_json() for space in spaces]) == spaces
    measured = replace(ONE, mean=torch.ones(4))
    assert "mean" not in measured.to_json()
    (read,) = spaces_from_json([measured.to_json()], {"0": torch.ones(4)})
    assert torch.equal(read.known_mean, torch.ones(4))
    with pytest.raises(AssertionError, match="was not measured"):
        _ = TWO.known_mean
    with pytest.raises(KeyError):
        spaces_from_json([{}])


def test_only_copy_of_decides_what_a_null_is() -> None:
    assert are_null([ONE, TURNED])
    assert not are_null([ONE, TWO])
    assert not are_null([ONE, replace(ONE, hookpoint="mlp1.out")])  # one model at two places is a comparison
    assert not are_null([TURNED])  # one side of a null compares nothing
    assert not are_null([ONE, replace(TWO, model="one (rotated copy)")])  # a name says nothing


def test_old_folders_say_it_by_name() -> None:
    spaces = spaces_from_json([old("one"), old("one (rotated copy)"), old("one (copy)")])
    assert [space.model for space in spaces] == ["one", "one", "one"]
    assert [space.copy_of for space in spaces] == [
        None,
        Copy(original=ONE.label, rotated=True),
        Copy(original=ONE.label),
    ]
    assert [space.label for space in spaces[1:]] == ["one (rotated copy) @ mlp0.out", "one (copy) @ mlp0.out"]
    assert not are_null(spaces_from_json([old("one"), old("two", fingerprint="g")]))


def test_a_model_read_twice_at_one_place_is_a_copy() -> None:
    by_weights = spaces_from_json([old("one"), old("the same under another name")])
    assert by_weights[1].copy_of == Copy(original="one @ mlp0.out")
    assert mark_copies([TWO, ONE, TURNED]) == (TWO, ONE, TURNED)
    assert [s.copy_of is None for s in mark_copies([TWO, TWO, ONE])] == [True, False, True]


def test_spaces_stand_for_each_other_by_place_and_kind_of_copy() -> None:
    unknown_seed = replace(ONE, copy_of=Copy(original=ONE.label, rotated=True))
    assert TURNED.stands_for(unknown_seed)
    assert TURNED.stands_for(replace(TURNED, scale=9.0))
    assert not TURNED.stands_for(ONE)
    assert not ONE.stands_for(replace(ONE, hookpoint="mlp1.out"))


def test_a_store_and_its_views_know_their_copies(tmp_path: Path) -> None:
    x = torch.randn(80, 4)
    store = write_store(tmp_path / "s", [x, x], names=[("one", "mlp0.out"), ("one", "mlp0.out")])
    assert are_null(store.spaces)
    assert Store.open(tmp_path / "s").spaces == store.spaces
    pair = self_pair(store, 0, rotation_seed=5, n_copies=2)
    assert [space.copy_of and space.copy_of.seed for space in pair.spaces] == [None, 5, 6]
    assert not are_null(store.select([0]).spaces)


def test_a_store_says_what_a_person_wants(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", [torch.randn(80, 4), torch.randn(80, 6)], names=[("a", "x"), ("b", "y")])
    assert repr(store) == f"Store(80 rows of a @ x (4) x b @ y (6), float32; {tmp_path / 's'})"
    assert repr(self_pair(store, 0, rotation_seed=5)).endswith("; a @ x against a rotated copy of itself, seed 5)")
