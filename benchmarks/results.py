"""Where benchmarks leave what they measured: one section each in RESULTS.md, with the machine it was measured on.

1. A section stands between two comment lines that name its benchmark; writing it again replaces that and nothing else.
2. What the numbers depend on is said beside them: processor, cores, bf16 units, versions, date, the command as given.
"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
CPUINFO = Path("/proc/cpuinfo")
BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
"""What x86 and Arm processors call instructions that multiply bf16."""


def write_section(name: str, text: str, file: Path = RESULTS, *, by: str | None = None) -> None:
    """Replace the section NAME of `benchmarks/NAME.py`, or of another script, or add it at the end."""
    begin, end = f"<!-- {name}: written by benchmarks/{by or name}.py -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    before = file.read_text(encoding="utf-8") if file.exists() else "# Results\n"
    if begin in before:
        head, rest = before.split(begin, 1)
        assert end in rest, f"{file} has a section {name} without an end"
        after = head + section + rest.split(end, 1)[1]
    else:
        after = before.rstrip("\n") + "\n\n" + section + "\n"
    file.write_text(after, encoding="utf-8")


def machine() -> str:
    """The processor, for people."""
    names = re.findall(r"model name\s*:\s*(.+)", CPUINFO.read_text()) if CPUINFO.exists() else []
    return f"{names[0] if names else platform.processor() or 'unknown CPU'}, {os.cpu_count()} cores"


def bf16_units() -> list[str]:
    """The processor's instructions for bf16 products; without any, bf16 is emulated and slower than fp32."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", CPUINFO.read_text(), re.M) if CPUINFO.exists() else None
    return sorted(set(BF16_UNITS) & set(flags[1].split())) if flags else []


def circumstances(packages: Iterable[str] = ("torch",)) -> str:
    """Command, date, machine and versions in one sentence."""
    command = shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    bf16 = f"bf16 units: {', '.join(units)}" if (units := bf16_units()) else "no bf16 units"
    return f"`python {command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()} ({bf16}), {versions}."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, *rows]
    assert all(len(line) == len(header) for line in lines), "every line of a table has the same cells"
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|---" * len(header) + "|", *text[1:]])
