"""Two processes, or four, train the dictionary that one trains; checkpoints move between them; none is left waiting."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.parallel import grid
from suture.pipeline import artifact
from suture.training.checkpoint import load_checkpoint
from suture.training.settings import Objective, TrainSettings
from suture.training.train import train

ODD = 33
"""Features: not the same number for every rank."""


def cases() -> dict[str, TrainSettings]:
    """Every sparsity, design and loss, with features that die, are owned by a model or tied."""

    def case(
        kind: str, sparsity: str, loss: str, *, flag: bool = False, dedicated: bool = False, dropout: float = 0.0
    ) -> TrainSettings:
        return TrainSettings(
            design=Design(
                kind=kind,  # pyright: ignore[reportArgumentType]
                n_features=ODD,
                flag=flag,
                dedicated=(0.2, 0.3) if dedicated else (),
                sparsity=Sparsity(kind=sparsity, k=3),  # pyright: ignore[reportArgumentType]
            ),
            objective=Objective(loss=loss, dead_after=400, k_aux=5),  # pyright: ignore[reportArgumentType]
            n_rows=64 * 40,
            batch_size=64,
            learning_rate=4e-3,
            model_dropout=dropout,
            validate_every=20,
            validation_rows=256,
            checkpoint_every=15,
            precision="float32",
        )

    return {
        "topk": case("crosscoder", "topk", "joint", dropout=0.2),
        "batchtopk": case("crosscoder", "batchtopk", "per_model", dedicated=True),
        "relu": case("universal", "relu+l1", "l2norm"),
        "jumprelu": case("pooled", "jumprelu", "joint", flag=True),
        "gated": case("crosscoder", "gated", "per_model", dropout=0.2),
    }


def work(store: str, out: str, feature_ranks: str) -> None:
    """What each process does: train every case."""
    with grid(feature_ranks=int(feature_ranks)) as place:
        for name, settings in cases().items():
            train(Path(out) / name, Store.open(store), settings, grid=place, resume=True)


def torchrun(n_ranks: int, *arguments: object, wait: bool = True) -> "subprocess.Popen[str]":
    """This file, or a module with -m, under torchrun."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "RANK", "WORLD_"))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    if wait:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    return process


@pytest.fixture(scope="module")
def alone(unequal_store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dictionary]:
    """What one process makes of every case."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: train(folder / name, unequal_store, settings) for name, settings in cases().items()}


def assert_same(found: Dictionary, expected: Dictionary) -> None:
    """Equal but for the order in which float32 sums were added up."""
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(
            found.state_dict()[name], tensor, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("n_ranks", "feature_ranks"), [(2, 1), (2, 2), (4, 2)], ids=["rows split", "features split", "both"]
)
def test_several_processes_train_what_one_trains(
    n_ranks: int, feature_ranks: int, unequal_store: Store, alone: dict[str, Dictionary], tmp_path: Path
) -> None:
    torchrun(n_ranks, __file__, unequal_store.path, tmp_path, feature_ranks)
    for name, expected in alone.items():
        assert_same(Dictionary.load(tmp_path / name), expected)
        own = artifact.read_json(tmp_path / name / "evaluation.json")
        assert own["n_rows"] > 0
        assert 0 < own["fvu"][0] < 1


def test_a_checkpoint_of_one_process_is_gone_on_with_by_two(
    unequal_store: Store, alone: dict[str, Dictionary], tmp_path: Path
) -> None:
    for name, settings in cases().items():
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / name, unequal_store, settings, on_progress=_interrupt)
        assert (artifact.partial_path(tmp_path / name) / "checkpoints").exists()
    torchrun(2, __file__, unequal_store.path, tmp_path, 2)
    for name, expected in alone.items():
        assert_same(Dictionary.load(tmp_path / name), expected)


def test_a_checkpoint_of_two_processes_is_gone_on_with_by_one(unequal_store: Store, tmp_path: Path) -> None:
    """One of the two is killed: the other ends with a message instead of waiting for ever."""
    words = ["--store", unequal_store.path, "--features", ODD, "--k", 3, "--lr", 4e-3, "--rows", 64 * 1500]
    words += ["--batch-size", 64, "--validate-every", 500, "--checkpoint-every", 50, "--precision", "float32"]
    words = ["-m", "suture", "train", tmp_path / "d", *words, "--device", "cpu", "--resume"]
    process = torchrun(2, *words, "--feature-ranks", 2, wait=False)
    partial = artifact.partial_path(tmp_path / "d")
    _until(lambda: any(not f.suffix for f in (partial / "checkpoints").glob("*")), process)
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in err
    found = load_checkpoint(partial)
    assert found is not None
    assert 0 < found.step < 1500
    alone = [str(w) for w in words]
    subprocess.run([sys.executable, *alone], check=True, capture_output=True)
    alone[3] = str(tmp_path / "unbroken")
    subprocess.run([sys.executable, *alone], check=True, capture_output=True)
    assert_same(Dictionary.load(tmp_path / "d"), Dictionary.load(tmp_path / "unbroken"))


def test_a_mistake_is_told_once(unequal_store: Store, tmp_path: Path) -> None:
    words = ["train", tmp_path / "d", "--store", unequal_store.path, "--features", 16, "--k", 64]
    process = torchrun(2, "-m", "suture", *words, wait=False)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("suture: k = 64: exceeds the 16 features") == 1
    assert "Traceback" not in err.split("suture: k = 64")[0]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _until(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    work(*sys.argv[1:])
