"""Run the notebooks in docs/notebooks, each in a fresh kernel; an error, or a cell that hangs, fails.

    python scripts/run_notebooks.py [NAME ...] [--write]

`--write` keeps what they print and draw in the files, as they are committed; without it the files stay as they are.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
CELL_SECONDS = 900
"""Of the clock, after which a cell is taken to hang."""
MOST_BYTES = 300_000
"""Of a file with what it printed."""
NO_WIDGETS = "ignore:IProgress not found"
"""Where Jupyter's widgets are not installed, a dependency says so in the first cell."""


def main() -> int:
    """Run those named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="files in docs/notebooks, without .ipynb; all by default")
    parser.add_argument("--write", action="store_true", help="keep what they print in the files")
    given = parser.parse_args()
    files = [NOTEBOOKS / f"{name}.ipynb" for name in given.names] or sorted(NOTEBOOKS.glob("*.ipynb"))
    if not files:
        raise SystemExit(f"no notebooks in {NOTEBOOKS}")
    wrong = [problem for file in files for problem in run(file, write=given.write)]
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


def run(file: Path, *, write: bool = False) -> list[str]:
    """Run one; what is wrong with it."""
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3")
    started, used = time.monotonic(), processor_seconds()
    try:
        client.execute(cwd=str(file.parent), env=os.environ | {"PYTHONWARNINGS": NO_WIDGETS})
    except (CellExecutionError, CellTimeoutError) as error:
        return [f"{file.name}: {error}"]
    seconds = processor_seconds() - used  # said and not judged: it depends on the machine and on what else runs there
    print(f"{file.name}: {time.monotonic() - started:.0f} s, {seconds:.0f} s of processor time", flush=True)
    text = written(notebook)
    if len(text.encode()) > MOST_BYTES:
        return [f"{file.name}: would have {len(text.encode()):,} bytes, more than {MOST_BYTES:,}"]
    if write:
        file.write_text(text, encoding="utf-8")
    return []


def processor_seconds() -> float:
    """Used by the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def written(notebook: Any) -> str:
    """As it is committed: without the times and the kernel of this run."""
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.clear()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    sys.exit(main())
