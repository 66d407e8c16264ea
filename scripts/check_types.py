"""Fail where a public name of suture has no complete type or no docstring, as the type checker of its users finds them.

basedpyright reads the package as installed for the Python that runs this. Where another package says no types, that is
not held against suture.

    python scripts/check_types.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def report() -> dict[str, Any]:
    """What basedpyright says of the installed package."""
    # --verifytypes heeds neither pyproject.toml nor --pythonpath: it asks the first Python on PATH
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "suture", "--ignoreexternal", "--outputjson"]
    run = subprocess.run(command, env={**os.environ, "PATH": path}, check=False, capture_output=True, text=True)
    assert run.returncode in (0, 1), f"basedpyright ended with {run.returncode}: {run.stderr or run.stdout}"
    return json.loads(run.stdout)


def faults(said: dict[str, Any]) -> list[str]:
    """What is missing, by place or by name; what lacks a type only because of another is not told again."""
    found = [diagnostic["message"] for diagnostic in said["generalDiagnostics"]]
    for symbol in said["typeCompleteness"]["symbols"]:
        found += [f"{_place(diagnostic, symbol)}: {diagnostic['message']}" for diagnostic in symbol["diagnostics"]]
    return found


def _place(diagnostic: dict[str, Any], symbol: dict[str, Any]) -> str:
    if not diagnostic.get("file") or "range" not in diagnostic:
        return symbol["name"]
    return f"{diagnostic['file']}:{diagnostic['range']['start']['line'] + 1}"


def main() -> None:
    """Print what is missing, or how much is there."""
    said = report()
    verified = said["typeCompleteness"]
    read = Path(verified["packageRootDirectory"])
    assert read == ROOT / "src" / "suture", f"this checkout is not what is installed here, but {read}"
    for fault in (found := faults(said)):
        print(fault)
    counts, score = verified["exportedSymbolCounts"], verified["completenessScore"]
    print(f"{sum(counts.values())} public names, {100 * score:.4g} % with complete types; {len(found)} to mend")
    sys.exit(1 if found or score < 1 else 0)


if __name__ == "__main__":
    main()
