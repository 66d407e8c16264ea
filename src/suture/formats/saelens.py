"""SAELens' files, version 6 and before: `cfg.json` and `sae_weights.safetensors`, read and written.

pre = (norm(x) - [apply_b_dec_to_input] b_dec) W_enc + b_enc; standard: relu(pre); topk: the k largest, then relu;
jumprelu: relu(pre) where pre > threshold; gated: as 2404.16014. W_enc [d, F], W_dec [F, d]. With
`rescale_acts_by_decoder_norm` values are those of a decoder with rows of norm 1. A checkpoint of a batchtopk training,
which SAELens itself opens only for training, is read as what it is when it is saved for use: a jumprelu.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suture.dictionary.activation import SparsityKind
from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.names import of_module, of_transformer_lens, to_transformer_lens
from suture.formats.plain import Plain
from suture.formats.tensors import Config, Tensors, refused

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALED = "expected_average_only_in"
"""Activations are to be multiplied by a factor that is in another file, if it was kept."""
KINDS: dict[str, SparsityKind] = {
    "standard": "relu+l1",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
WRITES_AS = "6.0.0"
"""The version whose layout is written: any from 6 on reads it."""


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """An SAE.

    Raises:
        UserError: it is damaged, or what suture cannot hold.
    """
    cfg = _modern(Config.load(found.files["config"]))
    tensors = Tensors.load(found.files["weights"])
    cfg.only("reshape_activations", ("none", "hook_z"), default="none")
    cfg.only("hook_head_index", (None,), default=None, what="one attention head alone is no hookpoint of suture")
    cfg.only("normalize_activations", ("none", None, False, SCALED), default="none", what=_PER_ROW)
    architecture = cfg.only("architecture", KINDS, default="standard", what=_OTHER)
    d, F = cfg.count("d_in"), cfg.count("d_sae")
    scaled = cfg.get("normalize_activations") == SCALED
    (scale,) = found.scales(
        scales, 1, f"says normalize_activations = {SCALED!r} and not by which factor" if scaled else None
    )
    W_enc, W_dec = tensors.take("W_enc", d, F).T, tensors.take("W_dec", F, d)
    b_dec = tensors.take("b_dec", d)
    own: dict[str, Tensor] = {}
    if architecture == "gated":
        bias, own["log_gain"] = tensors.take("b_gate", F), tensors.take("r_mag", F)
        own["magnitude_bias"] = tensors.take("b_mag", F)
    else:
        bias = tensors.take("b_enc", F)
    threshold = _threshold(architecture, tensors, F)
    if "scaling_factor" in tensors and not bool((tensors.take("scaling_factor", F) == 1).all()):
        raise refused(tensors.file, "was fine-tuned with factors on its values", "multiply W_dec by scaling_factor")
    tensors.done()
    metadata = cfg.part("metadata")
    model, named = metadata.get("model_name"), metadata.get("hook_name")
    place = Place(
        width=d,
        model=model,
        named=metadata.get("hf_hook_name") or named,
        hookpoint=metadata.get("suture_hookpoint")
        or of_module(metadata.get("hf_hook_name"))
        or of_transformer_lens(named, model),
        scale=scale,
    )
    foreign = Foreign(
        library="SAELens",
        version=metadata.get("sae_lens_version"),
        architecture=architecture,
        kind=KINDS[architecture],
        k=round(cfg.positive("k")) if "topk" in architecture else None,
        places=(place,),
        encoder=W_enc,
        bias=bias,
        decoder=W_dec,
        decoder_bias=b_dec,
        subtracted=b_dec if cfg.get("apply_b_dec_to_input", True) else None,
        threshold=threshold,
        own=own,
        normalization=str(cfg.get("normalize_activations") or "none"),
        notes={"sparsity": "sparsity" in found.files},
    )
    norms = "batchtopk" in architecture or architecture == "topk"
    return foreign.with_norms_folded() if norms and _rescales(cfg, architecture) else foreign


_PER_ROW = "normalises every row by itself or by another file's matrix, which a space's scale cannot hold"
_OTHER = "is no dictionary that suture can hold (standard, topk, jumprelu, gated and batchtopk are)"


def _rescales(cfg: Config, architecture: str) -> bool:
    """Trainings of batchtopk do so unless told otherwise; files for use only where they say so."""
    return bool(cfg.get("rescale_acts_by_decoder_norm", "batchtopk" in architecture))


def _threshold(architecture: str, tensors: Tensors, F: int) -> Tensor | None:
    if architecture == "jumprelu":
        return tensors.take("log_threshold", F).exp() if "log_threshold" in tensors else tensors.take("threshold", F)
    if "batchtopk" not in architecture:
        return None
    cutoff = tensors.number("topk_threshold")
    if not cutoff > 0:
        raise refused(tensors.file, f"has a topk_threshold of {cutoff}: it was never set", "train it on first")
    return torch.full((F,), cutoff)


def _modern(cfg: Config) -> Config:
    """A configuration of before version 6 in the words of 6, as SAELens itself translates it."""
    version = cfg.part("metadata").get("sae_lens_version") or cfg.get("sae_lens_version")
    if version and int(str(version).split(".")[0]) >= 6:
        return cfg
    values: dict[str, Any] = dict(cfg.values)
    for old, new in (("hook_point", "hook_name"), ("activation_fn_str", "activation_fn")):
        values[new] = values.get(new) or values.pop(old, None)
    activation = values.get("activation_fn") or "relu"
    if activation not in ("relu", "topk"):
        raise refused(cfg.file, f"says activation_fn = {activation!r}: suture has relu and topk", "import another")
    if activation == "topk":
        values |= {"architecture": "topk", "k": (values.get("activation_fn_kwargs") or {}).get("k")}
    if values.get("normalize_activations") is True:
        values["normalize_activations"] = SCALED
    metadata = {"sae_lens_version": version, "model_name": values.get("model_name")}
    metadata |= {"hook_name": values.get("hook_name"), "hf_hook_name": values.get("hf_hook_name")}
    return Config(values | {"metadata": {**metadata, **cfg.part("metadata").values}}, cfg.file)


def written(plain: Plain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """cfg.json and the tensors of sae_weights.safetensors.

    Where what is subtracted before encoding is not `b_dec`, the encoder's bias takes it up.
    """
    weights = {"W_enc": plain.encoder.T, "W_dec": plain.decoder, "b_dec": plain.decoder_bias}
    if plain.form == "gated":
        weights |= {"b_gate": plain.bias, "r_mag": plain.log_gain, "b_mag": plain.magnitude_bias}
    else:
        weights["b_enc"] = plain.bias
    if plain.form == "threshold":
        weights["threshold"] = plain.threshold
    architecture = {"relu": "standard", "topk": "topk", "threshold": "jumprelu", "gated": "gated"}[plain.form]
    space = plain.space
    metadata = {
        "sae_lens_version": WRITES_AS,
        "sae_lens_training_version": None,
        "model_name": space.model,
        "hook_name": to_transformer_lens(space.hookpoint, space.model),
        "hf_hook_name": plain.module,
        "suture_hookpoint": space.hookpoint,
        "prepend_bos": True,
    }
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": space.width,
        "d_sae": plain.encoder.shape[0],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": plain.subtracts,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if architecture == "topk":
        cfg |= {"k": plain.k, "rescale_acts_by_decoder_norm": False}
    return cfg, weights
