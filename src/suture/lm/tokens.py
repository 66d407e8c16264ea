"""Turn a text into token ids with the character where each token ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.load import LanguageModel, n_embeddings

FEW = 16
"""Special tokens that are sooner looked for one by one than all together."""


@dataclass(frozen=True)
class Tokens:
    """A text's tokens, without any that the tokenizer would add around it."""

    ids: Int[Tensor, "token"]
    """Vocabulary entries."""
    starts: Int[Tensor, "token"]
    """Character offset at which each token's text begins."""
    ends: Int[Tensor, "token"]
    """Character offset just after each token's text."""
    special: Bool[Tensor, "token"]
    """Control tokens, such as a literal `<|endoftext|>` in the text: they stand for no text of the language."""

    @property
    def closes(self) -> Bool[Tensor, "token"]:
        """Which tokens really end at their `ends`: a character split into byte tokens is ended by the last of them."""
        closes = self.ends > 0
        closes[:-1] &= (self.starts[1:] >= self.ends[:-1]) & (self.ends[1:] > self.ends[:-1])
        return closes


def tokenize(lm: LanguageModel, text: str) -> Tokens:
    """The tokens of one text; BOS is not among them (see `with_bos`).

    Raises:
        UserError: what is no text, or a token that the model has no embedding of.
    """
    # The backend itself: transformers' wrapper adds a tenth of a millisecond and a warning about long texts. A batch of
    # one, for that lets other threads run Python meanwhile; `encode` would stop the models that read-ahead feeds.
    try:
        [encoding] = lm.tokenizer.backend_tokenizer.encode_batch([text], add_special_tokens=False)
    except (TypeError, UnicodeError) as error:
        shown = text[:40].encode(errors="replace").decode()
        problem = "holds half of a surrogate pair, which is no text"
        raise UserError("text", shown, problem, "give text that UTF-8 can hold") from error
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    ids = np.asarray(encoding.ids, dtype=np.int64)
    check_known(lm, ids)
    _take_in_what_was_joined(text, offsets)
    special, known = np.zeros(len(ids), dtype=bool), lm.tokenizer.all_special_ids
    if len(known) > FEW:
        special = np.isin(ids, np.asarray(known, dtype=np.int64))
    for own in known if len(known) <= FEW else ():
        special |= ids == own
    return Tokens(
        ids=torch.from_numpy(ids),
        starts=torch.from_numpy(offsets[:, 0].copy()),
        ends=torch.from_numpy(offsets[:, 1].copy()),
        special=torch.from_numpy(special),
    )


def _take_in_what_was_joined(text: str, offsets: np.ndarray) -> None:
    """Ends moved, in place, behind characters that a tokenizer has joined with the one before them or dropped.

    One that composes characters (NFKC) or takes accents away says of `e` and a combining accent that its token is at
    the `e` alone: the accent lies in no token's span, but it has been read. Blanks between words are left out.
    """
    begins = np.append(offsets[1:, 0], len(text))
    for i in np.flatnonzero(begins > offsets[:, 1]):
        end = int(offsets[i, 1])
        while end < begins[i] and not text[end].isspace():
            end += 1
        offsets[i, 1] = end


def check_known(lm: LanguageModel, ids: np.ndarray) -> None:
    """Tokens must be ones that the model has an embedding of.

    Raises:
        UserError: the tokenizer gives one beyond, and so is another model's.
    """
    n_known = n_embeddings(lm.model)
    if len(ids) and int(ids.max()) >= n_known:
        token = lm.tokenizer.convert_ids_to_tokens(int(ids.max()))
        problem = f"its tokenizer gives token {int(ids.max())} ({token}), the model knows {n_known}"
        raise UserError("model", lm.name, problem, "put the tokenizer that it was trained with beside its weights")


def with_bos(lm: LanguageModel, ids: Int[Tensor, "token"]) -> Int[Tensor, "with_bos"]:
    """`ids` with the model's starting token in front, if it has one."""
    return ids if lm.bos is None else torch.cat([ids.new_tensor([lm.bos]), ids])
