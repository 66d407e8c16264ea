"""Print pyproject.toml's lower bounds as pins, what constraints-torch.txt pins as it does: see `make test-lowest`.

A resolver asked for its lowest versions may quietly settle on higher ones, to make way for an indirect dependency. With
the bounds as pins, what cannot be had together is an error that names the bound to raise.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """To standard output, one pin per line."""
    chosen = (ROOT / "constraints-torch.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    print(chosen)
    for requirement in needed:
        bound = re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement)
        assert bound is not None, f"{requirement} states no lower bound"
        name, version = bound.groups()
        if f"{name}==" not in chosen:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
