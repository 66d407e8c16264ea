"""Collateral features: those that a vector is built to move, and no others."""

import pytest
import torch

from interventions.conftest import FEATURES, PROMPTS, SENTENCES, known_dictionary, steer_effect
from suture.interventions.edits import solo_codes
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.collateral import FAR, Bystanders
from suture.interventions.steer.probe import make_probe
from suture.lm.continuations import nats_after


@pytest.fixture
def bystanders(models, dictionary) -> Bystanders:
    probe = make_probe(
        models[0], dictionary.spaces[0].hookpoint, neutral=SENTENCES, prompts=PROMPTS, block=64, batch_tokens=999
    )
    found = Bystanders.of(dictionary, 0, probe, 0)
    assert found is not None
    return found


def test_it_is_the_count_of_a_direct_computation(models, dictionary, bystanders):
    probe = make_probe(
        models[0], dictionary.spaces[0].hookpoint, neutral=SENTENCES, prompts=PROMPTS, block=64, batch_tokens=999
    )
    read = list(probe.neutral_rows())
    rows, text = torch.cat([r for r, _ in read]), torch.cat([t for _, t in read])
    every = torch.arange(FEATURES)
    plain = solo_codes(dictionary, 0, rows, every).double()
    per_text = torch.stack([plain[text == t].mean(0) for t in range(len(SENTENCES))])
    spread = per_text.std(0)
    spread = spread.clamp_min(float(spread[plain.sum(0) > 0].median()))
    vector = 0.6 * dictionary.raw_decoder(0)[3]
    after = solo_codes(dictionary, 0, rows + vector, every).double()
    wanted = (after.mean(0) - plain.mean(0)).abs() > FAR * spread
    wanted[3] = False
    assert torch.equal(bystanders.moved(vector, 3), wanted)
    assert 0 < int(wanted.sum()) < FEATURES - 1


def test_nothing_moves_without_a_vector_and_the_steered_one_does_not_count(dictionary, bystanders):
    assert int(bystanders.moved(torch.zeros(dictionary.spaces[0].width), 0).sum()) == 0
    far = 50 * dictionary.raw_decoder(0)[5]
    assert not bool(bystanders.moved(far, 5)[5])
    assert bool((bystanders.moved(far, 5) | (torch.arange(FEATURES) == 5)).sum() > 1)


def test_steering_reports_it_for_every_dose_and_for_controls(models):
    settings = SteerSettings(
        strengths=(0.0, 1.0, 8.0), n_controls=1, n_random=1, n_draws=10, n_generation_prompts=1, max_new_tokens=8
    )
    effect = steer_effect(
        known_dictionary(models), models, 1, scales=torch.full((FEATURES,), 2.0), neutral=SENTENCES, prompts=PROMPTS,
        settings=settings,
    )  # fmt: skip
    for model in effect.models:
        assert len(model.collateral) == 3
        assert model.collateral[0] == 0
        assert model.collateral[2] >= model.collateral[1]
        assert model.collateral[2] > 0
        assert all(c.collateral is not None for c in model.controls if c.n_directions)
        written = model.generations[-1]
        lm = next(lm for lm in models if model.model.startswith(lm.name))
        nats, count = nats_after(lm, [written.prompt], [written.text.removeprefix(written.prompt)])
        assert written.strength == 8.0
        assert written.nats == pytest.approx(float(nats[0] / count[0]), rel=1e-4)  # by the model left alone


def test_a_single_text_says_nothing_of_spread(models):
    settings = SteerSettings(strengths=(1.0,), n_controls=0, n_random=0, n_draws=10, n_generation_prompts=0)
    effect = steer_effect(
        known_dictionary(models), models, 1, scales=torch.ones(FEATURES), neutral=SENTENCES[:1], prompts=PROMPTS,
        settings=settings,
    )  # fmt: skip
    assert effect.models[0].collateral == ()
