"""`Plain`: a dictionary of one space as other libraries write it, for raw activations, with everything folded in.

pre = (x - [subtracts] b_dec) E + b; f by its form; x̂ = f D + b_dec, all in the model's own units. The space's scale
is in E, D and b_dec; what suture subtracts before encoding (`center`) is in b. Sums are made in float64: with a large
constant part in the activations, pre is a small difference of large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from suture.activations.space import Space
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.formats.names import to_module

Form = Literal["relu", "topk", "threshold", "gated"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plain:
    """A dictionary of one space, folded; float32."""

    space: Space
    form: Form
    """What makes codes sparse: nothing but the ReLU, a ranking, a threshold for each feature, or a gate."""
    k: int
    encoder: Float[Tensor, "feature width"]
    bias: Float[Tensor, "feature"]
    """Of the gate, where there is one."""
    decoder: Float[Tensor, "feature width"]
    decoder_bias: Float[Tensor, "width"]
    threshold: Float[Tensor, "feature"]
    log_gain: Float[Tensor, "feature"]
    magnitude_bias: Float[Tensor, "feature"]
    subtracts: bool
    """Whether `decoder_bias` is to be subtracted before encoding."""

    @property
    def module(self) -> str:
        """The hookpoint as a module's path."""
        return to_module(self.space.hookpoint)


def form_of(dictionary: Dictionary) -> Form:
    """What makes a dictionary's codes sparse in use."""
    if dictionary.sparsity.ranks:
        return "topk"
    if dictionary.own_weights:
        return "gated"
    return "threshold" if bool((dictionary.threshold > 0).any()) else "relu"


@torch.no_grad()
def plain(dictionary: Dictionary, format: str, *, subtracts: bool | None = None) -> Plain:
    """A dictionary of one space, folded.

    Args:
        dictionary: of any kind of sparsity.
        format: in whose file it is to be, for the message.
        subtracts: whether the file's reader subtracts `b_dec` before encoding; where None, it may be told: it is then
            told so where that is what the dictionary does, and nothing is rounded.

    Raises:
        UserError: a dictionary over several spaces, which such a file cannot hold.
    """
    if dictionary.n_spaces != 1:
        places = ", ".join(space.label for space in dictionary.spaces)
        problem = f"holds one space, the dictionary is a {dictionary.design.kind} over {places}"
        fix = "a crosscoder of equal widths goes to --format dictionary-learning"
        raise UserError("format", format, problem, fix)
    if dictionary.design.kind != "sae":
        raise UserError("format", format, f"holds no {dictionary.design.kind} dictionary", "train with --design sae")
    (space,) = dictionary.spaces
    W = dictionary.W_enc.double()
    c, b = dictionary.center.double(), dictionary.b_dec.double()
    subtracts = bool(torch.equal(c, b)) if subtracts is None else subtracts
    moved = W @ (c - b if subtracts else c)
    bias = dictionary.b_enc.double() - moved
    own = {name: tensor.double() for name, tensor in dictionary.own_weights.items()}
    form = form_of(dictionary)
    zero = torch.zeros_like(bias)
    gain, magnitude = own.get("log_gain", zero), own.get("magnitude_bias", zero)
    if form == "gated":  # the gate opens above its threshold; files have gates that open above zero
        bias = bias - dictionary.threshold.double()
        magnitude = magnitude - gain.exp() * moved
    return Plain(
        space=space,
        form=form,
        k=dictionary.sparsity.k,
        encoder=_float(W * space.scale),
        bias=_float(bias),
        decoder=_float(dictionary.W_dec.double() / space.scale),
        decoder_bias=_float(b / space.scale),
        threshold=dictionary.threshold.float().contiguous(),
        log_gain=_float(gain),
        magnitude_bias=_float(magnitude),
        subtracts=subtracts,
    )


def _float(tensor: Float64[Tensor, "*query"]) -> Float[Tensor, "*query"]:
    return tensor.float().contiguous()
