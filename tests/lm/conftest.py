"""Tiny models made once per test session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lm.tiny import save_tiny
from own_copy import own_copy
from suture.lm.load import LanguageModel, load_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny_folder(family, tokenizer=..., seed=...) -> the folder of that model, made on first use."""

    @cache
    def make(family: str = "gpt2", tokenizer: str = "byte-level", seed: int = 0) -> Path:
        return save_tiny(tmp_path_factory.mktemp(family) / family, family, tokenizer=tokenizer, seed=seed)

    return make


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder: Callable[..., Path]) -> Callable[..., LanguageModel]:
    """tiny_loaded(family, tokenizer=..., seed=...) -> that model, loaded on first use; a test takes `tiny`."""

    @cache
    def load(family: str = "gpt2", tokenizer: str = "byte-level", seed: int = 0) -> LanguageModel:
        return load_model(str(tiny_folder(family, tokenizer, seed)), device="cpu")

    return load


@pytest.fixture
def tiny(tiny_loaded: Callable[..., LanguageModel]) -> Callable[..., LanguageModel]:
    """tiny(family, tokenizer=..., seed=...) -> this test's own copy of that model, the same one at every call."""

    @cache
    def copied(family: str = "gpt2", tokenizer: str = "byte-level", seed: int = 0) -> LanguageModel:
        return own_copy(tiny_loaded(family, tokenizer, seed))

    return copied
