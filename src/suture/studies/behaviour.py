"""What a design does in the language models: their loss with it spliced in, and steering with its shared features.

1. All text is of documents that training never saw.
2. Loss: each model's activation is replaced by the reconstruction; separate dictionaries are spliced in one by one.
3. Steering: features by a stated rule (`features_to_steer`), so that nobody picks the pretty ones; none where none is
   shared. Each model is steered along the feature's own direction in it; agreement is averaged over features and pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from suture.dictionary.dictionary import Dictionary
from suture.features.table import FeatureTable
from suture.interventions.settings import SpliceSettings, SteerSettings
from suture.interventions.splice import SplicedModel, spliced_losses
from suture.interventions.steer.steer import heldout_documents, steer, texts_of
from suture.lm.load import LanguageModel
from suture.pipeline.settings import Count, check
from suture.studies.demo import features_to_steer
from suture.studies.measures import Numbers


@dataclass(frozen=True, kw_only=True)
class BehaviourSettings:
    """How much is spliced and steered."""

    n_documents: Count = 32
    """That the loss is measured on."""
    n_features: Count = 4
    """Steered, of the shared ones."""
    n_prompts: Count = 12
    """That features are steered on."""
    n_neutral: Count = 2
    """Texts that side effects are measured on."""

    def __post_init__(self) -> None:
        check(self)


def loss_numbers(
    dictionaries: Sequence[Path], lms: Sequence[LanguageModel], settings: BehaviourSettings | None = None
) -> Numbers:
    """Every model's loss: left alone, with the reconstruction, and what share of the mean's price that saves.

    `dictionaries` is one over all models, or one for each.
    """
    settings = settings or BehaviourSettings()
    spliced: list[SplicedModel] = []
    for m, path in enumerate(dictionaries):
        own = lms if len(dictionaries) == 1 else lms[m : m + 1]
        found = spliced_losses(
            Dictionary.load(path), own, heldout_documents(path), SpliceSettings(n_documents=settings.n_documents)
        )
        spliced += found.models
    numbers: Numbers = {}
    for letter, model in zip(ascii_uppercase, spliced, strict=False):
        numbers[f"ce_clean_{letter}"] = model.clean.ce
        numbers[f"ce_spliced_{letter}"] = model.spliced.ce
        numbers[f"ce_recovered_{letter}"] = model.recovered
    return numbers


def agreement_numbers(
    folder: Path,
    dictionary: Path,
    table: Path,
    lms: Sequence[LanguageModel],
    settings: BehaviourSettings | None = None,
) -> Numbers:
    """Mean agreement of some shared features, and of features that do not belong together; None where none is shared.

    Every feature's effect is left in a folder of its own below `folder`.
    """
    settings = settings or BehaviourSettings()
    chosen = features_to_steer(FeatureTable.load(table), settings.n_features)
    if not chosen:
        return {"agreement": None, "agreement_mismatched": None}
    neutral, prompts = texts_of(
        heldout_documents(dictionary), n_neutral=settings.n_neutral, n_prompts=settings.n_prompts
    )
    effects = steer(
        folder,
        dictionary,
        table,
        chosen,
        lms=lms,
        prompts=prompts,
        neutral=neutral,
        settings=SteerSettings(strengths=(1.0,), n_controls=0, n_random=0, n_generation_prompts=0, n_draws=10),
        overwrite=True,
    )
    found = [pair for effect in effects for pair in effect.agreements]
    mismatched = [pair.mismatched for pair in found if pair.mismatched is not None]
    return {
        "agreement": sum(pair.value for pair in found) / len(found),
        "agreement_mismatched": sum(mismatched) / len(mismatched) if mismatched else None,
    }
