"""Tiny language models and a corpus, made on the spot: two tokenizers, two architectures, random weights."""

from pathlib import Path

import pytest

from own_copy import own_copy
from suture.lm.corpus import Corpus, open_corpus
from suture.lm.create import LMShape, new_lm, save_lm, train_tokenizer
from suture.lm.load import LanguageModel, load_model

SENTENCE = "the cat sat on a mat and saw one red bird fly over its house while it rained naïve 12 cafés"
WORDS = SENTENCE.split(" ")


def text_of(document: int) -> str:
    """Between 2 and 150 words, different in every document."""
    n_words = 2 + document * 37 % 149
    return " ".join(WORDS[(document * 7 + i * i * 3 + i) % len(WORDS)] for i in range(n_words)) + "."


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    file.write_text("\n<|endoftext|>\n".join(text_of(i) for i in range(60)), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def corpus(corpus_file: Path) -> Corpus:
    return open_corpus(corpus_file)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`one` and `two` share a tokenizer; `other` has its own, with shorter tokens, and another width."""
    folder = tmp_path_factory.mktemp("models")
    texts = [text_of(i) for i in range(40)]
    coarse, fine = train_tokenizer(texts, vocab_size=330), train_tokenizer(texts[:3], vocab_size=270)
    shapes = {
        "one": (LMShape(n_layers=1, width=16, n_heads=2, context=64), coarse),
        "two": (LMShape(n_layers=2, width=24, n_heads=2, context=80), coarse),
        "other": (LMShape(architecture="llama", n_layers=2, width=12, n_heads=2, context=64), fine),
    }
    for seed, (name, (shape, tokenizer)) in enumerate(shapes.items()):
        save_lm(new_lm(shape, tokenizer, seed=seed), tokenizer, folder / name, card="Random weights, for tests.")
    return {name: folder / name for name in shapes}


@pytest.fixture(scope="session")
def lms_loaded(model_folders: dict[str, Path]) -> dict[str, LanguageModel]:
    """For fixtures that outlive a test; a test takes `lms`."""
    return {name: load_model(str(path), device="cpu") for name, path in model_folders.items()}


@pytest.fixture
def lms(lms_loaded: dict[str, LanguageModel]) -> dict[str, LanguageModel]:
    """This test's own copies."""
    return {name: own_copy(lm) for name, lm in lms_loaded.items()}
