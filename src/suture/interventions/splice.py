"""Splicing in: each model's loss on text when a dictionary's reconstruction stands in for its activations.

1. A first walk over the documents gives each model's mean activation at the shared positions.
2. A second one, on the same activations as far as they fit into memory, gives every model's next-token cross-entropy
   on the same predictions (`paired`, 3): as it is; with the reconstruction from all models' code (pooled: from its
   own); from each model's code alone, joint designs; with the mean in place of every row, which is what a dictionary
   that knows nothing would do. What of an outlier row training never saw (`dictionary.clipping`, 2) stays in each.
3. recovered = 1 - (spliced - clean) / (mean - clean): 1 loses nothing, 0 is no better than the mean. Standard errors
   have documents as their unit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from suture.dictionary.clipping import Clipping
from suture.dictionary.dictionary import Dictionary
from suture.interventions.edits import refuse_null
from suture.interventions.paired import (
    HELD_BYTES,
    PairedBatch,
    PairedText,
    Passes,
    checksum,
    codes_of,
    excess,
    scaled_rows,
    scored_documents,
)
from suture.interventions.settings import SpliceSettings
from suture.lm.load import LanguageModel
from suture.lm.models import as_models
from suture.pipeline import artifact
from suture.pipeline.parts import Part, Parts
from suture.pipeline.result import read_typed
from suture.uncertainty import Ratio

STAGE = "splice"
RESULT = "splice.json"
CLEAN, SPLICED, MEAN = "clean", "spliced", "mean"
COUNT = "count"
"""What a part of the sums calls the predictions of every document."""
OnProgress = Callable[[int, int], None]
"""Gets (passes done, passes in all)."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Next-token cross-entropy in nats, with its standard error over documents (None with one document)."""

    ce: float
    se: float | None


@dataclass(frozen=True, kw_only=True)
class SplicedModel:
    """One model's losses."""

    model: str
    clean: Loss
    spliced: Loss
    """With the reconstruction from all models' code; pooled and sae: from its own."""
    mean: Loss
    """With the mean in place of every row."""
    alone: list[Loss]
    """With the reconstruction from each model's code alone, in the order of the spaces; empty for pooled and sae."""
    n_predictions: int
    replaced: float
    """Share of the text's tokens whose activation was replaced."""

    @property
    def recovered(self) -> float | None:
        """Of the loss that the mean costs, what the reconstruction saves; None where the mean costs nothing."""
        return self._recovered(self.spliced)

    @property
    def recovered_alone(self) -> list[float | None]:
        """The same from each model's code alone."""
        return [self._recovered(loss) for loss in self.alone]

    def _recovered(self, loss: Loss) -> float | None:
        price = self.mean.ce - self.clean.ce
        return 1 - (loss.ce - self.clean.ce) / price if price > 0 else None


@dataclass(frozen=True, kw_only=True, repr=False)
class Splice:
    """What splicing a dictionary in costs each of its models."""

    models: tuple[SplicedModel, ...]
    n_documents: int
    n_rows: int
    path: Path | None = field(default=None, compare=False)
    """The folder that it was written to or read from."""

    def __repr__(self) -> str:
        costs = "; ".join(f"{m.model}: CE {m.clean.ce:.3f}, spliced {m.spliced.ce:.3f}" for m in self.models)
        return f"Splice({costs}; {self.n_documents:,} documents, {self.n_rows:,} rows)"

    @staticmethod
    def load(path: str | Path) -> "Splice":
        """Read what `splice` wrote.

        Raises:
            ArtifactError: not a finished splice.
        """
        artifact.open_artifact(path, stage=STAGE)
        return replace(read_typed(Path(path) / RESULT, Splice), path=Path(path))

    def to_json(self) -> dict[str, Any]:
        """Plain values for splice.json."""
        derived = [{"recovered": m.recovered, "recovered_alone": m.recovered_alone} for m in self.models]
        models = [asdict(m) | more for m, more in zip(self.models, derived, strict=True)]
        return {"models": models, "n_documents": self.n_documents, "n_rows": self.n_rows}


