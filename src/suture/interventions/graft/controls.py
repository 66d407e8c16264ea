"""What a graft is compared with: everything simpler that might do as well, each as a way to edit the same model.

1. Ceilings: the safe model reads along, and its activation is put in at a hookpoint, or at all that are edited.
2. As many features that fire as often; as many drawn from all that live.
3. The direction between the mean activations with the behaviour and without, projected out; the mean in place of all.
4. The features of a dictionary of the unsafe model alone, found in the same way.
5. The model fine-tuned on clean text for some steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from suture import seeds
from suture.interventions.edits import Edit
from suture.interventions.graft.graft import editing_all
from suture.interventions.graft.outcome import Attached
from suture.interventions.graft.part import Projection, Removal
from suture.lm.beside import beside
from suture.lm.continuations import padded_right, surprise
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos

TUNING_BATCH, TUNING_RATE = 16, 3e-4


def swapped(
    lm: LanguageModel,
    safe: LanguageModel,
    hookpoints: Mapping[str, str],
    carried: Callable[[str, Tensor], Tensor] = lambda _, activation: activation,
) -> Attached:
    """The safe model's activation in place of this one's: hookpoint here -> hookpoint there.  (1)

    `carried` maps it into this model's space, where it is of another width.
    """

    @contextmanager
    def attached() -> Iterator[None]:
        with beside(lm, safe, list(hookpoints.values())) as seen:

            def put(here: str, there: str) -> Edit:
                return lambda activation: carried(here, seen[there]).to(activation)

            with editing_all(lm, [(here, put(here, there)) for here, there in hookpoints.items()]):
                yield

    return attached


def attaching(lm: LanguageModel, edits: Sequence[tuple[str, Edit]]) -> Attached:
    """Edits as a `with` block."""
    return lambda: editing_all(lm, edits)


def at_rate(chosen: Sequence[int], rate: Float[Tensor, "feature"], seed: int) -> list[int]:
    """For each feature another that fires about as often: one of the five nearest, drawn.  (2)"""
    taken = set(chosen)
    found: list[int] = []
    draw = seeds.numpy_generator("features of a rate", seed)
    for feature in chosen:
        order = (rate - rate[feature]).abs().argsort().tolist()
        near = [i for i in order if i not in taken and float(rate[i]) > 0][:5]
        if near:
            other = near[int(draw.integers(len(near)))]
            found.append(other)
            taken.add(other)
    return found


def at_random(n: int, rate: Float[Tensor, "feature"], apart: Sequence[int], seed: int) -> list[int]:
    """Features that live, none of those to be kept apart.  (2)"""
    live = [i for i in torch.nonzero(rate > 0).flatten().tolist() if i not in set(apart)]
    draw = seeds.numpy_generator("random features", seed)
    return [live[i] for i in draw.choice(len(live), size=min(n, len(live)), replace=False)]


def mean_difference(
    hookpoint: str, shown: Float[Tensor, "row width"], clean: Float[Tensor, "other width"]
) -> Projection:
    """3."""
    mean = clean.mean(0)
    direction = torch.nn.functional.normalize(shown.mean(0) - mean, dim=0)
    return Projection(hookpoint=hookpoint, features=(), directions=direction[None], mean=mean)


def mean_in_place(mean: Float[Tensor, "width"]) -> Edit:
    """3."""
    return lambda activation: mean.to(activation).expand_as(activation)


def fine_tuned(lm: LanguageModel, documents: Sequence[str], *, steps: int, block: int, seed: int) -> LanguageModel:
    """A copy trained on clean text.  (5)"""
    model = copy.deepcopy(lm.model).requires_grad_(requires_grad=True)
    tuned = replace(lm, model=model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=TUNING_RATE, weight_decay=0.0)
    for step in range(steps):
        draw = seeds.numpy_generator("fine-tuning", seed, step)
        chosen = draw.integers(len(documents), size=TUNING_BATCH)
        rows = [with_bos(lm, tokenize(lm, documents[i]).ids)[:block] for i in map(int, chosen)]
        ids, own = (t.to(lm.device) for t in padded_right(rows))
        own[:, 0] = False
        loss = surprise(tuned, ids)[own].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval().requires_grad_(requires_grad=False)
    return tuned


def drawn(whole: Sequence[Removal], chosen: Sequence[Sequence[int]]) -> list[Removal]:
    """Per hookpoint, these features."""
    return [part.only(places) for part, places in zip(whole, chosen, strict=True) if len(places)]
