"""The same settings and seed give the dictionary that they gave before: to the bit here, nearly so elsewhere."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.golden import CASES, FILE, machine, measured

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """How a sum is split over threads is part of its rounding."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("name", CASES)
def test_training_is_what_it_was(folder: Path, name: str) -> None:
    found, expected = measured(name, folder), RECORDED["cases"][name]
    for number in ("fvu", "l0", "weights"):
        assert found[number] == pytest.approx(expected[number], rel=0.02), number
    if machine() != RECORDED["machine"]:
        pytest.skip(f"bits were recorded on {RECORDED['machine']}, this is {machine()}")
    assert found["digest"] == expected["digest"]
