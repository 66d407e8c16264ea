"""What each model really contributes to a feature, whatever its decoder says: directions fitted again, scored apart.

Scaled units throughout; amounts in units of how far a model's rows lie from their mean (`unit_lengths`), so that
neither a wide model nor one with a large constant part weighs more. e_m is model m's residual, f_i the code of all
models together, both less their means on the discovery rows where they are multiplied (an offset belongs to no
feature); sums run over rows.

1. On discovery rows: v_i^m = d_i^m + sum (f_i - mean) e_m / sum (f_i - mean)^2, the least-squares direction of feature
   i in model m with every other feature kept, and u_i^m, the same of the plain activation x_m.
2. On other rows, with the discovery rows' means: b_i^m = sum (f_i - mean) <v_i^m / ||v_i^m||, e_m + (f_i - mean) d_i^m>
   / sum (f_i - mean)^2, how much of the model's activation a unit of the feature brings along that direction. The rows
   being others, noise in v cannot flatter it: where the model does not have the feature, b is symmetric around zero.
   The same along u with x_m.
3. The noise in v shortens b (by the cosine of v with the true direction); `noise` is its expected length, from which
   the classifier knows what b a model that has the feature would still show.

Latent scaling (2504.02922) is the special case of fixed directions d_i^m; it is kept for comparison (`scaling`). It
says nothing about a d_i^m so short that its direction is noise, and this does.
All sums are sparse-transposed products of the codes with dense rows; nothing is ever [row, feature].
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.codes import Codes
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels.sparse import transpose_times
from suture.parallel import Ranks


@dataclass
class Products:
    """Sums over some rows, feature by feature, from which every quantity of this file follows."""

    squares: Float[Tensor, "feature"]
    """Sum of f_i^2."""
    residual: Float[Tensor, "feature D"]
    """Sum of f_i e."""
    activation: Float[Tensor, "feature D"]
    """Sum of f_i (x - mean)."""
    present: Float[Tensor, "feature D"]
    """Sum of x - center over the rows where f_i > 0: what met the encoder."""
    energy: Float[Tensor, "feature space"]
    """Sum of f_i^2 ||e_m||^2."""
    values: Float[Tensor, "feature"]
    """Sum of f_i."""
    total_residual: Float[Tensor, "D"]
    """Sum of e over all rows."""
    total_activation: Float[Tensor, "D"]
    """Sum of x - mean over all rows."""
    n_rows: int = 0

    @staticmethod
    def zeros(dictionary: Dictionary) -> Products:
        """Nothing summed yet."""
        F, D = dictionary.n_features, dictionary.width
        like = dictionary.W_dec.detach()
        return Products(
            squares=like.new_zeros(F),
            residual=like.new_zeros(F, D),
            activation=like.new_zeros(F, D),
            present=like.new_zeros(F, D),
            energy=like.new_zeros(F, dictionary.n_spaces),
            values=like.new_zeros(F),
            total_residual=like.new_zeros(D),
            total_activation=like.new_zeros(D),
        )

    def add(
        self,
        dictionary: Dictionary,
        codes: Codes,
        x: Float[Tensor, "row D"],
        residual: Float[Tensor, "row D"],
        mean: Float[Tensor, "D"],
    ) -> None:
        """Add a batch of rows."""
        pattern, value = codes.pattern, codes.value
        D = dictionary.width
        ones = torch.ones_like(value)
        squared_norms = torch.stack([part.square().sum(-1) for part in residual.split(dictionary.widths, dim=-1)], -1)
        both = transpose_times(pattern, value, torch.cat([residual, x - mean], dim=-1))
        self.residual += both[:, :D]
        self.activation += both[:, D:]
        self.present += transpose_times(pattern, ones, x - dictionary.center)
        row_sums = torch.cat([torch.ones_like(x[:, :1]), squared_norms], dim=-1)
        second = transpose_times(pattern, value.square(), row_sums)
        self.squares += second[:, 0]
        self.energy += second[:, 1:]
        self.values += transpose_times(pattern, value, row_sums[:, :1])[:, 0]
        self.total_residual += residual.sum(0)
        self.total_activation += (x - mean).sum(0)
        self.n_rows += x.shape[0]

    def merge(self, other: Products) -> None:
        """Add another set of rows' sums."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def add_up(self, ranks: Ranks) -> None:
        """Put the sums of every rank's rows in the place of this one's."""
        for one in fields(self):
            own = getattr(self, one.name)
            if isinstance(own, Tensor):
                ranks.add_up(own)
        self.n_rows = int(ranks.add_up(torch.tensor(self.n_rows)))

    def means(self) -> Means:
        """What is taken off where codes meet activations."""
        return Means(
            code=self.values / self.n_rows,
            residual=self.total_residual / self.n_rows,
            activation=self.total_activation / self.n_rows,
        )

    def spread(self, means: Means) -> Float[Tensor, "feature"]:
        """Sum of (f_i - mean)^2."""
        return self.squares - 2 * means.code * self.values + self.n_rows * means.code**2

    def with_residual(self, means: Means) -> Float[Tensor, "feature D"]:
        """Sum of (f_i - mean) (e - mean)."""
        left = self.total_residual - self.n_rows * means.residual
        return self.residual - torch.outer(self.values, means.residual) - torch.outer(means.code, left)

    def with_activation(self, means: Means) -> Float[Tensor, "feature D"]:
        """Sum of (f_i - mean) (x - mean)."""
        left = self.total_activation - self.n_rows * means.activation
        return self.activation - torch.outer(self.values, means.activation) - torch.outer(means.code, left)


