"""The published crosscoders from their papers' formulas, in plain dense PyTorch: what suture is held against.

| method      | codes                                               | whose a feature is                         |
|-------------|-----------------------------------------------------|--------------------------------------------|
| `l1`        | ReLU, priced by f_i sum_m ||d_i^m|| (Anthropic 2024) | relative decoder norm                      |
| `batchtopk` | top n·k of a batch of f_i sum_m ||d_i^m||, AuxK      | relative decoder norm, then latent scaling |
|             | (2504.02922)                                        |                                            |
| `dedicated` | the same, with features that may read and write one | the partition                              |
|             | model alone (2602.11729)                            |                                            |

1. Rows come centred and scaled, as suture's do; all methods start from W_enc = W_dec^T.
2. Adam, linear warm-up over 5 % and decay over the last 20 % of the steps. L1's weight follows the L0 it gives, so that
   all methods end at the same L0; BatchTopK's threshold is the running mean of each batch's smallest kept score.
3. Dense products in bf16 with fp32 accumulation where the processor has them, as everybody's default on a GPU.

Nothing here uses suture's own dictionaries, so that a mistake there cannot hide itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["l1", "batchtopk", "dedicated"]
METHODS: tuple[Method, ...] = ("l1", "batchtopk", "dedicated")

RELATIVE_NORM = (0.1, 0.4, 0.6, 0.9)
"""2504.02922: below the first A's own, above the last B's, between the middle ones shared; the rest is neither."""
NU_EPS, NU_R = 0.2, 0.5
"""2504.02922: an exclusive feature's latent scaling stays below both."""
DEAD_AFTER = 100_000
"""Rows of silence before AuxK takes a feature on."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one is trained."""

    method: Method
    n_features: int
    k: int
    n_rows: int
    batch_size: int
    learning_rate: float
    exclusive: float
    """`dedicated`: the share of the features given to each model: the planted one, which favours the method."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came out."""

    decoders: list[Tensor]
    """[feature, width] per model, in scaled units."""
    labels: list[str]
    """Per feature `A`, `B`, `shared`, `ambiguous` or `dead`, by the method's own rule."""
    share: Tensor
    """Relative decoder norm of B, [feature]."""
    fvu: float
    l0: float


class Crosscoder:
    """Weights of any of the three, for two models side by side."""

    def __init__(self, recipe: Recipe, widths: tuple[int, int]) -> None:
        self.recipe, self.widths = recipe, widths
        F, D = recipe.n_features, sum(widths)
        generator = torch.Generator().manual_seed(recipe.seed)
        W = torch.randn(F, D, generator=generator)
        self.owned = torch.ones(F, D)
        if recipe.method == "dedicated":
            n_own = round(recipe.exclusive * F)
            self.owned[:n_own, widths[0] :] = 0
            self.owned[n_own : 2 * n_own, : widths[0]] = 0
        W = W * self.owned
        W /= W.norm(dim=1, keepdim=True)
        start = 0.1 if recipe.method == "l1" else 1.0
        self.W_dec = (W * start).requires_grad_()
        self.W_enc = W.clone().requires_grad_()
        self.b_enc = torch.zeros(F).requires_grad_()
        self.b_dec = torch.zeros(D).requires_grad_()
        self.threshold = 0.0
        self.penalty = 0.02
        self.silent = torch.zeros(F, dtype=torch.int64)

    @property
    def parameters(self) -> list[Tensor]:
        """All weights."""
        return [self.W_dec, self.W_enc, self.b_enc, self.b_dec]

    def prices(self) -> Tensor:
        """sum_m ||d_i^m||."""
        return self.norms().sum(1)

    def norms(self) -> Tensor:
        """||d_i^m||, [feature, model]."""
        return torch.stack([part.norm(dim=1) for part in self.W_dec.split(self.widths, dim=1)], dim=1)

    def pre(self, x: Tensor) -> Tensor:
        """ReLU of the pre-activations, [row, feature]."""
        return (product(x, (self.W_enc * self.owned).T) + self.b_enc).relu()

    def decode(self, f: Tensor) -> Tensor:
        """Rows that codes stand for."""
        return product(f, self.W_dec * self.owned) + self.b_dec

    def encode(self, x: Tensor) -> Tensor:
        """Codes at inference."""
        f = self.pre(x)
        return f if self.recipe.method == "l1" else f * (f * self.prices() > self.threshold)


def product(a: Tensor, b: Tensor) -> Tensor:
    """A dense product in bf16 where that is quick (3), its result in fp32."""
    return (a.bfloat16() @ b.bfloat16()).float() if BF16 else a @ b


BF16 = False
"""Set by the benchmark where the processor has bf16 units."""


def train(recipe: Recipe, x: Tensor, widths: tuple[int, int]) -> Trained:
    """Train on centred, scaled rows [row, both models], all but the last 50,000, which are for measuring."""
    own = Crosscoder(recipe, widths)
    training, heldout = x[:-50_000], x[-50_000:]
    n_steps = recipe.n_rows // recipe.batch_size
    adam = torch.optim.Adam(own.parameters, lr=recipe.learning_rate, fused=True)
    scale = float(training[:50_000].square().sum(1).mean())
    for step, rows in enumerate(batches(len(training), recipe.batch_size, n_steps, recipe.seed)):
        rise, fall = (step + 1) / (0.05 * n_steps), (n_steps - step) / (0.2 * n_steps)
        for group in adam.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, rise, fall)
        loss = _loss(own, training[rows], scale)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return _measured(own, training, heldout)


