"""The language models that settings name, or those behind a dictionary's spaces; none is loaded twice."""

from collections.abc import Sequence
from functools import lru_cache
from typing import overload

import torch

from suture.errors import UserError
from suture.lm.load import LanguageModel, load_model
from suture.lm.settings import LoadSettings

_kept = lru_cache(maxsize=4)(load_model)
"""For many small jobs of one process."""


def load_models(
    names: Sequence[str], settings: LoadSettings, *, device: str, keep: bool = False
) -> list[LanguageModel]:
    """One per name; the same one where a name and its revision come again, with `keep` also in later calls.

    Raises:
        UserError: a model that cannot be had, or not as many revisions as names.
    """
    known: dict[tuple[str, str | None], LanguageModel] = {}
    keys = list(zip(names, settings.revisions(len(names)), strict=True))
    for name, revision in keys:
        if (name, revision) not in known:
            known[name, revision] = (_kept if keep else load_model)(
                name,
                revision=revision,
                device=device,
                dtype=settings.lm_dtype,
                offline=settings.offline,
                trust_remote_code=settings.trust_remote_code,
            )
    return [known[key] for key in keys]


@overload
def as_models(given: Sequence[LanguageModel | str]) -> tuple[LanguageModel, ...]: ...
@overload
def as_models(given: Sequence[LanguageModel | str | None]) -> tuple[LanguageModel | None, ...]: ...
def as_models(given: Sequence[LanguageModel | str | None]) -> tuple[LanguageModel | None, ...]:
    """Models that are given, or named as `load_model` takes them; a name that comes again is loaded once.

    Raises:
        UserError: a model that cannot be had.
    """
    loaded = {name: load_model(name) for name in dict.fromkeys(lm for lm in given if isinstance(lm, str))}
    return tuple(loaded[lm] if isinstance(lm, str) else lm for lm in given)


def check_weights(lms: Sequence[LanguageModel], fingerprints: Sequence[str]) -> None:
    """Refuse a model that has other weights than those an earlier stage saw; an empty fingerprint knows nothing.

    Raises:
        UserError: naming the model.
    """
    for lm, fingerprint in zip(lms, fingerprints, strict=True):
        if fingerprint and lm.fingerprint != fingerprint:
            problem = "has other weights than the model of this name that the activations came from"
            raise UserError("model", lm.name, problem, "put the same model there, or give its --revision")


def accelerator(device: str) -> str:
    """A device where `auto` means a GPU, if there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
