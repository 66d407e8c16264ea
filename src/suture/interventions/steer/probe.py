"""`Probe`: one model with the texts that steering is measured on, tokenised, batched and run with or without an edit.

1. A sequence starts with the model's BOS where it has one; an edit spares that position, and so does every measure.
2. Sequences are padded on the right, which a causal model cannot see, so no attention mask is needed.
3. A neutral position counts if it is steered and the token after it is known and not special.
4. The plain pass over a neutral batch is done once and every edit is compared with it before the next batch, so that
   memory does not grow with the text. Passes under an edit begin at the hookpoint, and logits are computed only where
   they count (`lm.partial`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.errors import NumericalError, UserError
from suture.interventions.edits import Edit, sparing_first
from suture.interventions.measures import Predictions, log_normaliser
from suture.lm.hookpoints import resolve
from suture.lm.hooks import edit as editing
from suture.lm.hooks import record_at
from suture.lm.load import LanguageModel
from suture.lm.partial import Partial
from suture.lm.tokens import tokenize

LOGITS_AT_ONCE = 2**26
"""Numbers in the logits of one pass (256 MB in float32)."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Sequences of one batch, padded on the right."""

    ids: Int[Tensor, "batch token"]
    lengths: Int[Tensor, "batch"]
    scored: Bool[Tensor, "batch token"]
    """Where the next token is known and the position is steered."""
    text: Int[Tensor, "batch"]
    """Number of the text that each sequence is a piece of."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A model, a hookpoint in it and the sequences to measure on."""

    lm: LanguageModel
    hookpoint: str
    prompts: tuple[Sequences, ...]
    neutral: tuple[Sequences, ...]
    n_texts: int
    """Neutral texts."""
    partial: Partial
    """How passes under edits are cut short."""
    carried: dict[int, Tensor | None] = field(default_factory=dict)
    """Of every batch of prompts, what the blocks before the hookpoint gave."""

    def under(self, edit: Edit | None) -> AbstractContextManager[None]:
        """The model under an edit, limited to the positions after BOS, for the length of a with-block."""
        if edit is None:
            return nullcontext()
        return editing(self.lm, self.hookpoint, sparing_first(edit) if self.lm.bos is not None else edit)

    def prompt_log_probs(self, edit: Edit | None) -> Float[Tensor, "prompt vocab"]:
        """Log-probabilities (nats, on the CPU) of the token after each prompt.

        Raises:
            NumericalError: the edit drove the model to NaN or infinity.
        """
        found = []
        for number, batch in enumerate(self.prompts):
            if number not in self.carried:
                self.carried[number] = self.partial.before(batch.ids)
            last = torch.arange(batch.ids.shape[1]) == (batch.lengths - 1)[:, None]
            with self.under(edit):
                out = self.partial.logits(batch.ids, last, self.carried[number])
            found.append(self._log_probs(out).cpu())
        return torch.cat(found)

    def neutral_sums(
        self, edits: Sequence[Edit], on_pass: Callable[[], None]
    ) -> tuple[Float[Tensor, "edit text 2"], Float[Tensor, "text"], Float[Tensor, "text"]]:
        """Sums over each neutral text's scored positions: (KL, CE rise) per edit, the plain CE, and their number."""
        sums = torch.zeros(len(edits), self.n_texts, 2, dtype=torch.float64)
        plain_ce, count = torch.zeros(self.n_texts).double(), torch.zeros(self.n_texts).double()
        for batch in self.neutral:
            scored = batch.scored[:, :-1]
            following = batch.ids[:, 1:][scored]
            text = batch.text[:, None].expand_as(scored)[scored]
            before = self.partial.before(batch.ids)
            plain = Predictions.of(self._scored_logits(batch, None, before))
            self._check(plain.norm)
            following = following.to(plain.norm.device)
            plain_ce.index_add_(0, text, plain.surprise(following).double().cpu())
            count.index_add_(0, text, torch.ones(len(text)).double())
            for number, edit in enumerate(edits):
                changes = plain.kl_and_ce_change(self._scored_logits(batch, edit, before), following)
                self._check(changes.sum(-1))
                sums[number].index_add_(0, text, changes.double().cpu())
                on_pass()
        return sums, plain_ce, count

    def neutral_rows(self) -> Iterator[tuple[Float[Tensor, "row width"], Int[Tensor, "row"]]]:
        """The plain activations at the hookpoint of every scored neutral position, raw units, and the text that each is
        from, batch by batch.
        """
        point = resolve(self.lm.model, self.hookpoint)
        for batch in self.neutral:
            (rows,) = record_at(self.lm, batch.ids, [point])
            yield rows[batch.scored.to(rows.device)], batch.text[:, None].expand_as(batch.scored)[batch.scored]

    def _scored_logits(self, batch: Sequences, edit: Edit | None, before: Tensor | None) -> Tensor:
        with self.under(edit):
            return self.partial.logits(batch.ids, batch.scored, before)

    def _log_probs(self, chosen: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        norm = log_normaliser(chosen)
        self._check(norm)
        return chosen.sub_(norm[:, None])

    def _check(self, sums: Float[Tensor, "row"]) -> None:
        """A row's sum shows any NaN or infinity in it."""
        if not bool(torch.isfinite(sums).all()):
            problem = f"{self.lm.name} at {self.hookpoint} gave NaN or infinite probabilities"
            raise NumericalError("strengths", "the largest", problem, "steer less, or load the model in float32")


def make_probe(
    lm: LanguageModel,
    hookpoint: str,
    *,
    neutral: Sequence[str],
    prompts: Sequence[str],
    block: int,
    batch_tokens: int,
) -> Probe:
    """Tokenise and batch the texts for a model. Of a prompt longer than the model's context, the end is kept.

    Raises:
        UserError: an empty prompt, or neutral texts without two tokens in a row.
    """
    bos = [lm.bos] if lm.bos is not None else []
    room = lm.context - len(bos)
    block = min(block, room)
    batch_tokens = max(block, min(batch_tokens, LOGITS_AT_ONCE // lm.vocab_size))
    prompt_pieces: list[_Piece] = []
    for number, prompt in enumerate(prompts):
        ids = tokenize(lm, prompt).ids[-room:]
        if len(ids) == 0:
            raise UserError("prompts", prompt, f"is empty for {lm.name}", "give prompts of at least one token")
        prompt_pieces.append((ids, torch.zeros(len(ids), dtype=torch.bool), number))
    neutral_pieces: list[_Piece] = []
    for number, text in enumerate(neutral):
        tokens = tokenize(lm, text)
        for ids, special in zip(tokens.ids.split(block), tokens.special.split(block), strict=True):
            if len(ids) > 1:
                neutral_pieces.append((ids, special, number))
    if not neutral_pieces:
        problem = f"holds no two tokens in a row for {lm.name}"
        raise UserError("neutral", f"{len(neutral)} texts", problem, "give longer neutral texts")
    neutral_pieces.sort(key=lambda piece: len(piece[0]))  # similar lengths share a batch: little padding is computed
    return Probe(
        lm=lm,
        hookpoint=hookpoint,
        prompts=tuple(_batches(prompt_pieces, bos, batch_tokens)),
        neutral=tuple(_batches(neutral_pieces, bos, batch_tokens)),
        n_texts=len(neutral),
        partial=Partial.of(lm, hookpoint),
    )


_Piece = tuple[Tensor, Tensor, int]
"""Token ids, which of them are special, the number of the text."""


def _batches(pieces: Sequence[_Piece], bos: list[int], batch_tokens: int) -> Iterator[Sequences]:
    """Pieces in the order given, as many to a batch as `batch_tokens` allows after padding."""
    start = 0
    while start < len(pieces):
        stop, longest = start, 0
        while stop < len(pieces):
            longest = max(longest, len(pieces[stop][0]))
            if stop > start and longest * (stop + 1 - start) > batch_tokens:
                break
            stop += 1
        yield _padded(pieces[start:stop], bos)
        start = stop


def _padded(pieces: Sequence[_Piece], bos: list[int]) -> Sequences:
    lengths = torch.tensor([len(bos) + len(ids) for ids, _, _ in pieces])
    shape = (len(pieces), int(lengths.max()))
    ids, scored = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for i, (piece, special, _) in enumerate(pieces):
        ids[i, : len(bos)] = torch.tensor(bos, dtype=torch.int64)
        ids[i, len(bos) : lengths[i]] = piece
        scored[i, len(bos) : lengths[i] - 1] = ~special[1:]
    return Sequences(ids=ids, lengths=lengths, scored=scored, text=torch.tensor([number for _, _, number in pieces]))
