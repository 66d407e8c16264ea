"""The measures against torch, numpy and scipy, and on cases with known answers."""

import numpy as np
import pytest
import torch
from torch.nn import functional as fn

from suture.interventions import measures
from suture.uncertainty import correlation


def log_probs(*shape: int, seed: int) -> torch.Tensor:
    return torch.log_softmax(3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("at_once", [1, 2**18])
def test_kl_and_ce_agree_with_torch(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "AT_ONCE", at_once)
    plain, edited = log_probs(7, 50, seed=0), log_probs(7, 50, seed=1)
    following = torch.arange(7)
    shift = torch.linspace(-5, 30, 7)[:, None]  # logits are log-probabilities up to a constant of each row
    predictions = measures.Predictions.of(plain + shift)
    found = predictions.kl_and_ce_change(edited - shift, following)
    kl = fn.kl_div(edited, plain, reduction="none", log_target=True).sum(-1)
    ce = fn.nll_loss(edited, following, reduction="none") - fn.nll_loss(plain, following, reduction="none")
    torch.testing.assert_close(found, torch.stack([kl, ce], 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predictions.surprise(following), -plain[following, following], rtol=1e-4, atol=1e-5)
    assert bool((kl > 0.1).all())
    at = torch.tensor([3, 0, 3])
    torch.testing.assert_close(predictions.kl((edited - shift)[at], at), kl[at], rtol=1e-4, atol=1e-5)
    unmoved = predictions.kl_and_ce_change(plain + shift, following)
    assert torch.equal(unmoved, torch.zeros(7, 2))
    assert torch.equal(predictions.kl(plain + shift), torch.zeros(7))


def test_small_shifts_are_not_lost_in_large_logits() -> None:
    """A KL of a millionth on logits around a hundred, against float64."""
    plain = 100 + 5 * torch.randn(20, 4000, generator=torch.Generator().manual_seed(0))
    edited = plain + 1e-2 * torch.randn(20, 4000, generator=torch.Generator().manual_seed(1))
    p, q = (torch.log_softmax(x.double(), dim=-1) for x in (plain, edited))
    exact = (p.exp() * (p - q)).sum(-1)
    found = measures.Predictions.of(plain).kl(edited)
    assert float(exact.max()) < 1e-4
    assert float((found - exact).abs().max()) < 2e-5  # half a unit in the last place of two sums around a hundred


def test_the_effect_is_the_change_of_the_sets_log_odds():
    plain, edited = log_probs(4, 30, seed=2), log_probs(4, 30, seed=3)
    targets, anti = torch.tensor([1, 5]), torch.tensor([2, 8, 9])

    def odds(p: torch.Tensor) -> torch.Tensor:
        return torch.log(p.exp()[:, targets].sum(1) / p.exp()[:, anti].sum(1))

    torch.testing.assert_close(measures.set_effect(plain, edited, targets, anti), odds(edited) - odds(plain))


def test_the_strength_at_a_budget_is_exact_for_a_parabola():
    strengths = [4.0, 0.5, 1.0, 2.0]
    kl = [0.03 * s * s for s in strengths]
    assert measures.strength_at(strengths, kl, 0.1) == pytest.approx((0.1 / 0.03) ** 0.5)
    assert measures.strength_at(strengths, kl, 0.003) == pytest.approx(0.1**0.5)
    assert measures.strength_at(strengths, kl, 1.0) is None
    assert measures.strength_at([-3.0, -1.0, 0.0], [9.0, 1.0, 0.0], 0.1) is None


def test_the_effect_at_a_strength_goes_through_the_measured_points():
    assert measures.effect_at([2.0, 1.0], [5.0, 3.0], 2.0) == 5.0
    assert measures.effect_at([2.0, 1.0], [5.0, 3.0], 0.5) == 1.5
    assert measures.effect_at([2.0, 1.0], [5.0, 3.0], None) is None


def test_the_correlation_is_pearsons_within_prompts():
    generator = torch.Generator().manual_seed(5)
    a = torch.randn(6, 80, generator=generator)
    b = 0.5 * a + torch.randn(6, 80, generator=generator)

    def correlated(a: torch.Tensor, b: torch.Tensor) -> float:
        ab, aa, bb = measures.prompt_sums(a, b).sum(0)
        return float(correlation(1, 0, 0, aa, bb, ab))

    found = correlated(a, b)
    centred = [(c - c.mean(1, keepdim=True)).flatten().numpy() for c in (a, b)]
    assert found == pytest.approx(np.corrcoef(*centred)[0, 1], abs=1e-6)
    shifted = b + 100 * torch.arange(6.0)[:, None]  # a normaliser of each prompt must not matter
    assert correlated(a, shifted) == pytest.approx(found, abs=1e-4)
    assert np.isnan(correlated(a, torch.zeros(6, 80)))
