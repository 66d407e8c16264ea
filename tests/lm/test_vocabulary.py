"""Token texts keep their leading space in every kind of vocabulary; a text has the probability of all its tokens."""

import os
from pathlib import Path

import pytest
import torch

from suture.lm.load import load_model
from suture.lm.vocabulary import displayed, shared_texts, text_index, text_log_probs, token_texts

SHARED = Path(os.environ.get("SUTURE_SHARED", Path(__file__).parents[3] / "shared"))


def test_byte_level_texts_are_what_the_text_was_cut_into():
    lm = load_model("tinystories-1l", device="cpu")
    texts = token_texts(lm)
    text = "Once upon a time, Lily saw a dog.\n She said: yes!"
    ids = lm.tokenizer.encode(text, add_special_tokens=False)
    assert "".join(texts[i] for i in ids) == text
    assert texts[lm.tokenizer.bos_token_id] is None
    assert displayed(lm, texts, lm.tokenizer.bos_token_id) == "<|endoftext|>"
    (fragment, *_) = lm.tokenizer.encode("é", add_special_tokens=False)
    assert texts[fragment] is None
    assert displayed(lm, texts, fragment)


def test_sentencepiece_texts_match_byte_level_ones():
    if not (SHARED / "models/stories260K").is_dir():
        pytest.skip(f"no shared models at {SHARED}")
    lm = load_model(str(SHARED / "models/stories260K"), device="cpu")
    texts = token_texts(lm)
    ids = lm.tokenizer.encode("Once upon a time, Lily saw a dog", add_special_tokens=False)
    assert "".join(texts[i] for i in ids).strip() == "Once upon a time, Lily saw a dog"
    shared = shared_texts([token_texts(load_model("tinystories-1l", device="cpu")), texts])
    assert " the" in shared
    assert "a" in shared
    assert 50 < len(shared) < 512
    used, _ = text_index(texts, shared)
    assert len(used) >= len(shared)


def test_a_texts_probability_is_that_of_all_its_tokens():
    log_probs = torch.log_softmax(40 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), -1)
    texts = ["b", "a", None, "b", "c", "d"]
    chosen = ["a", "b", "d"]
    found = text_log_probs(log_probs, text_index(texts, chosen), 3).double().exp()
    p = log_probs.double().exp()
    torch.testing.assert_close(found, torch.stack([p[:, 1], p[:, 0] + p[:, 3], p[:, 5]], 1))


def test_without_doubles_it_is_a_reordering():
    log_probs = torch.randn(2, 3)
    found = text_log_probs(log_probs, text_index(["z", "x", "y"], ["x", "y", "z"]), 3)
    assert torch.equal(found, log_probs[:, [1, 2, 0]])


def test_only_texts_of_every_vocabulary_are_shared():
    assert shared_texts([["a", None, " b", "c"], ["c", " b", "c"], ["c", " b", "e"]]) == [" b", "c"]
    assert shared_texts([[None], [None]]) == []
