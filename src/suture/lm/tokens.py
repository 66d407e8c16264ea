"""Turn a text into token ids with the character where each token ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from suture.lm.load import LanguageModel


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
    """The tokens of one text; BOS is not among them (see `with_bos`)."""
    # The backend itself: transformers' wrapper adds a tenth of a millisecond and a warning about long texts.
    encoding = lm.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    ids = np.asarray(encoding.ids, dtype=np.int64)
    special = np.isin(ids, np.asarray(lm.tokenizer.all_special_ids, dtype=np.int64))
    return Tokens(
        ids=torch.from_numpy(ids),
        starts=torch.from_numpy(offsets[:, 0].copy()),
        ends=torch.from_numpy(offsets[:, 1].copy()),
        special=torch.from_numpy(special),
    )


def with_bos(lm: LanguageModel, ids: Int[Tensor, "token"]) -> Int[Tensor, "with_bos"]:
    """`ids` with the model's starting token in front, if it has one."""
    return ids if lm.bos is None else torch.cat([ids.new_tensor([lm.bos]), ids])
