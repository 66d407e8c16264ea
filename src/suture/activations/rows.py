"""Rows: the models run over a window of text, and what they have at the kept positions, in document order.

1. A plan names the models, none twice, and which space is which model's hookpoint.
2. Each model runs over the window's pieces, BOS first. The pieces are sorted by length and cut into batches so that
   padding and the number of passes together cost least; one pass gives all the model's hookpoints and goes no deeper.
3. The kept positions go to their rows, rounded to the precision of the store; NaN and infinity are refused.
4. Where only some rows are wanted, the batches that hold none of them are not run: those that are run are the same
   batches, so that the rows are the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from suture.activations.shards import Rows
from suture.activations.space import Space, mark_copies
from suture.activations.store import Precision
from suture.activations.windows import Window
from suture.errors import NumericalError, UserError
from suture.lm.hookpoints import resolve, width_of
from suture.lm.hooks import record_at
from suture.lm.load import LanguageModel
from suture.lm.models import as_models

CPU_BATCH_TOKENS = 1024
"""Larger batches leave the cache, and their buffers go back to the system after every use: a third slower, measured."""
BATCH_TOKENS = 32768
WINDOW_BATCHES = 16
"""Batches per window: enough to sort pieces by length, little enough to lie in memory and to compute again."""
PASS_COST = 1 / 16
"""What starting another pass costs, as a share of a full batch."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The models to run, none twice, and which space is which model's hookpoint."""

    models: tuple[LanguageModel, ...]
    spaces_of: tuple[tuple[int, ...], ...]
    """Per model, its spaces."""
    model_of: tuple[int, ...]
    """Per space, its model."""
    spaces: tuple[Space, ...]
    """Before anything is measured."""
    block: int
    batch_tokens: int
    dtype: Precision

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Per space, what decides its activations, as JSON values."""
        return [
            {
                "model": lm.name,
                "hookpoint": space.hookpoint,
                "width": space.width,
                "fingerprint": lm.fingerprint,
                "revision": lm.revision,
                "dtype": str(lm.dtype),
                "device": lm.device.type,
            }
            for space, lm in zip(self.spaces, (self.models[m] for m in self.model_of), strict=True)
        ]

    @property
    def window_tokens(self) -> int:
        """Tokens of a window, about."""
        return WINDOW_BATCHES * self.batch_tokens


def plan_rows(
    sources: Sequence[tuple[LanguageModel | str, str]], *, block: int, dtype: str, batch_tokens: int | None
) -> Plan:
    """Check the settings against the models.  (1)

    Raises:
        UserError: a setting that does not fit the models, or a hookpoint that one does not have.
    """
    assert sources, "a store needs a model"
    if block < 1:
        raise UserError("block", block, "is too small", "give at least 1")
    if batch_tokens is not None and batch_tokens < 1:
        raise UserError("batch-tokens", batch_tokens, "is too small", "give at least 1, or leave it out")
    if dtype not in ("bfloat16", "float32"):
        raise UserError("dtype", dtype, "cannot be stored", "choose bfloat16 or float32")
    lms = as_models([lm for lm, _ in sources])
    models: list[LanguageModel] = []
    for lm in lms:
        if not any(lm is known for known in models):
            models.append(lm)
    for lm in models:
        if block + (lm.bos is not None) > lm.context:
            problem = f"and BOS are longer than the context of {lm.name}, {lm.context} tokens"
            raise UserError("block", block, problem, f"give at most {lm.context - (lm.bos is not None)}")
    model_of = tuple(next(m for m, lm in enumerate(models) if lm is own) for own in lms)
    on_cpu = all(lm.device.type == "cpu" for lm in models)
    return Plan(
        models=tuple(models),
        spaces_of=tuple(tuple(s for s, own in enumerate(model_of) if own == m) for m in range(len(models))),
        model_of=model_of,
        spaces=mark_copies(
            Space(
                model=lm.name,
                hookpoint=hookpoint,
                width=width_of(lm, hookpoint),
                fingerprint=lm.fingerprint,
                revision=lm.revision,
            )
            for lm, (_, hookpoint) in zip(lms, sources, strict=True)
        ),
        block=block,
        batch_tokens=batch_tokens or (CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS),
        dtype=dtype,
    )


def rows_of(plan: Plan, window: Window, wanted: Bool[Tensor, "row"]) -> Rows:
    """The window's first rows, as many as `wanted` has entries; activations of those not wanted are undefined."""
    n_kept = [len(piece.ends) for piece in window.pieces]
    starts = [0, *accumulate(n_kept)]
    n_rows = len(wanted)
    stored = getattr(torch, plan.dtype)
    activations = [torch.empty(starts[-1], space.width, dtype=stored) for space in plan.spaces]
    n_before = [0, *wanted.cumsum(0).tolist()]  # wanted rows before each row
    has_wanted = [n_before[min(end, n_rows)] > n_before[min(begin, n_rows)] for begin, end in pairwise(starts)]
    for m in range(len(plan.models)):
        _run_model(plan, m, window, starts, has_wanted, activations)
    ids = [torch.cat([p.ids[m][p.keep[m]] for p in window.pieces]) for m in plan.model_of]
    documents = torch.repeat_interleave(torch.tensor(window.documents), torch.tensor(n_kept))
    return Rows(
        activations=[values[:n_rows] for values in activations],
        documents=documents[:n_rows].to(torch.int32),
        ends=torch.cat([p.ends for p in window.pieces])[:n_rows].to(torch.int32),
        token_ids=torch.stack(ids, dim=1)[:n_rows].to(torch.int32),
        texts=window.texts,
    )


