"""A stage's result on disk: a folder with a manifest, believed only where its files are what was written.

1. `create` writes the folder as NAME.partial (`folder`); every file but the log beside it (`log`) is checksummed, and
   `manifest.json` written last.
2. `open_artifact` believes a folder only if its manifest is there, of a format version that is read, of the stage asked
   for, every file it lists has the size it lists, and those beside the manifest have its checksums. Files in folders
   below, a store's shards, are checked when they are first used (`checked`), or all of them by `verify`.
3. `is_made` is the one answer to "is this done, with these settings and these inputs?". Settings are compared by name
   and value, inputs by the checksums of their manifests; a path says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from suture.errors import ArtifactError, UserError
from suture.pipeline.files import (
    TEMPORARY,
    as_json,
    bytes_in,
    check_room,
    free_bytes,
    read_json,
    remembered_sha256_of,
    sha256_of,
    share,
    whole_file,
    write_json,
)
from suture.pipeline.folder import MARK, begun, partial_path, settle, writing
from suture.pipeline.lock import LOCK
from suture.pipeline.log import LOG, keeping

__all__ = [
    "MANIFEST",
    "UNFINISHED",
    "Difference",
    "Draft",
    "FileEntry",
    "Manifest",
    "Opened",
    "Parent",
    "as_json",
    "begun_settings",
    "bytes_in",
    "check_room",
    "checked",
    "create",
    "differences",
    "folder_of",
    "free_bytes",
    "is_made",
    "is_made_from",
    "need_parent",
    "open_artifact",
    "package_version",
    "parent",
    "partial_path",
    "read_json",
    "sha256_of",
    "verify",
    "whole_file",
    "write_json",
    "writing",
]  # fmt: skip

FORMAT_VERSION = 2
"""Raised whenever a reader must tell folders written before apart; version 1 is read, any other is refused."""

MANIFEST = "manifest.json"
UNFINISHED = (MARK, LOCK, LOG)
"""What an unfinished folder holds besides what the stage writes; the log stays, but is no part of the result."""

HOW = ("device", "offline", "store", "track")
"""Settings that say how or from where something is made: results that differ in nothing else are the same. A store is
an input, and known by its checksum."""

CHOSEN = "auto"
"""What a setting says that leaves the choice to the machine: whatever was chosen, it is the same setting."""


@runtime_checkable
class Opened(Protocol):
    """A result in memory that knows its folder."""

    @property
    def path(self) -> Path | None:
        """None where it was never saved."""
        ...


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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting, or an input, that is not what it was."""

    name: tuple[str, ...]
    """The way to it: `("design", "n_features")`."""
    now: Any
    before: Any


@dataclass
class Draft:
    """A folder being written. `settings` and `scratch` may still grow until the block ends."""

    folder: Path
    """NAME.partial, where the stage writes."""
    stage: str
    settings: dict[str, Any]
    seed: int | None = None
    parents: tuple[Parent, ...] = ()
    command: str | None = None
    scratch: list[str] = field(default_factory=list)
    """Names in the folder that only a resumed run needs: they are no part of the result, and removed at the end."""


