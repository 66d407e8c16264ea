"""One training step of a dictionary: forward, loss, backward, Adam, decoder renormalisation.

1. The encoder's input: centred rows, models masked by model dropout (or all but one: `universal`).
2. One dense product and the selection of the active pairs, without gradient (kernels).
3. Forward again on the active pairs alone, with gradient: values, decode, loss terms.
4. AuxK: the features silent for long share out the error of some of the rows.
5. Block by block of features: the gradient's rows are made, the decoder's part along each decoder row is taken out (the
   norm is not theirs to spend), Adam steps, and decoder rows are renormalised over the CONCATENATION: norms per model
   stay free, they carry the classification.

Where a run has several ranks, each sees its rows and its features; what they need of one another is a sum (decoded rows
over features; gradients over rows) or the selection's candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.activations.batches import Batch
from suture.dictionary.activation import Activation
from suture.dictionary.codes import Pattern
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels import select, sparse
from suture.dictionary.kernels.select import Chunks, Selection
from suture.dictionary.kernels.sparse import RowGradient
from suture.parallel import Grid
from suture.training import objective
from suture.training.adam import Adam
from suture.training.objective import Terms
from suture.training.settings import Objective
from suture.training.start import locked_columns, tie

FEATURE_ROWS = ("W_enc", "W_dec", "b_enc", "silent")
"""What has a row for every feature, and so is split where features are; besides, a kind of sparsity's own weights."""

PRICES = ("l1", "l0")
"""Terms that each rank sums over its own features; the others are the same on all that see the same rows."""

CUTOFF_MEMORY = 0.99
"""How slowly BatchTopK's running cut-off, its threshold at inference, follows the batches."""

BLOCK_ELEMENTS = 2**20
"""Numbers of a matrix that are updated together: their gradient, moments and weights stay in the cache."""
GPU_BLOCK_ELEMENTS = 2**26
"""The same on a GPU, where launching a kernel and waiting cost more than a pass over memory."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step measured, as tensors so that nothing waits for them."""

    terms: dict[str, Tensor]
    """Every addend of the loss."""
    l0: Tensor
    error: Float[Tensor, "space"]
    """Sum of squared errors of the batch per space (`pooled`: per row's own space)."""
    n_rows: Float[Tensor, "space"]

    @property
    def loss(self) -> Tensor:
        """The sum of the terms: what was minimised."""
        return torch.stack(list(self.terms.values())).sum()


@dataclass
class _Gradients:
    """What a backward pass leaves for the two matrices, to be made row by row."""

    enc: RowGradient = field(default_factory=RowGradient)
    dec: RowGradient = field(default_factory=RowGradient)
    norm: Tensor | None = None
    """sum_m ||d_i^m|| of every feature, as a leaf of its own, where the loss has a price on it."""


