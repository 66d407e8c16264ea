"""Edits: pure functions from a model's activations at a hookpoint to the activations that replace them.

Every edit adds a difference to the activation it is given and so keeps the error term: what the dictionary does not
reconstruct passes through untouched.

1. `steer` adds the same vector everywhere, `steer_each` one to each sequence of a batch.
2. `replace` encodes the activation from this model alone and adds sum_i (value_i - f_i) d_i, d_i being feature i's
   decoder row in this model's raw units; `clamp` is that for one feature, `ablate` that with all values zero.
3. `difference` subtracts sum_i f_i (d_i^m - d_i^o), what the features write in this model and not in another of the
   same width; `project_out` takes directions out, whatever the dictionary says.
4. `sparing_first` and `at_positions` limit an edit to some positions, `scheduled` to places in a generation too;
   `scaled` does part of an edit, `composed` several one after the other. At strength zero each is the identity, bit
   for bit.
5. How much is added: multiples of a feature's own 99.9 % activation (`raw_decoder` times that), of the activation's
   norm (`norm_amount`), or what a KL budget allows (`steer.doses`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from suture.activations.space import Space, are_null
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.lm.load import LanguageModel

Edit = Callable[[Tensor], Tensor]
"""From raw activations [batch, token, width] of one space to the activations that take their place."""


def steer(direction: Float[Tensor, "width"], amount: float) -> Edit:
    """Add `amount * direction` (raw units) to the activation at every position."""

    def edit(activation: Tensor) -> Tensor:
        return activation + (amount * direction).to(activation)

    return edit


def steer_each(vectors: Float[Tensor, "batch width"]) -> Edit:
    """Add to each sequence of a batch its own vector (raw units), so that one pass serves many strengths."""

    def edit(activation: Tensor) -> Tensor:
        assert len(activation) == len(vectors), (activation.shape, vectors.shape)
        return activation + vectors.to(activation)[:, None, :]

    return edit


def clamp(dictionary: Dictionary, space: int, feature: int, value: float) -> Edit:
    """Make `feature` have this `value` (in the dictionary's code units) at every position: adds (value - f) d.

    Raises:
        UserError: the dictionary has no such space or feature.
    """
    return replace(dictionary, space, {feature: value})


def ablate(dictionary: Dictionary, space: int, features: Sequence[int]) -> Edit:
    """Take away what `features` contribute to the reconstruction: subtracts sum_i f_i d_i.

    Raises:
        UserError: the dictionary has no such space or feature.
    """
    return replace(dictionary, space, dict.fromkeys(features, 0.0))


def replace(dictionary: Dictionary, space: int, values: Mapping[int, float]) -> Edit:
    """Give a set of features these values at every position, and leave all others and the error term as they are.

    The present values come from this model alone, since no other model runs beside it.

    Raises:
        UserError: the dictionary has no such space or feature.
    """
    check_space(dictionary, space)
    for feature in values:
        check_feature(dictionary, feature)
    chosen = torch.tensor(list(values), dtype=torch.int64)
    wanted = torch.tensor(list(values.values()), dtype=torch.float32)
    directions = dictionary.raw_decoder(space)[chosen].detach()

    def edit(activation: Tensor) -> Tensor:
        rows = activation.reshape(-1, activation.shape[-1]).to(directions)
        present = solo_codes(dictionary, space, rows, chosen)
        difference = (wanted.to(present) - present) @ directions
        return activation + difference.reshape(activation.shape).to(activation)

    return edit


def difference(dictionary: Dictionary, space: int, other: int, features: Sequence[int]) -> Edit:
    """Take away what `features` write in this space and not in another one: subtracts sum_i f_i (d_i - d_i^other).

    Raises:
        UserError: the dictionary has no such space or feature, or the two differ in width.
    """
    check_space(dictionary, space)
    check_space(dictionary, other)
    for feature in features:
        check_feature(dictionary, feature)
    if dictionary.widths[space] != dictionary.widths[other]:
        widths = f"{dictionary.widths[space]} and {dictionary.widths[other]}"
        raise UserError("space", other, f"spaces of widths {widths} have no difference", "carry it through a bridge")
    chosen = torch.tensor(list(features), dtype=torch.int64)
    written = (dictionary.raw_decoder(space) - dictionary.raw_decoder(other))[chosen].detach()

    def edit(activation: Tensor) -> Tensor:
        rows = activation.reshape(-1, activation.shape[-1]).to(written)
        taken = solo_codes(dictionary, space, rows, chosen) @ written
        return activation - taken.reshape(activation.shape).to(activation)

    return edit


def project_out(directions: Float[Tensor, "direction width"], mean: Float[Tensor, "width"]) -> Edit:
    """Leave nothing along some directions (raw units; they need not be orthogonal) but what `mean` has there."""
    basis = orthonormal(directions)

    def edit(activation: Tensor) -> Tensor:
        rows = activation.to(basis)
        return (rows - (rows - mean.to(basis)) @ basis.T @ basis).to(activation)

    return edit


def orthonormal(directions: Float[Tensor, "direction width"]) -> Float[Tensor, "rank width"]:
    """A basis of what the directions span; those that the others span already add nothing."""
    _, sizes, basis = torch.linalg.svd(directions.double(), full_matrices=False)
    return basis[sizes > 1e-6 * sizes.max().clamp_min(1e-30)].to(directions)


def scaled(edit: Edit, strength: float) -> Edit:
    """So many times what `edit` changes; nothing at all, bit for bit, at zero."""
    if strength == 0:
        return lambda activation: activation
    return lambda activation: activation + strength * (edit(activation) - activation)


def composed(edits: Sequence[Edit]) -> Edit:
    """One edit after the other, each of what the one before left."""

    def edit(activation: Tensor) -> Tensor:
        for one in edits:
            activation = one(activation)
        return activation

    return edit


def norm_amount(direction: Float[Tensor, "width"], rows: Float[Tensor, "row width"], part: float) -> float:
    """How often `direction` must be added to be `part` as long as the typical (median) of some raw activations."""
    return part * float(rows.norm(dim=-1).median()) / float(direction.norm().clamp_min(1e-12))


def scheduled(edit: Edit, strength: Callable[[], Float[Tensor, "batch token"]]) -> Edit:
    """`edit` at a strength of each token's own, asked for in every pass; where it is zero nothing changes."""

    def part(activation: Tensor) -> Tensor:
        factor = strength().to(activation.device)[..., None]
        changed = activation + factor.to(activation) * (edit(activation) - activation)
        return torch.where(factor == 0, activation, changed)

    return part


def sparing_first(edit: Edit) -> Edit:
    """`edit` at every position but the first of a sequence, where the beginning-of-sequence token sits.

    A pass over a single token is taken for one step of a generation with a KV cache, whose token is not the first;
    so a sequence of nothing but that first token is edited too.
    """

    def spared(activation: Tensor) -> Tensor:
        if activation.shape[-2] == 1:
            return edit(activation)
        return torch.cat([activation[..., :1, :], edit(activation[..., 1:, :])], dim=-2)

    return spared


def at_positions(edit: Edit, where: Bool[Tensor, "batch token"]) -> Edit:
    """`edit` only where `where` is true; it suits a single pass over exactly these positions."""

    def limited(activation: Tensor) -> Tensor:
        assert activation.shape[:-1] == where.shape, (activation.shape, where.shape)
        return torch.where(where.to(activation.device)[..., None], edit(activation), activation)

    return limited


def solo_codes(
    dictionary: Dictionary, space: int, rows: Float[Tensor, "row width"], features: Tensor
) -> Float[Tensor, "row chosen"]:
    """The values of some features when raw activations `rows` of one space are all that is known.

    `features` is an int64 vector of feature numbers; the result has a column for each.
    """
    alone: list[Tensor | None] = [None] * len(dictionary.spaces)
    alone[space] = rows
    with torch.no_grad():
        codes = dictionary.encode_raw(alone)
    features = features.to(codes.feature.device)
    column = torch.full((dictionary.n_features,), -1, dtype=torch.int64, device=codes.feature.device)
    column[features] = torch.arange(len(features), device=codes.feature.device)
    at = column[codes.feature.long()]
    kept = at >= 0
    values = rows.new_zeros(rows.shape[0], len(features))
    values[codes.row[kept].long(), at[kept]] = codes.value[kept].to(values)
    return values


def check_space(dictionary: Dictionary, space: int) -> None:
    """Raise a UserError unless the dictionary has a space of this number."""
    if not 0 <= space < len(dictionary.spaces):
        known = ", ".join(f"{i}: {s.model} @ {s.hookpoint}" for i, s in enumerate(dictionary.spaces))
        raise UserError("space", space, "the dictionary does not have it", f"take one of {known}")


def refuse_null(dictionary: Dictionary, path: str | Path) -> None:
    """A null's second model is a copy made of stored rows; no language model computes it.

    Raises:
        UserError: the dictionary is a null's.
    """
    if are_null(dictionary.spaces):
        problem = "was trained on a model and a copy of it, which no language model computes"
        raise UserError("dictionary", path, problem, "name one trained on language models")


def check_models(spaces: Sequence[Space], lms: Sequence[LanguageModel | None]) -> None:
    """Refuse models that are not those of the spaces, in their order; None stands for one that is left alone.

    Raises:
        UserError: not one model per space, or one with other weights than the space's.
    """
    if len(lms) != len(spaces) or all(lm is None for lm in lms):
        problem = f"the dictionary has {len(spaces)} spaces"
        raise UserError("models", len(lms), problem, "give one model per space, None for one that is left alone")
    for lm, space in zip(lms, spaces, strict=True):
        if lm is not None and space.fingerprint and lm.fingerprint != space.fingerprint:
            problem = f"has other weights than the {space.model} that the dictionary was trained on"
            raise UserError("model", lm.name, problem, "load the same model and revision")


def check_feature(dictionary: Dictionary, feature: int) -> None:
    """Raise a UserError unless the dictionary has a feature of this number."""
    if not 0 <= feature < dictionary.n_features:
        last = dictionary.n_features - 1
        raise UserError("feature", feature, "the dictionary does not have it", f"take one from 0 to {last}")
