"""Text as several models read it at once: their activations at the same text positions, and passes with those replaced.

1. Documents are cut into pieces as for a store (`lm.align`), sorted by length and batched; BOS comes first.
2. A row is a text position where a token of every model ends. A batch has every model's activations, and where its rows
   lie in them; positions that are no rows (BOS, tokens that others cut elsewhere) are never replaced.
3. A prediction counts if it is made at a piece's first row or later, and the token after it is known and not special:
   what comes before no replacement can reach, what comes after it can.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from suture.activations.rows import group_by_length
from suture.activations.space import Space
from suture.dictionary.codes import Codes
from suture.dictionary.dictionary import Dictionary
from suture.errors import NumericalError, UserError
from suture.interventions.edits import check_models
from suture.interventions.measures import log_normaliser
from suture.interventions.steer.probe import LOGITS_AT_ONCE
from suture.lm.align import Piece, pieces
from suture.lm.hookpoints import resolve
from suture.lm.hooks import edit, record_at
from suture.lm.load import LanguageModel
from suture.lm.partial import Partial

BATCH_TOKENS = 4096
"""Tokens of one pass at most."""
HELD_BYTES = 2**29
"""Activations of batches that are held between two walks over a text; those beyond are computed anew."""


@dataclass(frozen=True, kw_only=True)
class PairedBatch:
    """Pieces of text in every model."""

    ids: tuple[Int[Tensor, "piece _"], ...]
    """Per model, BOS first, padded on the right."""
    scored: tuple[Bool[Tensor, "piece _"], ...]
    """Per model, the positions whose predictions count (3)."""
    rows_at: tuple[Int[Tensor, "row"], ...]
    """Per model, where each row lies among the flattened positions."""
    piece: Int[Tensor, "row"]
    """The piece that each row lies in."""
    document: Int[Tensor, "piece"]
    activations: tuple[Float[Tensor, "piece _ _"], ...]
    """Per model, raw units."""
    before: tuple[Float[Tensor, "piece _ _"] | None, ...]
    """Per model, what its blocks before the hookpoint gave; None where the model runs in full (`lm.partial`)."""

    @property
    def n_rows(self) -> int:
        """Text positions shared by all models."""
        return len(self.piece)

    @property
    def n_bytes(self) -> int:
        """Of the activations, each counted once."""
        every = {id(x): x for x in (*self.activations, *self.before) if x is not None}
        return sum(x.numel() * x.element_size() for x in every.values())

    def rows(self, model: int) -> Float[Tensor, "row width"]:
        """A model's raw activations at the shared positions."""
        return self.activations[model].flatten(0, 1)[self.rows_at[model]]

    def replaced(self, model: int, rows: Float[Tensor, "row width"]) -> Float[Tensor, "piece _ width"]:
        """A model's activations with these raw ones at the shared positions."""
        whole = self.activations[model].clone()
        whole.view(-1, whole.shape[-1])[self.rows_at[model]] = rows.to(whole)
        return whole

    def of_pieces(self, chosen: Bool[Tensor, "piece"]) -> "PairedBatch":
        """The same for some of the pieces."""
        number = chosen.cumsum(0) - 1
        inside = chosen[self.piece]
        rows_at = []
        for at, ids in zip(self.rows_at, self.ids, strict=True):
            length = ids.shape[1]
            rows_at.append(number[at[inside] // length] * length + at[inside] % length)
        return PairedBatch(
            ids=tuple(ids[chosen] for ids in self.ids),
            scored=tuple(s[chosen] for s in self.scored),
            rows_at=tuple(rows_at),
            piece=number[self.piece[inside]],
            document=self.document[chosen],
            activations=tuple(a[chosen.to(a.device)] for a in self.activations),
            before=tuple(None if b is None else b[chosen.to(b.device)] for b in self.before),
        )


class PairedText:
    """Documents in several models at the hookpoints of some spaces."""

    def __init__(
        self,
        spaces: Sequence[Space],
        lms: Sequence[LanguageModel],
        documents: Iterable[str],
        *,
        block: int,
        batch_tokens: int = BATCH_TOKENS,
        holds: int = 0,
    ) -> None:
        """Cut the documents; batches are held for another walk as far as `holds` bytes of activations go.

        Raises:
            UserError: models that are not those of the spaces, or no text position that all of them share.
        """
        check_models(spaces, lms)
        self.spaces: tuple[Space, ...] = tuple(spaces)
        self.lms: tuple[LanguageModel, ...] = tuple(lms)
        self._partial = [Partial.of(lm, space.hookpoint) for lm, space in zip(lms, spaces, strict=True)]
        found = [(n, p) for n, text in enumerate(documents) for p in pieces(self.lms, text, block=block)]
        self.n_documents: int = 1 + max((n for n, _ in found), default=-1)
        self._pieces = [(n, p) for n, p in found if len(p.ends)]
        if not self._pieces:
            problem = f"hold no text position that a token of all {len(lms)} models ends at"
            raise UserError("documents", self.n_documents, problem, "give more text")
        self.n_tokens: list[int] = [sum(p.n_tokens[m] for _, p in found) for m in range(len(lms))]
        self.n_rows: int = sum(len(p.ends) for _, p in self._pieces)
        budget = min(batch_tokens, *(max(block + 1, LOGITS_AT_ONCE // lm.vocab_size) for lm in lms))
        lengths = {i: 1 + max(len(ids) for ids in p.ids) for i, (_, p) in enumerate(self._pieces)}
        self._groups = group_by_length(lengths, budget)
        self._held: dict[int, PairedBatch] = {}
        self._room = holds

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return len(self._groups)

    def batches(self) -> Iterator[PairedBatch]:
        """Every batch, the models run over it as far as their hookpoints."""
        return (self.batch(number) for number in range(self.n_batches))

    def batch(self, number: int) -> PairedBatch:
        """One of them."""
        if number in self._held:
            return self._held[number]
        chosen = [self._pieces[i] for i in self._groups[number]]
        found = self._batch([p for _, p in chosen], [n for n, _ in chosen])
        if found.n_bytes <= self._room:
            self._room -= found.n_bytes
            self._held[number] = found
        return found

    def _batch(self, group: list[Piece], documents: list[int]) -> PairedBatch:
        n_rows = [len(p.ends) for p in group]
        piece = torch.repeat_interleave(torch.arange(len(group)), torch.tensor(n_rows))
        ids, scored, rows_at, activations, before = [], [], [], [], []
        for m, lm in enumerate(self.lms):
            n_bos = int(lm.bos is not None)
            tokens = pad(pad_sequence([p.ids[m] for p in group], batch_first=True), (n_bos, 0), value=lm.bos or 0)
            position = torch.cat([p.keep[m] for p in group]) + n_bos
            rows_at.append(piece * tokens.shape[1] + position)
            scored.append(_scored(lm, tokens, [n_bos + len(p.ids[m]) for p in group], position, n_rows))
            ids.append(tokens)
            own, carried = self._run_to_hookpoint(m, tokens)
            activations.append(own.float())
            before.append(carried)
        return PairedBatch(
            ids=tuple(ids),
            scored=tuple(scored),
            rows_at=tuple(rows_at),
            piece=piece,
            document=torch.tensor(documents),
            activations=tuple(activations),
            before=tuple(before),
        )

    def _run_to_hookpoint(self, model: int, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The activation at the hookpoint, and the one that stands for the blocks before it, from one pass."""
        lm, carried = self.lms[model], self._partial[model].carried
        names = [self.spaces[model].hookpoint, *([carried] if carried else [])]
        own, *more = record_at(lm, ids, [resolve(lm.model, name) for name in names])
        return own, more[0] if more else None

    def logits(
        self,
        batch: PairedBatch,
        model: int,
        rows: Float[Tensor, "row width"] | None,
        where: Bool[Tensor, "piece token"] | None = None,
    ) -> Float[Tensor, "scored vocab"]:
        """Logits of the next token, the rows replaced by raw ones or left alone.

        `where` chooses predictions by their positions; without, those that count. Whoever reduces them must `check`.
        """
        lm, hookpoint = self.lms[model], self.spaces[model].hookpoint
        where = batch.scored[model] if where is None else where
        with ExitStack() as kept:
            if rows is not None:
                whole = batch.replaced(model, rows)
                kept.enter_context(edit(lm, hookpoint, lambda _: whole))
            return self._partial[model].logits(batch.ids[model], where, batch.before[model])

    def surprise(
        self, batch: PairedBatch, model: int, rows: Float[Tensor, "row width"] | None
    ) -> Float[Tensor, "scored"]:
        """Loss of every prediction that counts, in nats, the rows replaced by raw ones or left alone.

        Raises:
            NumericalError: the model gave NaN or infinity.
        """
        out = self.logits(batch, model, rows)
        found = log_normaliser(out) - out.gather(1, following(batch, model).to(out.device)[:, None])[:, 0]
        self.check(found, model)
        return found

    def check(self, sums: Float[Tensor, "scored"], model: int) -> None:
        """A row's sum shows any NaN or infinity in it.

        Raises:
            NumericalError: the model gave NaN or infinity.
        """
        if not bool(torch.isfinite(sums).all()):
            problem = f"{self.lms[model].name} gave NaN or infinite probabilities with its activations replaced"
            hookpoint = self.spaces[model].hookpoint
            raise NumericalError("at", hookpoint, problem, "load the model in float32")


@dataclass
class Passes:
    """How much of a walk over batches is done; tells of every piece of it."""

    total: int
    on_progress: Callable[[int, int], None]
    done: int = 0

    def add(self, n: int) -> None:
        """So many more."""
        self.reach(self.done + n)

    def reach(self, done: int) -> None:
        """So many in all."""
        self.done = done
        self.on_progress(done, self.total)


def checksum(texts: Sequence[str]) -> str:
    """What tells the documents of one run from those of another."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def scaled_rows(dictionary: Dictionary, batch: PairedBatch) -> Float[Tensor, "row D_all"]:
    """All models' activations at the shared positions, side by side in the dictionary's units."""
    return dictionary.scaled([batch.rows(m) for m in range(dictionary.n_spaces)])


def codes_of(dictionary: Dictionary, batch: PairedBatch) -> list[Codes]:
    """Per model the code that its reconstruction is made of: all models' together, or (pooled) its own."""
    x = scaled_rows(dictionary, batch)
    if dictionary.design.joint:
        return [dictionary.encode(x)] * dictionary.n_spaces
    return [dictionary.encode_alone(x, m) for m in range(dictionary.n_spaces)]


def reconstruction(dictionary: Dictionary, batch: PairedBatch, codes: Codes, model: int) -> Float[Tensor, "row width"]:
    """A model's activations as codes stand for them, raw units, with what of outlier rows no dictionary sees."""
    return dictionary.decode_raw(codes)[model] + excess(dictionary, batch, model)


def excess(dictionary: Dictionary, batch: PairedBatch, model: int) -> Float[Tensor, "row width"]:
    """What of a model's rows lies beyond what the dictionary draws in: no replacement is to touch it."""
    return dictionary.clipping.excess(batch.rows(model).to(dictionary.W_dec.device), model)


def following(batch: PairedBatch, model: int) -> Int[Tensor, "scored"]:
    """The token after every prediction that counts."""
    return batch.ids[model][:, 1:][batch.scored[model][:, :-1]]


def scored_documents(batch: PairedBatch, model: int) -> Int[Tensor, "scored"]:
    """The document of every prediction that counts."""
    scored = batch.scored[model]
    return batch.document[:, None].expand_as(scored)[scored]


def _scored(
    lm: LanguageModel, ids: Tensor, lengths: list[int], position: Tensor, n_rows: list[int]
) -> Bool[Tensor, "piece token"]:
    """3: rows of a piece come in text order, so its first row is its first entry."""
    first = position[torch.tensor([0, *accumulate(n_rows)][:-1])]
    at = torch.arange(ids.shape[1])
    known = (at >= first[:, None]) & (at + 1 < torch.tensor(lengths)[:, None])
    special = torch.isin(ids, torch.tensor(lm.tokenizer.all_special_ids))
    return known & ~pad(special[:, 1:], (0, 1), value=True)
