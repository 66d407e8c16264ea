"""Where a foreign dictionary comes from: a file, a folder, or a hub repository of which one dictionary is fetched.

1. The names of all files, of a folder or as the hub lists them; none is opened.
2. The one dictionary among them that is meant (`found`): where there are several, `--file` says which.
3. Of a hub repository its files alone are fetched, after a look at the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from suture.errors import UserError
from suture.formats.found import SINGLE, Candidate, Found, candidates, chosen
from suture.formats.settings import ImportSettings
from suture.formats.tensors import Config
from suture.lm import hub

SMALL = ("config", "run", "trainer")
"""What is fetched first."""
MOST_FILES = 100_000
"""A folder of more is not one of dictionaries."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was found, and of which state of a hub repository."""

    found: Found
    revision: str | None
    """The commit; None of what lies here."""


def find(source: str | Path, settings: ImportSettings) -> Source:
    """The dictionary that is meant, its files on this machine.

    Raises:
        UserError: there is none, there are several, or the hub does not give it.
    """
    path, name = Path(source).expanduser(), str(source)
    if path.is_file():
        return Source(found=_of_file(path, settings), revision=None)
    if path.is_dir() and name:
        one = chosen(candidates(_names(path)), settings.file, name)
        files = {role: path / file for role, file in one.files.items()}
        if "config" in files:
            _refuse_language_model(files["config"], name)
        # a run's own config.json lies above the folder of one hookpoint
        above = path.resolve().parent / "config.json"
        if one.format == "sparsify" and not one.folder and above.is_file():
            files["run"] = above
        return Source(found=_found(one, name, files, settings), revision=None)
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name:
        raise UserError(
            "source", name, "is no folder, no file and no hub name", "give one, e.g. google/gemma-scope-2-1b-pt"
        )
    listing = hub.listing(name, revision=settings.revision, offline=settings.offline)
    one = chosen(candidates(listing.n_bytes), settings.file, name)
    first = [file for role, file in one.files.items() if role in SMALL]
    if first:
        folder = hub.fetch(listing, first)
        _refuse_language_model(folder / first[0], name)
    folder = hub.fetch(listing, list(one.files.values()))
    files = {role: folder / file for role, file in one.files.items()}
    return Source(found=_found(one, name, files, settings), revision=listing.commit)


def _refuse_language_model(file: Path, source: str) -> None:
    """A language model has files of the same names as a crosscoder, and more to fetch.

    Raises:
        UserError: the configuration is a language model's.
    """
    if "architectures" in Config.load(file).values:
        raise UserError("source", source, "is a language model, not a dictionary", "name a dictionary's repository")


def _found(one: Candidate, source: str, files: dict[str, Path], settings: ImportSettings) -> Found:
    return Found(format=_format(one.format, settings), source=source, folder=one.folder, files=files)


def _of_file(path: Path, settings: ImportSettings) -> Found:
    """A file by itself, or the folder that it belongs to."""
    if path.suffix not in (*SINGLE, ".npz"):
        raise UserError("source", path, f"is no {', '.join(SINGLE)} or .npz file", "give a dictionary's folder or file")
    known = [one for one in candidates(_names(path.parent)) if path.name in one.files.values()]
    one = known[0] if known else Candidate(format="single", folder="", files={"weights": path.name})
    files = {role: path.parent / file for role, file in one.files.items()}
    made = _found(replace(one, folder=""), str(path.parent), files, settings)
    return replace(made, source=str(path)) if one.format == "single" else made


def _format(by_name: str, settings: ImportSettings) -> str:
    """The format that is read: as the user says, where names alone leave it open."""
    wanted = settings.format
    if wanted is None:
        return by_name
    family = {"dl-crosscoder": "dictionary-learning"}.get(by_name, by_name)
    if wanted == family:
        return by_name
    if by_name == "single" or wanted in ("goodfire", "openai"):
        return wanted
    raise UserError("format", wanted, f"has other files than these, which are {family}'s", "leave --format out")


def _names(folder: Path) -> list[str]:
    """Files below a folder, as paths in it."""
    found: list[str] = []
    for place, _, files in os.walk(folder):
        found += [(Path(place) / file).relative_to(folder).as_posix() for file in files]
        if len(found) > MOST_FILES:
            raise UserError("source", folder, f"holds more than {MOST_FILES:,} files", "name a folder inside it")
    return found
