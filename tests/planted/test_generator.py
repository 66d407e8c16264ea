"""The planted data obeys its settings: rates, signatures, geometry, hierarchy, nulls; any range can be made again."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import UserError
from suture.planted.generator import BLOCK, PlantedModels, firing_rates
from suture.planted.settings import PlantedSettings

SMALL = PlantedSettings(widths=(12, 16), n_concepts=30, mean_active=3.0, exclusive=0.2)


@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 3 * BLOCK), length=st.integers(1, 2 * BLOCK))
def test_any_range_equals_the_slice_of_the_whole(start: int, length: int) -> None:
    models = PlantedModels(SMALL)
    whole, part = models.rows(0, 5 * BLOCK), models.rows(start, start + length)
    for full, piece in zip(whole.activations, part.activations, strict=True):
        assert torch.equal(full[start : start + length], piece)
    assert torch.equal(whole.codes.dense()[start : start + length], part.codes.dense())


def test_the_seed_decides_everything() -> None:
    first, again = PlantedModels(SMALL), PlantedModels(SMALL)
    other = PlantedModels(replace(SMALL, seed=1))
    assert torch.equal(first.directions(1), again.directions(1))
    assert torch.equal(first.rows(5, 50).activations[0], again.rows(5, 50).activations[0])
    assert not torch.equal(first.rows(5, 50).activations[0], other.rows(5, 50).activations[0])
    assert not torch.equal(first.presence, other.presence)


def test_signatures_have_the_shares_asked_for() -> None:
    three = PlantedModels(replace(SMALL, widths=(8, 8, 8), n_concepts=100, exclusive=0.1, pairwise=0.05))
    labels = three.labels()
    assert {name: labels.count(name) for name in set(labels)} == {
        "A": 10, "B": 10, "C": 10, "AB": 5, "AC": 5, "BC": 5, "shared": 55,
    }  # fmt: skip
    for m in range(3):
        assert torch.equal(three.directions(m).norm(dim=1) > 0, three.presence[:, m])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5])
def test_firing_rates_follow_the_settings(exponent: float) -> None:
    rates = firing_rates(200, 5.0, exponent, 0.4)
    assert float(rates.sum()) == pytest.approx(5.0, rel=1e-5)
    assert float(rates.max()) <= 0.4 + 1e-6
    free = rates[rates < 0.399]
    rank = torch.arange(200)[rates < 0.399] + 1.0
    assert torch.allclose(free[1:] / free[:-1], (rank[1:] / rank[:-1]) ** -exponent, rtol=1e-4)


@pytest.mark.parametrize(("child_share", "correlation"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.5)])
def test_concepts_fire_at_their_rates(child_share: float, correlation: float) -> None:
    models = PlantedModels(replace(SMALL, child_share=child_share, correlation=correlation))
    n_rows = 30 * BLOCK
    fired = models.rows(0, n_rows).codes.dense() > 0
    spread = (models.rates * (1 - models.rates) / n_rows).sqrt()
    assert bool(((fired.float().mean(0) - models.rates).abs() < 5 * spread).all())
    children = (models.parent >= 0).nonzero()[:, 0]
    assert len(children) == round(child_share * 30)
    assert not bool((fired[:, children] & ~fired[:, models.parent[children]]).any())


def test_correlation_makes_concepts_fire_together() -> None:
    def largest(correlation: float) -> float:
        fired = PlantedModels(replace(SMALL, correlation=correlation)).rows(0, 20 * BLOCK).codes.dense() > 0
        pairs = torch.corrcoef(fired.float().T)
        return float(pairs.fill_diagonal_(0).max())

    assert largest(0.0) < 0.05
    assert largest(0.8) > 0.3


@pytest.mark.parametrize("embedding", ["rotation", "affine", "independent"])
def test_activations_are_codes_times_directions(embedding: str) -> None:
    models = PlantedModels(replace(SMALL, embedding=embedding, noise=(0.0,)))
    rows = models.rows(100, 300)
    for m in range(2):
        expected = rows.codes.dense() @ models.directions(m) + models.offset(m)
        assert torch.allclose(rows.activations[m], expected, atol=1e-5)


def test_rotation_keeps_every_length_and_angle_across_widths() -> None:
    models = PlantedModels(replace(SMALL, exclusive=0.0))
    a, b = models.directions(0), models.directions(1)
    assert torch.allclose(a @ a.T, b @ b.T, atol=1e-5)
    assert torch.allclose(a.norm(dim=1), torch.ones(30), atol=1e-5)


@pytest.mark.parametrize("embedding", ["rotation", "affine"])
@pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 0)])
def test_the_map_carries_shared_directions(embedding: str, source: int, target: int) -> None:
    models = PlantedModels(replace(SMALL, embedding=embedding))
    shared = models.presence.all(dim=1)
    carried = models.directions(source)[shared] @ models.map(source, target)
    assert torch.allclose(carried, models.directions(target)[shared], atol=1e-3)


def test_independent_directions_have_no_map() -> None:
    with pytest.raises(UserError, match="embedding"):
        PlantedModels(replace(SMALL, embedding="independent")).map(0, 1)


@pytest.mark.parametrize("embedding", ["rotation", "affine", "independent"])
def test_nulls_are_model_0_itself_or_turned(embedding: str) -> None:
    base = replace(SMALL, embedding=embedding)
    same = PlantedModels(base.as_null("same"))
    x, y = same.rows(0, 64).activations
    assert torch.equal(x, y)
    assert set(same.labels()) == {"shared"}
    turned = PlantedModels(base.as_null("rotated"))
    x, y = turned.rows(0, 64).activations
    assert not torch.allclose(x, y, atol=1e-2)
    assert torch.allclose(x @ turned.map(0, 1), y, atol=1e-5)
    assert torch.allclose(x @ x.T, y @ y.T, atol=1e-4)
    assert torch.allclose(turned.directions(0) @ turned.map(0, 1), turned.directions(1), atol=1e-5)
    assert torch.allclose(turned.offset(0) @ turned.map(0, 1), turned.offset(1), atol=1e-5)


def test_noise_has_the_length_asked_for_in_each_model() -> None:
    models = PlantedModels(replace(SMALL, noise=(0.1, 0.5)))
    rows = models.rows(0, 4 * BLOCK)
    for m, expected in enumerate((0.1, 0.5)):
        noise = rows.activations[m] - rows.codes.dense() @ models.directions(m)
        assert float(noise.square().sum(1).mean().sqrt()) == pytest.approx(expected, rel=0.02)


def test_misaligned_rows_show_another_position_in_the_second_model() -> None:
    models = PlantedModels(replace(SMALL, misaligned=0.25, noise=(0.0,)))
    rows = models.rows(0, 8 * BLOCK)
    assert float(rows.misaligned.float().mean()) == pytest.approx(0.25, abs=0.03)
    for m in range(2):
        expected = rows.codes.dense() @ models.directions(m)
        off = (rows.activations[m] - expected).abs().max(dim=1).values > 1e-4
        if m == 0:
            assert not bool(off.any())
        else:
            assert not bool((off & ~rows.misaligned).any())
            assert float(off[rows.misaligned].float().mean()) > 0.8


@pytest.mark.parametrize("magnitude", ["half-normal", "lognormal"])
def test_strengths_follow_their_law(magnitude: str) -> None:
    value = PlantedModels(replace(SMALL, magnitude=magnitude, magnitude_spread=0.5)).rows(0, 8 * BLOCK).codes.value
    if magnitude == "half-normal":
        assert float(value.min()) >= 1
        assert float((value - 1).square().mean()) == pytest.approx(0.25, rel=0.05)
    else:
        assert float(value.log().mean()) == pytest.approx(0.0, abs=0.02)
        assert float(value.log().std()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"exclusive": 0.6}, "exclusive"),
        ({"pairwise": 0.1}, "pairwise"),
        ({"null": "same"}, "null"),
        ({"null": "same", "exclusive": 0.0}, "null"),
        ({"mean_active": 50.0}, "mean-active"),
        ({"widths": ()}, "width"),
        ({"noise": (0.1, 0.1, 0.1)}, "noise"),
        ({"correlation": 1.0}, "correlation"),
        ({"misaligned": 1.5}, "misaligned"),
        ({"seed": -1}, "seed"),
        ({"n_concepts": 0}, "concepts"),
        ({"zipf_exponent": float("nan")}, "zipf-exponent"),
        ({"child_share": 1.0}, "child-share"),
        ({"noise": (0.1, -0.1)}, "noise"),
        ({"offset": -1.0}, "offset"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_by_name(wrong: dict[str, object], setting: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(SMALL, **wrong)
    assert caught.value.setting == setting


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(UserError, match="rows"):
        PlantedModels(SMALL).rows(5, 5)