def spliced_losses(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel],
    documents: Iterable[str],
    settings: SpliceSettings | None = None,
    *,
    parts: Parts | None = None,
    on_progress: OnProgress | None = None,
) -> Splice:
    """Measure every model's loss with and without the dictionary at its hookpoint.

    `lms` are the dictionary's models in the order of its spaces; tokenizers may differ. With `parts`, what
    they hold of the batches is not measured again.

    Raises:
        UserError: not one model per space, or documents without a shared text position.
        NumericalError: a model gives NaN.
    """
    settings, parts = settings or SpliceSettings(), parts or Parts()
    chosen = list(islice(documents, settings.n_documents))
    text = PairedText(dictionary.spaces, lms, chosen, block=settings.block, holds=HELD_BYTES)
    n_alone = dictionary.n_spaces if dictionary.design.joint and dictionary.n_spaces > 1 else 0
    per_batch = len(lms) * (3 + n_alone)
    passes = Passes(text.n_batches * (1 + per_batch), on_progress or (lambda *_: None))
    means = mean_rows(text, lambda _: passes.add(1), dictionary.clipping, parts)  # 1
    sums = [LossSums(text.n_documents) for _ in lms]
    for number in range(text.n_batches):  # 2

        def measured(number: int = number) -> Part:
            batch = text.batch(number)
            own = [LossSums(text.n_documents) for _ in lms]
            for m, rows in enumerate(_stand_ins(dictionary, batch, means)):
                own[m].add(text, batch, m, rows, passes.add)
            return {f"{m}.{name}": value for m, one in enumerate(own) for name, value in one.arrays().items()}

        part = parts.get(f"losses-{number}", measured)
        passes.reach(text.n_batches + (number + 1) * per_batch)
        for m, own in enumerate(sums):
            own.merge({name.partition(".")[2]: v for name, v in part.items() if name.startswith(f"{m}.")})
    return Splice(
        models=tuple(
            own.result(dictionary.spaces[m].label, dictionary.n_spaces, text.n_rows / text.n_tokens[m])
            for m, own in enumerate(sums)
        ),
        n_documents=text.n_documents,
        n_rows=text.n_rows,
    )


