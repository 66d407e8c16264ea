"""`Foreign`: what any library's file says of a dictionary, in one form, and the suture dictionary that it is.

What every reader here brings its file to, for M spaces with rows x_m:

1. pre = sum_m (s_m x_m - c_m) E_m + b
2. f = relu(pre) where pre > threshold; or of the k largest; or (gated) the magnitude exp(g) (pre - b) + m where pre > 0
3. s_m x̂_m = f D_m + b_dec_m

s, the input's scale, is the space's; c, what is subtracted before encoding, is `center`. suture takes the mean over
spaces where others sum, so the encoder is multiplied by their number. Nothing else changes: codes stay what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from suture.activations.space import Space
from suture.dictionary.activation import Sparsity, SparsityKind
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one space's activations come from, as the file says it."""

    width: int
    model: str | None = None
    named: str | None = None
    """The place as the file names it."""
    hookpoint: str | None = None
    """The same as suture names it; None where the file does not say it, or suture cannot know."""
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """A dictionary out of another library's file."""

    library: str
    version: str | None = None
    """Of the library, where the file says it."""
    architecture: str
    """As the library calls it."""
    kind: SparsityKind
    k: int | None = None
    places: tuple[Place, ...]
    encoder: Float[Tensor, "feature D"]
    bias: Float[Tensor, "feature"]
    decoder: Float[Tensor, "feature D"]
    decoder_bias: Float[Tensor, "D"]
    subtracted: Float[Tensor, "D"] | None = None
    """c; None for nothing."""
    threshold: Float[Tensor, "feature"] | None = None
    own: Mapping[str, Float[Tensor, "feature"]] = field(default_factory=dict)
    """What a kind of sparsity adds."""
    normalization: str = "none"
    """What was done to activations before they entered, in words."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth keeping."""

    @torch.no_grad()
    def dictionary(self, spaces: Sequence[Space]) -> Dictionary:
        """The dictionary over these spaces, which name the places."""
        F, M = self.encoder.shape[0], len(self.places)
        sparsity = Sparsity(kind=self.kind) if self.k is None else Sparsity(kind=self.kind, k=self.k)
        made = Dictionary(
            spaces, Design(kind="sae" if M == 1 else "crosscoder", n_features=F, sparsity=sparsity)
        ).requires_grad_(requires_grad=False)
        weights = {"W_enc": self.encoder * M, "b_enc": self.bias, "W_dec": self.decoder, "b_dec": self.decoder_bias}
        if self.subtracted is not None:
            weights["center"] = self.subtracted
        if self.threshold is not None:
            weights["threshold"] = self.threshold
        for name, tensor in (weights | dict(self.own)).items():
            made.state_dict()[name].copy_(tensor)
        return made

    @torch.no_grad()
    def with_norms_folded(self) -> Foreign:
        """Decoder rows of norm 1, their norms moved into pre-activations and values, where thresholds already are."""
        norms = self.decoder.norm(dim=1).clamp_min(1e-12)
        return replace(
            self,
            encoder=self.encoder * norms[:, None],
            bias=self.bias * norms,
            decoder=self.decoder / norms[:, None],
        )
