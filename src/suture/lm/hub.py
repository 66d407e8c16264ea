"""Find out with one question whether the Hugging Face hub can be reached; list a repository, fetch some of its files.

huggingface_hub asks again for half a minute, and tells so on stderr, where a machine has no network at all; one request
shows the same at once. Only a failure to connect counts: any answer, even a refusal, is left to huggingface_hub, and
so is a machine with a proxy, whose settings it knows better.
"""

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from suture.errors import UserError
from suture.pipeline.artifact import check_room

CLIENT_ERROR: type[Exception] = next(
    kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError" and issubclass(kind, Exception)
)
"""What the HTTP library under huggingface_hub raises, a broken connection too; which library that is changes."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a hub repository, by their names."""

    name: str
    commit: str | None
    """None of what the local cache holds without saying."""
    n_bytes: Mapping[str, int]
    cached: Path | None
    """The snapshot in the local cache, where that is all there is to ask."""


def listing(name: str, *, revision: str | None = None, offline: bool = False) -> Listing:
    """What a repository holds, or without a network what the cache has of it; nothing is fetched.

    Raises:
        UserError: there is no such repository, or nothing of it here.
    """
    if offline or not hub_answers():
        folder = _snapshot(name, revision)
        files = [file for file in folder.rglob("*") if file.is_file()]
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
        return Listing(name=name, commit=folder.name, n_bytes=sizes, cached=folder)
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except (HfHubHTTPError, HFValidationError, CLIENT_ERROR, OSError) as error:
        raise _refusal(name, error) from None
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    return Listing(name=name, commit=info.sha, n_bytes=sizes, cached=None)


def fetch(listing: Listing, files: Sequence[str]) -> Path:
    """These files of a repository alone, in the local cache; returns the folder that they lie in.

    Raises:
        DiskSpaceError: they would not fit.
        UserError: the hub does not give them.
    """
    if listing.cached is not None:
        return listing.cached
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    check_room(cache, sum(listing.n_bytes[file] for file in files), "make room for the hub's cache")
    try:
        return Path(
            snapshot_download(listing.name, revision=listing.commit, allow_patterns=[_literal(f) for f in files])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, CLIENT_ERROR, OSError) as error:
        raise _refusal(listing.name, error) from None


def _snapshot(name: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        problem = "is no folder and not in the local hub cache, all there is without a network"
        raise UserError("source", name, problem, "download it first (hf download NAME) or give a folder") from None


def _refusal(name: str, error: Exception) -> UserError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return UserError("source", name, f"the hub does not give it: {said}", "check the name, the revision and your login")


def _literal(file: str) -> str:
    """A name that is no pattern, as one."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in file)


def hub_answers() -> bool:
    """Whether there is a hub to ask; False too where the environment forbids it (HF_HUB_OFFLINE)."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    question = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(question, timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # huggingface_hub has its own certificates, which may know the hub where Python's do not.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:  # a connection that broke while it answered
        return False
