"""Passes that compute no more than is asked for: from a hookpoint on, and logits only where they count.

1. Logits at chosen positions: what enters the head is cut down to them. The head is most of a small model with a large
   vocabulary, and most positions are padding, beginnings, or none of the question's.
2. From a hookpoint on: the blocks before it give what they gave in an earlier pass over the same tokens, handed in as
   the activation that leaves the last of them. What is edited or replaced from there on is computed as ever.
3. Neither is taken on trust: on a few tokens both are compared with a whole pass of the model. A family that reshapes
   behind its head, or whose later blocks read more of the earlier ones than the residual stream, runs in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from suture.lm.hookpoints import parse, resolve
from suture.lm.hooks import record_at
from suture.lm.load import LanguageModel

Shape = Callable[[Tensor], object]
"""Puts an activation into the container that a block returns."""
_FAILURES = (RuntimeError, KeyError, IndexError, TypeError, AttributeError, ValueError)
"""What a model may raise that cannot run in part."""


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How far one model's passes over edits at one hookpoint can be cut short."""

    lm: LanguageModel
    carried: str | None
    """The hookpoint whose activation stands for all blocks before it; None where the model runs in full."""
    blocks: Mapping[str, Shape]
    """Module paths of the blocks that are then not computed, and what each returns."""
    cuts_head: bool

    @staticmethod
    def of(lm: LanguageModel, hookpoint: str) -> Partial:
        """What is possible for edits at `hookpoint`, tried on a few tokens.  (3)

        Raises:
            UserError: the model has no such hookpoint.
        """
        resolve(lm.model, hookpoint)
        ids = torch.arange(8, device=lm.device).view(2, 4) % lm.vocab_size
        where = torch.tensor([[False, True, True, False], [True, False, False, True]], device=lm.device)
        with torch.no_grad():
            whole = lm.model(ids, use_cache=False).logits[where].float()
        carried, paths = _start(lm, hookpoint)
        blocks = _shapes(lm, ids, paths)
        for wanted in (
            Partial(lm=lm, carried=carried, blocks=blocks, cuts_head=True),
            Partial(lm=lm, carried=None, blocks={}, cuts_head=True),
        ):
            if wanted._agrees(ids, where, whole):
                return wanted
        return Partial(lm=lm, carried=None, blocks={}, cuts_head=False)

    def _agrees(self, ids: Tensor, where: Tensor, whole: Tensor) -> bool:
        try:
            found = self.logits(ids, where, self.before(ids))
        except _FAILURES:
            return False
        # A product over fewer rows may round its last bit otherwise.
        return found.shape == whole.shape and torch.allclose(found, whole, rtol=1e-3, atol=1e-3 * float(whole.std()))

    def before(self, ids: Int[Tensor, "sequence token"]) -> Float[Tensor, "sequence token width"] | None:
        """What the blocks before the hookpoint give for these tokens, to be handed to `logits`; None if in full."""
        return None if self.carried is None else record_at(self.lm, ids, [resolve(self.lm.model, self.carried)])[0]

    @torch.no_grad()
    def logits(
        self,
        ids: Int[Tensor, "sequence token"],
        where: Bool[Tensor, "sequence token"],
        before: Float[Tensor, "sequence token width"] | None,
    ) -> Float[Tensor, "chosen vocab"]:
        """Float32 logits at the chosen positions, in their order, under whatever edits are in force.

        `before` is what `before` gave for these tokens; with None every block is computed.
        """
        return self.traced(ids, where, before)

    def traced(
        self,
        ids: Int[Tensor, "sequence token"],
        where: Bool[Tensor, "sequence token"],
        before: Float[Tensor, "sequence token width"] | None,
    ) -> Float[Tensor, "chosen vocab"]:
        """`logits` through which a gradient goes back to what edits put in, where gradients are enabled."""
        ids, where = ids.to(self.lm.device), where.to(self.lm.device)
        with ExitStack() as kept:
            if before is not None:
                for path, shape in self.blocks.items():
                    kept.enter_context(_giving(self.lm.model.get_submodule(path), shape(before)))
            if not self.cuts_head:
                return self.lm.model(ids, use_cache=False).logits[where].float()
            head = self.lm.model.get_output_embeddings()
            assert isinstance(head, nn.Module), "tried before"
            kept.callback(head.register_forward_pre_hook(_cut_to(where)).remove)
            return self.lm.model(ids, use_cache=False).logits.flatten(0, -2).float()


def _start(lm: LanguageModel, hookpoint: str) -> tuple[str | None, tuple[str, ...]]:
    """The activation that stands for the blocks before a hookpoint, and those blocks' module paths."""
    point = parse(hookpoint)
    if point is None or point.layer is None:
        return None, ()
    n_skipped = point.layer + (point.site == "resid.post")
    if n_skipped == 0:
        return None, ()
    blocks = [resolve(lm.model, f"resid{n}.post").module_path for n in range(n_skipped)]
    return f"resid{n_skipped - 1}.post", tuple(blocks)


def _shapes(lm: LanguageModel, ids: Tensor, paths: Sequence[str]) -> dict[str, Shape]:
    """How each block returns its activation: bare, or as the first entry of a tuple or list."""
    found: dict[str, Shape] = {}

    def look(path: str) -> Callable[[nn.Module, object, object], None]:
        def see(_module: nn.Module, _args: object, output: object) -> None:
            kind, n = (type(output), len(output)) if isinstance(output, tuple | list) else (None, 0)
            found[path] = lambda x: x if kind is None else kind([x, *[None] * (n - 1)])

        return see

    with ExitStack() as hooks, torch.no_grad():
        for path in paths:
            hooks.callback(lm.model.get_submodule(path).register_forward_hook(look(path)).remove)
        lm.model(ids, use_cache=False)
    return found


@contextmanager
def _giving(block: nn.Module, output: object) -> Iterator[None]:
    """The block returns this and computes nothing; its hooks run as ever."""
    block.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        del block.forward


def _cut_to(where: Bool[Tensor, "sequence token"]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that leaves the head only the chosen positions, as one sequence."""

    def cut(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        assert args[0].shape[:2] == where.shape, (args[0].shape, where.shape)
        return (args[0][where][None], *args[1:])

    return cut