def batches(n_rows: int, size: int, n_steps: int, seed: int) -> Iterator[Tensor]:
    """Row numbers of each batch: every row once, then again in a new order."""
    generator = torch.Generator().manual_seed(seed)
    order, at = torch.randperm(n_rows, generator=generator), 0
    for _ in range(n_steps):
        if at + size > n_rows:
            order, at = torch.randperm(n_rows, generator=generator), 0
        yield order[at : at + size]
        at += size


def _loss(own: Crosscoder, x: Tensor, scale: float) -> Tensor:
    """Squared error over the data's energy, plus the method's own terms."""
    recipe, f = own.recipe, own.pre(x)
    if recipe.method == "l1":
        price = (f * own.prices()).sum(1).mean() / math.sqrt(scale)
        with torch.no_grad():  # 2: more than k active features make the penalty grow, fewer make it shrink
            l0 = max(float((f > 0).sum()) / len(x), 0.1)
            own.penalty *= min(max((l0 / recipe.k) ** 0.02, 0.995), 1.005)
        return (x - own.decode(f)).square().sum(1).mean() / scale + own.penalty * price
    score = (f * own.prices()).detach()
    n_kept = len(x) * recipe.k
    bar = float(score.flatten().topk(n_kept, sorted=False).values.min())
    own.threshold = bar if own.threshold == 0 else 0.99 * own.threshold + 0.01 * bar
    kept = f * (score >= max(bar, 1e-12))
    error = x - own.decode(kept)
    main = error.square().sum(1).mean() / scale
    own.silent += len(x)
    own.silent[(kept.detach() > 0).any(0)] = 0
    return main + _auxiliary(own, x, error.detach()) / 32


def _auxiliary(own: Crosscoder, x: Tensor, error: Tensor) -> Tensor:
    """AuxK (2406.04093): dead features share out the error, half as many per row as there are dimensions."""
    dead = (own.silent >= DEAD_AFTER).nonzero()[:, 0]
    if len(dead) == 0:
        return torch.zeros(())
    f = (x @ (own.W_enc * own.owned)[dead].T + own.b_enc[dead]).relu()
    best = f.topk(min(len(dead), x.shape[1] // 2), dim=1)
    kept = torch.zeros_like(f).scatter(1, best.indices, best.values)
    rebuilt = kept @ (own.W_dec * own.owned)[dead]
    return (error - rebuilt).square().sum() / error.square().sum().clamp_min(1e-12)


@torch.no_grad()
def _measured(own: Crosscoder, training: Tensor, heldout: Tensor) -> Trained:
    error = fired = 0.0
    counts = torch.zeros(own.recipe.n_features)
    for part in heldout.split(4096):
        f = own.encode(part)
        error += float((part - own.decode(f)).square().sum())
        fired += float((f > 0).sum())
        counts += (f > 0).sum(0)
    norms = own.norms()
    relative = 0.5 * (1 + (norms[:, 1] - norms[:, 0]) / norms.amax(1).clamp_min(1e-12))
    nu_eps, nu_r = latent_scaling(own, training[:100_000])
    labels = [
        _label(own.recipe, i, float(relative[i]), bool((nu_eps[i] < NU_EPS) & (nu_r[i] < NU_R)))
        if counts[i] > 0
        else "dead"
        for i in range(own.recipe.n_features)
    ]
    return Trained(
        decoders=list((own.W_dec * own.owned).split(own.widths, dim=1)),
        labels=labels,
        share=norms[:, 1] / norms.sum(1).clamp_min(1e-12),
        fvu=error / float((heldout - heldout.mean(0)).square().sum()),
        l0=fired / len(heldout),
    )


def latent_scaling(own: Crosscoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """(nu_eps, nu_r) of 2504.02922: how far the other model's error, or reconstruction, wants it, over its own.

    The paper's two models share a basis, so it lays one direction over both. Here each has its own, and what is
    compared is how much a unit of the feature brings along it: beta_m ||d_i^m||.
    """
    sums = [torch.zeros(own.recipe.n_features, 2) for _ in range(2)]
    squares = torch.zeros(own.recipe.n_features)
    parts = (own.W_dec * own.owned).split(own.widths, dim=1)
    norms = torch.stack([p.square().sum(1) for p in parts], dim=1)
    for rows in x.split(4096):
        f = own.encode(rows)
        rebuilt = own.decode(f)
        squares += f.square().sum(0)
        for m, (d, e, r) in enumerate(
            zip(parts, (rows - rebuilt).split(own.widths, 1), (rebuilt - own.b_dec).split(own.widths, 1), strict=True)
        ):
            sums[0][:, m] += (f * (e @ d.T)).sum(0)
            sums[1][:, m] += (f * (r @ d.T)).sum(0)
    alone = norms * squares[:, None]
    brings = [total / (alone / norms.sqrt()).clamp_min(1e-12) for total in (sums[0] + alone, sums[1])]
    own_model = norms.argmax(1, keepdim=True)
    ratios = [b.gather(1, 1 - own_model) / b.gather(1, own_model).clamp_min(1e-12) for b in brings]
    return ratios[0][:, 0].abs(), ratios[1][:, 0].abs()


def _label(recipe: Recipe, i: int, relative: float, confirmed: bool) -> str:  # noqa: FBT001
    if recipe.method == "dedicated":
        n_own = round(recipe.exclusive * recipe.n_features)
        return "A" if i < n_own else "B" if i < 2 * n_own else "shared"
    low, middle_low, middle_high, high = RELATIVE_NORM
    if low < relative < high:
        return "shared" if middle_low <= relative <= middle_high else "ambiguous"
    if recipe.method == "batchtopk" and not confirmed:
        return "shared"
    return "A" if relative <= low else "B"
