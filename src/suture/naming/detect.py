"""How well a name tells a feature's texts from others: the area under the ROC curve, with an interval, beside chance.

1. A labeler's answer to each text is a number, the larger the surer it is that the name fits. The AUROC is how often a
   text with the feature gets more than one without, ties counting half.
2. Its interval is the bootstrap's: documents of either kind are drawn anew.
3. Chance is the same with names of other features: a labeler that likes some texts better whatever the name has an
   AUROC above one half with any. A name is good where even the lower end of its interval is above both.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from suture.uncertainty import Draws, Interval, interval


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a name is worth."""

    auroc: float
    interval: Interval
    chance: float
    """Mean AUROC of other features' names on the same texts."""

    @property
    def good(self) -> bool:
        """Whether it is surely better than chance.  (3)"""
        return self.interval[0] > max(self.chance, 0.5)


def detection(
    with_feature: Float[Tensor, "label text"], without: Float[Tensor, "label other"], n_draws: int, seed: int
) -> Detection:
    """The worth of the first name; the others are shuffled ones. Every text is of another document."""
    of_name = auroc(with_feature[:1], without[:1], n_draws=n_draws, seed=seed)
    of_others = [float(auroc(a[None], b[None])[0]) for a, b in zip(with_feature[1:], without[1:], strict=True)]
    return Detection(
        auroc=float(auroc(with_feature[:1], without[:1])[0]),
        interval=interval(of_name),
        chance=sum(of_others) / len(of_others) if of_others else 0.5,
    )


def auroc(
    with_feature: Float[Tensor, "1 text"], without: Float[Tensor, "1 other"], *, n_draws: int = 0, seed: int = 0
) -> Float[Tensor, "draw"]:
    """The AUROC of one name: as measured, or over draws of texts.  (1, 2)"""
    a, b = with_feature[0].double(), without[0].double()
    better = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    if n_draws:
        one, other = Draws.make(len(a), n_draws, seed).counts, Draws.make(len(b), n_draws, seed + 1).counts
    else:
        one, other = Draws.whole(len(a)).counts, Draws.whole(len(b)).counts
    return ((one @ better) * other).sum(1) / (len(a) * len(b))
