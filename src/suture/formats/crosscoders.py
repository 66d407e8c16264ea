"""Crosscoders of dictionary_learning's forks (read and written) and of Kissane and Nanda (read).

f = relu(sum_m x_m E_m + b), no bias subtracted; x̂_m = f D_m + b_dec_m. `encoder.weight` [M, d, F], `encoder.bias` [F],
`decoder.weight` [M, F, d], `decoder.bias` [M, d]. BatchTopK keeps f where f c > threshold, c the code normalisation:
sum_m ||D_m|| (CROSSCODER), the norm over all (SAE), 1 (NONE); values are not changed by it. Activations enter as
(x_m - mean_m) times one factor per model; a normaliser that holds NaN is none. suture's scales and centre are that
normaliser, so that a written crosscoder has its very weights.

Kissane: `W_enc` [M, d, F], `W_dec` [F, M, d], relu; each model's activations are scaled to a norm of sqrt(d) first, by
factors that are not in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.names import layer_of, of_submodule, of_transformer_lens, to_submodule
from suture.formats.plain import form_of
from suture.formats.tensors import Config, Tensors, refused

CLASSES = ("CrossCoder", "BatchTopKCrossCoder")
NORMALIZATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
"""As their files number them."""
FACTORS = "code_normalization_alpha_sae", "code_normalization_alpha_cc"
SAME = 1e-5
"""Two thresholds are the same up to this part of them."""


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """A crosscoder as huggingface_hub's mixin keeps it: config.json holds what it was made with.

    Raises:
        UserError: it is damaged, or what suture cannot hold.
    """
    config = Config.load(found.files["config"])
    trainer = Config({**config.values, **config.part("trainer").values}, config.file)
    if "trainer" in found.files:  # what the mixin leaves out
        trainer = Config({**Config.load(found.files["trainer"]).values, **trainer.values}, config.file)
    return read_trained(found, trainer, Tensors.load(found.files["weights"]), scales)


def read_trained(found: Found, trainer: Config, tensors: Tensors, scales: Sequence[float]) -> Foreign:
    """A crosscoder, from what it was made with and its state."""
    tensors = Tensors({name.removeprefix("_orig_mod."): v for name, v in tensors.left.items()}, tensors.file)
    for name in ("encoder_layers", "num_decoder_layers", "latent_processor"):
        trainer.only(name, (None,), default=None, what="is no crosscoder that reads and writes the same places")
    trainer.only("decoder_type", (None, "linear"), default=None, what="is no linear decoder")
    M, d, F = tensors.shape("encoder.weight", "M d F")
    for name, size in (("activation_dim", d), ("dict_size", F), ("num_layers", M)):
        if name in trainer.values and trainer.count(name) != size:
            problem = f"says {name} = {trainer.count(name)}, its weights have {size}"
            raise refused(trainer.file, problem, "fetch both again")
    encoder, decoder = tensors.take("encoder.weight", M, d, F), tensors.take("decoder.weight", M, F, d)
    bias, decoder_bias = tensors.take("encoder.bias", F), tensors.take("decoder.bias", M, d)
    normalization = _code_normalization(tensors, trainer)
    factors, mean = _normalizer(tensors, M, d)
    found.scales(scales, M, None)
    k, threshold = None, None
    if "threshold" in tensors or trainer.get("dict_class") == "BatchTopKCrossCoder":
        k, threshold = int(tensors.number("k")), _set(tensors) / _norms(decoder, normalization, trainer)
    tensors.done()
    shift = (mean * factors[:, None]).flatten()
    return Foreign(
        library="dictionary_learning",
        architecture="CrossCoder" if threshold is None else "BatchTopKCrossCoder",
        kind="relu+l1" if threshold is None else "batchtopk",
        k=k,
        places=tuple(_place(trainer, m, d, float(factors[m])) for m in range(M)),
        encoder=encoder.permute(2, 0, 1).reshape(F, M * d),
        bias=bias,
        decoder=decoder.permute(1, 0, 2).reshape(F, M * d),
        decoder_bias=decoder_bias.flatten() + shift,
        subtracted=shift,
        threshold=threshold,
        normalization="none" if bool((factors == 1).all()) else "mean subtracted, one factor per space",
        notes={"code_normalization": normalization},
    )


def _place(trainer: Config, m: int, d: int, scale: float) -> Place:
    named = trainer.get("submodule_name")
    names = trainer.get("lm_name")
    model = names[m] if isinstance(names, list) and len(names) > m else names if isinstance(names, str) else None
    model = (trainer.get("models") or [model] * (m + 1))[m] if isinstance(trainer.get("models"), list) else model
    places = trainer.get("hookpoints")
    one = places[m] if isinstance(places, list) and len(places) > m else named
    return Place(width=d, model=model, named=one, hookpoint=of_submodule(one), scale=scale)


def _code_normalization(tensors: Tensors, trainer: Config) -> str:
    said = trainer.get("code_normalization")
    if "code_normalization_id" in tensors:
        number = int(tensors.number("code_normalization_id"))
        if number not in NORMALIZATIONS:
            raise refused(tensors.file, f"has code normalisation number {number}, which is unknown", "name another")
        said = NORMALIZATIONS[number]
    said = "CROSSCODER" if said is None else str(said).upper()  # the only one before they were written down
    if said == "DECOUPLED":
        problem = "has code normalisation DECOUPLED, a code for each model, which one shared code cannot hold"
        raise refused(tensors.file, problem, "import another dictionary")
    return said


def _norms(decoder: Tensor, normalization: str, trainer: Config) -> Tensor:
    """What codes are multiplied by before they meet the threshold, per feature."""
    crosscoder, sae = decoder.norm(dim=2).sum(0), decoder.norm(dim=(0, 2))
    if normalization == "MIXED":
        if any(name not in trainer.values for name in FACTORS):
            problem = f"has code normalisation MIXED and not its factors {' and '.join(FACTORS)}"
            raise refused(trainer.file, problem, "put them into its config.json")
        alpha_sae, alpha_cc = (trainer.positive(name) for name in FACTORS)
        return sae * alpha_sae + crosscoder * alpha_cc
    return {"CROSSCODER": crosscoder, "SAE": sae, "NONE": torch.ones_like(sae)}[normalization].clamp_min(1e-12)


def _normalizer(tensors: Tensors, M: int, d: int) -> tuple[Tensor, Tensor]:
    """(factor [M], mean [M, d]) of what is done to activations first."""
    ones, zeros = torch.ones(M), torch.zeros(M, d)
    if "activation_mean" not in tensors:
        tensors.drop("target_rms")
        return ones, zeros
    mean, std = (tensors.take(f"activation_{part}", M, d, may_be_nan=True) for part in ("mean", "std"))
    scalar = not tensors.left["activation_global_scale"].ndim if "activation_global_scale" in tensors else False
    factors = tensors.take("activation_global_scale", *(() if scalar else (M,))).expand(M)
    tensors.drop("target_rms")
    return (ones, zeros) if bool(mean.isnan().any() or std.isnan().any()) else (factors, mean)


def _set(tensors: Tensors) -> float:
    value = tensors.left.get("threshold")
    if isinstance(value, Tensor) and value.ndim:
        raise refused(tensors.file, "has a threshold for each model, which one shared code cannot hold", "name another")
    threshold = tensors.number("threshold")
    if not threshold >= 0:
        raise refused(tensors.file, f"has a threshold of {threshold:g}: it was never set", "train it on first")
    return threshold


def read_kissane(found: Found, scales: Sequence[float]) -> Foreign:
    """A crosscoder of Kissane et al. or Nanda.

    Raises:
        UserError: it is damaged; the factors of its models are not given.
    """
    cfg, tensors = Config.load(found.files["config"]), Tensors.load(found.files["weights"])
    d, F = cfg.count("d_in"), cfg.count("dict_size")
    M = cfg.count("n_models") if "n_models" in cfg.values else 2
    why = "was trained on activations scaled to a norm of sqrt(d), and does not say by which factors"
    factors = found.scales(scales, M, why)
    encoder, decoder = tensors.take("W_enc", M, d, F), tensors.take("W_dec", F, M, d)
    bias, decoder_bias = tensors.take("b_enc", F), tensors.take("b_dec", M, d)
    tensors.done()
    named = cfg.get("hook_point")
    names = [cfg.get("model_name"), *([None] * (M - 1))]
    return Foreign(
        library="crosscoder-model-diff",
        architecture="crosscoder",
        kind="relu+l1",
        places=tuple(
            Place(width=d, model=names[m], named=named, hookpoint=of_transformer_lens(named, names[0]), scale=s)
            for m, s in enumerate(factors)
        ),
        encoder=encoder.permute(2, 0, 1).reshape(F, M * d),
        bias=bias,
        decoder=decoder.reshape(F, M * d),
        decoder_bias=decoder_bias.flatten(),
        normalization="one factor per space, to a norm of sqrt(d)",
    )


@torch.no_grad()
def written(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the state of a crosscoder.

    Raises:
        UserError: it is pooled, over spaces of different widths, or has what no class of theirs holds.
    """
    M, widths, F = dictionary.n_spaces, dictionary.widths, dictionary.n_features
    form = form_of(dictionary)
    if not dictionary.design.joint or len(set(widths)) > 1:
        what = f"{dictionary.design.kind} dictionary over widths {', '.join(map(str, widths))}"
        raise UserError("format", "dictionary-learning", f"holds no {what}", "use crosscoders of equal widths")
    if form not in ("relu", "threshold"):
        fix = "bring it to thresholds with suture refit --l0" if form == "topk" else "train with --sparsity batchtopk"
        raise UserError("format", "dictionary-learning", f"holds no {form} crosscoder", fix)
    d = widths[0]
    decoder = dictionary.W_dec.reshape(F, M, d).permute(1, 0, 2)
    scale = torch.tensor([space.scale for space in dictionary.spaces])
    center = dictionary.center.reshape(M, d)
    state = {
        "encoder.weight": dictionary.W_enc.reshape(F, M, d).permute(1, 2, 0) / M,
        "encoder.bias": dictionary.b_enc,
        "decoder.weight": decoder,
        "decoder.bias": dictionary.b_dec.reshape(M, d) - center,
        "target_rms": torch.tensor(1.0),
        "activation_mean": center / scale[:, None],
        "activation_std": (1 / (scale * d**0.5))[:, None].expand(M, d),  # what gives these factors at a target of 1
        "activation_global_scale": scale,
    }
    normalization = "CROSSCODER"
    if form == "threshold":
        normalization, threshold = _as_common(dictionary.threshold, decoder)
        state |= {"k": torch.tensor(dictionary.sparsity.k, dtype=torch.int), "threshold": torch.tensor(threshold)}
    number = next(i for i, name in NORMALIZATIONS.items() if name == normalization)
    state["code_normalization_id"] = torch.tensor(number)
    trainer = {
        "dict_class": CLASSES[form == "threshold"],
        "activation_dim": d,
        "dict_size": F,
        "num_layers": M,
        "code_normalization": normalization,
        "lm_name": [space.model for space in dictionary.spaces],
        "layer": [layer_of(space.hookpoint) for space in dictionary.spaces],
        "hookpoints": [to_submodule(space.hookpoint) for space in dictionary.spaces],
    }
    if form == "threshold":
        trainer["k"] = dictionary.sparsity.k
    return {"trainer": trainer, "buffer": {"io": "out"}}, state


def _as_common(threshold: Tensor, decoder: Tensor) -> tuple[str, float]:
    """Thresholds as one number, and what codes are multiplied by to meet it."""
    ways = {"NONE": 1.0, "CROSSCODER": decoder.norm(dim=2).sum(0), "SAE": decoder.norm(dim=(0, 2))}
    for name, norms in ways.items():
        scores = threshold * norms
        if float(scores.max() - scores.min()) <= SAME * float(scores.abs().max()):
            return name, float(scores.mean())
    problem = "holds no crosscoder with a threshold of each feature's own"
    fix = "use one that was trained with --sparsity batchtopk and not refitted"
    raise UserError("format", "dictionary-learning", problem, fix)
