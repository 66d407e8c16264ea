"""dictionary_learning's files: `ae.pt` and `config.json`; its one-space dictionaries, read and written.

The class in the configuration is looked up in a table, never evaluated, and decides orientation and arithmetic:
`encoder.weight` [F, d] and `decoder.weight` [d, F], or `W_enc` [d, F] and `W_dec` [F, d]. All but AutoEncoderNew and
JumpReluAutoEncoder subtract the decoder's bias before encoding. Saved weights take raw activations, unless a fork put
`activation_mean`, `activation_std` and `activation_global_scale` beside them. Crosscoders: `crosscoders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suture.dictionary.activation import SparsityKind
from suture.formats import crosscoders
from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.names import layer_of, of_submodule, to_submodule
from suture.formats.plain import Plain
from suture.formats.tensors import Config, Tensors, refused

CONFIG, WEIGHTS = "config.json", "ae.pt"
KINDS: dict[str, SparsityKind] = {
    "AutoEncoder": "relu+l1",
    "AutoEncoderNew": "relu+l1",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
    "JumpReluAutoEncoder": "jumprelu",
    "GatedAutoEncoder": "gated",
}
UNTRANSPOSED = ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
"""Classes with `W_enc` [d, F] and `W_dec` [F, d]; the others have linear layers."""
BIAS = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
"""What the decoder's bias is called, where not `b_dec`."""
ADDED_ONLY = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Classes that do not subtract it before encoding."""


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """A dictionary of one of its classes.

    Raises:
        UserError: it is damaged, or what suture cannot hold.
    """
    config, tensors = Config.load(found.files["config"]), unwrapped(Tensors.load(found.files["weights"]))
    trainer = config.part("trainer")
    name = trainer.get("dict_class")
    if name in crosscoders.CLASSES:
        return crosscoders.read_trained(found, trainer, tensors, scales)
    found.scales(scales, 1, None)
    name = trainer.only("dict_class", KINDS, default=None, what="is no class that suture can hold")
    d, F = trainer.count("activation_dim"), trainer.count("dict_size")
    if name in UNTRANSPOSED:
        encoder, decoder = tensors.take("W_enc", d, F).T, tensors.take("W_dec", F, d)
    else:
        encoder, decoder = tensors.take("encoder.weight", F, d), tensors.take("decoder.weight", d, F).T
    own: dict[str, Tensor] = {}
    if name == "GatedAutoEncoder":
        bias, own["log_gain"] = tensors.take("gate_bias", F), tensors.take("r_mag", F)
        own["magnitude_bias"] = tensors.take("mag_bias", F)
    else:
        bias = tensors.take("b_enc" if name in UNTRANSPOSED else "encoder.bias", F)
    decoder_bias = tensors.take(BIAS.get(name, "b_dec"), d)
    k = _k(tensors, trainer) if "TopK" in name else None
    threshold = _threshold(name, tensors, F)
    groups = tensors.left.pop("group_sizes", None)
    scale, mean = _normalization(tensors, d)
    tensors.done()
    named = trainer.get("submodule_name")
    place = Place(width=d, model=trainer.get("lm_name"), named=named, hookpoint=of_submodule(named), scale=scale)
    center = (torch.zeros(d) if name in ADDED_ONLY else decoder_bias) + mean * scale
    return Foreign(
        library="dictionary_learning",
        architecture=name,
        kind=KINDS[name],
        k=k,
        places=(place,),
        encoder=encoder,
        bias=bias,
        decoder=decoder,
        decoder_bias=decoder_bias + mean * scale,
        subtracted=center,
        threshold=threshold,
        own=own,
        normalization="none" if scale == 1 else "mean subtracted, one factor for all coordinates",
        notes={} if groups is None else {"group_sizes": groups.tolist()},
    )


def unwrapped(tensors: Tensors) -> Tensors:
    """The state that a backup keeps under `ae`, and names without what torch.compile puts before them."""
    inside = tensors.left.get("ae")
    left = dict(inside) if isinstance(inside, dict) else tensors.left
    return Tensors({name.removeprefix("_orig_mod."): value for name, value in left.items()}, tensors.file)


def _k(tensors: Tensors, trainer: Config) -> int:
    k = int(tensors.number("k")) if "k" in tensors else trainer.count("k")
    if "k" in trainer.values and trainer.count("k") != k:
        raise refused(tensors.file, f"has k = {k}, its configuration {trainer.count('k')}", "fetch both again")
    return k


def _threshold(name: str, tensors: Tensors, F: int) -> Tensor | None:
    if name == "JumpReluAutoEncoder":
        return tensors.take("threshold", F)
    if name == "AutoEncoderTopK":
        tensors.drop("threshold")  # kept beside the ranking, which it only stands in for when asked to
        return None
    return torch.full((F,), set_threshold(tensors)) if "TopK" in name else None


def set_threshold(tensors: Tensors) -> float:
    """The threshold of a batchtopk dictionary.

    Raises:
        UserError: it was never set.
    """
    threshold = tensors.number("threshold")
    if not threshold >= 0:
        fix = "train it on until its threshold is set"
        raise refused(tensors.file, f"has a threshold of {threshold:g}: it was never set", fix)
    return threshold


def _normalization(tensors: Tensors, d: int) -> tuple[float, Tensor]:
    """(factor, mean subtracted first) of a fork's normaliser; NaN in it means none."""
    if "activation_mean" not in tensors:
        return 1.0, torch.zeros(d)
    mean, std = (tensors.take(f"activation_{part}", d, may_be_nan=True) for part in ("mean", "std"))
    scale = tensors.number("activation_global_scale")
    tensors.drop("target_rms")
    if bool(mean.isnan().any() or std.isnan().any()):
        return 1.0, torch.zeros(d)
    return scale, mean


