"""A stage's result on disk: a folder written to NAME.partial, its manifest last, then renamed once.

1. `create` opens `NAME.partial`; a stage writes its files there.
2. On success every file is checksummed, `manifest.json` is written last and the folder is renamed to NAME.
3. `open_artifact` believes a folder only if its manifest is there, of this format version, of the stage asked for, and
   every file it lists has the size it lists.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from suture.errors import ArtifactError

FORMAT_VERSION = 2
"""Raised whenever a reader must tell folders written before apart; version 1 is read, any other is refused."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact."""

    name: str
    """Path inside the folder, with forward slashes."""
    n_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Parent:
    """An artifact that this one was made from."""

    path: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished folder is, how it was made and from what."""

    stage: str
    """The stage that wrote it: `store`, `dictionary`, `features`, ..."""
    settings: dict[str, Any]
    """Everything that decided the result, as plain JSON values."""
    seed: int | None = None
    parents: tuple[Parent, ...] = ()
    files: tuple[FileEntry, ...] = ()
    seconds: float = 0.0
    """Wall time of the stage."""
    suture: str = ""
    """The version of suture that wrote it."""
    format: int = FORMAT_VERSION
    command: str | None = None
    """The shell command that reproduces it, where a command line was given."""
    created: str = ""
    """When it was finished, UTC, ISO 8601."""


@dataclass
class Draft:
    """A folder being written. `parents` and `settings` may still grow until the block ends."""

    folder: Path
    """NAME.partial, where the stage writes."""
    stage: str
    settings: dict[str, Any]
    seed: int | None = None
    parents: list[Parent] = field(default_factory=list)
    command: str | None = None


def package_version() -> str:
    """The installed version of suture."""
    try:
        return version("suture")
    except PackageNotFoundError:
        return "unknown"


def partial_path(path: Path) -> Path:
    """Where the folder `path` is written until it is finished."""
    if path.name in ("", ".."):
        raise ArtifactError("out", path, "does not name a new folder", "give the folder a name of its own")
    return path.with_name(path.name + ".partial")


@contextmanager
def create(
    path: str | Path,
    *,
    stage: str,
    settings: Mapping[str, Any],
    seed: int | None = None,
    parents: tuple[Path, ...] = (),
    resume: bool = False,
    resumable: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    leads: bool = True,
) -> Iterator[Draft]:
    """Write an artifact: yields a `Draft`; the folder appears under `path` only when the block ends without error.

    With `resume` an unfinished folder is continued, otherwise it starts empty. When the block fails, the unfinished
    folder is kept if it is `resumable` (or being resumed), otherwise removed. With `overwrite` a finished folder is
    replaced at the very end. Of several processes that make one artifact together, the one that `leads` does all of
    this; the others only learn the folder.

    Raises:
        ArtifactError: `path` is finished already and `overwrite` is off, or it is something else than an artifact of
            this stage.
    """
    path = Path(path)
    partial = partial_path(path)
    if not leads:
        yield Draft(partial, stage, dict(settings), seed)
        return
    if path.exists():
        if not (path / MANIFEST).exists() and (path.is_file() or any(path.iterdir())):
            raise ArtifactError("out", path, "exists and was not made by suture", "name another folder")
        if not overwrite and (path / MANIFEST).exists():
            raise ArtifactError("out", path, "is finished already", "name another folder, or pass --overwrite")
        if (path / MANIFEST).exists() and (made_by := _read_manifest(path, "out").stage) != stage:
            # A slip of the keyboard, such as the store's name given twice, must not cost the store.
            problem = f"is {_a(made_by)}, which {_a(stage)} does not replace"
            raise ArtifactError("out", path, problem, "name another folder")
    for above in path.absolute().parents:
        if (above / MANIFEST).is_file():
            problem = f"lies inside {above}, which is finished and would take it along when it is replaced"
            raise ArtifactError("out", path, problem, "name a folder outside of it")
    if partial.exists() and not resume:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    draft = Draft(partial, stage, dict(settings), seed, [parent(p) for p in parents], command)
    started = time.monotonic()
    try:
        yield draft
    except BaseException:
        if not (resume or resumable):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    _write_manifest(draft, time.monotonic() - started)
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial, path)


def open_artifact(path: str | Path, *, stage: str | None = None, setting: str = "path") -> Manifest:
    """Read and check the manifest of a finished folder (sizes, not checksums: those take a read of everything).

    Raises:
        ArtifactError: missing, unfinished, of another stage or format version, or a file is absent or truncated.
    """
    path = Path(path)
    if not path.exists():
        if partial_path(path).exists():
            raise ArtifactError(setting, path, "is unfinished", "run the stage that makes it again, with --resume")
        raise ArtifactError(setting, path, "does not exist", "check the path, or run the stage that makes it first")
    if not (path / MANIFEST).is_file():
        raise ArtifactError(setting, path, "has no manifest.json", "name a folder that a suture stage finished")
    manifest = _read_manifest(path, setting)
    if stage is not None and manifest.stage != stage:
        raise ArtifactError(setting, path, f"is {_a(manifest.stage)}, not {_a(stage)}", f"name {_a(stage)}'s folder")
    for entry in manifest.files:
        file = path / entry.name
        if not file.is_file():
            raise ArtifactError(setting, path, f"lacks its file {entry.name}", "make it again")
        if file.stat().st_size != entry.n_bytes:
            problem = f"file {entry.name} has {file.stat().st_size} bytes, not {entry.n_bytes}: truncated or changed"
            raise ArtifactError(setting, path, problem, "make it again")
    return manifest


def verify(path: str | Path, *, setting: str = "path") -> Manifest:
    """`open_artifact`, and every file's checksum too.

    Raises:
        ArtifactError: as `open_artifact`, or a file's content is not what was written.
    """
    manifest = open_artifact(path, setting=setting)
    for entry in manifest.files:
        if sha256_of(Path(path) / entry.name) != entry.sha256:
            raise ArtifactError(setting, path, f"file {entry.name} is damaged (checksum differs)", "make it again")
    return manifest


def parent(path: Path) -> Parent:
    """The reference to a finished artifact that a child's manifest carries."""
    open_artifact(path)
    return Parent(path=str(path), manifest_sha256=sha256_of(path / MANIFEST))


