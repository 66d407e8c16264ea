"""Gemma Scope and Gemma Scope 2: SAEs, and crosscoders as several spaces of one model; transcoders are refused by name.

f = relu(x w_enc + b_enc) where that is above `threshold`; x̂ = f w_dec + b_dec. `w_enc` [d, F], `w_dec` [F, d]; b_dec is
not subtracted, activations are not scaled. A crosscoder is n files, one per layer: the features of file l READ layer l
alone and WRITE layers l and later, `w_dec` [F_l, n, d]:

    f_l = jumprelu(x_l w_enc_l + b_enc_l),    x̂_m = sum_l f_l w_dec_l[:, m] + b_dec_m

so that the encoder of the whole is block-diagonal and its decoder block-triangular: what a file writes before its own
layer must be nothing. The width in a folder's name is that of all files together. Where config.json is missing or
says less, the folder's name says what it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.names import of_module
from suture.formats.tensors import Config, Tensors, refused

SITES = {
    "resid_post": "model.layers.{}.output",
    "mlp_out": "model.layers.{}.post_feedforward_layernorm.output",
    "attn_out": "model.layers.{}.self_attn.o_proj.input",
}
OTHERS = {
    "transcoder": "a transcoder, which reads one place and writes another",
    "clt": "a cross-layer transcoder, which reads MLPs' inputs and writes their outputs",
}
BEFORE = 1e-6
"""What is written before a feature's own layer counts as nothing up to this part of what is written at most."""


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """An SAE or a crosscoder.

    Raises:
        UserError: it is damaged, a transcoder, or its files are not all there.
    """
    config = Config.load(found.files["config"]) if "config" in found.files else Config({}, _first(found))
    _refuse_transcoders(found, config)
    config.only("architecture", ("jump_relu", "jumprelu"), default="jump_relu")
    config.only("affine_connection", (False, None), default=None, what="a linear path beside the features")
    layers = [name for name in found.files if name.startswith("layer ")]
    found.scales(scales, max(len(layers), 1), None)
    model = _model(config, found)
    return _crosscoder(found, model, layers) if layers else _sae(found, config, model)


def _refuse_transcoders(found: Found, config: Config) -> None:
    said = str(config.get("type") or _site(found))
    if said in OTHERS:
        raise refused(_first(found), f"is {OTHERS[said]}", "import an SAE or a crosscoder")
    reads, writes = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if isinstance(reads, str) and isinstance(writes, str) and reads != writes:
        raise refused(_first(found), f"reads {reads} and writes {writes}", "import an SAE or a crosscoder")


def _sae(found: Found, config: Config, model: str | None) -> Foreign:
    tensors = Tensors.load(found.files["weights"])
    d, F = tensors.shape("w_enc", "d F")
    if "affine_skip_connection" in tensors:
        raise refused(tensors.file, "has a linear path beside the features", "import another dictionary")
    encoder, bias, decoder, decoder_bias, threshold = _taken(tensors, d, F, (F, d))
    named = config.get("hf_hook_point_in") or _named(found)
    place = Place(width=d, model=model, named=named, hookpoint=of_module(named))
    return Foreign(
        library="Gemma Scope 2",
        architecture="jump_relu",
        kind="jumprelu",
        places=(place,),
        encoder=encoder,
        bias=bias,
        decoder=decoder,
        decoder_bias=decoder_bias,
        threshold=threshold,
        notes={"l0": config.get("l0")},
    )


def _crosscoder(found: Found, model: str | None, layers: Sequence[str]) -> Foreign:
    files = [found.files[name] for name in layers]
    if [int(name.split()[1]) for name in layers] != list(range(len(layers))):
        problem = f"has the files of layers {', '.join(name.split()[1] for name in layers)}: some are missing"
        raise refused(files[0], problem, "fetch all of them")
    n, numbers = len(files), _layers(found)
    if len(numbers) != n:
        problem = f"has {n} files, its name {len(numbers)} layers"
        raise refused(files[0].parent, problem, "fetch all files, and keep the folder's name")
    opened = [Tensors.load(file) for file in files]
    d = opened[0].shape("w_enc", "d F")[0]
    sizes = [tensors.shape("w_enc", "d F")[1] for tensors in opened]
    _check_width(found, sum(sizes))
    total = sum(sizes)
    encoder, decoder = torch.zeros(total, n, d), torch.zeros(total, n, d)
    bias, threshold, decoder_bias = torch.zeros(total), torch.zeros(total), torch.zeros(n, d)
    starts = [sum(sizes[:layer]) for layer in range(n + 1)]
    for layer, (tensors, (start, stop)) in enumerate(zip(opened, pairwise(starts), strict=True)):
        own, b, rows, decoder_bias[layer], t = _taken(tensors, d, stop - start, (stop - start, n, d))
        before = float(rows[:, :layer].abs().max()) if layer else 0.0
        if before > BEFORE * float(rows.abs().max()):
            problem = f"writes {before:.2g} before its own layer, where a feature of this set writes nothing"
            raise refused(tensors.file, problem, "fetch it again")
        rows[:, :layer] = 0
        encoder[start:stop, layer], decoder[start:stop] = own, rows
        bias[start:stop], threshold[start:stop] = b, t
    names = [SITES["resid_post"].format(number) for number in numbers]
    return Foreign(
        library="Gemma Scope 2",
        architecture="jump_relu crosscoder",
        kind="jumprelu",
        places=tuple(Place(width=d, model=model, named=name, hookpoint=of_module(name)) for name in names),
        encoder=encoder.reshape(total, n * d),
        bias=bias,
        decoder=decoder.reshape(total, n * d),
        decoder_bias=decoder_bias.flatten(),
        threshold=threshold,
        notes={"features_of_layer": dict(zip(map(str, numbers), sizes, strict=True))},
    )