def package_version() -> str:
    """The installed version of suture."""
    try:
        return version("suture")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def create(
    path: str | Path,
    *,
    stage: str,
    settings: Mapping[str, Any],
    seed: int | None = None,
    parents: Sequence[Path] = (),
    resume: bool = False,
    resumable: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    leads: bool = True,
    names: Mapping[tuple[str, ...], str] | None = None,
) -> Iterator[Draft]:
    """Write an artifact: yields a `Draft`; the folder appears under `path` only when the block ends without error.

    Args:
        path: the folder.
        stage: what is made.
        settings: everything that decides the result; plain values.
        seed: its seed.
        parents: the artifacts that it is made from.
        resume: continue an unfinished folder of the same settings and parents; otherwise it starts empty.
        resumable: keep the unfinished folder when the block fails, as `resume` does; otherwise it is removed.
        overwrite: replace a finished folder, at the very end.
        command: the shell command that does the same.
        leads: of several processes that make one artifact together, one leads and does all of this; the others only
            learn the folder.
        names: what settings are called in a message, by the way to them.

    Raises:
        InUseError: another process is writing it.
        ArtifactError: `path` is finished already and `overwrite` is off; it is something else than an artifact of this
            stage; it cannot be replaced, being a link or a mount point.
        UserError: the unfinished folder to be resumed has other settings or inputs.
    """
    path = Path(path)
    partial = partial_path(path)
    if not leads:
        yield Draft(partial, stage, dict(settings), seed)
        return
    made_from = tuple(parent(p) for p in parents)
    wanted = as_json(dict(settings))
    mark = {"stage": stage, "settings": wanted, "parents": [asdict(p) for p in made_from]}

    def may_take() -> None:
        _refuse_taken(path, stage, wanted, made_from, overwrite=overwrite, names=names or {})

    started = time.monotonic()
    with writing(path, mark, may_take=may_take, resume=resume, resumable=resumable) as folder:
        if folder.begun is not None:
            _refuse_other(folder.begun, wanted, made_from, names or {})
        draft = Draft(folder.folder, stage, dict(settings), seed, made_from, command, folder.scratch)
        what, inputs = f"{stage} {path.name}", [own.path for own in made_from]
        with keeping(draft.folder, what, command=command, inputs=inputs, goes_on=folder.begun is not None):
            yield draft
            _write_manifest(draft, time.monotonic() - started)


def open_artifact(path: str | Path, *, stage: str | None = None, setting: str = "path") -> Manifest:
    """Read and check the manifest of a finished folder, and the files beside it.

    Raises:
        ArtifactError: missing, unfinished, of another stage or format version, or a file is absent, truncated or
            damaged.
    """
    path = Path(path)
    if not path.exists() and path.name:
        settle(path)
    if not path.exists():
        if path.name and partial_path(path).exists():
            raise ArtifactError(setting, path, "is unfinished", "run the stage that makes it again, with --resume")
        raise ArtifactError(setting, path, "does not exist", "check the path, or run the stage that makes it first")
    if not (path / MANIFEST).is_file():
        raise ArtifactError(setting, path, "has no manifest.json", "name a folder that a suture stage finished")
    manifest = _read_manifest(path, setting)
    if stage is not None and manifest.stage != stage:
        raise ArtifactError(setting, path, f"is {_a(manifest.stage)}, not {_a(stage)}", f"name {_a(stage)}'s folder")
    for entry in manifest.files:
        _check_size(path, entry, setting)
        if "/" not in entry.name and remembered_sha256_of(path / entry.name) != entry.sha256:
            raise _damaged(path, entry, setting)
    return manifest


def folder_of(result: Opened | str | Path, *, setting: str) -> Path:
    """The folder of a result that is given by its folder or opened.

    A stage's inputs are named in its manifest by their checksums, so it reads what lies on disk.

    Raises:
        UserError: it lies in no folder.
    """
    if isinstance(result, str | Path):
        return Path(result)
    if result.path is None:
        raise UserError(setting, result, "lies in no folder", "save it, and give its folder or what is loaded from it")
    return result.path


def checked(path: Path, entry: FileEntry, *, setting: str = "path") -> Path:
    """A file of an artifact, which this process reads only if it holds what was written.

    Raises:
        ArtifactError: it is absent, truncated or damaged.
    """
    _check_size(path, entry, setting)
    if remembered_sha256_of(path / entry.name) != entry.sha256:
        raise _damaged(path, entry, setting)
    return path / entry.name


