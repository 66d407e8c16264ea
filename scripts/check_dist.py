"""Build sdist and wheel, install the wheel where the repository is not, and run the demo there.

The wheel is built from the unpacked sdist, so that what the sdist lacks the wheel lacks too. Its dependencies are those
of the environment that runs this; nothing else is taken from there.

    python scripts/check_dist.py [--keep dist]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
NEEDED = ("suture/py.typed", "suture/__init__.pyi", "suture/models/tinystories-1l/config.json")
"""Files of the wheel that no import misses at once."""


def built(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], ROOT)
    sdist = next(folder.glob("*.tar.gz"))
    with tarfile.open(sdist) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    source = next((folder / "unpacked").iterdir())
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], source)
    return sdist, next(folder.glob("*.whl"))


def check(wheel: Path, folder: Path) -> None:
    """Run the demo from the installed wheel."""
    missing = set(NEEDED) - set(zipfile.ZipFile(wheel).namelist())
    assert not missing, f"the wheel lacks {missing}"
    installed, desk = folder / "installed", folder / "desk"
    desk.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--no-index", "--target", installed, wheel], folder)
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    where = [sys.executable, "-c", "import suture; print(suture.__file__)"]
    found = subprocess.run(where, cwd=desk, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(found).is_relative_to(installed), f"suture is {found}, not the wheel's"
    _run([sys.executable, "-m", "suture", "demo", "--quick", "--out", "demo"], desk, environment)
    summary = json.loads((desk / "demo" / "summary.json").read_text())
    assert summary["dictionaries"]["crosscoder"]["counts"]["shared"] > 0
    assert (desk / "demo" / "report.html").stat().st_size > 0


def _run(command: list[object], folder: Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run([str(word) for word in command], cwd=folder, env=environment, check=True)


def main() -> None:
    """Build, check, and keep what was built where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder that sdist and wheel are put into")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        both = built(Path(name))
        check(both[1], Path(name))
        for file in both if given.keep else ():
            given.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, given.keep)
    print(f"{both[0].name} and {both[1].name}: installed and run outside the repository")


if __name__ == "__main__":
    main()
