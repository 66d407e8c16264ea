"""Files without a configuration, told apart by what their tensors are called: Goodfire's and OpenAI's SAEs.

Goodfire (and the R1 SAEs): f = relu(x W^T + b), x̂ = f D^T + b_dec, nothing subtracted; `encoder_linear.weight` or
`encoder.weight` [F, d], `decoder(_linear).weight` [d, F].
OpenAI (2406.04093): f = relu((x - pre_bias) W^T + latent_bias), x̂ = f D^T + pre_bias. Their TopK files normalise every
row by its own mean and deviation, which no scale of a space can hold, and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from suture.formats.foreign import Foreign, Place
from suture.formats.found import Found
from suture.formats.tensors import Tensors, refused


def read(found: Found, scales: Sequence[float]) -> Foreign:
    """Whichever its keys say.

    Raises:
        UserError: they are of no format that is read.
    """
    tensors = Tensors.load(found.files["weights"])
    if "pre_bias" in tensors:
        return read_openai(found, scales)
    if "encoder_linear.weight" in tensors or {"encoder.weight", "decoder.weight", "decoder.bias"} <= set(tensors.left):
        return read_goodfire(found, scales)
    has = ", ".join(sorted(tensors.left)[:5]) or "nothing"
    fix = "give the folder with its configuration, or name its --format"
    raise refused(tensors.file, f"is of no format that is known by its tensors ({has})", fix)


def read_goodfire(found: Found, scales: Sequence[float]) -> Foreign:
    """A ReLU SAE of two linear layers."""
    found.scales(scales, 1, None)
    tensors = Tensors.load(found.files["weights"])
    ending = "_linear" if "encoder_linear.weight" in tensors else ""
    F, d = tensors.shape(f"encoder{ending}.weight", "F d")
    foreign = Foreign(
        library="Goodfire",
        architecture="relu",
        kind="relu+l1",
        places=(Place(width=d),),
        encoder=tensors.take(f"encoder{ending}.weight", F, d),
        bias=tensors.take(f"encoder{ending}.bias", F),
        decoder=tensors.take(f"decoder{ending}.weight", d, F).T,
        decoder_bias=tensors.take(f"decoder{ending}.bias", d),
    )
    tensors.done()
    return foreign


def read_openai(found: Found, scales: Sequence[float]) -> Foreign:
    """A ReLU SAE with one bias subtracted and added."""
    found.scales(scales, 1, None)
    tensors = Tensors.load(found.files["weights"])
    activation = tensors.word("activation")
    if activation != "ReLU":
        problem = f"says activation = {activation!r}: such files normalise every row, which no scale can hold"
        raise refused(tensors.file, problem, "import one with ReLU")
    tensors.drop("activation_state_dict", "stats_last_nonzero")
    F, d = tensors.shape("encoder.weight", "F d")
    pre_bias = tensors.take("pre_bias", d)
    foreign = Foreign(
        library="OpenAI",
        architecture="relu",
        kind="relu+l1",
        places=(Place(width=d),),
        encoder=tensors.take("encoder.weight", F, d),
        bias=tensors.take("latent_bias", F),
        decoder=tensors.take("decoder.weight", d, F).T,
        decoder_bias=pre_bias,
        subtracted=pre_bias,
    )
    tensors.done()
    return foreign
