"""A second model that reads the same tokens as the first, pass by pass, and whose activations the first's edits see.

1. Before each pass of the first model, the second runs over what that pass is given, with a cache of its own.
2. Its activations at chosen hookpoints lie in `seen` until the next pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from suture.errors import UserError
from suture.lm.generate import KEPT, cache_argument, last_only
from suture.lm.hookpoints import resolve
from suture.lm.load import LanguageModel


@contextmanager
def beside(lm: LanguageModel, other: LanguageModel, hookpoints: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """While inside, `other` reads along with `lm`; gives its activations at the hookpoints in the pass under way.

    Raises:
        UserError: the two are one, or have different tokenizers, or `other` no such hookpoint.
    """
    if other.model is lm.model:
        problem = "is the very model that it is to read along with"
        raise UserError("safe", other.name, problem, "name another, or load it a second time")
    if lm.tokenizer_fingerprint != other.tokenizer_fingerprint:
        problem = f"reads other tokens than {lm.name}, so that it cannot read along"
        raise UserError("safe", other.name, problem, "name a model with the same tokenizer")
    seen: dict[str, Tensor] = {}
    argument = cache_argument(other.model)
    kept: dict[str, Any] = {"cache": None}

    def keep(name: str) -> Any:
        return lambda activation: seen.__setitem__(name, activation)

    @torch.no_grad()
    def read_along(_module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        own = {n: v for n, v in kwargs.items() if n not in (argument, KEPT)} | last_only(other.model)
        if argument is not None and kwargs.get(argument) is not None:
            own[argument] = kept["cache"]
        output = other.model(*args, **own)
        kept["cache"] = output.get(argument) if argument is not None and kwargs.get("use_cache") else None

    with ExitStack() as hooks:
        for name in hookpoints:
            hooks.callback(resolve(other.model, name).attach(keep(name)).remove)
        hooks.callback(lm.model.register_forward_pre_hook(read_along, with_kwargs=True).remove)
        yield seen