def splice(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    lms: Sequence[LanguageModel | str],
    documents: Iterable[str],
    settings: SpliceSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Splice:
    """The stage `splice`: `spliced_losses` of a dictionary on disk, written to the folder `out`.

    A stopped run is gone on with by `resume`, after the batches that it measured.

    Raises:
        UserError: as `spliced_losses`; a dictionary of a model and its copy, which no text can be read with.
        ArtifactError: the dictionary cannot be read, or `out` is taken.
    """
    settings = settings or SpliceSettings()
    dictionary_path = Dictionary.folder_of(dictionary)
    dictionary = Dictionary.load(dictionary_path)
    refuse_null(dictionary, dictionary_path)
    chosen = list(islice(documents, settings.n_documents))
    recorded = asdict(settings) | {"texts": checksum(chosen)}
    if resume and artifact.is_made(out, stage=STAGE, settings=recorded, parents=(dictionary_path,)):
        return Splice.load(out)
    with artifact.create(
        out, stage=STAGE, settings=recorded, parents=(dictionary_path,), resume=resume, resumable=True,
        overwrite=overwrite, command=command,
    ) as draft:  # fmt: skip
        result = spliced_losses(
            dictionary, as_models(lms), chosen, settings, parts=Parts.of(draft), on_progress=on_progress
        )
        artifact.write_json(draft.folder / RESULT, result.to_json())
    return replace(result, path=Path(out))


def mean_rows(
    text: PairedText, tell: Callable[[int], None], clipping: Clipping | None = None, parts: Parts | None = None
) -> list[Tensor]:
    """1: each model's mean raw activation at the shared positions, outlier rows drawn in as in training."""
    clipping = clipping or Clipping.none(len(text.spaces))
    totals = [torch.zeros(space.width, dtype=torch.float64) for space in text.spaces]
    for number in range(text.n_batches):

        def summed(number: int = number) -> Part:
            batch = text.batch(number)
            return {str(m): clipping.rows(batch.rows(m), m).double().sum(0).cpu() for m in range(len(totals))}

        part = (parts or Parts()).get(f"rows-{number}", summed)
        for m, total in enumerate(totals):
            total += part[str(m)]
        tell(number + 1)
    return [(total / text.n_rows).float() for total in totals]


def _stand_ins(
    dictionary: Dictionary, batch: PairedBatch, means: Sequence[Tensor]
) -> list[Mapping[str, Tensor | None]]:
    """2: what takes the rows' place in every model, by name. Each code is computed and decoded once."""
    beyond = [excess(dictionary, batch, m) for m in range(dictionary.n_spaces)]
    found: list[dict[str, Tensor | None]] = [
        {CLEAN: None, MEAN: mean.to(own) + own} for mean, own in zip(means, beyond, strict=True)
    ]
    codes = codes_of(dictionary, batch)
    if not dictionary.design.joint:
        decoded = [dictionary.decode_raw(own)[m] for m, own in enumerate(codes)]
    else:
        decoded = dictionary.decode_raw(codes[0])
    for m, own in enumerate(found):
        own[SPLICED] = decoded[m] + beyond[m]
    if dictionary.design.joint and dictionary.n_spaces > 1:
        x = scaled_rows(dictionary, batch)
        for source in range(dictionary.n_spaces):
            alone = dictionary.decode_raw(dictionary.encode_alone(x, source))
            for m, own in enumerate(found):
                own[f"alone {source}"] = alone[m] + beyond[m]
    return list(found)


class LossSums:
    """One model's losses summed by document."""

    def __init__(self, n_documents: int) -> None:
        self.n_documents = n_documents
        self.total: dict[str, Tensor] = {}
        self.count: Float[Tensor, "document"] = torch.zeros(n_documents, dtype=torch.float64)

    def add(
        self,
        text: PairedText,
        batch: PairedBatch,
        model: int,
        stand_ins: Mapping[str, Tensor | None],
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Add a batch's losses, each of these in place of the model's rows; None leaves them as they are."""
        document = scored_documents(batch, model)
        self.count.index_add_(0, document, torch.ones(len(document)).double())
        for name, rows in stand_ins.items():
            surprise = text.surprise(batch, model, rows).double().cpu()
            total = self.total.setdefault(name, torch.zeros(self.n_documents, dtype=torch.float64))
            total.index_add_(0, document, surprise)
            tell(1)

    def arrays(self) -> Part:
        """All of it, to be merged elsewhere."""
        return {COUNT: self.count, **self.total}

    def merge(self, other: Part) -> None:
        """Add another's arrays."""
        for name, value in other.items():
            if name == COUNT:
                self.count += value
            else:
                self.total[name] = self.total.get(name, torch.zeros_like(value)) + value

    def result(self, label: str, n_spaces: int, replaced: float) -> SplicedModel:
        """All of them, for a dictionary over so many spaces."""
        alone = [f"alone {m}" for m in range(n_spaces)]
        return SplicedModel(
            model=label,
            clean=self.loss(CLEAN),
            spliced=self.loss(SPLICED),
            mean=self.loss(MEAN),
            alone=[self.loss(name) for name in alone if name in self.total],
            n_predictions=int(self.count.sum()),
            replaced=replaced,
        )

    def loss(self, name: str) -> Loss:
        """With what is called so in place of the rows; the standard error is over documents."""
        read = self.count > 0
        ratio = Ratio(self.total[name][read, None], self.count[read, None])
        return Loss(ce=float(ratio.value), se=float(ratio.spread) if int(read.sum()) > 1 else None)
