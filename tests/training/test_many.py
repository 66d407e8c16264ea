"""Several dictionaries on one pass over the store: each is what it would be alone, whatever becomes of the others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from suture.activations.batches import Batch, batches
from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.pipeline import artifact
from suture.pipeline.settings import from_flat
from suture.training.checkpoint import load_checkpoint
from suture.training.settings import TrainSettings
from suture.training.train import train, train_many

BATCH = 64
BASE: dict[str, Any] = {
    "features": 24, "k": 3, "batch_size": BATCH, "rows": BATCH * 12, "learning_rate": 4e-3, "precision": "float32",
    "validate_every": 5, "checkpoint_every": 4, "data_seed": 3, "device": "cpu",
}  # fmt: skip
TABLES: dict[str, dict[str, Any]] = {
    "small": {"model_dropout": 0.2},
    "large": {"features": 33, "rows": BATCH * 18},
    "other-seed": {"seed": 5},
    "more-active": {"k": 5, "sparsity": "batchtopk", "rows": BATCH * 7},
    "universal": {"design": "universal"},
    "pooled": {"design": "pooled", "flag": True},
}


def settings_of(name: str) -> TrainSettings:
    return from_flat(TrainSettings, BASE | TABLES[name])


@pytest.fixture(scope="module")
def alone(unequal_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dictionary trained alone, in a folder of its name."""
    folder = tmp_path_factory.mktemp("alone")
    for name in TABLES:
        train(folder / name, unequal_store, settings_of(name))
    return folder


def group(folder: Path, *names: str) -> dict[Path, TrainSettings]:
    return {folder / name: settings_of(name) for name in names or TABLES}


def assert_same(found: Path, expected: Path) -> None:
    one, two = Dictionary.load(found).state_dict(), Dictionary.load(expected).state_dict()
    assert one.keys() == two.keys()
    for name, tensor in two.items():
        assert torch.equal(one[name], tensor), f"{found.name}: {name}"
    assert artifact.read_json(found / "evaluation.json") == artifact.read_json(expected / "evaluation.json")


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C before this batch; the numbers of the batches that were read."""
    read = []

    def stopping(*args: Any, start: int = 0, **kwargs: Any) -> Iterator[Batch]:
        for n, batch in enumerate(batches(*args, start=start, **kwargs), start=start):
            if n == number:
                raise KeyboardInterrupt
            read.append(n)
            yield batch

    monkeypatch.setattr("suture.training.feed.batches", stopping)
    return read


def test_each_is_what_it_would_be_alone_and_batches_are_read_once(
    unequal_store: Store, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stop_at(-1, monkeypatch)
    trained = train_many(group(tmp_path), unequal_store)
    assert list(trained) == [tmp_path / name for name in TABLES]
    for name in TABLES:
        assert_same(tmp_path / name, alone / name)
    # the pooled one sees other batches; the others need as many as the longest of them
    assert sorted(read) == sorted([*range(18), *range(12)])


def test_a_group_goes_on_from_where_each_was(
    unequal_store: Store, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was finished, one is half-way, one never began."""
    train(tmp_path / "small", unequal_store, settings_of("small"))
    written = (tmp_path / "small" / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        stop_at(10, patch)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "large", unequal_store, settings_of("large"))
    with monkeypatch.context() as patch:
        read = stop_at(-1, patch)
        train_many(group(tmp_path, "small", "large", "other-seed"), unequal_store, resume=True)
    assert read == list(range(18))
    assert (tmp_path / "small" / "manifest.json").read_bytes() == written
    for name in ("small", "large", "other-seed"):
        assert_same(tmp_path / name, alone / name)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["large", "other-seed", "small"]


def test_an_interrupt_keeps_what_each_has_reached(
    unequal_store: Store, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("small", "more-active", "large")
    with monkeypatch.context() as patch:
        stop_at(9, patch)
        with pytest.raises(KeyboardInterrupt):
            train_many(group(tmp_path, *names), unequal_store)
    assert_same(tmp_path / "more-active", alone / "more-active")  # it had only seven steps to take
    for name in ("small", "large"):
        found = load_checkpoint(artifact.partial_path(tmp_path / name))
        assert found is not None
        assert found.step == 9
    with monkeypatch.context() as patch:
        read = stop_at(-1, patch)
        train_many(group(tmp_path, *names), unequal_store, resume=True)
    assert read == list(range(9, 18))
    for name in names:
        assert_same(tmp_path / name, alone / name)


def test_where_one_diverges_the_others_keep_their_steps(unequal_store: Store, alone: Path, tmp_path: Path) -> None:
    wild = from_flat(TrainSettings, BASE | {"learning_rate": 1e30, "sparsity": "relu+l1"})
    wanted = {tmp_path / "wild": wild, tmp_path / "small": settings_of("small")}
    with pytest.raises(UserError, match=r"learning-rate = 1e\+30"):
        train_many(wanted, unequal_store)
    train(tmp_path / "small", unequal_store, settings_of("small"), resume=True)
    assert_same(tmp_path / "small", alone / "small")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_does_not_fit_stops_all_before_anything_is_written(
    place: int, unequal_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "group"
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "large", unequal_store, settings_of("large"))
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    wanted = list(group(folder, "small", "large").items())
    wanted.insert(place, (folder / "wrong", from_flat(TrainSettings, BASE | {"design": "sae"})))
    with pytest.raises(UserError, match="design = sae: is for one space"):
        train_many(dict(wanted), unequal_store)  # without resume: even so the unfinished one is still there
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


# --- suture train DIR --each FILE -------------------------------------------------------------------------------------


def command(folder: Path, store: Store, each: Path, *more: object) -> list[str]:
    words = ["train", str(folder), "--store", str(store.path), "--each", str(each)]
    for name, value in BASE.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, *map(str, more)]


def test_each_table_of_a_file_is_a_dictionary(
    unequal_store: Store, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = tmp_path / "each.toml"
    each.write_text("[small]\nmodel-dropout = 0.2\n[large]\nfeatures = 33\nrows = 1_152\n[other-seed]\nseed = 5\n")
    assert run(command(tmp_path / "group", unequal_store, each, "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    names = ["small", "large", "other-seed"]
    assert [d["dictionary"] for d in said["dictionaries"]] == [str(tmp_path / "group" / name) for name in names]
    for name in names:
        assert_same(tmp_path / "group" / name, alone / name)
    assert run(command(tmp_path / "group", unequal_store, each, "--resume")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / "group" / name) for name in names]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold one [table] per dictionary"),
        ("k = 3\n", "does not hold one [table] per dictionary"),
        ("[a]\nk = 3\nk = 4\n", "is not TOML"),
        ("[a]\nwidth = 3\n", "width = 3: is no setting of train"),
        ("[a]\nrows = 2e6\n", "rows = 2000000.0: is not a whole number"),
        ("[good]\n[a]\nk = 99\n", "k = 99: exceeds the 24 features"),
        ("[good]\n[a]\nspace = [0]\n", "design = crosscoder: needs two spaces or more"),
        ("[good]\n[a]\nbatch-size = 100_000\n", "batch-size = 100000: exceeds the"),
    ],
)
def test_a_wrong_file_is_one_line_and_nothing_is_written(
    text: str, message: str, unequal_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = tmp_path / "each.toml"
    each.write_text(text)
    assert run(command(tmp_path / "group", unequal_store, each)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["each.toml"]
