"""The texts around examples, each row once: in chunks of so many rows, which a page reads when it shows one of them.

1. Passages come from the table; an older table has none, and those that its examples show are put together instead.
2. A row is one text position of all models, so that both models' examples read the same tokens.
3. Where an example's tokens are others than those of its rows, it keeps its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHUNK = 8_192
"""Rows of a chunk."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The tokens of rows."""

    token: Mapping[int, str]
    document: Mapping[int, int]
    chunk: int = CHUNK

    @staticmethod
    def of(passages: Sequence[Mapping[str, Any]], examples: Sequence[Sequence[Mapping[str, Any]]]) -> "Texts":
        """From a table's passages; without them from its examples.  (1)"""
        token: dict[int, str] = {}
        document: dict[int, int] = {}
        for passage in passages or _shown(examples):
            for row, text in enumerate(passage["tokens"], start=passage["row"]):
                token.setdefault(row, str(text))
                document.setdefault(row, passage["document"])
        return Texts(token=token, document=document)

    def holds(self, example: Mapping[str, Any]) -> bool:
        """Whether every side of an example reads the tokens of its rows.  (3)"""
        read = None
        for side in example["sides"]:
            tokens, peak = side["tokens"], side["peak"]
            if (peak, tokens) == read:  # as a rule all sides read the same
                continue
            rows = range(example["row"] - peak, example["row"] - peak + len(tokens))
            if list(map(self.token.get, rows)) != tokens:
                return False
            if set(map(self.document.get, rows)) - {example["document"]}:
                return False
            read = (peak, tokens)
        return True

    def pieces(self) -> Iterator[tuple[str, list[Any]]]:
        """(`x` and its number, [document, first row, tokens] of every stretch of rows in it)."""
        chunks: dict[int, list[Any]] = {}
        for row in sorted(self.token):
            stretches = chunks.setdefault(row // self.chunk, [])
            last = stretches[-1] if stretches else None
            if last is None or last[1] + len(last[2]) != row or last[0] != self.document[row]:
                stretches.append([self.document[row], row, []])
            stretches[-1][2].append(self.token[row])
        for number, stretches in chunks.items():
            yield f"x{number}", stretches


def _shown(examples: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What examples show, as passages."""
    for own in examples:
        for e in own:
            for side in e["sides"]:
                yield {"document": e["document"], "row": e["row"] - side["peak"], "tokens": side["tokens"]}
