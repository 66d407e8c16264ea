"""Which language models a command runs on: those it names, or those behind a dictionary's spaces."""

from collections.abc import Sequence

import torch

from suture.activations.space import Space
from suture.errors import UserError
from suture.lm.load import LanguageModel, load_model


def load_models(
    names: list[str], revisions: list[str] | None, *, device: str, dtype: str, offline: bool, trust: bool
) -> list[LanguageModel]:
    """Every model named, none twice."""
    wanted: list[str | None] = [*one_each("revision", revisions, len(names))] if revisions else [None] * len(names)
    keys = list(zip(names, wanted, strict=True))
    known: dict[tuple[str, str | None], LanguageModel] = {}
    for name, revision in keys:
        if (name, revision) not in known:
            known[name, revision] = load_model(
                name, revision=revision, device=device, dtype=dtype, offline=offline, trust_remote_code=trust
            )
    return [known[key] for key in keys]


def one_each(setting: str, values: list[str], n: int) -> list[str]:
    """As many values as models; a single one serves all."""
    if len(values) == 1:
        return values * n
    if len(values) != n:
        raise UserError(
            setting, ", ".join(values), f"has {len(values)} values for {n} models", "give one per --model, in order"
        )
    return values


def models_of(
    spaces: Sequence[Space], revisions: list[str] | None, *, device: str, offline: bool, trust: bool
) -> list[LanguageModel]:
    """The models behind a dictionary's spaces, which must be the very ones it was trained on."""
    names = [space.model for space in spaces]
    lms = load_models(names, revisions, device=device, dtype="auto", offline=offline, trust=trust)
    for lm, space in zip(lms, spaces, strict=True):
        if space.fingerprint and lm.fingerprint != space.fingerprint:
            problem = "has other weights than the model of this name that the activations came from"
            raise UserError("model", lm.name, problem, "put the same model there, or give its --revision")
    return lms


def accelerator() -> str:
    """What `--device auto` means for training: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
