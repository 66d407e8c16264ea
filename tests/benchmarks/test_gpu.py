"""The benchmark of a step on a GPU, on a CPU: every contender steps, the floor is told, and time that is up ends it."""

import subprocess
import sys
import time
from pathlib import Path

import gpu
import install_gpu
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = gpu.Shape(width=16, n_features=64, k=4, n_rows=32)


def test_every_contender_steps_and_the_floor_is_told() -> None:
    found = gpu.measure(TINY, torch.device("cpu"), rounds=2, steps=2)
    assert {gpu.PRODUCT, gpu.COPY, gpu.SUTURE, gpu.DENSE} <= {c.name for c in found}
    assert all(len(c.milliseconds) == 4 for c in found)
    by_name = {c.name: c.median for c in found}
    floor = by_name[gpu.PRODUCT] + by_name[gpu.COPY]
    assert f"{by_name[gpu.SUTURE] / floor:.2f} times the floor" in gpu.table(TINY, found)


@pytest.mark.parametrize(("until", "rounds"), [(0.0, 1), (float("inf"), 3)])
def test_no_round_begins_when_the_time_is_up(until: float, rounds: int) -> None:
    found = gpu.measure(TINY, torch.device("cpu"), rounds=3, steps=1, until=until)
    assert {len(c.milliseconds) for c in found} == {rounds}


def test_the_copy_moves_what_a_step_holds() -> None:
    W = gpu.start(TINY, torch.device("cpu"))
    assert gpu.COPIED * W.numel() == 4 * (2 * TINY.n_features * TINY.joint_width)


def test_a_bare_machine_needs_nothing_but_python(tmp_path: Path) -> None:
    """Without site-packages, so that neither torch nor suture can be found; dry, since installing takes minutes."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(FOLDER / "install_gpu.py"), str(tmp_path / "env"), "--dry", "--rounds", "2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.monotonic() - began < 60
    said = done.stderr.splitlines()
    assert said[0].endswith(f"-m venv {tmp_path}/env")
    assert said[1].endswith(f"-e {FOLDER.parent}")
    assert said[2].endswith(install_gpu.SPARSIFY)
    assert said[-1].endswith("gpu.py --device cuda --minutes 8.00 --rounds 2")
    assert not (tmp_path / "env").exists()
