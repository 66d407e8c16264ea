"""A language model's last step, run: what a small step of its last residual stream does to its logits.

Nothing is known here of norms and heads. Whatever the family puts behind its last block (a norm of any kind, with or
without weights and means, projections, scalings, soft caps) runs, on one dummy token whose last block's output is
replaced by the vectors in question.

1. Points: the last residual stream at positions of real text, since a norm and a soft cap answer by where they stand.
2. A(x) = d(head's input) / d(stream) in exact forward derivatives, one for every coordinate of the stream, at every
   point; averaged, and then the head's weights: two matrices from directions to logits. Their product is never made:
   it would cost as many operations as the logits of hundreds of directions.
3. What the head gives is held against the logits at those points. If they are the same but for a common factor, the
   two matrices are, with that factor, the mean derivative; it is so wherever nothing but a scaling comes behind the
   head.
4. If not (soft caps, heads that are no plain matrix), the whole last step is derived for every coordinate: exact too,
   and as costly as so many passes through the head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import forward_ad

from suture.errors import UserError
from suture.lm.hookpoints import resolve
from suture.lm.hooks import record_at
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos
from suture.lm.vocabulary import displayed, token_texts

POINTS = 8
"""Positions of real text at which the last step is derived. Of eight and of sixty-four, the ten tokens promoted most
are the same but for a few in a hundred (measured)."""
POINT_TOKENS = 64
"""Tokens read of each text."""
LOGITS_AT_ONCE = 2**24
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.01, torch.float16: 0.003}
"""Relative difference up to which logits in a precision are the same. A soft cap's derivative is three times as far
off as what it caps, and a head's sums are right to a millionth, or to some roundings of the half precisions."""


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """Of a model's logits by its last residual stream, averaged over points of real text; on the model's device."""

    inner: Float[Tensor, "width inner"]
    """From the stream to what the head is given, in float32."""
    head: Float[Tensor, "vocab inner"]
    """From there to the logits: the head's own weights."""

    def whole(self) -> Float[Tensor, "vocab width"]:
        """Change of every logit per unit of every coordinate."""
        return self.head.float() @ self.inner.T


@dataclass(frozen=True, kw_only=True)
class Unembedding:
    """From directions in the last residual stream to logits, and the vocabulary's texts."""

    derivative: Derivative
    ids: Int[Tensor, "known"]
    """The entries that the tokenizer knows: some models have more outputs."""
    texts: tuple[str, ...]
    """What each output looks like; special tokens and parts of characters by a spelling."""


def unembedding(lm: LanguageModel, documents: Sequence[str]) -> Unembedding:
    """The mean derivative of the model's logits by its last residual stream, over positions of some documents.

    Raises:
        UserError: a model whose last block's output has no batch and token axes, or documents without a token.
    """
    texts = token_texts(lm)
    known = [i for i in range(min(len(lm.tokenizer), lm.vocab_size)) if lm.tokenizer.convert_ids_to_tokens(i)]
    return Unembedding(
        derivative=mean_derivative(lm, last_stream(lm, documents)),
        ids=torch.tensor(known, dtype=torch.int64),
        texts=tuple(displayed(lm, texts, i) for i in range(len(texts))),
    )


