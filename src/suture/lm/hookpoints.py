"""Name the places inside a language model where activations are read or edited.

A hookpoint is written `embed.out`, `residN.pre`, `residN.post`, `attnN.in`, `attnN.out`, `mlpN.in`, `mlpN.out`
(N counts blocks from 0), or as the path of any module, `transformer.h.3.mlp`, which means that module's output, or with
`.input` behind it what goes in: `model.layers.3.self_attn.o_proj.input` is all heads side by side.

| name          | activation                                                                        |
|---------------|-----------------------------------------------------------------------------------|
| `embed.out`   | output of the token embedding, without positions                                  |
| `residN.pre`  | input of block N = hidden_states[N]                                               |
| `residN.post` | output of block N = hidden_states[N+1], save for the last block (see below)       |
| `attnN.out`   | output of the attention module: after its output projection, before it is added   |
| `mlpN.out`    | output of the MLP module, before it is added to the residual stream               |
| `attnN.in`, `mlpN.in` | input of that module, after the block's own norm                          |

transformers passes its last hidden state through the final norm; the last block's `residN.post` is what comes before.
Gemma 2 and 3 normalise what attention and MLP return before adding it: there `attnN.out` and `mlpN.out` are what the
module itself returns, before that norm.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from suture.errors import UserError
from suture.lm.load import LanguageModel

_SHORT = re.compile(r"(?:(?P<embed>embed\.out)|(?P<stream>resid|attn|mlp)(?P<layer>\d+)\.(?P<end>pre|post|in|out))")
_LAYERS = r"\*|\[(?P<layers>\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)\]"
_PATTERN = re.compile(rf"(?P<stream>resid|attn|mlp)(?:{_LAYERS})\.(?P<end>pre|post|in|out)")
INPUT = ".input"
BLOCK_SITES = ("resid.pre", "attn.in", "attn.out", "mlp.in", "mlp.out", "resid.post")


@dataclass(frozen=True)
class Hookpoint:
    """A place named by block and site, the same words for every family."""

    layer: int | None
    """Block number from 0; None for the embedding."""
    site: str
    """`embed.out` or one of `BLOCK_SITES`."""

    @property
    def name(self) -> str:
        """As users write it: `mlp0.out`."""
        stream, end = self.site.split(".")
        return f"{stream}{'' if self.layer is None else self.layer}.{end}"


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its parts: module paths in the whole model, then names inside a block."""

    blocks: str
    embedding: str
    attention: str
    mlp: str


# The first whose blocks exist is the model's. Mistral, Phi-3, OLMo and others share Llama's; for a family that is not
# here the parts are looked for (`_found_layout`).
LAYOUTS = (
    Layout("transformer.h", "transformer.wte", "attn", "mlp"),  # GPT-2, GPT-Neo
    Layout("gpt_neox.layers", "gpt_neox.embed_in", "attention", "mlp"),  # GPT-NeoX: Pythia
    Layout("model.layers", "model.embed_tokens", "self_attn", "mlp"),  # Llama, Gemma, Qwen
    Layout("model.language_model.layers", "model.language_model.embed_tokens", "self_attn", "mlp"),  # Gemma 3, vision
)
ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
MLPS = ("mlp", "ffn", "feed_forward")
"""What families call these parts of a block."""


