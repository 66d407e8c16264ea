"""Find, compare, stitch and move sparse features across language models.

Every step is a function from folders to a folder: `collect`, `train`, `features`, `steer`, `report`. Names are loaded
when they are first used, so that `import suture` is instant.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suture.activations.collect import collect
    from suture.activations.store import Store
    from suture.activations.stream import Stream
    from suture.dictionary.activation import Sparsity
    from suture.dictionary.codes import Codes
    from suture.dictionary.design import Design
    from suture.dictionary.dictionary import Dictionary
    from suture.errors import UserError
    from suture.estimate.estimate import Estimate, estimate
    from suture.features.describe import features
    from suture.features.settings import FeatureSettings
    from suture.features.table import FeatureTable
    from suture.interventions.causal import causal
    from suture.interventions.settings import CausalSettings, SpliceSettings, SteerSettings
    from suture.interventions.splice import splice
    from suture.interventions.steer.effect import Effect
    from suture.interventions.steer.steer import steer
    from suture.lm.corpus import open_corpus
    from suture.lm.load import LanguageModel, load_model
    from suture.matching.match import Matching, match
    from suture.matching.settings import MatchSettings
    from suture.parallel import grid
    from suture.report.page import report
    from suture.studies.compare import DesignStudy, study_designs
    from suture.studies.demo import demo
    from suture.sweep.file import Study, read_study
    from suture.training.settings import Objective, TrainSettings
    from suture.training.train import train, train_many

_HOMES = {
    "collect": "activations.collect",
    "Store": "activations.store",
    "Stream": "activations.stream",
    "Codes": "dictionary.codes",
    "Design": "dictionary.design",
    "Dictionary": "dictionary.dictionary",
    "Objective": "training.settings",
    "Sparsity": "dictionary.activation",
    "TrainSettings": "training.settings",
    "train": "training.train",
    "train_many": "training.train",
    "UserError": "errors",
    "Estimate": "estimate.estimate",
    "estimate": "estimate.estimate",
    "FeatureSettings": "features.settings",
    "features": "features.describe",
    "FeatureTable": "features.table",
    "CausalSettings": "interventions.settings",
    "causal": "interventions.causal",
    "SpliceSettings": "interventions.settings",
    "splice": "interventions.splice",
    "Effect": "interventions.steer.effect",
    "SteerSettings": "interventions.settings",
    "steer": "interventions.steer.steer",
    "open_corpus": "lm.corpus",
    "LanguageModel": "lm.load",
    "load_model": "lm.load",
    "match": "matching.match",
    "Matching": "matching.match",
    "MatchSettings": "matching.settings",
    "grid": "parallel",
    "report": "report.page",
    "demo": "studies.demo",
    "DesignStudy": "studies.compare",
    "study_designs": "studies.compare",
    "Study": "sweep.file",
    "read_study": "sweep.file",
}

__all__ = [  # noqa: RUF022 (grouped as they are used)
    "load_model", "LanguageModel", "open_corpus",
    "read_study", "Study", "estimate", "Estimate", "grid",
    "collect", "Store", "Stream",
    "train", "train_many", "TrainSettings", "Design", "Sparsity", "Objective", "Dictionary", "Codes",
    "features", "FeatureSettings", "FeatureTable",
    "steer", "SteerSettings", "Effect",
    "match", "MatchSettings", "Matching",
    "splice", "SpliceSettings", "causal", "CausalSettings",
    "report", "demo", "study_designs", "DesignStudy", "UserError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'suture' has no attribute {name!r}")
    return getattr(importlib.import_module(f"suture.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Names(ModuleType):
    """`features`, `report` and `estimate` stay the steps when Python has loaded the folders of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Names