def last_stream(lm: LanguageModel, documents: Sequence[str]) -> Float[Tensor, "point width"]:
    """The last block's output at `POINTS` positions, spread over the documents and within each.  (1)"""
    point = resolve(lm.model, f"resid{lm.n_layers - 1}.post")
    found = []
    for text in documents[:POINTS]:
        ids = with_bos(lm, tokenize(lm, text).ids[: min(POINT_TOKENS, lm.context - 1)])
        if len(ids) > int(lm.bos is not None):
            found.append(record_at(lm, ids[None], [point])[0][0, int(lm.bos is not None) :])
    if not found:
        raise UserError("documents", len(documents), f"hold no token of {lm.name}", "give some text")
    each = -(-POINTS // len(found))
    spread = [rows[torch.linspace(0, len(rows) - 1, each + 1)[1:].round().long()] for rows in found]
    return torch.cat(spread)[:POINTS]


@torch.no_grad()
def last_step(lm: LanguageModel, stream: Float[Tensor, "row width"]) -> Float[Tensor, "row vocab"]:
    """The logits that follow from these vectors in place of the last block's output."""
    try:
        # One token passes the blocks; behind them positions are independent, and there are as many as vectors.
        return _last_step(lm, stream[None], n_sequences=1)
    except RuntimeError:  # GPT-1 and GPT-BigCode give what comes out the shape of what went in: a sequence per vector
        return _last_step(lm, stream[:, None], n_sequences=len(stream))


def _last_step(
    lm: LanguageModel, output: Float[Tensor, "sequence token width"], *, n_sequences: int
) -> Float[Tensor, "row vocab"]:
    dummy = torch.full((n_sequences, 1), lm.bos or 0, device=lm.device)
    handle = resolve(lm.model, f"resid{lm.n_layers - 1}.post").attach(lambda _: output)
    try:
        return lm.model(dummy, use_cache=False).logits.flatten(0, -2)
    finally:
        handle.remove()


@torch.no_grad()
def mean_derivative(lm: LanguageModel, points: Float[Tensor, "point width"]) -> Derivative:
    """d(logits) / d(stream), averaged over the points."""
    basis = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    head = lm.model.get_output_embeddings()
    if isinstance(head, nn.Module) and isinstance(weight := getattr(head, "weight", None), Tensor):
        inner = _derivative(lm, points, basis, stop_at=head)  # 2
        if inner is not None and inner.shape[1] == weight.shape[1]:
            factor = _common_factor(lm, points, head)
            if factor is not None:
                return Derivative(inner=inner * factor, head=weight.detach())
    whole = _derivative(lm, points, basis, stop_at=None)  # 4
    assert whole is not None
    return Derivative(inner=basis.float(), head=whole.T.contiguous())


def _common_factor(lm: LanguageModel, points: Float[Tensor, "point width"], head: nn.Module) -> float | None:
    """Step 3: the factor between what the head gives and the logits; None where there is no such factor."""
    whole = last_step(lm, points).float()
    given = _input_of(head, lambda: last_step(lm, points))
    guess = None if given is None else head(given).float()
    if guess is None or whole.shape != guess.shape:
        return None
    factor = float((whole * guess).sum() / guess.square().sum())
    apart = float((whole - factor * guess).norm() / whole.norm())
    return factor if apart <= TOLERANCE[lm.dtype] else None


class _ReachedError(Exception):
    """Stops a pass where the head's input is known."""


def _derivative(
    lm: LanguageModel,
    points: Float[Tensor, "point width"],
    directions: Float[Tensor, "direction width"],
    *,
    stop_at: nn.Module | None,
) -> Float[Tensor, "direction out"] | None:
    """Along each direction the exact derivative of the last step, or of the input of its module `stop_at`.

    Averaged over the points, in float32. None where that module is never called.
    """
    width_out = lm.vocab_size if stop_at is None else points.shape[1]
    at_once = max(1, LOGITS_AT_ONCE // (len(points) * width_out))
    parts = []
    for some in directions.split(at_once):
        with warnings.catch_warnings(), forward_ad.dual_level():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about its own use of torch.jit
            where = points.repeat(len(some), 1)
            moved = forward_ad.make_dual(where, some.repeat_interleave(len(points), 0))
            out = last_step(lm, moved) if stop_at is None else _input_of(stop_at, lambda x=moved: last_step(lm, x))
            if out is None:
                return None
            tangent = forward_ad.unpack_dual(out).tangent
            assert tangent is not None, "the last step has a derivative"
        parts.append(tangent.float().reshape(len(some), len(points), -1).mean(1))
    return torch.cat(parts)


def _input_of(module: nn.Module, run: Callable[[], object]) -> Float[Tensor, "row inner"] | None:
    """What a module is given first when `run` is called; None where it is not called with a tensor."""
    seen: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple) -> None:
        if args and isinstance(args[0], Tensor):
            seen.append(args[0])
            raise _ReachedError

    handle = module.register_forward_pre_hook(stop)
    try:
        run()
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1]) if seen else None
