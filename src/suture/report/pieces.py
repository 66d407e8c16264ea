"""A page's data as text: JSON, deflated, in base64, inside the page or as scripts in a folder beside it.

1. A piece inside the page is a data block that no browser runs, read by its id.
2. A piece beside the page is a script, since a page opened from a disk may load scripts and nothing else; it hands its
   text to the page and does nothing more. Its name carries a checksum, so that a page never reads another's piece.
3. New pieces are written before the page, old ones of the same folder removed after it: a page that is there is whole.
"""

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

from suture.pipeline.files import whole_file
from suture.report.html import Html, clean, tag

TYPE = "text/plain"
_FILE = re.compile(r"^(t\d+-[bxc]|m\d+-[xy])\d+-[0-9a-f]{12}\.js$")


def packed(value: Any) -> str:
    """Strict JSON, deflated (zlib), in base64.

    Raises:
        ValueError: a NaN or an infinity is inside (not JSON).
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(clean(text).encode("utf-8"), 9)).decode("ascii")


def unpacked(text: str) -> Any:
    """What `packed` was given.

    >>> unpacked(packed(["</script>", 1]))
    ['</script>', 1]
    """
    return json.loads(zlib.decompress(base64.b64decode(text)))


def inline(name: str, text: str) -> Html:
    """A piece inside the page.  (1)"""
    return tag("script", Html(text), type=TYPE, id=name)


class Beside:
    """The folder of pieces beside a page.  (2)"""

    def __init__(self, page: Path) -> None:
        self.folder: Path = page.with_name(f"{page.stem}-pieces")
        self.files: dict[str, str] = {}

    def write(self, name: str, text: str) -> None:
        """One piece, as a script."""
        script = f'dispatchEvent(new CustomEvent("suture-piece",{{detail:["{name}","{text}"]}}));\n'
        file = f"{name}-{hashlib.sha256(script.encode()).hexdigest()[:12]}.js"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / file).is_file():
            with whole_file(self.folder / file) as aside:
                aside.write_text(script, encoding="utf-8")
        self.files[name] = f"{self.folder.name}/{file}"

    def remove_others(self) -> None:
        """Remove the pieces of earlier pages of this name; files of other names are left alone.  (3)"""
        kept = {Path(file).name for file in self.files.values()}
        for file in self.folder.glob("*.js") if self.folder.is_dir() else ():
            if file.name not in kept and _FILE.match(file.name):
                file.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
