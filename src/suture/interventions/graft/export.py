"""A graft outside of suture: as a hook file for PyTorch, or folded into a model's weights.

1. `export_hook` writes NAME.py and NAME.safetensors: `attach(model)` of that file puts the hooks on, with torch and
   safetensors alone.
2. `fold_into` writes the model with its projections folded in, an ordinary Hugging Face folder. Thresholded features
   cannot be folded.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from suture.errors import UserError
from suture.interventions.graft.graft import Graft
from suture.interventions.graft.part import Projection, described
from suture.lm.create import write_lm
from suture.lm.fold import fold
from suture.lm.hookpoints import resolve
from suture.lm.load import LanguageModel
from suture.pipeline import artifact
from suture.pipeline.files import whole_file

FOLDED = "folded"
HOOK = '''"""Made by suture: takes features out of one model. Needs torch and safetensors, nothing else.

    import {module}
    handles = {module}.attach(model)     # a transformers model: {model}
    ...                                  # model.generate(...) as ever
    {module}.detach(handles)
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

PARTS = json.loads({parts!r})
TENSORS = Path(__file__).with_suffix(".safetensors")


def edit(part, tensors, x):
    """The activation without what the part takes away."""
    rows = x.to(tensors["dtype"])
    if part["kind"] == "projection":
        U = tensors["directions"]
        return (rows - (rows - tensors["mean"]) @ U.T @ U).to(x.dtype)
    apart = rows - tensors["centre"]
    length = apart.norm(dim=-1, keepdim=True)
    drawn = tensors["centre"] + apart * (tensors["radius"] / length.clamp_min(1e-30))
    within = torch.where(length > tensors["radius"], drawn, rows)  # outlier rows are read as the dictionary saw them
    pre = within @ tensors["encode"].T + tensors["bias"]
    values = torch.where(pre > tensors["threshold"], (tensors["gain"] * pre + tensors["offset"]).relu(), 0.0)
    return x - (values @ tensors["write"]).to(x.dtype)


def attach(model):
    """Put the hooks on; returns what `detach` takes."""
    everything, handles = load_file(TENSORS), []
    for i, part in enumerate(PARTS):
        module = model.get_submodule(part["module"])
        device = next(model.parameters()).device
        own = {{k.split(".", 1)[1]: t.to(device) for k, t in everything.items() if k.startswith(f"{{i}}.")}}
        own["dtype"] = torch.float32

        def before(module, args, kwargs, part=part, own=own):
            if args:
                return (edit(part, own, args[0]), *args[1:]), kwargs
            return args, {{**kwargs, "hidden_states": edit(part, own, kwargs["hidden_states"])}}

        def after(module, args, output, part=part, own=own):
            if isinstance(output, torch.Tensor):
                return edit(part, own, output)
            if isinstance(output, (tuple, list)):
                return type(output)([edit(part, own, output[0]), *output[1:]])
            key = next(iter(output))
            output[key] = edit(part, own, output[key])
            return output

        if part["side"] == "input":
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(after))
    return handles


def detach(handles):
    """Take the hooks off."""
    for handle in handles:
        handle.remove()
'''


def export_hook(graft: Graft, lm: LanguageModel, file: str | Path, *, overwrite: bool = False) -> Path:
    """Write a graft as a hook file with its tensors beside it; returns the file.  (1)

    Args:
        graft: acting alike at every token.
        lm: the model it is for.
        file: NAME.py, a name that Python can import.
        overwrite: replace the two files.

    Raises:
        UserError: another model, a schedule, a name that cannot be imported, or a file that is there.
    """
    file = Path(file)
    graft.check(lm)
    if not graft.schedule.everywhere:
        problem = "acts at some tokens only, which a plain hook cannot know"
        raise UserError("graft", graft.path or "not saved", problem, "attach it with suture")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError("export", file, "is no name of a Python module", "give for example graft_hook.py")
    tensors_file = file.with_suffix(".safetensors")
    for taken in (file, tensors_file):
        if taken.exists() and not overwrite:
            raise UserError("export", taken, "exists already", "give another name, or add --overwrite")
    if not file.parent.is_dir():
        raise UserError("export", file, "lies in no folder that exists", "make the folder first")
    parts: list[dict[str, Any]] = []
    for part in graft.parts:
        point = resolve(lm.model, part.hookpoint)
        parts.append(described(part) | {"module": point.module_path, "side": point.side})
    tensors = {
        f"{i}.{name}": tensor.float().contiguous()
        for i, part in enumerate(graft.parts)
        for name, tensor in part.tensors().items()
    }
    with whole_file(tensors_file) as aside:
        save_file(tensors, aside)
    text = HOOK.format(module=file.stem, model=graft.model, parts=json.dumps(parts))
    with whole_file(file) as aside:
        aside.write_text(text, encoding="utf-8")
    return file


def fold_into(
    graft: Graft, lm: LanguageModel, out: str | Path, *, overwrite: bool = False, command: str | None = None
) -> Path:
    """Write a model whose weights do what the graft does; returns its folder.  (2)

    Args:
        graft: of projections only, acting alike at every token.
        lm: the model it is for; it stays as it is.
        out: folder of the new model.
        overwrite: replace an earlier one.
        command: the shell command to be recorded.

    Raises:
        UserError: another model, features that are read by thresholds, or a hookpoint that no one matrix writes.
        ArtifactError: `out` is taken.
    """
    graft.check(lm)
    if not graft.schedule.everywhere:
        problem = "acts at some tokens only, which weights cannot"
        raise UserError("graft", graft.path or "not saved", problem, "attach it with suture")
    own = replace(lm, model=copy.deepcopy(lm.model))
    for part in graft.parts:
        if not isinstance(part, Projection):
            problem = "reads features by their thresholds, which no weights can hold"
            fix = "export it with --export, or make a graft of --way project"
            raise UserError("graft", graft.path or "not saved", problem, fix)
        fold(own, part.hookpoint, part.directions, part.mean)
    parents = () if graft.path is None else (graft.path,)
    settings = {"model": lm.fingerprint}
    with artifact.create(
        out, stage=FOLDED, settings=settings, parents=parents, overwrite=overwrite, command=command
    ) as draft:
        write_lm(own.model, own.tokenizer, draft.folder)
    return Path(out)