@dataclass(frozen=True)
class Means:
    """Of the discovery rows."""

    code: Float[Tensor, "feature"]
    residual: Float[Tensor, "D"]
    activation: Float[Tensor, "D"]
    """Of x less the store's mean, so nearly zero."""


@dataclass(frozen=True)
class Directions:
    """Unit directions per feature and space, spaces side by side, from the discovery rows; zero where none is known."""

    refit: Float[Tensor, "feature D"]
    raw: Float[Tensor, "feature D"]
    noise: Float[Tensor, "feature space"]
    """Expected length of the noise in v_i^m, in the model's unit length."""
    means: Means
    units: Float[Tensor, "space"]
    """The unit length of every model."""


@dataclass(frozen=True)
class Scaling:
    """Latent scaling along the decoder's own directions; NaN where a decoder row is zero."""

    beta_eps: Float[Tensor, "feature space"]
    """The factor by which d_i^m should be scaled to explain the residual with feature i added back; 1 when trained."""
    beta_r: Float[Tensor, "feature space"]
    """The same for the model's reconstruction (less its mean)."""
    amount_eps: Float[Tensor, "feature space"]
    """beta_eps times ||d_i^m|| over the model's unit length: what a unit of the feature brings."""
    amount_r: Float[Tensor, "feature space"]


def directions(dictionary: Dictionary, products: Products, units: Float[Tensor, "space"]) -> Directions:
    """Step 1, from the discovery rows' sums; a feature silent there keeps its decoder row, at unlimited noise."""
    means = products.means()
    spread = products.spread(means).unsqueeze(-1)
    known = spread > 0
    per_unit = torch.where(known, 1 / spread, torch.zeros_like(spread))
    noise = torch.where(known, products.energy.sqrt() * per_unit, torch.inf)
    return Directions(
        refit=_unit(dictionary, dictionary.W_dec.detach() + products.with_residual(means) * per_unit),
        raw=_unit(dictionary, products.with_activation(means) * per_unit),
        noise=noise.double().cpu() / units,
        means=means,
        units=units,
    )


def weights(found: Directions, products: Products) -> Float[Tensor, "feature"]:
    """Step 2's denominator, sum (f_i - mean)^2, over the rows of `products`."""
    return products.spread(found.means).double().cpu()


def refit_amounts(dictionary: Dictionary, found: Directions, products: Products) -> Float[Tensor, "feature space"]:
    """Step 2's numerator, over the rows of `products`."""
    own = products.spread(found.means).unsqueeze(-1) * dictionary.W_dec.detach()
    return _dots(dictionary, found.refit, products.with_residual(found.means) + own) / found.units


def raw_amounts(dictionary: Dictionary, found: Directions, products: Products) -> Float[Tensor, "feature space"]:
    """The same along u, of the plain activation."""
    return _dots(dictionary, found.raw, products.with_activation(found.means)) / found.units


def attribution(dictionary: Dictionary, products: Products) -> Float[Tensor, "feature space"]:
    """The share of the pre-code that each model's encoder contributed where the feature was active; NaN if never.

    A model whose encoder held the feature back on the whole counts as none.
    """
    given = _dots(dictionary, dictionary.W_enc.detach()[:, : dictionary.width], products.present).clamp_min(0)
    return given / given.sum(-1, keepdim=True)


def scaling(
    dictionary: Dictionary, products: Products, mean: Float[Tensor, "D"], units: Float[Tensor, "space"]
) -> Scaling:
    """Latent scaling along d_i^m, from the held-out rows' sums."""
    d = dictionary.W_dec.detach()
    squares = products.squares.double().cpu().unsqueeze(-1)
    norms = _norms(dictionary, d).double().cpu()
    eps = _dots(dictionary, d, products.residual + products.squares.unsqueeze(-1) * d)
    # the reconstruction less the data's mean is (x - mean) - e; its offset from b_dec belongs to no feature
    offset = (mean - dictionary.b_dec.detach()) * products.values.unsqueeze(-1)
    rebuilt = _dots(dictionary, d, products.activation - products.residual + offset)
    return Scaling(
        beta_eps=eps / (norms**2 * squares),
        beta_r=rebuilt / (norms**2 * squares),
        amount_eps=eps / (norms * squares * units),
        amount_r=rebuilt / (norms * squares * units),
    )


def unit_lengths(dictionary: Dictionary, store: Store) -> Float[Tensor, "space"]:
    """How far each space's rows lie from their mean, root mean square, in the dictionary's scaled units.

    sqrt(width) where the dictionary has the store's scales, by their choice; one with scales of its own (imported, or
    of an older suture) is measured by the same rule.
    """
    pairs = zip(dictionary.spaces, store.spaces, strict=True)
    return torch.tensor([own.width**0.5 * own.scale / there.scale for own, there in pairs], dtype=torch.float64)


def _dots(dictionary: Dictionary, a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> in each space: [feature, space], products of seven digits each added up in float64."""
    parts = (a * b).split(dictionary.widths, dim=-1)
    return torch.stack([part.sum(-1, dtype=torch.float64) for part in parts], dim=-1).cpu()


def _norms(dictionary: Dictionary, a: Tensor) -> Tensor:
    return torch.stack([part.norm(dim=-1) for part in a.split(dictionary.widths, dim=-1)], dim=-1)


def _unit(dictionary: Dictionary, a: Tensor) -> Tensor:
    parts = [torch.nn.functional.normalize(part, dim=-1) for part in a.split(dictionary.widths, dim=-1)]
    return torch.cat(parts, dim=-1)