def verify(path: str | Path, *, setting: str = "path") -> Manifest:
    """`open_artifact`, and every file's checksum too, whatever was read before.

    Raises:
        ArtifactError: as `open_artifact`, or a file's content is not what was written.
    """
    manifest = open_artifact(path, setting=setting)
    for entry in manifest.files:
        if sha256_of(Path(path) / entry.name) != entry.sha256:
            raise _damaged(Path(path), entry, setting)
    return manifest


def is_made(path: str | Path, *, stage: str, settings: Mapping[str, Any], parents: Sequence[str | Path] = ()) -> bool:
    """Whether `path` is finished and undamaged, made by this stage with these settings from these very inputs."""
    path = Path(path)
    settle(path)
    if not (path / MANIFEST).is_file():
        return False
    try:
        found = open_artifact(path, stage=stage)
        made_from = tuple(parent(Path(p)) for p in parents)
    except ArtifactError:
        return False
    return not differences(as_json(dict(settings)), found.settings) and _same(made_from, found.parents)


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[Difference]:
    """The settings wanted that were not found so. What was recorded beside them, such as counts, does not matter.

    >>> differences({"design": {"k": 16}, "device": "cuda"}, {"design": {"k": 32}, "device": "cpu", "n_rows": 900})
    [Difference(name=('design', 'k'), now=16, before=32)]
    """
    return list(_differences({k: v for k, v in wanted.items() if k not in HOW}, found, ()))


def begun_settings(path: str | Path) -> dict[str, Any]:
    """The settings of the unfinished folder that a resumed run would go on with; empty where there is none."""
    settle(Path(path))
    return dict(begun(Path(path)).get("settings", {}))


def is_made_from(manifest: Manifest, path: str | Path) -> bool:
    """Whether the artifact that is now at `path` is one of those that `manifest`'s was made from."""
    file = Path(path) / MANIFEST
    return file.is_file() and sha256_of(file) in {p.manifest_sha256 for p in manifest.parents}


def need_parent(child: str | Path, path: str | Path, *, setting: str, fix: str) -> None:
    """Refuse an artifact that was made from another one of `path`'s stage; one that names no such parent is taken.

    Raises:
        ArtifactError: naming `setting`, whose value `child` is.
    """
    manifest, stage = open_artifact(child, setting=setting), open_artifact(path).stage
    if is_made_from(manifest, path) or not manifest.parents:
        return
    problem = f"was made from {_another(stage)} than {path}"
    raise ArtifactError(setting, child, problem, fix)


def parent(path: Path) -> Parent:
    """The reference to a finished artifact that a child's manifest carries."""
    open_artifact(path)
    return Parent(path=str(path), manifest_sha256=sha256_of(path / MANIFEST))


def _differences(wanted: Any, found: Any, name: tuple[str, ...]) -> Iterator[Difference]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            yield from _differences(value, found.get(key), (*name, key))
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            if isinstance(one, Mapping):
                yield from _differences(one, other, (*name, str(number)))
            elif one != other:
                yield Difference(name=name, now=wanted, before=found)
                return
    elif wanted not in (found, CHOSEN):
        yield Difference(name=name, now=wanted, before=found)


def _same(one: Sequence[Parent], other: Sequence[Parent]) -> bool:
    return [p.manifest_sha256 for p in one] == [p.manifest_sha256 for p in other]


def _refuse_taken(
    path: Path,
    stage: str,
    settings: Mapping[str, Any],
    parents: Sequence[Parent],
    *,
    overwrite: bool,
    names: Mapping[tuple[str, ...], str],
) -> None:
    finished = (path / MANIFEST).exists()
    if path.exists() and not finished and (path.is_file() or any(path.iterdir())):
        raise ArtifactError("out", path, "exists and was not made by suture", "name another folder")
    if finished:
        found = _read_manifest(path, "out")
        if found.stage != stage and overwrite:
            # A slip of the keyboard, such as the store's name given twice, must not cost the store.
            problem = f"is {_a(found.stage)}, which {_a(stage)} does not replace"
            raise ArtifactError("out", path, problem, "name another folder")
        if not overwrite:
            other = _other(differences(settings, found.settings), names) if found.stage == stage else ""
            if not other and not _same(parents, found.parents) and found.stage == stage:
                other = ", from other inputs"
            raise ArtifactError("out", path, f"is finished already{other}", "name another folder, or pass --overwrite")
    for above in path.absolute().parents:
        if (above / MANIFEST).is_file():
            problem = f"lies inside {above}, which is finished and would take it along when it is replaced"
            raise ArtifactError("out", path, problem, "name a folder outside of it")


