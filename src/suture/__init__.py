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
    from suture.dictionary.design import Design
    from suture.dictionary.dictionary import Codes, Dictionary
    from suture.dictionary.objective import Objective
    from suture.dictionary.settings import TrainSettings
    from suture.dictionary.sparsity import Sparsity
    from suture.dictionary.train import train, train_many
    from suture.errors import UserError
    from suture.estimate.step import Estimate, estimate
    from suture.features.step import FeatureSettings, features
    from suture.features.table import FeatureTable
    from suture.interventions.causal import CausalSettings, causal
    from suture.interventions.effect import Effect, SteerSettings
    from suture.interventions.splice import SpliceSettings, splice
    from suture.interventions.step import steer
    from suture.lm.corpus import open_corpus
    from suture.lm.load import LanguageModel, load_model
    from suture.parallel import grid
    from suture.report.page import report
    from suture.studies.compare import DesignStudy, study_designs
    from suture.studies.demo import demo
    from suture.study import Study, read_study

_HOMES = {
    "collect": "activations.collect",
    "Store": "activations.store",
    "Stream": "activations.stream",
    "Codes": "dictionary.dictionary",
    "Design": "dictionary.design",
    "Dictionary": "dictionary.dictionary",
    "Objective": "dictionary.objective",
    "Sparsity": "dictionary.sparsity",
    "TrainSettings": "dictionary.settings",
    "train": "dictionary.train",
    "train_many": "dictionary.train",
    "UserError": "errors",
    "Estimate": "estimate.step",
    "estimate": "estimate.step",
    "FeatureSettings": "features.step",
    "features": "features.step",
    "FeatureTable": "features.table",
    "CausalSettings": "interventions.causal",
    "causal": "interventions.causal",
    "SpliceSettings": "interventions.splice",
    "splice": "interventions.splice",
    "Effect": "interventions.effect",
    "SteerSettings": "interventions.effect",
    "steer": "interventions.step",
    "open_corpus": "lm.corpus",
    "LanguageModel": "lm.load",
    "load_model": "lm.load",
    "grid": "parallel",
    "report": "report.page",
    "demo": "studies.demo",
    "DesignStudy": "studies.compare",
    "study_designs": "studies.compare",
    "Study": "study",
    "read_study": "study",
}

__all__ = [  # noqa: RUF022 (grouped as they are used)
    "load_model", "LanguageModel", "open_corpus",
    "read_study", "Study", "estimate", "Estimate", "grid",
    "collect", "Store", "Stream",
    "train", "train_many", "TrainSettings", "Design", "Sparsity", "Objective", "Dictionary", "Codes",
    "features", "FeatureSettings", "FeatureTable",
    "steer", "SteerSettings", "Effect",
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
