"""Qwen-Scope's SAEs: `layer{n}.sae.pt` of the output of block n, with or without a `config.json`.

f = the k largest of x W_enc^T + b_enc, x̂ = f W_dec^T + b_dec; b_dec is not subtracted. `W_enc` [F, d] and `W_dec`
[d, F]: what SAELens calls by the same names, transposed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.tensors import Config, Tensors, refused


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """An SAE.

    Raises:
        UserError: it is damaged, or nothing says its k.
    """
    found.scales(scales, 1, None)
    tensors = Tensors.load(found.files["weights"])
    config = Config.load(found.files["config"]) if "config" in found.files else Config({}, tensors.file)
    config.only("model_type", ("topk_sae",), default="topk_sae")
    F, d = tensors.shape("W_enc", "F d")
    for name, size in (("d_model", d), ("d_sae", F)):
        if name in config.values and config.count(name) != size:
            raise refused(config.file, f"says {name} = {config.count(name)}, its weights have {size}", "fetch both")
    named = re.search(r"SAE-Res-(?P<model>.+)-W\d+K-L0_(?P<k>\d+)", found.whole_path)
    if "k" not in config.values and named is None:
        raise refused(tensors.file, "does not say its k, nor does a config.json beside it", "put that there")
    layer = re.search(r"layer(\d+)\.sae\.pt", tensors.file.name)
    assert layer is not None, "found by this name"
    foreign = Foreign(
        library="Qwen-Scope",
        architecture="topk",
        kind="topk",
        k=config.count("k") if "k" in config.values or named is None else int(named["k"]),
        places=(
            Place(
                width=d,
                model=config.get("model_name") or (f"Qwen/{named['model']}" if named else None),
                named=f"output of block {layer[1]}",
                hookpoint=f"resid{layer[1]}.post",
            ),
        ),
        encoder=tensors.take("W_enc", F, d),
        bias=tensors.take("b_enc", F),
        decoder=tensors.take("W_dec", d, F).T,
        decoder_bias=tensors.take("b_dec", d),
    )
    tensors.done()
    return foreign