def _other(changed: Sequence[Difference], names: Mapping[tuple[str, ...], str]) -> str:
    """What was otherwise, for a message."""
    if not changed:
        return ""
    return ", with " + ", ".join(f"{_called(c, names)} {c.before!r}" for c in changed[:3])


def _refuse_other(
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    parents: Sequence[Parent],
    names: Mapping[tuple[str, ...], str],
) -> None:
    """An unfinished run is gone on with by the same settings and from the same inputs only."""
    changed = differences(settings, before["settings"])
    if changed:
        first, *more = changed
        others = "".join(f", {_called(c, names)} was {c.before!r}" for c in more[:3])
        problem = f"was {first.before!r} in the unfinished run{others}"
        raise UserError(_called(first, names), first.now, problem, "use its settings, or start without --resume")
    recorded = [Parent(**p) for p in before["parents"]]
    if not _same(parents, recorded):
        known = {p.manifest_sha256 for p in recorded}
        other = next((p.path for p in parents if p.manifest_sha256 not in known), "the inputs")
        problem = "is not what the unfinished run was made from: it was made again, or is another"
        raise ArtifactError("resume", other, problem, "bring that one back, or start without --resume")


def _called(change: Difference, names: Mapping[tuple[str, ...], str]) -> str:
    """As the user knows the setting."""
    return names.get(change.name, ".".join(change.name)).replace("_", "-")


def _a(stage: str) -> str:
    """What a stage makes, in words."""
    return {"features": "a feature table", "effect": "an effect"}.get(stage, f"a {stage}")


def _another(stage: str) -> str:
    return f"another {_a(stage).partition(' ')[2]}"


def _check_size(path: Path, entry: FileEntry, setting: str) -> None:
    file = path / entry.name
    if not file.is_file():
        raise ArtifactError(setting, path, f"lacks its file {entry.name}", "make it again")
    if file.stat().st_size != entry.n_bytes:
        problem = f"file {entry.name} has {file.stat().st_size} bytes, not {entry.n_bytes}: truncated or changed"
        raise ArtifactError(setting, path, problem, "make it again")


def _damaged(path: Path, entry: FileEntry, setting: str) -> ArtifactError:
    return ArtifactError(setting, path, f"file {entry.name} is damaged (checksum differs)", "make it again")


def _write_manifest(draft: Draft, seconds: float) -> None:
    results = [f for f in sorted(draft.folder.rglob("*")) if f.is_file() and _is_result(f, draft)]
    files = [
        FileEntry(name=f.relative_to(draft.folder).as_posix(), n_bytes=f.stat().st_size, sha256=sha256_of(f))
        for f in results
    ]
    for file in results:
        share(file)
    manifest = Manifest(
        stage=draft.stage,
        settings=draft.settings,
        seed=draft.seed,
        parents=draft.parents,
        files=tuple(files),
        seconds=round(seconds, 3),
        suture=package_version(),
        command=draft.command,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    write_json(draft.folder / MANIFEST, asdict(manifest))


def _is_result(file: Path, draft: Draft) -> bool:
    """Whether a file will be there when the folder is finished, and is more than the log of how it was made."""
    top, *_ = file.relative_to(draft.folder).parts
    return top not in (MANIFEST, *UNFINISHED, *draft.scratch) and file.suffix != TEMPORARY


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
