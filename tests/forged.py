"""Change a file of an artifact and make the manifest agree, so that only the reader's own checks can see it."""

import hashlib
import json
from pathlib import Path


def forge(artifact: Path, name: str, content: bytes | None) -> None:
    """Give the file this content; None removes it."""
    if content is None:
        (artifact / name).unlink()
    else:
        (artifact / name).write_bytes(content)
    file = artifact / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    kept = [f for f in manifest["files"] if f["name"] != name or content is not None]
    for entry in kept:
        if entry["name"] == name:
            entry |= {"n_bytes": len(content or b""), "sha256": hashlib.sha256(content or b"").hexdigest()}
    file.write_text(json.dumps(manifest | {"files": kept}), encoding="utf-8")
