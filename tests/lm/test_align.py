"""Alignment: kept tokens of all models end at the same character, and the pieces tile the document."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm.tiny import CONTEXT, SENTENCES
from suture.errors import UserError
from suture.lm.align import Piece, pieces, shared_tokenizer
from suture.lm.corpus import open_corpus
from suture.lm.load import LanguageModel, load_model
from suture.lm.tokens import tokenize, with_bos

OWN_COPY = [HealthCheck.function_scoped_fixture]
"""Every test has its own copy of a tiny model; that all examples of one test share it does no harm."""

Tiny = Callable[..., LanguageModel]
SHARED = Path(os.environ.get("SUTURE_SHARED", Path(__file__).parents[3] / "shared"))
# Words, blanks, accents, characters of several bytes, a combining accent, and the special tokens of both tokenizers.
TEXT = st.lists(
    st.one_of(
        st.sampled_from([" the cat", " Once", "Lily", "  ", "\n\n", " é", "é", "日本", "😀", "\u0301", "<s>", "</s>"]),
        st.sampled_from(["<|endoftext|>", "<unk>", "▁", "\t", "👩‍👧", *SENTENCES]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    max_size=12,
).map("".join)


def read_by(lm: LanguageModel, ids: torch.Tensor) -> str:
    return str(lm.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))


def check_laws(lms: list[LanguageModel], text: str, cut: list[Piece], block: int) -> None:
    whole = [tokenize(lm, text) for lm in lms]
    assert [p.start for p in cut[1:]] == [p.end for p in cut[:-1]]
    assert not cut or (cut[0].start == 0 and cut[-1].end == len(text))
    for m, lm in enumerate(lms):
        assert sum(p.n_tokens[m] for p in cut) == len(whole[m].ids)
        assert sum(p.n_special[m] for p in cut) == int(whole[m].special.sum())
        before = 0
        for piece in cut:
            assert len(piece.ids[m]) <= min(block, lm.context - 1)
            if len(piece.ids[m]):
                assert torch.equal(piece.ids[m], whole[m].ids[before : before + piece.n_tokens[m]])
            kept = piece.keep[m] + before
            assert torch.equal(whole[m].ends[kept], piece.ends)
            assert not whole[m].special[kept].any()
            before += piece.n_tokens[m]
    for piece in cut:
        assert all(len(k) == len(piece.ends) for k in piece.keep)
        # A piece of one shared tokenizer may begin inside a character, between two of its byte tokens.
        assert bool(((piece.ends >= piece.start) & (piece.ends <= piece.end)).all())


@given(text=TEXT, block=st.integers(1, 40))
@settings(max_examples=150, deadline=None, suppress_health_check=OWN_COPY)
def test_two_tokenizers(tiny: Tiny, text: str, block: int) -> None:
    lms = [tiny("gpt2"), tiny("llama", "sentencepiece")]
    assert not shared_tokenizer(lms)
    cut = pieces(lms, text, block=block)
    check_laws(lms, text, cut, block)
    for piece in cut:
        assert (piece.ends[1:] > piece.ends[:-1]).all()  # one row per character


@given(text=TEXT, block=st.integers(1, 40))
@settings(max_examples=100, deadline=None, suppress_health_check=OWN_COPY)
def test_one_tokenizer_keeps_every_token_that_is_not_special(tiny: Tiny, text: str, block: int) -> None:
    lms = [tiny("gpt2"), tiny("gpt_neo")]
    assert shared_tokenizer(lms)
    cut = pieces(lms, text, block=block)
    check_laws(lms, text, cut, block)
    assert sum(len(p.ends) for p in cut) == int((~tokenize(lms[0], text).special).sum())
    assert all(p.n_tokens == (block, block) for p in cut[:-1])
    assert all(torch.equal(p.ids[0], p.ids[1]) and torch.equal(p.keep[0], p.keep[1]) for p in cut)


@given(text=TEXT, block=st.integers(4, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=OWN_COPY)
def test_three_models_keep_no_more_than_two(tiny: Tiny, text: str, block: int) -> None:
    lms = [tiny("gpt2"), tiny("llama", "sentencepiece"), tiny("gpt_neo")]
    cut = pieces(lms, text, block=block)
    check_laws(lms, text, cut, block)
    two = {int(e) for p in pieces(lms[:2], text, block=10_000) for e in p.ends}
    assert {int(e) for p in cut for e in p.ends} <= two


@given(text=TEXT)
@settings(max_examples=150, deadline=None, suppress_health_check=OWN_COPY)
def test_a_token_that_closes_spells_the_text_up_to_there(tiny: Tiny, text: str) -> None:
    """Decoding, which knows nothing of offsets, must give exactly the text before each closing token's end."""
    lm = tiny("gpt2")
    tokens = tokenize(lm, text)
    for position in torch.nonzero(tokens.closes)[:, 0].tolist():
        assert read_by(lm, tokens.ids[: position + 1]) == text[: int(tokens.ends[position])]