def sha256_of(file: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(file: Path, value: object) -> None:
    """Write `value` as JSON, all at once: a reader sees the old file or the new one, never half of one."""
    aside = file.with_name(file.name + ".tmp")
    with aside.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, file)


def read_json(file: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def as_json(value: Any) -> Any:
    """A value as it will be read back from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value, allow_nan=False))


def _a(stage: str) -> str:
    """What a stage makes, in words."""
    return {"features": "a feature table", "effect": "an effect"}.get(stage, f"a {stage}")


def _write_manifest(draft: Draft, seconds: float) -> None:
    files = [
        FileEntry(name=f.relative_to(draft.folder).as_posix(), n_bytes=f.stat().st_size, sha256=sha256_of(f))
        for f in sorted(draft.folder.rglob("*"))
        if f.is_file() and f.name != MANIFEST
    ]
    manifest = Manifest(
        stage=draft.stage,
        settings=draft.settings,
        seed=draft.seed,
        parents=tuple(draft.parents),
        files=tuple(files),
        seconds=round(seconds, 3),
        suture=package_version(),
        command=draft.command,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    write_json(draft.folder / MANIFEST, asdict(manifest))


def _read_manifest(path: Path, setting: str) -> Manifest:
    try:
        raw = read_json(path / MANIFEST)
    except ValueError as error:
        raise ArtifactError(setting, path, f"manifest.json is not JSON ({error})", "make it again") from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found == 1:
        raw["stage"] = raw.pop("step", None)
    elif found != FORMAT_VERSION:
        problem = f"was written in format version {found}, this suture reads version {FORMAT_VERSION}"
        raise ArtifactError(setting, path, problem, "make it again, or use the suture that wrote it")
    try:
        raw["files"] = tuple(FileEntry(**f) for f in raw["files"])
        raw["parents"] = tuple(Parent(**p) for p in raw["parents"])
        return Manifest(**raw)
    except (KeyError, TypeError) as error:
        raise ArtifactError(setting, path, f"manifest.json is not ours ({error})", "make it again") from None
