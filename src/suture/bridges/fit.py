"""Fit the maps of a bridge, each way in its own right, from streamed second moments where they suffice.

| kind         | map                                                                                     | from    |
|--------------|-----------------------------------------------------------------------------------------|---------|
| `ridge`      | P = (C_ss + lambda I)^-1 C_st, lambda the one that explains most of other documents     | moments |
| `reduced`    | ridge regression of rank r: P V V', V the largest eigenvectors of C_ts P                | moments |
| `procrustes` | s Q, Q orthogonal: U V' of C_st's singular vectors; unequal widths as if padded by zeros | moments |
| `two-way`    | P and Q together: both errors + price · both round trips (2506.06609), Adam             | moments |
| `relu`       | relu(x W + b) V (2503.04429), Adam, started as the ridge map: relu(z) - relu(-z) = z     | rows    |
| `anchors`    | ridge on mean activations of whole texts, which need no common tokens (2605.09875)      | texts   |

Every map is between rows centred on the means of the documents that fit. The inverse or the transpose of a map is never
taken for the way back: through ridge they blow up what the map has shrunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from suture import seeds
from suture.activations.moments import AffineMap, Moments, chosen_affine
from suture.bridges.ground import Ground, Rows
from suture.bridges.maps import Pair, ReluMap
from suture.bridges.settings import BridgeSettings, Kind
from suture.errors import NumericalError

WAYS = ((0, 1), (1, 0))
LOOKS = 20
"""How often a fit by steps is held against the documents that check; the best of them is kept."""
PATIENCE = 5
"""Looks without a better one after which it ends."""
LOOKED_AT = 8192
"""Rows that a look at a map with a hidden layer takes."""
RELU_BATCH = 1024
LEAST_TEXTS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A kind of map, both ways."""

    maps: Pair
    penalties: tuple[float, float] = (float("nan"), float("nan"))
    """Those chosen, where there are any."""


def fitted(kind: Kind, ground: Ground, settings: BridgeSettings) -> Fitted:
    """The maps of a kind.

    Raises:
        NumericalError: activations that are not finite.
    """
    found = FITS[kind](ground, settings)
    for own in found.maps:
        if not all(bool(tensor.isfinite().all()) for tensor in vars(own).values()):
            problem = "has rows that are not finite, or a map that grew beyond all numbers"
            raise NumericalError("store", ground.view.path, problem, "look at the store, or lower --relu-rate")
    return found


def _ridge_of(fit: Moments, check: Moments, penalties: Sequence[float]) -> Fitted:
    one, other = (chosen_affine(fit, check, s, t, penalties) for s, t in WAYS)
    return Fitted(maps=(one[0], other[0]), penalties=(one[1], other[1]))


def ridge(ground: Ground, settings: BridgeSettings) -> Fitted:
    """In closed form."""
    return _ridge_of(ground.fit.moments, ground.check.moments, settings.penalties)


def reduced(ground: Ground, settings: BridgeSettings) -> Fitted:
    """The ridge map's best one of a lower rank: exact for the penalised error."""
    found, fit = ridge(ground, settings), ground.fit.moments
    maps = []
    for own, (s, t) in zip(found.maps, WAYS, strict=True):
        assert isinstance(own, AffineMap)
        explained = fit.covariance(t, s) @ own.matrix  # C_ts (C_ss + lambda)^-1 C_st, symmetric
        V = torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -settings.rank :]
        maps.append(AffineMap(own.matrix @ V @ V.T, own.source_mean, own.target_mean))
    return Fitted(maps=(maps[0], maps[1]), penalties=found.penalties)


def procrustes(ground: Ground, settings: BridgeSettings) -> Fitted:  # noqa: ARG001
    """The best rotation (and reflection) with the best length."""
    fit = ground.fit.moments
    maps = []
    for s, t in WAYS:
        cross = fit.covariance(s, t)
        U, S, Vh = torch.linalg.svd(cross, full_matrices=False)
        Q = U @ Vh
        # |x Q|^2 is |x|^2 where Q keeps every direction of x, less where the target is narrower
        length = S.sum() / ((fit.covariance(s, s) @ Q) * Q).sum().clamp_min(1e-300)
        maps.append(AffineMap(length * Q, fit.mean(s), fit.mean(t)))
    return Fitted(maps=(maps[0], maps[1]))


def anchors(ground: Ground, settings: BridgeSettings) -> Fitted:
    """Ridge between mean activations of texts; rows are centred as rows are, not as texts."""
    texts = [rows.texts[: settings.anchors] for rows in (ground.fit, ground.check)]
    moments = []
    for own in texts:
        found = Moments(ground.fit.moments.widths)
        found.add(own)
        moments.append(found)
    by_text = _ridge_of(moments[0], moments[1], settings.penalties)
    rows = ground.fit.moments
    one, other = (
        AffineMap(own.matrix, rows.mean(s), rows.mean(t))
        for own, (s, t) in zip(by_text.maps, WAYS, strict=True)
        if isinstance(own, AffineMap)
    )
    return Fitted(maps=(one, other), penalties=by_text.penalties)


# --- two-way ----------------------------------------------------------------------------------------------------------


