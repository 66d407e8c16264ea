"""Every benchmark finds what it imports: they are run by hand, long after the code that they call has moved."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
OTHERS = {"enter"}
"""Those that need another library."""


def test_every_benchmark_can_be_begun() -> None:
    names = sorted({file.stem for file in FOLDER.glob("*.py")} - OTHERS)
    assert len(names) > 10
    found = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(names)}"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
