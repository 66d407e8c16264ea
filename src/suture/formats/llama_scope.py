"""Llama Scope's SAEs: `hyperparams.json` and `checkpoints/final.safetensors`; its successor's crosscoders are refused.

f = relu(pre) where pre = (s x) W + b is above ONE threshold, s = sqrt(d) / the mean norm of the data, x̂ = (f D +
b_dec) / s. `encoder.weight` [F, d], `decoder.weight` [d, F]; the threshold is in scaled units (2410.20526).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.names import of_transformer_lens
from suture.formats.tensors import Config, Tensors, refused


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """An SAE.

    Raises:
        UserError: it is damaged, or a transcoder.
    """
    config, tensors = Config.load(found.files["config"]), Tensors.load(found.files["weights"])
    reads, writes = config.get("hook_point_in"), config.get("hook_point_out")
    if reads != writes:
        raise refused(config.file, f"reads {reads} and writes {writes}: a transcoder", "import an SAE")
    config.only("act_fn", ("jumprelu", None), default=None)
    config.only("norm_activation", ("dataset-wise", None), default=None, what="every row is scaled by itself")
    config.only("use_glu_encoder", (False, None), default=None, what="a gate in the encoder")
    found.scales(scales, 1, None)
    d, F = config.count("d_model"), config.count("d_sae")
    norms = config.part("dataset_average_activation_norm")
    if norms.positive("in") != norms.positive("out"):
        raise refused(config.file, "scales what it reads and what it writes otherwise", "import another dictionary")
    decoder_bias = tensors.take("decoder.bias", d)
    foreign = Foreign(
        library="Llama Scope",
        architecture="jumprelu",
        kind="jumprelu",
        places=(
            Place(
                width=d,
                model=config.get("model_name"),
                named=reads,
                hookpoint=of_transformer_lens(reads, None),
                scale=d**0.5 / norms.positive("in"),
            ),
        ),
        encoder=tensors.take("encoder.weight", F, d),
        bias=tensors.take("encoder.bias", F),
        decoder=tensors.take("decoder.weight", d, F).T,
        decoder_bias=decoder_bias,
        subtracted=decoder_bias if config.get("apply_decoder_bias_to_pre_encoder", False) else None,
        threshold=torch.full((F,), config.positive("jump_relu_threshold")),
        normalization="one factor, to a mean norm of sqrt(d)",
    )
    tensors.done()
    return foreign


def refuse_successor(found: Found, scales: Sequence[float]) -> Foreign:  # noqa: ARG001
    """Llamascopium: every head of its crosscoders opens its own gates, which one shared code cannot hold.

    Raises:
        UserError: always.
    """
    config = Config.load(found.files["config"])
    kind = config.get("sae_type")
    problem = f"is a Llamascopium dictionary of sae_type {kind!r}, which is not read"
    if kind == "crosscoder":
        problem = "is a Llamascopium crosscoder: its heads can disagree on what is active, one shared code cannot"
    raise refused(config.file, problem, "import another dictionary")
