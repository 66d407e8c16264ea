"""What other libraries call hookpoints, models and their places, and what suture calls them.

A name that can mean two places, or that suture cannot know without the model, becomes None, and the user is asked.
TransformerLens' `hook_mlp_out` and `hook_attn_out` are what is added to the residual stream; Gemma 2 and 3 normalise
that first, so that there they are the norm's output and not `mlpN.out`.
"""

from __future__ import annotations

import re

BLOCK = r"(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h)\.(?P<layer>\d+)"
"""A block's path in Llama, Gemma, Qwen, GPT-2 and GPT-NeoX, in the whole model or in its body."""
POST_NORMED = re.compile(r"gemma-?[23]", re.IGNORECASE)
"""Families that normalise what a module returns before it is added."""
_LENS = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<hook>[\w.]+)")
_LENS_TO_SUTURE = {"hook_resid_pre": "resid{}.pre", "hook_resid_post": "resid{}.post"}
_LENS_ADDED = {
    "hook_mlp_out": ("mlp{}.out", "model.layers.{}.post_feedforward_layernorm"),
    "hook_attn_out": ("attn{}.out", "model.layers.{}.post_attention_layernorm"),
}


def is_post_normed(model: str | None) -> bool:
    """Whether a model of this name normalises what its modules return.

    >>> is_post_normed("google/gemma-2-2b"), is_post_normed("gpt2"), is_post_normed(None)
    (True, False, False)
    """
    return bool(model and POST_NORMED.search(model))


def of_transformer_lens(name: str | None, model: str | None) -> str | None:
    """The hookpoint that TransformerLens calls so.

    >>> of_transformer_lens("blocks.3.hook_resid_post", "gpt2"), of_transformer_lens("blocks.3.hook_mlp_out", "gpt2")
    ('resid3.post', 'mlp3.out')
    >>> of_transformer_lens("blocks.3.hook_mlp_out", "gemma-2-2b")
    'model.layers.3.post_feedforward_layernorm'
    >>> of_transformer_lens("blocks.3.attn.hook_z", "gpt2") is None
    True
    """
    if name == "hook_embed":
        return "embed.out"
    found = _LENS.fullmatch(name or "")
    if found is None:
        return None
    hook, layer = found["hook"], found["layer"]
    if hook in _LENS_ADDED:
        return _LENS_ADDED[hook][is_post_normed(model)].format(layer)
    return _LENS_TO_SUTURE[hook].format(layer) if hook in _LENS_TO_SUTURE else None


def to_transformer_lens(hookpoint: str, model: str) -> str | None:
    """What TransformerLens calls a hookpoint; None where it has no such place, or another one under that name.

    >>> to_transformer_lens("resid3.post", "gpt2"), to_transformer_lens("mlp3.out", "google/gemma-3-270m")
    ('blocks.3.hook_resid_post', None)
    """
    if hookpoint == "embed.out":
        return "hook_embed"
    plain = {suture: lens for lens, suture in _LENS_TO_SUTURE.items()}
    added = {names[is_post_normed(model)]: lens for lens, names in _LENS_ADDED.items()}
    for pattern, lens in (plain | added).items():
        found = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d+)"), hookpoint)
        if found:
            return f"blocks.{found[1]}.{lens}"
    return None


def of_module(path: str | None) -> str | None:
    """The hookpoint of a module's path, of its output unless it ends in `.input`.

    >>> of_module("layers.3"), of_module("model.layers.3.output"), of_module("transformer.h.3.mlp")
    ('resid3.post', 'resid3.post', 'mlp3.out')
    >>> of_module("model.layers.3.self_attn.o_proj.input"), of_module("layers.3.input"), of_module("head")
    ('model.layers.3.self_attn.o_proj.input', 'resid3.pre', None)
    """
    if not path:
        return None
    inside = path.removesuffix(".output")
    if re.fullmatch(r"(?:(?:model|transformer|gpt_neox)\.)*(?:embed_tokens|wte|embed_in)", inside):
        return "embed.out"
    found = re.fullmatch(rf"{BLOCK}(?P<rest>\.[\w.]+)?", inside)
    if found is None:
        return None
    layer, rest = found["layer"], found["rest"] or ""
    known = {"": "resid{}.post", ".input": "resid{}.pre", ".mlp": "mlp{}.out"}
    known |= {f".{name}": "attn{}.out" for name in ("self_attn", "attn", "attention")}
    if rest in known:
        return known[rest].format(layer)
    return inside if inside.startswith(("model.", "transformer.", "gpt_neox.")) else None


def to_module(hookpoint: str) -> str:
    """A module's path in a model's body, as sparsify names hookpoints; what is no short name is a path already.

    >>> to_module("resid3.post"), to_module("mlp3.out"), to_module("model.layers.3.mlp.down_proj")
    ('layers.3', 'layers.3.mlp', 'model.layers.3.mlp.down_proj')
    """
    found = re.fullmatch(r"(resid|mlp|attn)(\d+)\.(post|out)", hookpoint)
    if found is None:
        return "embed_tokens" if hookpoint == "embed.out" else hookpoint
    return f"layers.{found[2]}{ {'resid': '', 'mlp': '.mlp', 'attn': '.self_attn'}[found[1]] }"


def of_submodule(name: str | None) -> str | None:
    """What dictionary_learning's trainers are told a place is called.

    >>> of_submodule("resid_post_layer_5"), of_submodule("mlp_out_layer_5"), of_submodule("mlp_layer_5")
    ('resid5.post', 'mlp5.out', None)
    """
    found = re.fullmatch(r"(resid_post|resid_pre|mlp_out|attn_out)_layer_?(\d+)", name or "")
    if found is None:
        return of_module(name)
    stream, _, end = found[1].partition("_")
    return f"{stream}{found[2]}.{end}"


def to_submodule(hookpoint: str) -> str:
    """The reverse; what is no short name stays a path.

    >>> to_submodule("resid5.post"), to_submodule("model.layers.5.mlp.down_proj")
    ('resid_post_layer_5', 'model.layers.5.mlp.down_proj')
    """
    found = re.fullmatch(r"(resid|mlp|attn)(\d+)\.(pre|post|out)", hookpoint)
    return f"{found[1]}_{found[3]}_layer_{found[2]}" if found else hookpoint


def layer_of(hookpoint: str) -> int | None:
    """The block a hookpoint lies in.

    >>> layer_of("resid5.post"), layer_of("model.layers.5.mlp"), layer_of("embed.out")
    (5, 5, None)
    """
    found = re.match(r"(?:resid|mlp|attn)(\d+)\.|(?:.*\.)?(?:layers|h)\.(\d+)(?:\.|$)", hookpoint)
    return int(found[1] or found[2]) if found else None
