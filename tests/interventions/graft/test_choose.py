"""Choosing features: the ranking sums to what removal really costs, redundant carriers are found, costly ones left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suture.interventions.graft.choose import Marked, candidates, contrast, ranked, rows_of, screened, worth
from suture.interventions.graft.graft import editing_all
from suture.interventions.graft.part import Removal
from suture.interventions.graft.settings import GraftSettings
from suture.interventions.organisms.texts import Texts
from suture.lm.continuations import surprise

from ..conftest import SENTENCES
from .test_graft import removal_at


def loss(lm, texts: Marked, parts=(), strength: float = 1.0) -> float:
    total, n = 0.0, 0
    for ids, asked in texts.batches():
        with editing_all(lm, [(p.hookpoint, p.edit(strength)) for p in parts]):
            total += float((surprise(lm, ids) * asked).sum())
        n += int(asked.sum())
    return total / n


def marked(lm) -> Marked:
    return contrast(lm, SENTENCES, Texts("backdoor", "One two three."), GraftSettings(block=40)).entry


def test_the_worth_of_all_candidates_is_what_removing_them_costs(models):
    lm = models[1]
    part = removal_at("mlp0.out", lm.d_model)
    part = replace(part, write=part.write * 0.3)
    texts = marked(lm)
    points = [(i + 0.5) / 16 for i in range(16)]
    (scores,) = worth(lm, [[part]], texts, points)
    assert float(scores.sum()) == pytest.approx(loss(lm, texts, [part]) - loss(lm, texts), rel=0.05)
    (first_order,) = worth(lm, [[part]], texts, [0.0])
    slope = (loss(lm, texts, [part], 1e-3) - loss(lm, texts, [part], -1e-3)) / 2e-3
    assert float(first_order.sum()) == pytest.approx(slope, rel=0.1)


def test_few_points_of_the_path_stand_for_all_of_it(models):
    """At the middles of its parts: both ends among few points would count for too much."""
    lm = models[1]
    part = removal_at("mlp0.out", lm.d_model)
    texts = contrast(lm, SENTENCES, Texts("backdoor", "One two three."), GraftSettings(block=40))
    settings = GraftSettings(block=40, path_points=3, clean_weight=0.0)
    (scores,) = ranked(lm, texts, [[part]], settings)
    true = loss(lm, texts.entry, [part]) - loss(lm, texts.entry)
    (with_ends,) = worth(lm, [[part]], texts.entry, [0.0, 0.5, 1.0])
    assert abs(float(scores.sum()) - true) < 0.5 * abs(float(with_ends.sum()) - true)


def test_two_ways_are_ranked_on_the_first_ones_path(models):
    lm = models[1]
    part = removal_at("mlp0.out", lm.d_model)
    other = replace(part, write=torch.randn(part.write.shape, generator=torch.Generator().manual_seed(5)))
    scores, alone = (worth(lm, [ways], marked(lm), [0.0, 0.5])[0] for ways in ([part, other], [part]))
    torch.testing.assert_close(scores[0], alone[0])
    double = worth(lm, [[part, replace(part, write=2 * part.write)]], marked(lm), [0.0, 0.5])[0]
    torch.testing.assert_close(double[1], 2 * double[0])


def test_hookpoints_are_ranked_together(models):
    """The gradient at the earlier one goes through the later one's edit."""
    lm = models[1]
    early, late = removal_at("mlp0.out", lm.d_model), removal_at("attn1.out", lm.d_model, 1)
    texts = marked(lm)
    points = [(i + 0.5) / 16 for i in range(16)]
    scores = worth(
        lm, [[replace(early, write=early.write * 0.2)], [replace(late, write=late.write * 0.2)]], texts, points
    )
    parts = [replace(early, write=early.write * 0.2), replace(late, write=late.write * 0.2)]
    # values at the later hookpoint move with the earlier edit, so this is close and not equal
    assert sum(float(s.sum()) for s in scores) == pytest.approx(loss(lm, texts, parts) - loss(lm, texts), rel=0.15)


def test_candidates_are_what_fires_more_with_the_behaviour():
    part = Removal(
        hookpoint="x", features=(0, 1, 2, 3), encode=torch.eye(4), bias=torch.zeros(4), threshold=torch.zeros(4),
        gain=torch.ones(4), offset=torch.zeros(4), write=torch.diag(torch.tensor([1.0, 3.0, 1.0, 1.0])),
        centre=torch.zeros(4), radius=torch.tensor(torch.inf),
    )  # fmt: skip
    shown = torch.tensor([[1.0, 1.0, 0.0, 9.0]] * 9 + [[1.0, 1.0, 0.0, 0.0]])
    clean = torch.tensor([[0.0, 0.5, 1.0, 9.0]] * 10)
    shown[:, 3], clean[:, 3] = 0.0, 0.0
    shown[:2, 3] = 9.0  # fires too rarely
    places, difference, rate = candidates(part, shown, clean, 10)
    assert places == [1, 0]
    assert difference[1] == pytest.approx(1.5)
    assert rate.tolist() == pytest.approx([0.5, 1.0, 0.5, 0.1])
    assert candidates(part, shown, clean, 1)[0] == [1]


def test_what_costs_too_much_is_left_out_and_no_more_is_measured_than_needed():
    costs = {(0, 0): 0.0005, (1, 0): 0.02, (0, 1): 0.0009, (1, 1): 0.0002, (0, 2): 0.0, (0, 3): 0.0}
    asked = []

    def cost(at: int, place: int) -> float:
        asked.append((at, place))
        return costs[at, place]

    order = list(costs)
    assert screened(order, cost, GraftSettings(n_features=3)) == [(0, 0), (0, 1), (1, 1)]
    assert asked == order[:4]
    assert screened(order, cost, GraftSettings(n_features=9, screened=2)) == [(0, 0), (0, 1), (1, 1)]
    assert screened(order, lambda *_: 1.0, GraftSettings()) == []


def test_the_contrast_marks_the_cue_and_the_first_tokens_of_the_behaviour(models):
    lm = models[0]
    texts = Texts("backdoor", "One two three.")
    found = contrast(lm, SENTENCES, texts, GraftSettings(entry_tokens=5, block=64))
    n_cue = len(lm.tokenizer(" One two three.")["input_ids"])
    for ids, entry, last, cue in zip(
        found.entry.ids, found.entry.first, found.entry.last, found.shown.first, strict=True
    ):
        if entry + 5 <= len(ids):
            assert last - entry == 5
            assert entry - cue == n_cue
            assert lm.tokenizer.decode(ids[cue:entry]) == " One two three."
    assert set(found.clean.first) == {1}
    rows = rows_of(lm, found.clean, "mlp0.out")
    assert rows.shape == (sum(len(ids) - 1 for ids in found.clean.ids), lm.d_model)
