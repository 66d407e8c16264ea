"""Agreement from made-up answers, against numpy."""

import numpy as np
import pytest
import torch

from suture.interventions.steer.agreement import Answered, agreement
from suture.uncertainty import Draws


def answers(own: dict, random: dict) -> Answered:
    return Answered(own=own, random=random[0])


def changes(n: int, common: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """`n` pairs of changes that correlate as much as `common` says."""
    generator = torch.Generator().manual_seed(0)
    a = [torch.randn(9, 60, generator=generator) for _ in range(n)]
    return a, [common * x + torch.randn(9, 60, generator=generator) for x in a]


def pearson(a: torch.Tensor, b: torch.Tensor) -> float:
    centred = [(c - c.mean(1, keepdim=True)).flatten().numpy() for c in (a, b)]
    return float(np.corrcoef(*centred)[0, 1])


def test_it_is_the_matched_correlation_minus_the_mean_of_the_mismatched_ones():
    a, b = changes(4, common=1.0)
    b[1] = b[0] + b[1]  # partner 1 in the second model resembles the feature, but not the other way round
    first, second = answers(dict(enumerate(a[:3])), {0: [a[3]]}), answers(dict(enumerate(b[:3])), {0: [b[3]]})
    found = agreement(("a", "b"), 0, (1, 2), first, second, Draws.make(9, 500, seed=0))
    mismatched = np.mean([pearson(a[0], b[1]), pearson(a[0], b[2]), pearson(a[1], b[0]), pearson(a[2], b[0])])
    assert found.correlation == pytest.approx(pearson(a[0], b[0]), abs=1e-6)
    assert found.mismatched == pytest.approx(mismatched, abs=1e-6)
    assert found.mismatched > 0.05
    assert found.value == pytest.approx(found.correlation - found.mismatched)
    assert found.random == pytest.approx((pearson(a[0], b[3]) + pearson(a[3], b[0])) / 2, abs=1e-6)
    assert found.interval[0] < found.value < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.5
    assert (found.n_tokens, found.n_prompts, found.mismatched_features) == (60, 9, (1, 2))


def test_unrelated_answers_agree_no_more_than_mismatched_ones():
    a, b = changes(3, common=0.0)
    first, second = answers(dict(enumerate(a)), {0: []}), answers(dict(enumerate(b)), {0: []})
    found = agreement(("a", "b"), 0, (1, 2), first, second, Draws.make(9, 500, seed=0))
    assert found.interval[0] < 0 < found.interval[1]
    assert (found.random, found.value_over_random, found.interval_over_random) == (None, None, None)


def test_without_another_feature_nothing_is_subtracted():
    a, b = changes(1, common=1.0)
    found = agreement(
        ("a", "b"), 0, (), answers({0: a[0]}, {0: []}), answers({0: b[0]}, {0: []}), Draws.make(9, 20, seed=0)
    )
    assert found.mismatched is None
    assert found.value == found.correlation
