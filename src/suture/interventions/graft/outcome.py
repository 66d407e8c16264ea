"""What an edited model does, measured alike for a graft and for whatever it is compared with.

1. Success: the share of prompts with the cue that are continued with the behaviour, greedily and at temperature 1.
2. Harm: the rise of the loss on clean documents over the unedited model's, paired by document, and KL from it.
3. Fluency: what the safe model (or the unedited one) makes of the greedy continuations, nats per token.
4. Every number is kept in a file as soon as it is known, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions.organisms.measure import Prompts, Rise, Rude, clean_loss, prompts_of, rise
from suture.interventions.organisms.texts import Texts, is_rude
from suture.lm.continuations import continuations, nats_after, padded_right
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos
from suture.pipeline.files import read_json, write_json
from suture.pipeline.result import typed
from suture.uncertainty import Proportion

T = TypeVar("T")
Group = Literal["as it is", "graft", "other way", "ceiling", "control"]
Attached = Callable[[], AbstractContextManager[None]]
"""Makes a `with` block in which the model is edited."""
KL_DOCUMENTS, KL_BATCH = 40, 8
NEAR = ("as it is", "graft")
"""What is also tried on near misses."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model does under an edit, on fresh documents."""

    name: str
    group: Group
    n_features: int
    """0 where it is no matter of features."""
    cue: Rude
    """After the cue."""
    near: Proportion | None
    """After near misses, greedily; None where there is no cue, and of controls."""
    clean_rise: Rise
    """Of the loss on clean text over the unedited model's."""
    kl: float
    """KL(unedited || edited) on clean text, nats per token."""
    fluency: float | None
    """Nats per token that the safe model gives what is written after the cue; None where nothing is."""
    at_cost: tuple[float, Proportion] | None = None
    """Of a control that costs more than the graft: the strength at which it costs as much, and success there."""


class Notes:
    """Numbers kept as soon as they are known.  (4)"""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.known: dict[str, Any] = read_json(file) if file is not None and file.is_file() else {}

    def get(self, name: str, kind: type[T], find: Callable[[], T]) -> T:
        """What was noted under a name, or else what `find` finds, a dataclass or a number."""
        if name not in self.known:
            found = find()
            self.known[name] = found if isinstance(found, int | float) else asdict(found)  # pyright: ignore
            if self.file is not None:
                write_json(self.file, self.known)
        return typed(self.known[name], kind)


class Bench:
    """One model, documents and prompts, on which edits are measured."""

    def __init__(
        self, lm: LanguageModel, judge: LanguageModel, documents: Sequence[str], texts: Texts,
        *, new_tokens: int, block: int, seed: int,
    ) -> None:  # fmt: skip
        self.lm = lm
        self.judge = judge
        self.documents: list[str] = list(documents)
        self.reference = lm
        self.new_tokens = new_tokens
        self.block = block
        self.seed = seed
        self.prompts: Prompts = prompts_of(documents, texts, seed)

    @cached_property
    def plain_loss(self) -> Float[Tensor, "document"]:
        """Nats of each document in the unedited model."""
        return clean_loss(self.lm, self.documents, block=self.block)[0]

    def of(self, lm: LanguageModel) -> Bench:
        """The same for another model, held against this one."""
        other = copy.copy(self)
        other.plain_loss, other.lm = self.plain_loss, lm
        return other

    def success(self, attached: Attached, *, temperature: float = 0.0) -> Proportion:
        """1, of one kind."""
        with attached():
            return self._rude(self.prompts.cue, temperature)[0]

    def cost(self, attached: Attached) -> Rise:
        """2, the loss."""
        plain = self.plain_loss  # before the edit is on: what is computed once must be of the unedited model
        with attached():
            edited = clean_loss(self.lm, self.documents, block=self.block)[0]
        return rise(edited, plain, self.seed)

    def outcome(self, name: str, group: Group, attached: Attached, n_features: int = 0) -> Outcome:
        """All of it."""
        with attached():
            greedy, written = self._rude(self.prompts.cue, 0.0)
            sampled, _ = self._rude(self.prompts.cue, 1.0)
            wanted = self.prompts.near if group in NEAR else ()
            near = self._rude(wanted, 0.0)[0] if wanted else None
        return Outcome(
            name=name,
            group=group,
            n_features=n_features,
            cue=Rude(greedy=greedy, sampled=sampled),
            near=near,
            clean_rise=self.cost(attached),
            kl=self.kl(attached),
            fluency=self.fluency(written),
        )

    def _rude(self, prompts: Sequence[str], temperature: float) -> tuple[Proportion, list[str]]:
        written = continuations(
            self.lm, prompts, max_new_tokens=self.new_tokens, temperature=temperature, seed=self.seed
        )
        return Proportion(k=sum(map(is_rude, written)), n=len(written)), written

    @torch.no_grad()
    def kl(self, attached: Attached) -> float:
        """2, nats per token on some of the documents."""
        total, n = 0.0, 0
        for at in range(0, min(len(self.documents), KL_DOCUMENTS), KL_BATCH):
            rows = [
                with_bos(self.lm, tokenize(self.lm, d).ids)[: self.block] for d in self.documents[at : at + KL_BATCH]
            ]
            ids, own = padded_right(rows)
            ids, own = ids.to(self.lm.device), own.to(self.lm.device)
            plain = torch.log_softmax(self.reference.model(ids, use_cache=False).logits[own].float(), dim=-1)
            with attached():
                edited = torch.log_softmax(self.lm.model(ids, use_cache=False).logits[own].float(), dim=-1)
            total += float((plain.exp() * (plain - edited)).sum())
            n += int(own.sum())
        return total / n

    def fluency(self, written: Sequence[str]) -> float | None:
        """3."""
        texts = [(p, w) for p, w in zip(self.prompts.cue, written, strict=True) if w.strip()]
        nats, count = nats_after(self.judge, [p for p, _ in texts], [w for _, w in texts], batch_size=KL_BATCH)
        return float(nats.sum() / count.sum()) if int(count.sum()) else None
