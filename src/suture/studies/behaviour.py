"""What a design's shared features do: how much alike language models answer when each is steered with one of them.

1. Features by a stated rule (`features_to_steer`), so that nobody picks the pretty ones; none where none is shared.
2. Prompts and neutral text are documents that training never saw.
3. Each model is steered along the feature's own direction in it; agreement is averaged over features and pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from suture.features.table import FeatureTable
from suture.interventions.effect import SteerSettings
from suture.interventions.step import heldout_documents, steer, texts_of
from suture.lm.load import LanguageModel
from suture.studies.demo import features_to_steer
from suture.studies.measures import Numbers


@dataclass(frozen=True, kw_only=True)
class BehaviourSettings:
    """How much is steered."""

    n_features: int = 4
    n_prompts: int = 12
    n_neutral: int = 2


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
        settings=SteerSettings(strengths=(1.0,), n_random=0, n_generation_prompts=0, n_draws=10),
        overwrite=True,
    )
    found = [pair for effect in effects for pair in effect.agreements]
    mismatched = [pair.mismatched for pair in found if pair.mismatched is not None]
    return {
        "agreement": sum(pair.value for pair in found) / len(found),
        "agreement_mismatched": sum(mismatched) / len(mismatched) if mismatched else None,
    }
