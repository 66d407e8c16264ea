"""Do the codes from each model alone fire together? The correlation of every feature's two codes, document by document.

1. Per group of documents the sums of f, g, f^2, g^2 and f g over its rows: all that a correlation needs.
2. The correlation over all groups, and over all but one: their spread (jackknife of Fisher's z) is its standard error.
   Rows of one document depend on each other, so an interval from the number of rows would be six to nine times too
   narrow (measured on two pairs of language models).
3. "Apart": the correlation is below a bar; "together": above it; each with a one-sided p-value by Student's t with as
   many degrees of freedom as groups carry weight, less one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor

from suture.dictionary.codes import Codes

PERFECT = 1 - 1e-9
"""A correlation of 1 has no finite z; this close to it nothing is lost."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """Of every pair of models, what their codes of the same rows have in common (1)."""

    pairs: tuple[tuple[int, int], ...]
    sums: Float[Tensor, "pair sum group feature"]
    """f, g, f^2, g^2, f g."""
    n_rows: Float[Tensor, "group"]

    @staticmethod
    def of(codes: Sequence[Codes], group: Int[Tensor, "row"], n_groups: int) -> Together:
        """From the codes of the same rows, model by model."""
        single = [torch.stack([c.by_group(group, n_groups, c.value.double() ** p) for p in (1, 2)]) for c in codes]
        pairs = tuple(combinations(range(len(codes)), 2))
        sums = []
        for m, n in pairs:
            products = codes[m].lookup(codes[n].row.long(), codes[n].feature.long()).double() * codes[n].value.double()
            both = codes[n].by_group(group, n_groups, products)
            sums.append(torch.stack([single[m][0], single[n][0], single[m][1], single[n][1], both]))
        return Together(pairs=pairs, sums=torch.stack(sums), n_rows=torch.bincount(group, minlength=n_groups).double())

    @property
    def correlation(self) -> Float[Tensor, "pair feature"]:
        """Over all rows, zeros included; 0 where one code never fires, NaN where neither does."""
        return _correlation(self.sums.sum(2), self.n_rows.sum())

    def interval(self) -> tuple[Float[Tensor, "pair feature"], Float[Tensor, "pair feature"]]:
        """Its 95 % interval."""
        z, error, freedom = self._z()
        reach = torch.from_numpy(special.stdtrit(freedom.clamp_min(1).numpy(), 0.975)) * error
        reach = torch.where(freedom >= 1, reach, torch.inf)
        return (z - reach).tanh(), (z + reach).tanh()

    def tests(self, bar: float) -> tuple[Float[Tensor, "pair feature"], Float[Tensor, "pair feature"]]:
        """(p_apart, p_together): against a correlation of the bar or more, and of the bar or less (3)."""
        z, error, freedom = self._z()
        distance = z - torch.tensor(bar, dtype=torch.float64).atanh()
        # without any spread between groups the estimate is exact: a feature that one code never has, say
        t = torch.where(error > 0, distance / error, distance.sign() * torch.inf)
        known = z.isfinite() & (freedom >= 1)
        apart = torch.from_numpy(special.stdtr(freedom.clamp_min(1).numpy(), torch.where(known, t, 0.0).numpy()))
        return torch.where(known, apart, 1.0), torch.where(known, 1 - apart, 1.0)

    def _z(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fisher's z of the correlation, its standard error, degrees of freedom; [pair, feature] each (2)."""
        whole, n = self.sums.sum(2), self.n_rows.sum()
        left_out = _correlation(whole.unsqueeze(2) - self.sums, (n - self.n_rows).view(-1, 1))
        z = left_out.clamp(-PERFECT, PERFECT).atanh().nan_to_num(0.0)
        n_groups = z.shape[1]
        error = ((n_groups - 1) / n_groups * (z - z.mean(1, keepdim=True)).square().sum(1)).sqrt()
        weight = self.sums[:, 2] + self.sums[:, 3]
        effective = weight.sum(1) ** 2 / weight.square().sum(1)
        centre = _correlation(whole, n).clamp(-PERFECT, PERFECT).atanh()
        return centre, error, effective.nan_to_num(0.0) - 1


def _correlation(sums: Float[Tensor, "pair sum *rest"], n: Tensor) -> Float[Tensor, "pair *rest"]:
    f, g, ff, gg, fg = sums.unbind(1)
    n = n.clamp_min(1)
    spread_f, spread_g = (n * ff - f**2).clamp_min(0), (n * gg - g**2).clamp_min(0)
    silent = (ff <= 0) | (gg <= 0)
    r = (n * fg - f * g) / (spread_f * spread_g).sqrt()
    return torch.where(silent, torch.where((ff <= 0) & (gg <= 0), torch.nan, 0.0), r)
