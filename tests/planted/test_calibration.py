"""Claims are counted right against planted shares, and the labels' own p-values and intervals mean what they say."""

from dataclasses import replace

import pytest
import torch

from suture.errors import UserError
from suture.features.classify import label_shares
from suture.features.settings import LabelSettings
from suture.features.stats import Shares
from suture.planted.calibration import calibration, claims, true_shares
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings

GRADED = PlantedSettings(widths=(16, 12), n_concepts=200, exclusive=0.1, graded=0.4, graded_share=(0.1, 0.3))


def test_graded_concepts_are_fainter_in_every_model_but_one() -> None:
    models = PlantedModels(GRADED)
    faint = (models.strength > 0) & (models.strength < 1)
    assert int(faint.any(1).sum()) == 80
    assert not bool(faint.all(1).any())
    share = models.strength / models.strength.sum(1, keepdim=True)
    assert float(share[faint].min()) >= 0.1 - 1e-6
    assert float(share[faint].max()) <= 0.3 + 1e-6
    assert models.labels().count("shared") == 160  # a graded concept is there in both models
    for m in range(2):
        assert torch.allclose(models.directions(m).norm(dim=1), models.strength[:, m], atol=1e-5)


def test_without_graded_concepts_nothing_changes() -> None:
    plain, graded = replace(GRADED, graded=0.0), PlantedModels(GRADED)
    models = PlantedModels(plain)
    assert torch.equal(models.presence, graded.presence)
    full = graded.strength.min(1).values == graded.presence.min(1).values
    assert torch.equal(models.directions(1)[full], graded.directions(1)[full])
    assert torch.equal(models.strength, models.presence.float())
    assert GRADED.as_null("rotated").graded == 0.0


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"graded": 0.9}, "graded"), ({"graded": -0.1}, "graded"), ({"graded_share": (0.3, 0.2)}, "graded-share")],
)
def test_impossible_grades_are_refused(wrong: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        replace(GRADED, **wrong)  # pyright: ignore[reportArgumentType]


def test_true_shares_are_in_each_models_own_units() -> None:
    models = PlantedModels(GRADED)
    # scales that make both unit lengths sqrt(width): then shares are ratios of strengths
    shares = true_shares([models.directions(m) for m in range(2)], [4.0, 12**0.5])
    assert torch.allclose(shares.float(), models.strength / models.strength.sum(1, keepdim=True), atol=1e-5)
    doubled = true_shares([models.directions(0), models.directions(1)], [8.0, 12**0.5])
    assert bool((doubled[:, 0] >= shares[:, 0] - 1e-9).all())


def test_claims_of_three_models() -> None:
    lacks, has = claims(["AC", "B", "shared", "dead", "ambiguous"], 3)
    assert has.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert lacks.int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_calibration_counts_claims_on_the_wrong_side_of_the_boundary() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.95, 0.05], [0.5, 0.5], [0.5, 0.5], [0.85, 0.15]]).double()
    labels = ["A", "A", "shared", "shared", "ambiguous", "A"]
    assignment = torch.tensor([0, 1, 2, 3, -1, 5])
    low, high = torch.zeros(6, 2), torch.ones(6, 2)
    low[3, 1] = 0.6  # this interval misses
    p_lacks, p_has = torch.full((6, 2), 0.5), torch.full((6, 2), 0.5)
    p_lacks[5, 1] = 0.01
    counts = calibration(truth, assignment, labels, (low, high), (p_lacks, p_has))
    assert (counts.n_lacks, counts.wrong_lacks, counts.faint) == (3, 0, 2)  # 1 and 5 lie between 0.15 and 0.3 in B
    strict = calibration(truth, assignment, labels, (low, high), (p_lacks, p_has), even=0.2)
    assert (strict.wrong_lacks, strict.faint) == (1, 1)
    assert (counts.n_has, counts.wrong_has) == (7, 1)
    assert (counts.n_intervals, counts.covered, counts.covered_population) == (10, 9, 9)
    everywhere = torch.full((6, 2), 0.55).double()
    again = calibration(truth, assignment, labels, (low, high), (p_lacks, p_has), population=everywhere)
    assert (again.covered, again.covered_population) == (9, 9)  # 0.55 lies below the interval that begins at 0.6
    known = truth[[0, 1, 2, 3, 5]]
    assert again.total_error == pytest.approx(float((known - 0.55).abs().sum()))
    assert (counts.n_at_boundary, counts.small_p_lacks, counts.small_p_has) == (1, 1, 0)


def test_p_values_are_uniform_on_the_boundary_and_intervals_cover() -> None:
    generator = torch.Generator().manual_seed(0)
    n_groups, n_features, t = 50, 4000, 0.15
    weight = torch.rand(n_groups, n_features, generator=generator).double() + 0.5
    noise = torch.randn(n_groups, n_features, 2, generator=generator).double() * 0.2
    amount = weight.unsqueeze(-1) * (torch.tensor([1 - t, t]).double() + noise)
    fired = torch.full((n_groups, n_features), 20)
    shares = Shares(kind="refit", weight=weight, amount=amount, raw=amount, fired=fired, noise=None)
    labels = label_shares(shares, fired.sum(0), None, LabelSettings(n_draws=200))
    for p in (labels.p_lacks[:, 1], labels.p_has[:, 1]):
        assert float((p < 0.05).double().mean()) == pytest.approx(0.05, abs=0.012)
    covered = (labels.low[:, 1] <= t) & (t <= labels.high[:, 1])
    assert float(covered.double().mean()) == pytest.approx(0.94, abs=0.02)
    # all on the boundary: Benjamini-Hochberg lets hardly any claim through
    assert sum(name in ("A", "shared") for name in labels.label) <= 2
