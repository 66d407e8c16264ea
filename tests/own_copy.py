"""A shared thing that a test may spoil, as that test's own: copied before, so that nothing has to be put back after."""

from __future__ import annotations

import copy
from dataclasses import replace

from suture.lm.load import LanguageModel


def own_copy(lm: LanguageModel) -> LanguageModel:
    """`lm` with weights, modules, hooks and tokenizer of its own."""
    return replace(lm, model=copy.deepcopy(lm.model), tokenizer=copy.deepcopy(lm.tokenizer))
