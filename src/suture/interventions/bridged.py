"""Mapped activations in place of a model's own: what a bridge's maps keep of what the model does with them.

1. A first pass over the documents gives each model's mean activation at the shared positions.
2. A second pass gives each model's loss (`paired`, 3): as it is; with the other model's rows, mapped, in place of its
   own, for every kind of map; with the mean in their place.
3. recovered = 1 - (mapped - clean) / (mean - clean), as for a dictionary (`splice`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from suture.bridges.bridge import Bridge, MappedLoss
from suture.errors import UserError
from suture.interventions.paired import HELD_BYTES, PairedText
from suture.interventions.settings import SpliceSettings
from suture.interventions.splice import CLEAN, MEAN, Loss, LossSums, mean_rows
from suture.lm.load import LanguageModel
from suture.lm.models import as_models

OnProgress = Callable[[int, int], None]
"""Gets (batches done, batches in all)."""


@dataclass(frozen=True, kw_only=True)
class BridgedLosses:
    """Losses of both models, A first."""

    clean: tuple[Loss, Loss]
    mean: tuple[Loss, Loss]
    """With the mean in place of every row."""
    mapped: Mapping[str, tuple[Loss, Loss]]
    """Per kind of map, with the OTHER model's rows, mapped, in place of every row."""
    n_documents: int

    @property
    def of_kinds(self) -> dict[str, tuple[MappedLoss, MappedLoss]]:
        """Per kind and way, A to B first: the loss of the model mapped to."""
        return {kind: (self._of(own, 1), self._of(own, 0)) for kind, own in self.mapped.items()}

    def _of(self, own: tuple[Loss, Loss], model: int) -> MappedLoss:
        price = self.mean[model].ce - self.clean[model].ce
        recovered = 1 - (own[model].ce - self.clean[model].ce) / price if price > 0 else None
        return MappedLoss(loss=own[model].ce, clean=self.clean[model].ce, recovered=recovered)


@torch.no_grad()
def bridged_losses(
    bridge: Bridge,
    lms: Sequence[LanguageModel | str],
    documents: Iterable[str],
    settings: SpliceSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> BridgedLosses:
    """Each model's loss with the other's activations, mapped, in place of its own at the shared positions.

    `lms` are the models of the bridge's spaces, A first; tokenizers may differ.

    Raises:
        UserError: not one model per space, a bridge between a model and its copy, or documents without a shared text
            position.
        NumericalError: a model gives NaN.
    """
    settings, tell = settings or SpliceSettings(), on_progress or (lambda *_: None)
    if bridge.summary.null:
        problem = "is between a model and a copy of it, which no language model computes"
        raise UserError("bridge", bridge.path, problem, "name one between language models")
    chosen = [text for text, _ in zip(documents, range(settings.n_documents), strict=False)]
    text = PairedText(bridge.spaces, as_models(lms), chosen, block=settings.block, holds=HELD_BYTES)
    means = mean_rows(text, lambda done: tell(done, 2 * text.n_batches))  # 1
    sums = [LossSums(text.n_documents) for _ in bridge.spaces]
    for done, batch in enumerate(text.batches(), start=text.n_batches + 1):  # 2
        for m, own in enumerate(sums):
            rows = {kind: bridge.carry(batch.rows(1 - m), 1 - m, kind) for kind in bridge.maps}
            own.add(text, batch, m, {CLEAN: None, MEAN: means[m].expand(batch.n_rows, -1), **rows})
        tell(done, 2 * text.n_batches)
    a, b = sums
    return BridgedLosses(
        clean=(a.loss(CLEAN), b.loss(CLEAN)),
        mean=(a.loss(MEAN), b.loss(MEAN)),
        mapped={kind: (a.loss(kind), b.loss(kind)) for kind in bridge.maps},
        n_documents=text.n_documents,
    )
