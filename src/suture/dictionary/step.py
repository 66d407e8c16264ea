"""One training step of a dictionary: forward, loss, backward, Adam, decoder renormalisation.

1. The encoder's input: centred rows, models masked by model dropout (or all but one: `universal`).
2. One dense product and the selection of the active pairs, without gradient (kernels).
3. Forward again on the active pairs alone, with gradient: values, decode, loss terms.
4. AuxK: the features silent for long share out the error of some of the rows.
5. The decoder gradient's part along each decoder row is taken out (the norm is not theirs to spend), Adam steps, and
   rows are renormalised over the CONCATENATION: norms per model stay free, they carry the classification.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from suture.activations.batches import Batch
from suture.dictionary import kernels, objective
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels import Chunks, Pattern, top_k
from suture.dictionary.objective import Objective, Terms
from suture.dictionary.sparsity import Selection, select_training
from suture.dictionary.start import owned_columns, tie

CUTOFF_MEMORY = 0.99
"""How slowly BatchTopK's running cut-off, its threshold at inference, follows the batches."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step measured, as tensors so that nothing waits for them."""

    terms: dict[str, Tensor]
    """Every addend of the loss."""
    l0: Tensor
    error: Float[Tensor, "space"]
    """Sum of squared errors of the batch per space (`pooled`: per row's own space)."""
    n_rows: Float[Tensor, "space"]