class TrainingState:
    """A dictionary in training: weights, Adam's moments, dead-feature counters, BatchTopK's cut-off."""

    def __init__(
        self, dictionary: Dictionary, objective: Objective, variance: Float[Tensor, "space"], *, lock: float = 0.0
    ) -> None:
        device = dictionary.W_dec.device
        self.dictionary = dictionary
        self.objective = objective
        self.grid: Grid = dictionary.grid
        self.variance: Float[Tensor, "space"] = variance.to(device)
        self.silent: Int[Tensor, "feature"] = torch.zeros(dictionary.W_dec.shape[0], dtype=torch.int64, device=device)
        self.cutoff: Float[Tensor, ""] = torch.zeros((), dtype=torch.float64)
        owned = dictionary.owned_columns
        self.owned: Bool[Tensor, "feature D"] | None = None if owned is None else owned.to(device)
        locked = locked_columns(dictionary, lock)
        self.locked: Bool[Tensor, "feature D"] | None = None if locked is None else locked.to(device)
        """What features may use in steps that are locked."""
        self.parameters: dict[str, torch.nn.Parameter] = dict(dictionary.named_parameters())
        learned = {name: torch.nn.Parameter(start(dictionary)) for name, start in self.activation.learned.items()}
        self.parameters |= learned
        self.own: dict[str, Tensor] = dictionary.own_weights | learned
        self.adam: Adam = Adam(self.parameters)
        self._buffers = select.buffers(dictionary.W_enc.detach(), dictionary.precision)

    @property
    def activation(self) -> Activation:
        """The record of the dictionary's kind of sparsity, which may change as training goes on."""
        return self.dictionary.sparsity.activation

    @property
    def dead(self) -> Bool[Tensor, "feature"]:
        """Features (of this rank) silent for long."""
        return self.silent >= self.objective.dead_after

    def step(
        self,
        batch: Batch,
        *,
        k: float,
        learning_rate: float,
        available: Bool[Tensor, "row space"] | None,
        locked: bool = False,
    ) -> StepResult:
        """Take one step on a batch in scaled units (or on this rank's part of it, as many rows as every other's)."""
        x, model = batch.activations, batch.model
        with torch.no_grad():
            encoder_input = self.dictionary.encoder_input(x, available=available, model=model)  # 1
            selection = self._select(encoder_input, k)  # 2
        gradients = _Gradients()
        terms, values, squared, error = self._loss(encoder_input, x, model, selection, gradients)  # 3
        aux = self._auxiliary(encoder_input, error, gradients)  # 4
        if aux is not None:
            terms["aux"] = self.objective.aux * aux
        for parameter in self.parameters.values():
            parameter.grad = None
        torch.stack(list(terms.values())).sum().backward()
        self._update(learning_rate, gradients, self.locked if locked else self.owned)  # 5
        pattern = selection.pattern
        active = values.detach() > 0
        fired = torch.zeros_like(self.silent, dtype=torch.bool)
        fired[pattern.feature[active].long()] = True
        self.silent += x.shape[0] * self.grid.data.size
        self.silent[self.grid.data.any(fired)] = 0
        return self._result(terms, active.sum(), squared, model)

    def _select(self, encoder_input: Tensor, k: float) -> Selection:
        dictionary = self.dictionary
        selection = self.activation.choose(dictionary.chunks(encoder_input, self._buffers), dictionary, self.own, k)
        if selection.cutoff is not None:
            # while k comes down the cut-off rises: remembering lower ones would leave too many features active
            memory = CUTOFF_MEMORY if bool(self.cutoff > 0) and k <= dictionary.sparsity.k else 0.0
            self.cutoff.mul_(memory).add_((1 - memory) * selection.cutoff)
        return selection

    def _loss(
        self,
        encoder_input: Tensor,
        x: Tensor,
        model: Tensor | None,
        selection: Selection,
        gradients: "_Gradients",
    ) -> tuple[Terms, Tensor, Tensor, Tensor]:
        """(terms, values at the selected pairs, squared error of every row in every space, error).

        The terms are this rank's share: those of all rows add up to the loss of the whole batch.
        """
        dictionary, pattern = self.dictionary, selection.pattern
        bias = sparse.per_feature(dictionary.b_enc, pattern)
        known = selection.pre - bias.detach()
        linear = sparse.preactivations(encoder_input, dictionary.W_enc, pattern, known, gradients.enc)
        pairs = _Pairs(state=self, pattern=pattern, linear=linear, pre=linear + bias, x=x, model=model, left=gradients)
        values, terms = self.activation.learn(pairs)
        decoded = self.grid.features.sum(sparse.decode(values, dictionary.W_dec, pattern, gradients.dec))
        squared, error = self.errors(decoded, dictionary.b_dec, x, model)
        terms = {"reconstruction": self.reconstruction(squared, model), **terms}
        if self.objective.cross:
            apart = objective.crossed_errors(decoded, dictionary.b_dec, x, dictionary.cuts).sum()
            terms["cross"] = self.objective.cross * apart / (x.shape[0] * self.variance.sum() * self.grid.data.size)
        return terms, values, squared.detach(), error

    def errors(self, decoded: Tensor, b_dec: Tensor, x: Tensor, model: Tensor | None) -> tuple[Tensor, Tensor]:
        """(squared error of every row in every space, error), nothing where a row has no columns."""
        mask = self._own_columns(model) if model is not None and self.dictionary.masks_padding else None
        return objective.squared_errors(decoded, b_dec, x, self.dictionary.cuts, mask)

    def reconstruction(self, squared: Tensor, model: Tensor | None) -> Tensor:
        """This rank's share of the reconstruction's loss."""
        return self._reconstruction(squared, model) / self.grid.data.size

    def _reconstruction(self, squared: Tensor, model: Tensor | None) -> Tensor:
        loss = self.objective.loss
        if model is None:
            return objective.reconstruction(squared, self.variance, loss)
        if loss == "per_model":  # each row by its own model's variance
            return (squared.squeeze(1) / self.variance[model]).mean()
        return objective.reconstruction(squared, self.variance.mean().unsqueeze(0), loss)

    def _own_columns(self, model: Tensor) -> Tensor:
        """1 where a pooled row has a column, 0 on its padding, which nobody has to reconstruct."""
        widths = torch.tensor(self.dictionary.widths, device=model.device)[model]
        columns = torch.arange(self.dictionary.width, device=model.device)
        return (columns < widths.unsqueeze(1)).to(self.dictionary.W_dec.dtype)

    def _auxiliary(self, encoder_input: Tensor, error: Tensor, gradients: _Gradients) -> Tensor | None:
        """AuxK on a sample of the batch's rows, as many as make it cost about what the main loss costs.

        The sample's loss is an unbiased estimate of the batch's, at k / k_aux of its price. None where nothing is dead.
        """
        if self.objective.aux == 0:
            return None
        dictionary, grid = self.dictionary, self.grid
        dead = self.dead.nonzero().squeeze(1)
        n_dead = int(grid.features.add_up(torch.tensor(dead.numel())))
        if n_dead == 0:
            return None
        k_aux = min(self.objective.k_aux or max(1, dictionary.width // 2), n_dead)
        n_rows = encoder_input.shape[0]
        stride = max(1, min(k_aux // max(dictionary.sparsity.k, 1), n_rows * grid.data.size // 64))
        first = -(grid.data.rank * n_rows) % stride  # the same rows of the batch, however it is split
        encoder_input, error = encoder_input[first::stride].contiguous(), error[first::stride].contiguous()
        with torch.no_grad():
            chunks = Chunks(encoder_input, dictionary.W_enc[dead], dictionary.b_enc[dead], grid=grid)
            chosen = chunks.top_k(k_aux).pattern
            pattern = Pattern(chosen.crow, dead[chosen.feature.long()].to(torch.int32), dictionary.W_enc.shape[0])
        pre = sparse.preactivations(encoder_input, dictionary.W_enc, pattern, into=gradients.enc)
        pre = pre + sparse.per_feature(dictionary.b_enc, pattern)
        revived = sparse.decode(objective.revive(pre), dictionary.W_dec, pattern, gradients.dec)
        energy = grid.data.add_up(error.square().sum())
        return objective.auxiliary(error, grid.features.sum(revived), energy)

    @torch.no_grad()
    def _update(self, learning_rate: float, gradients: _Gradients, owned: Tensor | None) -> None:
        W_enc, W_dec = self.dictionary.W_enc, self.dictionary.W_dec
        along = self._along(gradients, owned)
        size = max(1, (GPU_BLOCK_ELEMENTS if W_enc.is_cuda else BLOCK_ELEMENTS) // W_enc.shape[1])
        for first in range(0, W_enc.shape[0], size):
            rows = slice(first, min(first + size, W_enc.shape[0]))
            self._adam("W_dec", self._decoder_gradient(gradients, rows, owned, along), learning_rate, rows)
            self._adam("W_enc", self._encoder_gradient(gradients, rows, owned), learning_rate, rows)
            if not self.activation.free_norms:
                W_dec[rows].div_(W_dec[rows].norm(dim=1, keepdim=True).clamp_min(1e-12))
        for name, parameter in self.parameters.items():
            if name not in ("W_enc", "W_dec"):
                assert parameter.grad is not None
                gradient = self.grid.data.add_up(parameter.grad)
                self._adam(name, gradient, learning_rate, slice(0, parameter.shape[0]))
        self.adam.steps += 1

    def _along(self, gradients: _Gradients, owned: Tensor | None) -> Tensor | None:
        """<gradient, decoder row> of every feature, where the gradient is the backward pass's and nothing else."""
        changed = owned is not None or self.dictionary.design.tied or gradients.norm is not None
        if self.activation.free_norms or changed:
            return None
        return self.grid.data.add_up(gradients.dec.along())

    def _decoder_gradient(
        self, gradients: _Gradients, rows: slice, owned: Tensor | None, along: Tensor | None
    ) -> Tensor:
        dictionary = self.dictionary
        gradient, W = gradients.dec.rows(rows), dictionary.W_dec[rows]
        if gradients.norm is not None:
            assert gradients.norm.grad is not None
            price = gradients.norm.grad[rows].unsqueeze(1)
            for part, own in zip(gradient.split(dictionary.cuts, -1), W.split(dictionary.cuts, -1), strict=True):
                part += price * own / own.norm(dim=1, keepdim=True).clamp_min(1e-12)
        gradient = self.grid.data.add_up(gradient)
        if owned is not None:
            gradient *= owned[rows]
        tie(dictionary, gradient, rows)
        if not self.activation.free_norms:  # a price on norms keeps them short; otherwise they stay 1
            part = sparse.row_products(gradient, W) if along is None else along[rows]
            gradient.addcmul_(W, part.unsqueeze(1), value=-1.0)
        return gradient

    def _encoder_gradient(self, gradients: _Gradients, rows: slice, owned: Tensor | None) -> Tensor:
        gradient = self.grid.data.add_up(gradients.enc.rows(rows))
        if owned is not None:
            gradient[:, : self.dictionary.width] *= owned[rows]
        return gradient

    def _adam(self, name: str, gradient: Tensor, learning_rate: float, rows: slice) -> None:
        self.adam.update(name, self.parameters[name], gradient, learning_rate=learning_rate, rows=rows)

    def _result(self, terms: Terms, n_active: Tensor, squared: Tensor, model: Tensor | None) -> StepResult:
        """The numbers of the whole batch."""
        n_rows, n_spaces, grid = squared.shape[0], self.dictionary.n_spaces, self.grid
        if model is None:
            per_space = squared.sum(0)
            counts = torch.full((n_spaces,), float(n_rows), device=squared.device)
        else:
            per_space = squared.new_zeros(n_spaces).index_add_(0, model, squared.squeeze(1))
            counts = torch.bincount(model, minlength=n_spaces).to(squared.dtype)
        return StepResult(
            terms={
                name: (grid.world if name in PRICES else grid.data).add_up(term.detach().clone())
                for name, term in terms.items()
            },
            l0=grid.world.add_up(n_active.float()) / (n_rows * grid.data.size),
            error=grid.data.add_up(per_space),
            n_rows=grid.data.add_up(counts),
        )

    # --- what encode needs, and what the next step depends on -------------------------------------------------------

    @torch.no_grad()
    def finish_thresholds(self) -> None:
        """Put the learned cut-offs where `encode` looks for them."""
        if self.activation.thresholds is not None:
            found = self.activation.thresholds(self.dictionary, self.own, float(self.cutoff))
            self.dictionary.threshold.copy_(found)

    def per_feature(self) -> dict[str, Tensor]:
        """What the next step depends on that has a row for every own feature."""
        return {name: t for name, t in self._tensors().items() if self._is_per_feature(name)}

    def common(self) -> dict[str, Tensor]:
        """What the next step depends on besides: the same on every rank."""
        out = {name: t for name, t in self._tensors().items() if not self._is_per_feature(name)}
        return out | {"steps": torch.tensor(self.adam.steps)}

    def _is_per_feature(self, name: str) -> bool:
        return name.split(".")[-1] in (*FEATURE_ROWS, *self.own)

    def _tensors(self) -> dict[str, Tensor]:
        """Live tensors, under names that end in what they are of."""
        out = {f"weights.{name}": p.detach() for name, p in self.parameters.items()}
        for name, moments in self.adam.moments.items():
            out |= {f"adam.first.{name}": moments.first, f"adam.second.{name}": moments.second}
        return out | {"center": self.dictionary.center, "silent": self.silent, "cutoff": self.cutoff}

    @torch.no_grad()
    def load_tensors(self, per_feature: Mapping[str, Tensor], common: Mapping[str, Tensor]) -> None:
        """The inverse of `per_feature` and `common`, into a state of the same settings."""
        self.adam.steps = int(common["steps"])
        for name, tensor in self._tensors().items():
            tensor.copy_((per_feature if name in per_feature else common)[name])


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """The active pairs of a step, as a kind of sparsity sees them (`activation.Learning`)."""

    state: TrainingState
    pattern: Pattern
    linear: Float[Tensor, "active"]
    pre: Float[Tensor, "active"]
    x: Float[Tensor, "row D"]
    model: Tensor | None
    left: _Gradients

    @property
    def own(self) -> dict[str, Tensor]:
        return self.state.own

    @property
    def n_rows(self) -> int:
        """Of the whole batch."""
        return self.x.shape[0] * self.state.grid.data.size

    def per_feature(self, vector: Float[Tensor, "feature"]) -> Float[Tensor, "active"]:
        return sparse.per_feature(vector, self.pattern)

    def jump(self, threshold: Float[Tensor, "active"]) -> tuple[Float[Tensor, "active"], Float[Tensor, "active"]]:
        return objective.jump_relu(self.pre, threshold, self.state.dictionary.sparsity.bandwidth)

    def priced(self, amount: Float[Tensor, "active"], *, by_norm: bool) -> Float[Tensor, ""]:
        if by_norm:
            self.left.norm = self.state.dictionary.decoder_norms().sum(-1).requires_grad_()
            amount = amount * self.per_feature(self.left.norm)
        return self.state.objective.l1 * objective.l1_penalty(amount, self.n_rows, self.state.variance)

    def counted(self, amount: Float[Tensor, "active"]) -> Float[Tensor, ""]:
        return self.state.objective.l0 * amount.sum() / self.n_rows

    def rebuilt(self, amount: Float[Tensor, "active"]) -> Float[Tensor, ""]:
        state, dictionary = self.state, self.state.dictionary
        # the decoder's gradient of this product is left where nobody looks
        own = sparse.decode(amount, dictionary.W_dec.detach(), self.pattern, RowGradient())
        decoded = state.grid.features.sum(own)
        squared, _ = state.errors(decoded, dictionary.b_dec.detach(), self.x, self.model)
        return state.reconstruction(squared, self.model)