def two_way(ground: Ground, settings: BridgeSettings) -> Fitted:
    """Both maps together, from the ridge maps on; gradients are of all rows at once, through the moments."""
    start = ridge(ground, settings)
    both = []
    for own in start.maps:
        assert isinstance(own, AffineMap)
        both.append(own.matrix.float().clone().requires_grad_())
    fit, check = (TwoWayLoss.of(rows.moments, settings.inversion) for rows in (ground.fit, ground.check))
    optimiser = torch.optim.Adam(both, lr=1e-3 * float(both[0].detach().square().mean().sqrt()) + 1e-6)
    best = _Best()
    every = max(1, settings.two_way_steps // LOOKS)
    for step in range(settings.two_way_steps + 1):
        if step % every == 0:
            with torch.no_grad():
                best.look(float(check(*both)), both)
            if best.is_old:
                break
        optimiser.zero_grad()
        fit(*both).backward()
        optimiser.step()
    one, other = (
        AffineMap(kept, own.source_mean, own.target_mean) for kept, own in zip(best.kept, start.maps, strict=True)
    )
    return Fitted(maps=(one, other), penalties=start.penalties)


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoWayLoss:
    """Both errors and the price of both round trips, each in parts of the variance of what is to be reached."""

    own: tuple[Float[Tensor, "width_a width_a"], Float[Tensor, "width_b width_b"]]
    cross: Float[Tensor, "width_a width_b"]
    price: float

    @staticmethod
    def of(moments: Moments, price: float) -> TwoWayLoss:
        """Over the rows of these moments, centred."""
        own = moments.covariance(0, 0).float(), moments.covariance(1, 1).float()
        return TwoWayLoss(own=own, cross=moments.covariance(0, 1).float(), price=price)

    def __call__(
        self, there: Float[Tensor, "width_a width_b"], back: Float[Tensor, "width_b width_a"]
    ) -> Float[Tensor, ""]:
        """Of two maps of centred rows."""
        a, b = self.own
        total = a.new_zeros(())
        for P, own, cross, reached in ((there, a, self.cross, b), (back, b, self.cross.T, a)):
            error = reached.diagonal().sum() - 2 * (P * cross).sum() + (P * (own @ P)).sum()
            total = total + error / reached.diagonal().sum()
        for one, other, own in ((there, back, a), (back, there, b)):
            left = torch.eye(len(own)) - one @ other
            total = total + self.price * (left * (own @ left)).sum() / own.diagonal().sum()
        return total


class _Best:
    """What did best on the documents that check."""

    def __init__(self) -> None:
        self.loss, self.kept, self.since = float("inf"), [], 0

    def look(self, loss: float, tensors: Sequence[Tensor]) -> None:
        """Keep the tensors if their loss is the least so far."""
        self.since += 1
        if loss < self.loss:
            self.loss, self.kept, self.since = loss, [t.detach().clone() for t in tensors], 0

    @property
    def is_old(self) -> bool:
        """Whether nothing better has come for long."""
        return self.since >= PATIENCE


# --- relu -------------------------------------------------------------------------------------------------------------


def relu(ground: Ground, settings: BridgeSettings) -> Fitted:
    """Each way by itself, by Adam on batches of rows."""
    start = ridge(ground, settings)
    maps = []
    for own, (s, t) in zip(start.maps, WAYS, strict=True):
        assert isinstance(own, AffineMap)
        maps.append(_relu_map(own, ground, s, settings, seed=2 * settings.seed + t))
    return Fitted(maps=(maps[0], maps[1]), penalties=start.penalties)


def as_relu(affine: AffineMap, hidden: int, *, seed: int) -> ReluMap:
    """The affine map written with a hidden layer: exactly where twice its rank fits, its best part where not."""
    U, S, Vh = torch.linalg.svd(affine.matrix.float(), full_matrices=False)
    n = min(hidden // 2, len(S))
    root = S[:n].sqrt()
    into, out = U[:, :n] * root, root[:, None] * Vh[:n]
    left = hidden - 2 * n
    spare = torch.randn(U.shape[0], left, generator=seeds.generator("relu map", seed)) / U.shape[0] ** 0.5
    return ReluMap(
        into=torch.cat([into, -into, spare], dim=1),
        bias=torch.zeros(hidden),
        out=torch.cat([out, -out, out.new_zeros(left, out.shape[1])]),
        source_mean=affine.source_mean,
        target_mean=affine.target_mean,
    )


def _relu_map(affine: AffineMap, ground: Ground, source: int, settings: BridgeSettings, *, seed: int) -> ReluMap:
    start = as_relu(affine, settings.hidden or 2 * min(affine.matrix.shape), seed=seed)
    weights = [start.into.requires_grad_(), start.bias.requires_grad_(), start.out.requires_grad_()]
    size, check = min(RELU_BATCH, len(ground.fit)), ground.check.some(LOOKED_AT)
    n_steps = max(1, settings.relu_rows // size)
    optimiser = torch.optim.Adam(weights, lr=settings.relu_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / n_steps)
    draw = seeds.generator("relu rows", seed)
    order, at, best, every = torch.empty(0), 0, _Best(), max(1, n_steps // LOOKS)
    for step in range(n_steps + 1):
        if step % every == 0:
            best.look(_error(start, check, source), weights)
            if best.is_old:
                break
        if at + size > len(order):
            order, at = torch.randperm(len(ground.fit), generator=draw), 0
        rows = ground.fit.read(order[at : at + size].sort().values)
        at += size
        optimiser.zero_grad()
        (start(rows[source]) - rows[1 - source]).square().sum(1).mean().backward()
        optimiser.step()
        falling.step()
    into, bias, out = best.kept
    return ReluMap(into, bias, out, affine.source_mean, affine.target_mean)


@torch.no_grad()
def _error(own: ReluMap, rows: Rows, source: int) -> float:
    total = 0.0
    for _, *pair in rows.batches():
        total += float((own(pair[source]) - pair[1 - source]).square().sum())
    return total


FITS: Mapping[Kind, Callable[[Ground, BridgeSettings], Fitted]] = {
    "ridge": ridge,
    "reduced": reduced,
    "procrustes": procrustes,
    "two-way": two_way,
    "relu": relu,
    "anchors": anchors,
}