# One combining mark, whose place among others NFKC leaves alone.
COMPOSED = st.lists(
    st.one_of(
        st.sampled_from(
            [" the cat", " Once", "Lily", "  ", "\n", "e\u0301", "é", "日本", "ﬁ", "㎏", "①", "A\u0301", "Ü"]
        ),
        st.sampled_from(["\u1100\u1161\u11a8", "\u212b", "ｶ\uff9e", "\t", "a\x00b", "\ufffd", *SENTENCES]),
        st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"]), max_size=5),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("tokenizer", ["wordpiece", "normalising"])
@given(text=COMPOSED, block=st.integers(1, 40))
@settings(max_examples=120, deadline=None, suppress_health_check=OWN_COPY)
def test_tokenizers_that_change_the_text_keep_the_laws(tiny: Tiny, tokenizer: str, text: str, block: int) -> None:
    lms = [tiny("gpt2"), tiny("llama", tokenizer), tiny("llama", "sentencepiece")]
    cut = pieces(lms, text, block=block)
    check_laws(lms, text, cut, block)
    for piece in cut:
        assert (piece.ends[1:] > piece.ends[:-1]).all()


@pytest.mark.parametrize("tokenizer", ["wordpiece", "normalising"])
@given(text=COMPOSED)
@settings(max_examples=200, deadline=None, suppress_health_check=OWN_COPY)
def test_what_was_read_up_to_a_closing_token_is_the_text_up_to_its_end(tiny: Tiny, tokenizer: str, text: str) -> None:
    """The text so far, changed as the tokenizer changes it, is spelled by the tokens so far: no character read by a
    token lies behind its end, none of the next lies before it. (An unknown token spells what is in its span.)"""
    lm = tiny("llama", tokenizer)
    backend = lm.tokenizer.backend_tokenizer
    tokens = tokenize(lm, text)
    names = lm.tokenizer.convert_ids_to_tokens(tokens.ids.tolist())

    def changed(part: str) -> str:
        found = backend.normalizer.normalize_str(part)
        return "".join(found.replace("▁", " ").split())

    unknown, spelled = lm.tokenizer.unk_token, ""
    for i, name in enumerate(names):
        own = text[int(tokens.starts[i]) : int(tokens.ends[i])] if name == unknown else name.removeprefix("##")
        spelled += changed(own) if name == unknown else "".join(own.replace("▁", " ").split())
        if bool(tokens.closes[i]):
            assert spelled == changed(text[: int(tokens.ends[i])])


@pytest.mark.parametrize(
    ("tokenizer", "text", "ends"),
    [
        ("normalising", "e\u0301", [2]),
        ("normalising", "ﬁn", [1, 2]),
        ("wordpiece", "e\u0301 Ü", [2, 4]),
        ("byte-level", "e\u0301", [1, 2]),
    ],
)
def test_an_accent_belongs_to_the_token_that_has_read_it(
    tiny: Tiny, tokenizer: str, text: str, ends: list[int]
) -> None:
    tokens = tokenize(tiny("llama", tokenizer), text)
    assert tokens.ends[tokens.closes].tolist() == ends


def test_only_the_last_byte_token_closes_a_character(tiny: Tiny) -> None:
    for lm in (tiny("gpt2"), tiny("llama", "sentencepiece")):
        tokens = tokenize(lm, "a日b")
        assert int((tokens.ends == 2).sum()) == 3
        assert tokens.ends[tokens.closes].tolist() == [1, 2, 3]
        assert int(torch.nonzero(tokens.closes)[-2]) == len(tokens.ids) - 2


def test_special_tokens_in_the_text_are_marked_and_never_kept(tiny: Tiny) -> None:
    lms = [tiny("gpt2"), tiny("llama", "sentencepiece")]
    text = "The cat<|endoftext|> sat</s> on"
    assert [int(tokenize(lm, text).special.sum()) for lm in lms] == [1, 1]
    cut = pieces(lms, text, block=60)
    kept = {int(e) for p in cut for e in p.ends}
    assert text.index("<|endoftext|>") in kept
    assert not kept & {text.index(" sat"), text.index(" on")}
    assert [p.n_special for p in cut] == [(1, 1)]


def test_pieces_respect_the_smaller_context(tiny: Tiny) -> None:
    lms = [tiny("gpt2"), tiny("llama", "sentencepiece")]
    cut = pieces(lms, " ".join(SENTENCES) * 3, block=10_000)
    assert len(cut) > 1
    longest = max(len(p.ids[m]) for p in cut for m in range(2))
    assert longest == CONTEXT - 1
    assert len(with_bos(lms[0], cut[0].ids[0])) <= CONTEXT
    assert int(with_bos(lms[0], cut[0].ids[0])[0]) == lms[0].bos


def test_text_without_a_shared_end_in_reach_is_passed_over(tiny: Tiny) -> None:
    lms = [tiny("gpt2"), tiny("llama", "sentencepiece")]
    cut = pieces(lms, "a😀b", block=2)  # four byte tokens end one character
    check_laws(lms, "a😀b", cut, 2)
    assert {int(e) for p in cut for e in p.ends} == {1, 3}
    skipped = [p for p in cut if not len(p.ends)]
    assert len(skipped) == 1
    assert all(len(ids) == 0 for ids in skipped[0].ids)
    assert skipped[0].n_tokens == (4, 4)


def test_an_empty_text_has_no_pieces_and_an_empty_block_no_meaning(tiny: Tiny) -> None:
    assert pieces([tiny("gpt2")], "", block=8) == []
    with pytest.raises(UserError, match="block"):
        pieces([tiny("gpt2")], "x", block=0)


@pytest.fixture(scope="module")
def stories260k() -> LanguageModel:
    folder = SHARED / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine (set SUTURE_SHARED)")
    return load_model(str(folder), device="cpu")


def test_sentencepiece_offsets_on_real_text(stories260k: LanguageModel) -> None:
    corpus = open_corpus(SHARED / "data" / "tinystories" / "valid.txt")
    for document in list(corpus)[::8]:
        text = document.text + " naïve 日本 😀 end"
        tokens = tokenize(stories260k, text)
        for position in torch.nonzero(tokens.closes)[::5, 0].tolist():
            assert read_by(stories260k, tokens.ids[: position + 1]) == text[: int(tokens.ends[position])]


def test_real_text_with_two_tokenizers(stories260k: LanguageModel, tiny: Tiny) -> None:
    lms = [stories260k, tiny("gpt2")]
    corpus = open_corpus(SHARED / "data" / "tinystories" / "valid.txt")
    started, n_kept, n_tokens = time.perf_counter(), 0, [0, 0]
    for document in corpus:
        cut = pieces(lms, document.text, block=60)
        n_kept += sum(len(p.ends) for p in cut)
        n_tokens = [n + sum(p.n_tokens[m] for p in cut) for m, n in enumerate(n_tokens)]
        assert all(a.end == b.start for a, b in pairwise(cut))
    seconds = time.perf_counter() - started
    shares = [n_kept / n for n in n_tokens]
    print(f"kept {n_kept} rows, {shares[0]:.2f} and {shares[1]:.2f} of the tokens, in {seconds:.2f} s")  # noqa: T201
    assert min(shares) > 0.4
    assert seconds < 20.0


def test_generated_text_is_the_known_story(stories260k: LanguageModel) -> None:
    from suture.lm.generate import generate

    text = generate(stories260k, "", max_new_tokens=40)
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