def _run_model(
    plan: Plan,
    m: int,
    window: Window,
    starts: Sequence[int],
    has_wanted: Sequence[bool],
    activations: Sequence[Float[Tensor, "row _"]],
) -> None:
    """Fill in the rows of one model's spaces.  (2)"""
    lm, pieces = plan.models[m], window.pieces
    n_bos = int(lm.bos is not None)
    points = [resolve(lm.model, plan.spaces[space].hookpoint) for space in plan.spaces_of[m]]
    keep, every_row = torch.cat([piece.keep[m] for piece in pieces]), torch.arange(starts[-1])
    # A piece of which no model shares a position is not run.
    lengths = {i: n_bos + len(piece.ids[m]) for i, piece in enumerate(pieces) if len(piece.ends)}
    for group in group_by_length(lengths, plan.batch_tokens):
        if not any(has_wanted[piece] for piece in group):  # 4
            continue
        length = lengths[group[-1]]
        # Padding stands right of the text, where causal attention never looks back at it, so no mask is needed.
        ids = pad_sequence([pieces[piece].ids[m] for piece in group], batch_first=True)
        batch = torch.nn.functional.pad(ids, (n_bos, 0), value=lm.bos or 0)
        target = torch.cat([every_row[starts[piece] : starts[piece + 1]] for piece in group])
        place = torch.repeat_interleave(torch.tensor([starts[piece + 1] - starts[piece] for piece in group]))
        source = place * length + n_bos + keep[target]
        outputs = record_at(lm, batch.to(lm.device), points)
        for space, output in zip(plan.spaces_of[m], outputs, strict=True):  # 3
            rounded = output.flatten(0, 1).to(activations[space].dtype)  # half the bytes to be gathered
            kept = rounded.index_select(0, source.to(output.device))
            row = _first_not_finite(kept, target)
            if row is not None:
                piece = next(p for p in group if starts[p] <= row < starts[p + 1])
                problem = f"of {lm.name} is NaN or infinite in document {window.documents[piece]}"
                fix = "load the model in float32, or leave the document out"
                raise NumericalError("at", plan.spaces[space].hookpoint, problem, fix)
            activations[space].index_copy_(0, target, kept.cpu())


def _first_not_finite(values: Float[Tensor, "row width"], numbers: Int64[Tensor, "row"]) -> int | None:
    """The number of the first row that holds a NaN or an infinity."""
    # One such number makes the sum one; a sum of finite numbers can overflow, so only the exact look convicts.
    if math.isfinite(float(values.sum(dtype=torch.float32))):
        return None
    finite = torch.isfinite(values).all(dim=1)
    return None if bool(finite.all()) else int(numbers[int((~finite).nonzero()[0, 0])])


def group_by_length(lengths: Mapping[int, int], budget: int) -> list[list[int]]:
    """Group numbered sequences, shortest first, so that a group padded to its longest (its last) fits the budget.

    Among all such groupings of the sorted sequences it is one with the least padded tokens, every group counted as
    `PASS_COST` of the budget more. A sequence longer than the budget is a group of its own.

    >>> group_by_length({0: 3, 1: 9, 2: 3, 5: 2}, 9)
    [[5, 0, 2], [1]]
    """
    order = sorted(lengths, key=lengths.__getitem__)
    least = np.zeros(len(order) + 1)  # the cost of the first n sequences, grouped at best
    begins = np.zeros(len(order), dtype=np.int64)  # where the last of those groups begins
    for last, index in enumerate(order):
        most = max(1, budget // lengths[index])
        first = max(0, last + 1 - most)
        costs = least[first : last + 1] + lengths[index] * np.arange(last + 1 - first, 0, -1)
        begins[last] = first + int(costs.argmin())  # of equals the largest group
        least[last + 1] = costs.min() + max(1.0, PASS_COST * budget)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        begin = int(begins[end - 1])
        groups.append(order[begin:end])
        end = begin
    return groups[::-1]
