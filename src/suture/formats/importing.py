"""The stage `import`: a dictionary out of another library's files, as a dictionary like any other.

1. Its files are found, fetched where they lie on a hub, read and checked (`source`, and a reader for each format).
2. Its spaces get names: the model and hookpoint that the file names, or that the user does. What neither says is asked.
3. Where a store is given, it must have these spaces; its scales are taken, which changes no code, and the dictionary is
   evaluated on its rows: a wrong hookpoint or a forgotten scale shows at once, as more error than doing nothing.
4. Where it came from is recorded: library, version, files with checksums, normalisation, places as the file has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from suture.activations.space import Space
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import STAGE, Dictionary
from suture.dictionary.refit import write_evaluated
from suture.dictionary.rows import matching_view
from suture.errors import UserError
from suture.formats import (
    crosscoders,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    qwen_scope,
    saelens,
    single,
    sparsify,
)
from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.settings import ImportSettings
from suture.formats.source import find
from suture.pipeline import artifact

READERS: Mapping[str, Callable[[Found, Sequence[float]], Foreign]] = {
    "saelens": saelens.read,
    "sparsify": sparsify.read,
    "dictionary-learning": dictionary_learning.read,
    "dl-crosscoder": crosscoders.read,
    "kissane": crosscoders.read_kissane,
    "gemma-scope-2": gemma_scope.read,
    "gemma-scope": gemma_scope.read_first,
    "llama-scope": llama_scope.read,
    "llamascopium": llama_scope.refuse_successor,
    "qwen-scope": qwen_scope.read,
    "goodfire": single.read_goodfire,
    "openai": single.read_openai,
    "single": single.read,
}


def import_dictionary(
    out: str | Path,
    source: str | Path,
    settings: ImportSettings | None = None,
    *,
    store: Store | str | Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Dictionary:
    """Read a dictionary that another library wrote, and write it to `out` as a suture dictionary.

    Args:
        out: the folder to be made.
        source: a folder, a file, or a repository of the Hugging Face hub, of which one dictionary is fetched.
        settings: which one, and what its file does not say.
        store: activations of its spaces: their scales are taken, and the dictionary is evaluated on them.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: there is no such dictionary, it is damaged, suture cannot hold it, or something must be said.
        ArtifactError: `out` is taken.
    """
    settings = settings or ImportSettings()
    opened = None if store is None else as_store(store)
    where = find(source, settings)  # 1
    foreign = READERS[where.found.format](where.found, settings.scale)
    if foreign.k is not None and not 1 <= foreign.k <= len(foreign.bias):
        problem = f"says k = {foreign.k} of {len(foreign.bias)} features"
        raise UserError("source", where.found.whole_path, problem, "fetch it again")
    dictionary = foreign.dictionary(named(foreign.places, settings))  # 2
    view = None
    if opened is not None:  # 3
        dictionary, view = measured(dictionary, opened)
    room = sum(tensor.nbytes for tensor in dictionary.state_dict().values())
    artifact.check_room(Path(out), room, "make room")
    recorded: dict[str, Any] = {"imported": provenance(foreign, where.found, where.revision)}  # 4
    recorded |= {"given": asdict(settings), "design": asdict(dictionary.design)}
    recorded |= {"evaluated_on": None if opened is None else str(opened.path)}
    with artifact.create(out, stage=STAGE, settings=recorded, overwrite=overwrite, command=command) as draft:
        if view is None:
            dictionary.write(draft.folder)
        else:
            write_evaluated(draft.folder, dictionary, view, torch.arange(len(view)), heldout=True)
    return Dictionary.load(out)


def named(places: Sequence[Place], settings: ImportSettings) -> tuple[Space, ...]:
    """Spaces for what a file reads and writes.

    Raises:
        UserError: a model or hookpoint that neither the file nor the user names.
    """
    n = len(places)
    models = _one_each("model", settings.model, n, [place.model for place in places])
    hookpoints = _one_each("at", settings.at, n, [place.hookpoint for place in places])
    named = ", ".join(str(place.named) for place in places)
    if any(model is None for model in models):
        problem = f"is not said by the file ({n} space{'s' * (n > 1)})"
        raise UserError("model", None, problem, "name it with --model, as suture collect knows it; once per space")
    if any(hookpoint is None for hookpoint in hookpoints):
        said = "the file does not say it" if all(p.named is None for p in places) else f"the file says {named}"
        fix = "name it with --at, as suture collect knows it (resid3.post, or a module's path); once per space"
        raise UserError("at", None, f"{said}, which is no place that suture knows", fix)
    spaces = zip(models, hookpoints, places, strict=True)
    made = tuple(Space(model=str(m), hookpoint=str(h), width=p.width, scale=p.scale) for m, h, p in spaces)
    if len({(space.model, space.hookpoint) for space in made}) < n:
        problem = f"name {made[0].label} for more than one space"
        raise UserError("at" if len(set(models)) == 1 else "model", list(models), problem, "name one per space")
    return made


def _one_each(setting: str, given: Sequence[str], n: int, found: Sequence[str | None]) -> Sequence[str | None]:
    if not given:
        return found
    if len(given) not in (1, n):
        raise UserError(setting, ", ".join(given), f"has {len(given)} values for {n} spaces", "give one per space")
    return list(given) * (n if len(given) == 1 else 1)


def measured(dictionary: Dictionary, store: Store) -> tuple[Dictionary, Store]:
    """The dictionary in a store's units, and the store's spaces in its order.

    Raises:
        UserError: the store has not its spaces.
    """
    labels = ", ".join(space.label for space in store.spaces)
    for space in dictionary.spaces:
        if not any(own.stands_for(space) for own in store.spaces):
            fix = "name a store of that place, or say with --model and --at which of these is meant"
            raise UserError("store", store.path, f"has no {space.label}, only {labels}", fix)
    view = matching_view(dictionary, store)
    made = dictionary.with_scales([space.scale for space in view.spaces])
    known = zip(made.spaces, view.spaces, strict=True)
    made.spaces = tuple(replace(s, fingerprint=own.fingerprint, revision=own.revision) for s, own in known)
    return made.requires_grad_(requires_grad=False), view


def provenance(foreign: Foreign, found: Found, revision: str | None) -> dict[str, Any]:
    """Where a dictionary came from, for its manifest (4)."""
    files = {
        role: {"name": file.name, "n_bytes": file.stat().st_size, "sha256": artifact.sha256_of(file)}
        for role, file in found.files.items()
    }
    return {
        "library": foreign.library,
        "version": foreign.version,
        "architecture": foreign.architecture,
        "source": found.source,
        "folder": found.folder,
        "revision": revision,
        "files": files,
        "normalization": foreign.normalization,
        "scales": [place.scale for place in foreign.places],
        "subtracts_before_encoding": foreign.subtracted is not None,
        "places": [
            {"model": place.model, "named": place.named, "side": _side(place.named)} for place in foreign.places
        ],
        **({"notes": dict(foreign.notes)} if foreign.notes else {}),
    }


def _side(named: str | None) -> str | None:
    """Whether a place is what goes into a module or what comes out of it."""
    if named is None:
        return None
    return "input" if named.endswith((".input", "_pre", ".hook_z", "_in")) else "output"
