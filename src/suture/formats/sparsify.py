"""sparsify's files (`eai-sparsify`): a folder per hookpoint with `cfg.json` and `sae.safetensors`, read and written.

f = the k largest of relu((x - b_dec) W^T + b), x̂ = f W_dec + b_dec; `encoder.weight` [F, d], `W_dec` [F, d] (not
transposed). The folder's name is the hookpoint; the model's name stands in `config.json` of the folder above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.names import of_module
from suture.formats.plain import Plain
from suture.formats.tensors import Config, Tensors, refused

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """An SAE.

    Raises:
        UserError: it is damaged, or what suture cannot hold.
    """
    found.scales(scales, 1, None)
    cfg, tensors = Config.load(found.files["config"]), Tensors.load(found.files["weights"])
    cfg.only("activation", ("topk",), default="topk", what="groups of features that exclude each other")
    cfg.only("signed", (False, None), default=False, what="codes below zero")
    cfg.only("transcode", (False,), default=False, what="a transcoder reads one place and writes another")
    cfg.only("skip_connection", (False,), default=False, what="a linear path beside the features")
    if "W_skip" in tensors:
        raise refused(tensors.file, "has a W_skip: a linear path beside the features", "import another dictionary")
    d = cfg.count("d_in")
    F = cfg.get("num_latents") or d * cfg.count("expansion_factor")
    b_dec = tensors.take("b_dec", d)
    run = Config.load(found.files["run"]) if "run" in found.files else Config({}, found.files["config"])
    foreign = Foreign(
        library="sparsify",
        architecture="topk",
        kind="topk",
        k=cfg.count("k"),
        places=(
            Place(width=d, model=run.get("model"), named=found.folder_name, hookpoint=of_module(found.folder_name)),
        ),
        encoder=tensors.take("encoder.weight", F, d),
        bias=tensors.take("encoder.bias", F),
        decoder=tensors.take("W_dec", F, d),
        decoder_bias=b_dec,
        subtracted=b_dec,
    )
    tensors.done()
    return foreign


def written(plain: Plain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """cfg.json and the tensors of sae.safetensors."""
    F, d = plain.encoder.shape
    norms = plain.decoder.norm(dim=1)
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, F // d),
        "normalize_decoder": bool((norms - 1).abs().max() < 1e-4),
        "num_latents": F,
        "k": plain.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d,
    }
    weights = {"encoder.weight": plain.encoder, "encoder.bias": plain.bias}
    return cfg, weights | {"W_dec": plain.decoder, "b_dec": plain.decoder_bias}
