"""The benchmark on a GPU from nothing: an environment is made, suture and eai-sparsify installed, `gpu.py` run in it.

For a machine with Python 3.11 or newer, a driver and a network, and nothing of suture's but this clone. It all takes
`--minutes`, eight where nothing is said: what the installation leaves of them `gpu.py` may use.

    python3 benchmarks/install_gpu.py /tmp/suture-gpu [--minutes 8] [--device cuda] [--dry] [options of gpu.py]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPARSIFY = "eai-sparsify"
PINNED = ("-c", str(ROOT / "constraints.txt"))
LEAST_MINUTES = 1.0
"""Left to `gpu.py` however long the installation took: one round of each shape."""


def steps(folder: Path) -> list[tuple[list[str], bool]]:
    """The commands that install, and whether there is no going on without each."""
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [
        ([sys.executable, "-m", "venv", str(folder)], True),
        ([*pip, *PINNED, "-e", str(ROOT)], True),
        ([*pip, *PINNED, SPARSIFY], False),
    ]


def main() -> None:
    """Install, and hand over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the environment, to be made")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all, installation included")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry", action="store_true", help="only say what would be run")
    given, others = parser.parse_known_args()
    started = time.monotonic()
    for command, needed in steps(given.folder):
        say(" ".join(command))
        if not given.dry and subprocess.run(command, check=needed).returncode:
            say(f"{SPARSIFY} cannot be installed: measured without it")
    taken = (time.monotonic() - started) / 60
    left = max(given.minutes - taken, LEAST_MINUTES)
    say(f"installed in {taken:.1f} minutes")
    measuring = [str(given.folder / "bin" / "python"), str(ROOT / "benchmarks" / "gpu.py")]
    measuring += ["--device", given.device, "--minutes", f"{left:.2f}", *others]
    say(" ".join(measuring))
    if not given.dry:
        sys.exit(subprocess.run(measuring, check=False).returncode)


def say(line: str) -> None:
    """On stderr: the tables go to stdout."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