def written(plain: Plain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the state of ae.pt."""
    name, weights = _class_of(plain)
    F, d = plain.encoder.shape
    linear = {"encoder.weight": plain.encoder, "decoder.weight": plain.decoder.T}
    if name in UNTRANSPOSED:
        linear = {"W_enc": plain.encoder.T, "W_dec": plain.decoder}
    weights |= linear | {BIAS.get(name, "b_dec"): plain.decoder_bias}
    trainer = {
        "dict_class": name,
        "activation_dim": d,
        "dict_size": F,
        "layer": layer_of(plain.space.hookpoint),
        "lm_name": plain.space.model,
        "submodule_name": to_submodule(plain.space.hookpoint),
    }
    if "k" in weights:
        trainer["k"] = plain.k
    return {"trainer": trainer, "buffer": {"d_submodule": d, "io": "out"}}, weights


def _class_of(plain: Plain) -> tuple[str, dict[str, Tensor]]:
    """The class that computes the same, and what it has beside encoder, decoder and the decoder's bias."""
    if plain.form == "gated":
        gate = {"gate_bias": plain.bias, "r_mag": plain.log_gain, "mag_bias": plain.magnitude_bias}
        return "GatedAutoEncoder", gate
    if plain.form == "relu":
        return "AutoEncoder", {"encoder.bias": plain.bias}
    k = torch.tensor(plain.k, dtype=torch.int)
    if plain.form == "topk":
        return "AutoEncoderTopK", {"encoder.bias": plain.bias, "k": k, "threshold": torch.tensor(-1.0)}
    if is_common(plain.threshold):
        return "BatchTopKSAE", {"encoder.bias": plain.bias, "k": k, "threshold": plain.threshold[0].clone()}
    return "JumpReluAutoEncoder", {"b_enc": plain.bias, "threshold": plain.threshold}


def is_common(threshold: Tensor) -> bool:
    """Whether every feature has the same threshold."""
    return bool((threshold == threshold[0]).all())
