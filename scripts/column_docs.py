"""Write the explanations of the feature table's columns into docs/concepts.md, from the columns themselves.

python scripts/column_docs.py           # write
python scripts/column_docs.py --check   # say whether the file is as it would be written; exit code 1 if not
"""

import sys
from pathlib import Path

from suture.features.columns import ABOUT, documented
from suture.pipeline.table import explained

DOCS = Path(__file__).resolve().parent.parent / "docs" / "concepts.md"
BEGIN = "<!-- columns: written by scripts/column_docs.py -->"
END = "<!-- end of columns -->"


def written(text: str) -> str:
    """The document with its explanations of the columns as they should be."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"{DOCS} lacks the line {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{explained(documented(), ABOUT)}\n{END}{after}"


def main() -> int:
    """The exit code."""
    text = DOCS.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        return int(text != written(text))
    DOCS.write_text(written(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
