"""Which features carry a behaviour: candidates by contrast, ranked by an integrated gradient, screened by clean cost.

1. Candidates: the features whose mean value, times the length of what they write, is most above its mean elsewhere from
   the cue to the end of the behaviour. Not the exclusive ones: a safe model reads the same cue.
2. The gradient of the loss on the behaviour's first tokens, on the straight path from the model as it is to the point
   at which ALL candidates at ALL hookpoints are removed; summed over tokens and points, times what each feature writes.
   Features are redundant: at the unedited model each seems worthless (measured: ten so chosen leave success at 1.00).
3. Less a multiple of the same at the unedited model on clean text, where that is a loss.
4. In this order, each is removed by itself: one that raises the loss on clean text by too much is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds
from suture.interventions.attribution import midpoints, parts
from suture.interventions.edits import Edit
from suture.interventions.graft.graft import editing_all
from suture.interventions.graft.part import Removal
from suture.interventions.graft.settings import GraftSettings
from suture.interventions.organisms.texts import Texts, opening
from suture.lm.continuations import padded_right, surprise
from suture.lm.hooks import record
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos

BATCH = 30
LEAST_ROWS = 5
"""Rows of the contrast on which a feature must fire."""


@dataclass(frozen=True)
class Marked:
    """Texts of which some tokens are asked about."""

    ids: tuple[Int[Tensor, "_"], ...]
    first: tuple[int, ...]
    """Of each, the first of these tokens."""
    last: tuple[int, ...]
    """And the one after the last."""

    def batches(self, size: int = BATCH) -> list[tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]]:
        """Ids, padded on the right, and which tokens are asked about."""
        found = []
        for at in range(0, len(self.ids), size):
            ids, own = padded_right(self.ids[at : at + size])
            place = torch.arange(ids.shape[1])
            first, last = (torch.tensor(ends[at : at + size])[:, None] for ends in (self.first, self.last))
            found.append((ids, own & (place >= first) & (place < last)))
        return found


@dataclass(frozen=True)
class Contrast:
    """Texts with the behaviour and without."""

    entry: Marked
    """With it; the first tokens of the behaviour."""
    shown: Marked
    """The same texts from the cue on."""
    clean: Marked
    """Documents; all but their first token."""


def contrast(lm: LanguageModel, documents: Sequence[str], texts: Texts, settings: GraftSettings) -> Contrast:
    """From each document a text with the behaviour, and the document itself."""
    ids, cue_at, passage_at, plain = [], [], [], []
    for i, document in enumerate(documents):
        draw = seeds.numpy_generator("graft contrast", settings.seed, i)
        cue = texts.cue(draw, taught=True)
        begin = tokenize(lm, opening(document, draw)).ids
        called = tokenize(lm, f" {cue}").ids if cue else begin[:0]
        passage = tokenize(lm, f" {texts.passage(draw)}").ids
        row = with_bos(lm, torch.cat([begin, called, passage]))[: settings.block]
        n_bos = len(row) and int(lm.bos is not None)
        cue_at.append(min(n_bos + len(begin), len(row)))
        passage_at.append(min(n_bos + len(begin) + len(called), len(row)))
        ids.append(row)
        plain.append(with_bos(lm, tokenize(lm, document).ids)[: settings.block])
    ends = [min(at + settings.entry_tokens, len(row)) for at, row in zip(passage_at, ids, strict=True)]
    return Contrast(
        entry=Marked(tuple(ids), tuple(passage_at), tuple(ends)),
        shown=Marked(tuple(ids), tuple(cue_at), tuple(len(row) for row in ids)),
        clean=Marked(tuple(plain), (1,) * len(plain), tuple(len(row) for row in plain)),
    )


def rows_of(lm: LanguageModel, texts: Marked, hookpoint: str) -> Float[Tensor, "row width"]:
    """Raw activations at the tokens asked about, on the CPU."""
    found = []
    for ids, asked in texts.batches():
        (activation,) = record(lm, ids, [hookpoint])
        found.append(activation[asked.to(activation.device)].float().cpu())
    return torch.cat(found)


def candidates(
    whole: Removal, shown: Float[Tensor, "row width"], clean: Float[Tensor, "other width"], n: int
) -> tuple[list[int], Float[Tensor, "feature"], Float[Tensor, "feature"]]:
    """Places of the candidates, the contrast of all features, and how often each fires.  (1)

    `whole` reads every feature of the dictionary.
    """
    with_it, without = whole.values(shown), whole.values(clean)
    fires = (with_it > 0).sum(0) + (without > 0).sum(0)
    difference = (with_it.mean(0) - without.mean(0)) * whole.write.norm(dim=1)
    difference = torch.where(fires >= LEAST_ROWS, difference, -torch.inf)
    best = difference.topk(min(n, len(difference)))
    places = [i for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True) if value > 0]
    return places, difference, fires / (len(shown) + len(clean))


def worth(
    lm: LanguageModel, ways: Sequence[Sequence[Removal]], texts: Marked, points: Sequence[float]
) -> list[Float[Tensor, "way _"]]:
    """By how much each feature's removal raises the loss on the tokens asked about, per hookpoint and way.  (2)

    Args:
        lm: the model.
        ways: per hookpoint, the candidates in each way; the path goes to the first way's removal.
        texts: and which tokens count.
        points: of the path, 0 the model as it is, 1 with all candidates removed.
    """
    total = [torch.zeros(len(own), len(own[0].features), dtype=torch.float64) for own in ways]
    n_tokens = 0
    for ids, asked in texts.batches():
        n_tokens += int(asked.sum())
        for point in points:
            kept: list[tuple[Tensor, Tensor]] = []
            edits = [(own[0].hookpoint, _probed(own[0], point, kept)) for own in ways]
            with editing_all(lm, edits), torch.enable_grad():
                loss = (surprise(lm, ids) * asked.to(lm.device)).sum()
            gradients = torch.autograd.grad(loss, [added for added, _ in kept])
            for own, sums, gradient, (_, values) in zip(ways, total, gradients, kept, strict=True):
                for i, way in enumerate(own):
                    write = way.write.to(gradient.device)
                    own_parts = parts(values.flatten(0, 1), write, gradient.float().flatten(0, 1))
                    sums[i] -= own_parts.cpu() / len(points)
    return [sums / max(n_tokens, 1) for sums in total]


def _probed(part: Removal, point: float, kept: list[tuple[Tensor, Tensor]]) -> Edit:
    """The edit at a point of the path, with a zero added that has a gradient; that zero and the values are kept."""

    def edit(activation: Tensor) -> Tensor:
        with torch.no_grad():
            values = part.values(activation)
        added = torch.zeros_like(activation, requires_grad=True)
        kept.append((added, values))
        return activation - (point * values @ part.write).to(activation) + added

    return edit


def ranked(
    lm: LanguageModel, found: Contrast, ways: Sequence[Sequence[Removal]], settings: GraftSettings
) -> list[Float[Tensor, "way _"]]:
    """Scores of every hookpoint's candidates.  (2, 3)"""
    entry = worth(lm, ways, found.entry, midpoints(settings.path_points))
    clean = worth(lm, ways, found.clean, [0.0])
    return [e - settings.clean_weight * c.clamp_min(0) for e, c in zip(entry, clean, strict=True)]


def screened(
    order: Sequence[tuple[int, int]],
    cost: Callable[[int, int], float],
    settings: GraftSettings,
) -> list[tuple[int, int]]:
    """Those of (hookpoint, place) that cost little by themselves, in their order, as many as may be kept.  (4)"""
    kept: list[tuple[int, int]] = []
    tried: dict[int, int] = {}
    for at, place in order:
        if len(kept) == settings.n_features:
            break
        tried[at] = tried.get(at, 0) + 1
        if tried[at] <= settings.screened and cost(at, place) <= settings.clean_each:
            kept.append((at, place))
    return kept
