"""Record activations of a language model, or edit them for the length of a `with` block.

Recording:
1. A hook on every hookpoint keeps the first activation that passes.
2. When the last one asked for has been seen, a private exception stops the forward pass: deeper blocks and the
   unembedding never run, whatever the order of the modules inside a block.

Editing puts one hook at the hookpoint and takes it away at the end, so it holds in every forward pass between, one
token at a time during generation with a KV cache included. Edits nest: hooks run in the order they were made, and a
recording inside an edit sees the edited activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.errors import UserError
from suture.lm.hookpoints import ResolvedHookpoint, check_axes, resolve
from suture.lm.load import LanguageModel


class _SeenAllError(Exception):
    """Stops a forward pass that has nothing more to tell."""


def record(
    lm: LanguageModel, input_ids: Int[Tensor, "batch token"], hookpoints: Sequence[str]
) -> list[Float[Tensor, "batch token width"]]:
    """The raw activations at each hookpoint from one forward pass, in the order asked, on the model's device and dtype.

    `input_ids` is what the model sees, BOS included; padding on the right changes nothing to its left.
    Raises UserError for a hookpoint the model does not have, or that a forward pass does not reach.
    """
    return record_at(lm, input_ids, [resolve(lm.model, name) for name in hookpoints])


@torch.no_grad()
def record_at(
    lm: LanguageModel, input_ids: Int[Tensor, "batch token"], points: Sequence[ResolvedHookpoint]
) -> list[Float[Tensor, "batch token width"]]:
    """`record` at hookpoints found before: looking for them takes as long as a small batch's pass through a block."""
    wanted = {point.name: point for point in points}
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        def fn(activation: Tensor) -> None:
            check_axes(name, activation, input_ids.shape)
            seen.setdefault(name, activation)  # 1
            if len(seen) == len(wanted):
                raise _SeenAllError  # 2

        return fn

    if not wanted:
        return []
    with ExitStack() as hooks:
        for name, point in wanted.items():
            hooks.callback(point.attach(keep(name)).remove)
        try:
            lm.model(input_ids.to(lm.device), use_cache=False)
        except _SeenAllError:
            pass
        else:
            missed = next(name for name in wanted if name not in seen)
            raise UserError("hookpoint", missed, "this module does not run in a forward pass", "name one that does")
    return [seen[point.name] for point in points]


@contextmanager
def edit(lm: LanguageModel, hookpoint: str, fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While inside, every activation [batch, token, width] at `hookpoint` is replaced by `fn(activation)`.

    `fn` must not change its argument in place and must keep its shape; the result is cast to the model's dtype.
    Raises UserError for an unknown hookpoint, an edit that changes the shape, or, at the end, a hookpoint that forward
    passes did not reach: an edit that is silently lost looks like one without effect.
    """
    point = resolve(lm.model, hookpoint)
    n_passes = n_edits = 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    def replace(activation: Tensor) -> Tensor:
        nonlocal n_edits
        n_edits += 1
        edited = fn(activation)
        if edited.shape != activation.shape:
            problem = f"the edit turned shape {tuple(activation.shape)} into {tuple(edited.shape)}"
            raise UserError("hookpoint", hookpoint, problem, "use an edit made for this model's width")
        return edited.to(activation.dtype)

    handles = [point.attach(replace), lm.model.register_forward_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if n_passes and not n_edits:
        raise UserError("hookpoint", hookpoint, "this module does not run in a forward pass", "name one that does")


@torch.no_grad()
def logits(lm: LanguageModel, input_ids: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token vocab"]:
    """Next-token logits in float32 at every position, under whatever edits are in force."""
    return lm.model(input_ids.to(lm.device), use_cache=False).logits.float()
