"""Windows: a corpus cut into pieces of text that all models share, grouped the same way however a run was interrupted.

1. Every document is cut into pieces where a token of every model ends (`suture.lm.align`).
2. Consecutive pieces make a window until it holds enough tokens, or all the rows that are still wanted, or the row
   before a round number: there a shard of the usual size ends, and who computes the next need not know this window.
   Enough is what came before the window, from `FIRST` of a full one on: nobody runs a model while the first is cut.
3. A window carries the state before it: where it begins and what was counted until there. That state, the corpus and
   the settings decide everything that follows, so a run that starts from it goes on as an unbroken one would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from suture.errors import UserError
from suture.lm.align import Piece, pieces
from suture.lm.corpus import Corpus, Document
from suture.lm.load import LanguageModel

FIRST = 1 / 16
"""The first window's part of a full one."""
CUT_ROWS = 65536
"""A window ends with the piece that brings the rows to a multiple of this."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Where in the corpus a window begins, and what was counted before it."""

    n_tokens: tuple[int, ...]
    """Tokens of text, per model."""
    n_special: tuple[int, ...]
    """Special tokens in the text and BOS put before pieces, per model."""
    n_rows: int = 0
    """Text positions kept."""
    n_documents: int = 0
    """Documents begun."""
    document: int = -1
    """Number of the first piece's document; -1 at the very beginning."""
    piece: int = 0
    """Position of the first piece in its document."""
    finished: bool = False
    """Nothing comes after."""

    @staticmethod
    def beginning(n_models: int) -> State:
        """Before the first document."""
        return State(n_tokens=(0,) * n_models, n_special=(0,) * n_models)

    @staticmethod
    def from_json(values: dict[str, Any]) -> State:
        """The inverse of `dataclasses.asdict` and JSON, which knows no tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return State(**fields)


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Consecutive pieces of text."""

    before: State
    after: State
    """The counts after it."""
    pieces: tuple[Piece, ...]
    documents: tuple[int, ...]
    """The document number of every piece."""
    texts: dict[int, str]
    """The whole text of every document that has a piece here."""


def windows(
    corpus: Corpus, models: Sequence[LanguageModel], *, block: int, n_tokens: int, n_rows: int, start: State
) -> Iterator[Window]:
    """Cut the corpus from `start` on into windows of `n_tokens` of each model or less, until there are `n_rows`."""
    if start.finished:
        return
    held: list[tuple[Document, Piece]] = []
    before = after = start
    size = 0
    for document, number, piece in _pieces(corpus, models, block, start):
        if not held:
            before = after = replace(after, document=document.number, piece=number)
        held.append((document, piece))
        size += max(piece.n_tokens)
        after = _count(after, piece, models, begins_document=number == 0)
        is_cut = after.n_rows // CUT_ROWS > before.n_rows // CUT_ROWS
        enough = min(n_tokens, max(FIRST * n_tokens, *before.n_tokens))
        if size >= enough or after.n_rows >= n_rows or is_cut:  # 2
            yield _window(before, after, held)
            held, size = [], 0
        if after.n_rows >= n_rows:
            return
    if held:
        yield _window(before, after, held)


def _pieces(
    corpus: Corpus, models: Sequence[LanguageModel], block: int, start: State
) -> Iterator[tuple[Document, int, Piece]]:
    """Every piece from `start` on, with its document and its position there."""
    for document in corpus:
        if document.number < start.document:
            continue
        first = start.piece if document.number == start.document else 0
        for number, piece in enumerate(pieces(models, document.text, block=block)):
            if number >= first:
                yield document, number, piece


def _count(state: State, piece: Piece, models: Sequence[LanguageModel], *, begins_document: bool) -> State:
    """The state with one more piece counted."""
    n_bos = [int(lm.bos is not None and len(ids) > 0) for lm, ids in zip(models, piece.ids, strict=True)]
    return replace(
        state,
        n_tokens=tuple(a + b for a, b in zip(state.n_tokens, piece.n_tokens, strict=True)),
        n_special=tuple(a + b + c for a, b, c in zip(state.n_special, piece.n_special, n_bos, strict=True)),
        n_rows=state.n_rows + len(piece.ends),
        n_documents=state.n_documents + begins_document,
    )


def _window(before: State, after: State, held: Sequence[tuple[Document, Piece]]) -> Window:
    return Window(
        before=before,
        after=after,
        pieces=tuple(piece for _, piece in held),
        documents=tuple(document.number for document, _ in held),
        texts={document.number: document.text for document, _ in held},
    )


def check_enough(corpus: Corpus, state: State, *, block: int) -> None:
    """What a whole corpus gave must be a block at least.

    Raises:
        UserError: fewer tokens than a block, or no text position that all models share.
    """
    n_tokens = min(state.n_tokens)
    if n_tokens < block:
        problem = f"holds {n_tokens} tokens in all, less than one block of {block}"
        raise UserError("corpus", corpus.source, problem, "give more text, or a smaller block")
    if state.n_rows == 0:
        problem = "has no position where a token of every model ends"
        raise UserError("corpus", corpus.source, problem, "give other text, or models whose tokenizers fit it")