@dataclass(frozen=True)
class ResolvedHookpoint:
    """A hookpoint found in one model."""

    name: str
    module_path: str
    module: nn.Module
    side: Literal["input", "output"]

    def attach(self, fn: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `fn` with the activation [batch, token, width] whenever the module runs; what it returns replaces it.

        None leaves the activation as it is. Modules may take it by position or by name, and may return a tensor, a
        tuple or a ModelOutput; the container keeps its type and its other entries.
        """
        if self.side == "output":
            return self.module.register_forward_hook(lambda _module, _args, output: _replace_first(output, self, fn))

        def before(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            if args:
                replaced = fn(_activation(args[0], self))
                return None if replaced is None else ((replaced, *args[1:]), kwargs)
            replaced = fn(_activation(kwargs.get("hidden_states"), self))
            return None if replaced is None else (args, {**kwargs, "hidden_states": replaced})

        return self.module.register_forward_pre_hook(before, with_kwargs=True)


def parse(name: str) -> Hookpoint | None:
    """The hookpoint a short name means, or None if it is not a short name (and so perhaps a module path).

    >>> parse("mlp0.out")
    Hookpoint(layer=0, site='mlp.out')
    >>> parse("transformer.h.3.mlp") is None
    True
    """
    match = _SHORT.fullmatch(name)
    if match is None:
        return None
    if match["embed"]:
        return Hookpoint(None, "embed.out")
    site = f"{match['stream']}.{match['end']}"
    return Hookpoint(int(match["layer"]), site) if site in BLOCK_SITES else None


def expand(pattern: str, n_layers: int) -> tuple[str, ...]:
    """The hookpoints that a pattern means in a model of so many blocks; a name without one means itself.

    >>> expand("mlp[0-2].out", 12), expand("resid*.post", 2), expand("attn[1,3].out", 12), expand("embed.out", 2)
    (('mlp0.out', 'mlp1.out', 'mlp2.out'), ('resid0.post', 'resid1.post'), ('attn1.out', 'attn3.out'), ('embed.out',))

    Raises:
        UserError: a layer that the model has not.
    """
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        return (pattern,)
    layers: list[int] = []
    for part in (match["layers"] or f"0-{n_layers - 1}").split(","):
        first, _, last = part.partition("-")
        layers += range(int(first), int(last or first) + 1)
    if not layers or max(layers) >= n_layers:
        raise UserError("at", pattern, f"the model has blocks 0 to {n_layers - 1}", "name some of them")
    return tuple(f"{match['stream']}{layer}.{match['end']}" for layer in dict.fromkeys(layers))


def available(model: nn.Module) -> list[str]:
    """The short names that `model` has, in the order a forward pass meets them; empty for an unknown architecture."""
    layout, modules = _layout(model), dict(model.named_modules())
    if layout is None:
        return []
    points = [Hookpoint(None, "embed.out")]
    n_blocks = len(_blocks(modules, layout))
    points += [Hookpoint(layer, site) for layer in range(n_blocks) for site in BLOCK_SITES]
    return [point.name for point in points if _place(point, layout, n_blocks)[0] in modules]


def resolve(model: nn.Module, name: str) -> ResolvedHookpoint:
    """Find the hookpoint called `name` in `model`; UserError with what the model has if it is not there."""
    modules, layout, point = dict(model.named_modules()), _layout(model), parse(name)
    if point is not None and layout is not None:
        n_blocks = len(_blocks(modules, layout))
        path, side = _place(point, layout, n_blocks)
        if path and path in modules:  # the empty path is the whole model
            return ResolvedHookpoint(name, path, modules[path], side)
    elif name and name in modules:
        return ResolvedHookpoint(name, name, modules[name], "output")
    elif (path := name.removesuffix(INPUT)) != name and path in modules:
        return ResolvedHookpoint(name, path, modules[path], "input")
    raise UserError("hookpoint", name, "the model has no such place", _what_there_is(model, name, modules))


def check_axes(name: str, activation: Tensor, tokens: torch.Size) -> None:
    """An activation must have the batch and token axes of the ids it was computed from.

    Raises:
        UserError: it has others.
    """
    if activation.shape[:2] != tokens:
        problem = f"gives shape {tuple(activation.shape)} for tokens {tuple(tokens)}, not [batch, token, width]"
        raise UserError("hookpoint", name, problem, "name a module on the residual stream, an attention or an MLP")


def width_of(lm: LanguageModel, name: str) -> int:
    """The width of the activation at a hookpoint, seen by running a few tokens."""
    point = resolve(lm.model, name)
    widths: list[int] = []
    ids = torch.zeros(2, 3, dtype=torch.long, device=lm.device)  # two axes that nothing else is likely to have

    def see(activation: Tensor) -> None:
        check_axes(name, activation, ids.shape)
        widths.append(activation.shape[-1])

    handle = point.attach(see)
    try:
        with torch.no_grad():
            lm.model(ids, use_cache=False)
    finally:
        handle.remove()
    if not widths:
        raise UserError("hookpoint", name, "this module does not run in a forward pass", "name one that does")
    return widths[0]


def _layout(model: nn.Module) -> Layout | None:
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    known = next((layout for layout in LAYOUTS if layout.blocks in lists), None)
    return known or (_found_layout(model, lists) if isinstance(model, PreTrainedModel) else None)


def _found_layout(model: PreTrainedModel, lists: dict[str, nn.ModuleList]) -> Layout | None:
    """Blocks are the outermost list with as many modules as the configuration counts layers."""
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    paths = sorted((path for path, found in lists.items() if len(found) == n_layers), key=lambda path: path.count("."))
    if not paths:
        return None
    parts = {name for name, _ in lists[paths[0]][0].named_children()}
    table = model.get_input_embeddings()
    return Layout(
        blocks=paths[0],
        embedding=next((path for path, module in model.named_modules() if module is table), ""),
        attention=next((name for name in ATTENTIONS if name in parts), ""),
        mlp=next((name for name in MLPS if name in parts), ""),
    )


def _blocks(modules: dict[str, nn.Module], layout: Layout) -> nn.ModuleList:
    blocks = modules[layout.blocks]
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _place(point: Hookpoint, layout: Layout, n_blocks: int) -> tuple[str, Literal["input", "output"]]:
    """The module path and side that `point` means in `layout`; the path is empty for a place that is not there."""
    if point.layer is None:
        return layout.embedding, "output"
    stream, end = point.site.split(".")
    part = {"resid": None, "attn": layout.attention, "mlp": layout.mlp}[stream]
    if point.layer >= n_blocks or part == "":
        return "", "output"
    inner = "" if part is None else f".{part}"
    return f"{layout.blocks}.{point.layer}{inner}", "input" if end in ("pre", "in") else "output"


def _what_there_is(model: nn.Module, name: str, modules: dict[str, nn.Module]) -> str:
    """`use embed.out, resid0.pre .. residN.post` as one line, with the nearest module paths for a mistyped path."""
    listed: list[str] = []
    layers: dict[str, list[int]] = {}
    for short in available(model):
        point = parse(short)
        assert point is not None
        if point.layer is None:
            listed.append(short)
        else:
            layers.setdefault(point.site, []).append(point.layer)
    for site, numbers in layers.items():
        stream, end = site.split(".")
        span = str(numbers[0]) if len(numbers) == 1 else f"{{{numbers[0]}..{numbers[-1]}}}"
        listed.append(f"{stream}{span}.{end}")
    near = [] if parse(name) else difflib.get_close_matches(name, [path for path in modules if path], n=3, cutoff=0.6)
    paths = f"or a module path such as {', '.join(near)}" if near else "or a module path"
    return f"use {', '.join([*listed, paths])}" if listed else f"use {paths.removeprefix('or ')}"


def _activation(value: object, point: ResolvedHookpoint) -> Tensor:
    if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
        return value
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    problem = f"its {point.side} is {found}, not an activation [batch, token, width]"
    raise UserError("hookpoint", point.name, problem, "name a module on the residual stream, an attention or an MLP")


def _replace_first(output: Any, point: ResolvedHookpoint, fn: Callable[[Tensor], Tensor | None]) -> Any:
    """`output` with its (first) activation passed through `fn`, in a container of the same type; None if unchanged."""
    if isinstance(output, Tensor):
        return fn(_activation(output, point))
    if isinstance(output, ModelOutput):
        key = next(iter(output))
        replaced = fn(_activation(output[key], point))
        if replaced is None:
            return None
        fresh = copy.copy(output)
        fresh[key] = replaced
        return fresh
    if isinstance(output, tuple | list) and output:
        replaced = fn(_activation(output[0], point))
        return None if replaced is None else type(output)([replaced, *output[1:]])
    _activation(output, point)
    return None