class TrainingState:
    """A dictionary in training: weights, Adam's moments, dead-feature counters, BatchTopK's cut-off."""

    def __init__(
        self, dictionary: Dictionary, objective: Objective, variance: Float[Tensor, "space"], *, learning_rate: float
    ) -> None:
        self.dictionary, self.objective = dictionary, objective
        self.variance = variance.to(dictionary.W_dec.device)
        self.silent = torch.zeros(dictionary.n_features, dtype=torch.int64, device=dictionary.W_dec.device)
        self.cutoff = torch.zeros((), dtype=torch.float64)
        self.owned = owned_columns(dictionary)
        if self.owned is not None:
            self.owned = self.owned.to(dictionary.W_dec.device)
        parameters = dict(dictionary.named_parameters())
        if dictionary.sparsity.kind == "jumprelu":
            self.log_threshold = torch.nn.Parameter(dictionary.threshold.log())
            parameters["log_threshold"] = self.log_threshold
        self.parameters = parameters
        self.optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate, fused=True)

    @property
    def dead(self) -> Bool[Tensor, "feature"]:
        """Features silent for long."""
        return self.silent >= self.objective.dead_after

    def step(
        self, batch: Batch, *, k: float, learning_rate: float, available: Bool[Tensor, "row space"] | None
    ) -> StepResult:
        """Take one step on a batch in scaled units."""
        x, model = batch.activations, batch.model
        with torch.no_grad():
            encoder_input = self.dictionary.encoder_input(x, available=available, model=model)  # 1
            selection = self._select(encoder_input, k)  # 2
        terms, values, error = self._loss(encoder_input, x, model, selection)  # 3
        dead = self.dead.nonzero().squeeze(1)
        if self.objective.aux > 0 and dead.numel() > 0:
            terms["aux"] = self.objective.aux * self._auxiliary(encoder_input, error.detach(), dead)  # 4
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self._update(learning_rate)  # 5
        fired = selection.pattern.feature[values.detach() > 0]
        self.silent += x.shape[0]
        self.silent[fired.long()] = 0
        return self._result(terms, fired.numel(), error.detach(), model)

    def _select(self, encoder_input: Tensor, k: float) -> Selection:
        dictionary = self.dictionary
        sparsity = dictionary.sparsity
        weight = dictionary.decoder_norms().sum(-1) if sparsity.kind == "batchtopk" else None
        threshold = self.log_threshold.detach().exp() if sparsity.kind == "jumprelu" else dictionary.threshold
        chunks = dictionary.chunks(encoder_input)
        selection = select_training(chunks, sparsity, k=k, score_weight=weight, threshold=threshold)
        if selection.cutoff is not None:
            started = bool(self.cutoff > 0)
            self.cutoff.mul_(CUTOFF_MEMORY if started else 0.0).add_(
                (1 - CUTOFF_MEMORY if started else 1.0) * selection.cutoff
            )
        return selection

    def _loss(
        self, encoder_input: Tensor, x: Tensor, model: Tensor | None, selection: Selection
    ) -> tuple[Terms, Tensor, Tensor]:
        """(terms, values at the selected pairs, error)."""
        dictionary, settings, pattern = self.dictionary, self.objective, selection.pattern
        bias = kernels.per_feature(dictionary.b_enc, pattern)
        pre = kernels.preactivations(encoder_input, dictionary.W_enc, pattern, selection.pre - bias.detach()) + bias
        terms: Terms = {}
        if dictionary.sparsity.kind == "jumprelu":
            threshold = kernels.per_feature(self.log_threshold.exp(), pattern)
            values, gates = objective.jump_relu(pre, threshold, dictionary.sparsity.bandwidth)
            terms["l0"] = settings.l0 * gates.sum() / x.shape[0]
        else:
            values = pre.relu()
        error = x - (kernels.decode(values, dictionary.W_dec, pattern) + dictionary.b_dec)
        if model is not None:
            error = error * self._own_columns(model)
        terms["reconstruction"] = self._reconstruction(error, model)
        if dictionary.sparsity.kind == "relu+l1":
            norms = torch.stack([w.norm(dim=-1) for w in dictionary.W_dec.split(dictionary.cuts, dim=-1)])
            price = values * kernels.per_feature(norms.sum(0), pattern)
            terms["l1"] = settings.l1 * objective.l1_penalty(price, x.shape[0], self.variance)
        return terms, values, error

    def _reconstruction(self, error: Tensor, model: Tensor | None) -> Tensor:
        loss = self.objective.loss
        if model is None:
            return objective.reconstruction(error, self.dictionary.widths, self.variance, loss)
        if loss == "per_model":
            error = error / self.variance[model].sqrt().unsqueeze(1)
            return error.square().sum() / error.shape[0]
        return objective.reconstruction(error, (error.shape[1],), self.variance.mean().unsqueeze(0), loss)

    def _own_columns(self, model: Tensor) -> Tensor:
        """1 where a pooled row has a column, 0 on its padding, which nobody has to reconstruct."""
        widths = torch.tensor(self.dictionary.widths, device=model.device)[model]
        columns = torch.arange(self.dictionary.width, device=model.device)
        return (columns < widths.unsqueeze(1)).to(self.dictionary.W_dec.dtype)

    def _auxiliary(self, encoder_input: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """AuxK on a sample of the batch's rows, as many as make it cost about what the main loss costs.

        The sample's loss is an unbiased estimate of the batch's, at k / k_aux of its price.
        """
        dictionary = self.dictionary
        k_aux = min(self.objective.k_aux or max(1, dictionary.width // 2), dead.numel())
        n_rows = encoder_input.shape[0]
        stride = max(1, min(k_aux // max(dictionary.sparsity.k, 1), n_rows // 64))
        encoder_input, error = encoder_input[::stride].contiguous(), error[::stride].contiguous()
        with torch.no_grad():
            chunks = Chunks(encoder_input, dictionary.W_enc[dead], dictionary.b_enc[dead])
            chosen = torch.cat([dead[top_k(pre, k_aux)] for _, pre in chunks]).to(torch.int32)
        pattern = Pattern.fixed(chosen, dictionary.n_features)
        pre = kernels.preactivations(encoder_input, dictionary.W_enc, pattern)
        pre = pre + kernels.per_feature(dictionary.b_enc, pattern)
        return objective.auxiliary(error, kernels.decode(objective.revive(pre), dictionary.W_dec, pattern))

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        W_enc, W_dec = self.dictionary.W_enc, self.dictionary.W_dec
        assert W_enc.grad is not None
        assert W_dec.grad is not None
        if self.owned is not None:
            W_dec.grad *= self.owned
            W_enc.grad[:, : self.dictionary.width] *= self.owned
        tie(self.dictionary, W_dec.grad)
        renormalise = self.dictionary.sparsity.kind != "relu+l1"
        if renormalise:
            along = (W_dec.grad * W_dec).sum(1, keepdim=True)  # rows of W_dec have norm 1
            W_dec.grad.addcmul_(W_dec, along, value=-1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if renormalise:
            W_dec /= W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def _result(self, terms: Terms, n_active: int, error: Tensor, model: Tensor | None) -> StepResult:
        n_rows, n_spaces = error.shape[0], self.dictionary.n_spaces
        if model is None:
            per_space = torch.stack([e.square().sum() for e in error.split(self.dictionary.widths, dim=-1)])
            counts = torch.full((n_spaces,), float(n_rows), device=error.device)
        else:
            per_row = error.square().sum(-1)
            per_space = per_row.new_zeros(n_spaces).index_add_(0, model, per_row)
            counts = torch.bincount(model, minlength=n_spaces).to(error.dtype)
        return StepResult(
            terms={name: term.detach() for name, term in terms.items()},
            l0=torch.tensor(n_active / n_rows),
            error=per_space,
            n_rows=counts,
        )

    # --- what encode needs, and what the next step depends on -------------------------------------------------------

    @torch.no_grad()
    def finish_thresholds(self) -> None:
        """Put the learned cut-offs where `encode` looks for them."""
        dictionary = self.dictionary
        if dictionary.sparsity.kind == "jumprelu":
            dictionary.threshold.copy_(self.log_threshold.exp())
        if dictionary.sparsity.kind == "batchtopk":
            weight = dictionary.decoder_norms().sum(-1).clamp_min(1e-12)
            dictionary.threshold.copy_(float(self.cutoff) / weight)

    def tensors(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        out = {f"weights.{name}": p for name, p in self.parameters.items()}
        out |= {"center": self.dictionary.center, "silent": self.silent, "cutoff": self.cutoff}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                out[f"adam.{name}.{key}"] = value
        return out

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`, into a state of the same settings."""
        self.dictionary.center.copy_(tensors["center"])
        self.silent.copy_(tensors["silent"])
        self.cutoff.copy_(tensors["cutoff"])
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            prefix = f"adam.{name}."
            moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            self.optimizer.state[parameter] = {
                key: value.to(parameter.device) if key != "step" else value for key, value in moments.items()
            }
