"""Cut a document into pieces that every model can read, with the positions at which all their tokens end together.

1. Every tokenizer reads the whole document once.
2. A token ends at a character if that character is whole: of several byte tokens of one, only the last ends it.
3. Shared ends are the characters where a token of every model ends. With one shared tokenizer that is every token.
4. From left to right, a piece takes as much text as fits `block` tokens (and the context) in every model, up to a
   shared end. Text in which no shared end comes soon enough is a piece of which nothing is kept.
5. Kept are the shared ends whose token is not special in any model.

Everything is sorted, so a document costs time linear in its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.load import LanguageModel
from suture.lm.tokens import Tokens, tokenize


@dataclass(frozen=True)
class Piece:
    """A stretch of a document, as every model reads it."""

    start: int
    """Character of the document at which it begins."""
    end: int
    """Character just after it, the next piece's start."""
    ids: tuple[Int[Tensor, "_"], ...]
    """Per model the token ids to run, without BOS. Empty where the stretch fits no block and nothing is kept."""
    keep: tuple[Int[Tensor, "kept"], ...]
    """Per model the positions in `ids` that are kept, in text order; entry j means the same text in every model."""
    ends: Int[Tensor, "kept"]
    """Character of the document just after each kept position."""
    n_tokens: tuple[int, ...]
    """Per model the tokens of the stretch, run or not."""
    n_special: tuple[int, ...]
    """Per model how many of them are special."""


def shared_tokenizer(lms: Sequence[LanguageModel]) -> bool:
    """Whether all models turn text into ids in the same way."""
    return len({lm.tokenizer_fingerprint for lm in lms}) == 1


def pieces(lms: Sequence[LanguageModel], document_text: str, *, block: int) -> list[Piece]:
    """The document cut into pieces of at most `block` tokens in every model (BOS not counted), in text order.

    The pieces tile the document. With one shared tokenizer every piece but the last is `block` tokens long, or as long
    as the context allows. Raises UserError for a block of no tokens.
    """
    if block < 1:
        raise UserError("block", block, "a block needs tokens", "use at least 1, e.g. 128")
    assert lms, "pieces for no model"
    tokens = _tokens(lms, document_text)  # 1
    if not any(len(t.ids) for t in tokens):
        return []
    shared = shared_tokenizer(lms)
    if shared:
        assert all(torch.equal(tokens[0].ids, t.ids) for t in tokens), "one tokenizer gave two tokenisations"
    limits = [min(block, lm.context - (lm.bos is not None)) for lm in lms]
    limits = [min(limits)] * len(lms) if shared else limits
    positions, ends = _every_token(tokens) if shared else _shared_ends(tokens)  # 2, 3
    return _cut(tokens, positions, ends, limits, len(document_text))


def _tokens(lms: Sequence[LanguageModel], text: str) -> list[Tokens]:
    """The text's tokens in every model; models with one tokenizer and the same special tokens have theirs in common."""
    kinds = [(lm.tokenizer_fingerprint, tuple(lm.tokenizer.all_special_ids)) for lm in lms]
    done = {kind: tokenize(lm, text) for kind, lm in dict(zip(kinds, lms, strict=True)).items()}
    return [done[kind] for kind in kinds]


def _every_token(tokens: list[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.arange(len(tokens[0].ids)), (len(tokens), 1)), tokens[0].ends.numpy()


def _shared_ends(tokens: list[Tokens]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [model, shared] and characters [shared] at which a token of every model ends, in text order."""
    closing = [np.flatnonzero(t.closes.numpy()) for t in tokens]
    closing_ends = [t.ends.numpy()[c] for t, c in zip(tokens, closing, strict=True)]
    ends = closing_ends[0]
    for other in closing_ends[1:]:
        ends = np.intersect1d(ends, other, assume_unique=True)
    found = [c[np.searchsorted(e, ends)] for c, e in zip(closing, closing_ends, strict=True)]
    return np.stack(found), ends


def _cut(
    tokens: list[Tokens], positions: np.ndarray, ends: np.ndarray, limits: list[int], n_characters: int
) -> list[Piece]:
    """Pieces between shared ends, each as long as `limits` (tokens per model) allow."""  # 4
    n_tokens = np.array([len(t.ids) for t in tokens])
    n_kept = len(ends)
    if n_kept == 0 or (positions[:, -1] + 1 < n_tokens).any():
        # Tokens after the last shared end (say, a trailing blank one model drops) close the last piece, unkept.
        positions = np.concatenate([positions, n_tokens[:, None] - 1], axis=1)
    n_cuts = positions.shape[1]
    special = np.zeros(n_cuts, dtype=bool)
    n_special = []  # per model: how many special tokens come before each token
    for t, row in zip(tokens, positions[:, :n_kept], strict=True):
        special[:n_kept] |= t.special.numpy()[row]
        n_special.append(np.concatenate([[0], np.cumsum(t.special.numpy())]))
    kept = ~special & (np.arange(n_cuts) < n_kept)  # 5
    cut_ends = np.concatenate([ends, [n_characters]])[:n_cuts]
    cut_ends[-1] = n_characters

    out: list[Piece] = []
    first, start = 0, 0
    begin = np.zeros(len(tokens), dtype=np.int64)
    while first < n_cuts:
        reach = [int(np.searchsorted(p, b + n, side="left")) for p, b, n in zip(positions, begin, limits, strict=True)]
        fits = min(reach) > first
        stop = max(min(reach), first + 1)
        after = positions[:, stop - 1] + 1
        chosen = np.flatnonzero(kept[first:stop]) + first if fits else np.empty(0, dtype=np.int64)
        spans = [slice(int(b), int(a)) for b, a in zip(begin, after, strict=True)]
        end = max(int(cut_ends[stop - 1]), start)
        out.append(
            Piece(
                start=start,
                end=end,
                ids=tuple(t.ids[s] if fits else t.ids[:0] for t, s in zip(tokens, spans, strict=True)),
                keep=tuple(torch.from_numpy(p[chosen] - b) for p, b in zip(positions, begin, strict=True)),
                ends=torch.from_numpy(cut_ends[chosen]),
                n_tokens=tuple(s.stop - s.start for s in spans),
                n_special=tuple(int(n[s.stop] - n[s.start]) for n, s in zip(n_special, spans, strict=True)),
            )
        )
        first, start, begin = stop, end, after
    return out
