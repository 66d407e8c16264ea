"""The stage `export`: a dictionary as files that another library reads, for raw activations, with scales folded in.

Codes stay what they are. What a format cannot hold is refused by name. Beside the library's files lies `suture.json`:
which dictionary they were made from. Pickled files, where a library reads nothing else, hold tensors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.formats import crosscoders, dictionary_learning, saelens, sparsify
from suture.formats.plain import form_of, plain
from suture.formats.settings import ExportSettings, WrittenFormat
from suture.pipeline import artifact
from suture.pipeline.files import share

RECORD = "suture.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    """The folder that the library is to be given."""
    format: WrittenFormat
    architecture: str
    """As the library calls it."""
    files: tuple[str, ...]
    """Inside the folder named as `out`."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A library's files, to be written."""

    architecture: str
    folder: str
    """Where they lie inside `out`; empty for itself."""
    json: Mapping[str, Mapping[str, Any]]
    """By path inside `out`."""
    tensors: Mapping[str, Mapping[str, Tensor]]


def export_dictionary(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    settings: ExportSettings,
    *,
    overwrite: bool = False,
) -> Exported:
    """Write a dictionary as another library's files.

    Args:
        out: the folder to be made.
        dictionary: its folder, or itself.
        settings: which library is to read it.
        overwrite: replace `out`, if an export made it.

    Raises:
        UserError: the format cannot hold such a dictionary.
        ArtifactError: the dictionary cannot be read, or `out` is taken.
    """
    given = dictionary if isinstance(dictionary, Dictionary) else Dictionary.load(dictionary)
    assert given.grid.features.size == 1, "export what `whole()` gives"
    written = _written(given, settings.format)
    out = Path(out)
    artifact.check_room(out, sum(t.nbytes for state in written.tensors.values() for t in state.values()), "make room")
    record: dict[str, Any] = {
        "suture": artifact.package_version(),
        "format": settings.format,
        "dictionary": str(given.path),
    }
    record["places"] = [space.label for space in given.spaces]
    if given.path is not None:
        record["manifest_sha256"] = artifact.sha256_of(given.path / artifact.MANIFEST)
    with artifact.writing(out, record, may_take=lambda: _refuse_taken(out, overwrite=overwrite)) as draft:
        for name, values in written.json.items():
            (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
            artifact.write_json(draft.folder / name, values)
        for name, state in written.tensors.items():
            _save(draft.folder / name, state)
        artifact.write_json(draft.folder / RECORD, record)
    return Exported(
        path=out / written.folder,
        format=settings.format,
        architecture=written.architecture,
        files=(*written.json, *written.tensors, RECORD),
    )


def _written(dictionary: Dictionary, format: WrittenFormat) -> Written:
    if format == "saelens":
        cfg, state = saelens.written(plain(dictionary, format))
        files = {saelens.CONFIG: cfg}, {saelens.WEIGHTS: state}
        return Written(architecture=cfg["architecture"], folder="", json=files[0], tensors=files[1])
    if format == "sparsify":
        return _for_sparsify(dictionary)
    if dictionary.n_spaces > 1:
        config, state = crosscoders.written(dictionary)
    else:
        folded = plain(dictionary, format, subtracts=form_of(dictionary) != "threshold" or _common(dictionary))
        config, state = dictionary_learning.written(folded)
    architecture = config["trainer"]["dict_class"]
    json, tensors = {dictionary_learning.CONFIG: config}, {dictionary_learning.WEIGHTS: state}
    return Written(architecture=architecture, folder="", json=json, tensors=tensors)


def _common(dictionary: Dictionary) -> bool:
    return dictionary_learning.is_common(dictionary.threshold)


def _for_sparsify(dictionary: Dictionary) -> Written:
    form = form_of(dictionary)
    if form != "topk":
        problem = f"holds topk dictionaries alone, this one is {dictionary.sparsity.kind}"
        raise UserError("format", "sparsify", problem, "use --format saelens or dictionary-learning")
    folded = plain(dictionary, "sparsify", subtracts=True)
    cfg, state = sparsify.written(folded)
    folder = folded.module
    run = {"model": folded.space.model, "hookpoints": [folder]}
    json = {f"{folder}/{sparsify.CONFIG}": cfg, sparsify.RUN: run}
    return Written(architecture="topk", folder=folder, json=json, tensors={f"{folder}/{sparsify.WEIGHTS}": state})


def _save(file: Path, state: Mapping[str, Tensor]) -> None:
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    if file.suffix == ".safetensors":
        save_file(own, file)
        share(file)
    else:
        torch.save(own, file)


def _refuse_taken(out: Path, *, overwrite: bool) -> None:
    """Only what an export made is ever replaced.

    Raises:
        ArtifactError: something is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD).is_file() or (out / artifact.MANIFEST).exists():
        raise ArtifactError("out", out, "exists and was not made by an export", "name another folder")
    if not overwrite:
        raise ArtifactError("out", out, "is there already", "name another folder, or pass --overwrite")