def _taken(tensors: Tensors, d: int, F: int, decoder: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Encoder [F, d], its bias, decoder, its bias, threshold."""
    found = (
        tensors.take("w_enc", d, F).T,
        tensors.take("b_enc", F),
        tensors.take("w_dec", *decoder),
        tensors.take("b_dec", d),
        tensors.take("threshold", F),
    )
    tensors.done()
    return found


def _check_width(found: Found, total: int) -> None:
    said = re.search(r"width_(\d+)(k|m|)(?:_|$)", found.whole_path)
    if said is None:
        return
    unit = {"": 1, "k": 10**3, "m": 10**6}[said[2]]
    if total // unit != int(said[1]):  # 262k are 262,144
        problem = f"has {total:,} features in all, its name says width_{said[1]}{said[2]}"
        raise refused(_first(found), problem, "fetch all files of the folder")


def _named(found: Found) -> str | None:
    """The hookpoint, as the folder's name says it."""
    layer = re.search(r"layer_(\d+)(?:_|$)", found.folder_name)
    site = _site(found)
    return SITES[site].format(layer[1]) if layer and site in SITES else None


def _site(found: Found) -> str:
    """What kind of dictionary this is, as the folder above says it: `resid_post`, `transcoder_all`, .."""
    return PurePosixPath(found.whole_path).parent.name.removesuffix("_all")


def _layers(found: Found) -> list[int]:
    """Which layers a crosscoder's folder names."""
    said = re.search(r"layer_((?:\d+_)+)width", found.whole_path + "_")
    return [int(number) for number in said[1].strip("_").split("_")] if said else []


def _model(config: Config, found: Found) -> str | None:
    """The model's name on the hub: some files leave `google/` out, or call the family `gemma-v3`."""
    said = config.get("model_name")
    if not said:
        from_name = re.search(r"gemma-scope-2-(\w+)-(pt|it)", found.whole_path)
        said = f"gemma-3-{from_name[1]}-{from_name[2]}" if from_name else None
    if not said:
        return None
    said = str(said).replace("gemma-v3", "gemma-3")
    said = said if "/" in said else f"google/{said}"
    return said.removesuffix("-pt") if "270m" in said else said  # that one has no -pt on the hub


def _first(found: Found) -> Path:
    return next(iter(found.files.values()))


def read_first(found: Found, scales: Sequence[float]) -> Foreign:
    """An SAE of the first Gemma Scope: the same arithmetic, `params.npz`, names in capitals, and no configuration.

    Raises:
        UserError: it is damaged, or a transcoder.
    """
    _refuse_transcoders(
        found, Config({"type": "transcoder"} if "transcoders" in found.whole_path else {}, _first(found))
    )
    found.scales(scales, 1, None)
    tensors = Tensors.load(found.files["weights"])
    d, F = tensors.shape("W_enc", "d F")
    tensors = Tensors({name.lower(): value for name, value in tensors.left.items()}, tensors.file)
    encoder, bias, decoder, decoder_bias, threshold = _taken(tensors, d, F, (F, d))
    named, model = _first_names(found)
    return Foreign(
        library="Gemma Scope",
        architecture="jump_relu",
        kind="jumprelu",
        places=(Place(width=d, model=model, named=named, hookpoint=of_module(named)),),
        encoder=encoder,
        bias=bias,
        decoder=decoder,
        decoder_bias=decoder_bias,
        threshold=threshold,
    )


def _first_names(found: Found) -> tuple[str | None, str | None]:
    """(hookpoint, model), as `gemma-scope-2b-pt-res/layer_20/width_16k/..` says them."""
    said = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|att|mlp)\b", found.whole_path)
    layer = re.search(r"layer_(\d+)(?:/|$)", found.whole_path)
    if said is None or layer is None:
        return None, None
    site = {"res": "resid_post", "att": "attn_out", "mlp": "mlp_out"}[said[3]]
    model = f"google/gemma-2-{said[1]}" + ("-it" if said[2] == "it" else "")
    return SITES[site].format(layer[1]), model
