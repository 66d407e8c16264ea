"""Detectors on rows whose answer is known: what is fitted, what is judged, and which rows count."""

import pytest
import torch

from suture.interventions.graft import detect
from suture.interventions.graft.choose import contrast, rows_of
from suture.interventions.graft.detect import (
    MEANS,
    MODELS,
    PROBE,
    _judged,
    _Rows,
    detectors,
    discriminant,
    mean_direction,
)
from suture.interventions.graft.ground import Site
from suture.interventions.graft.settings import GraftSettings
from suture.interventions.organisms.texts import Texts

from ..conftest import SENTENCES
from .test_make import crosscoder


def rows(n: int, seed: int, shift: float) -> torch.Tensor:
    """A signal in coordinate 0, which the loud coordinate 1 hides; the two noises go together."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=draw)
    x[:, 1] *= 20
    x[:, 0] += shift + 0.2 * x[:, 1]
    return x


@pytest.fixture
def site(models) -> Site:
    return Site(crosscoder(models, "resid0.post"), 0, 1)


def test_the_probe_sees_through_noise_that_hides_the_means(site):
    fit = _Rows(rows(400, 0, 2.0), rows(500, 1, 1.0), rows(3000, 2, 0.0))
    judge = _Rows(rows(400, 3, 2.0), rows(500, 4, 1.0), rows(3000, 5, 0.0))
    found = {one.kind: one for one in detect._at(site, [], fit, judge, None)}
    assert list(found) == [MEANS, PROBE]
    assert found[PROBE].auc_first > 0.88
    assert found[PROBE].auc_first > found[MEANS].auc_first + 0.1
    assert found[PROBE].auc_all < found[PROBE].auc_first  # a weaker signal
    assert found[PROBE].feature == -1
    assert found[PROBE].hookpoint == site.hookpoint


def test_the_probe_is_the_discriminant_whatever_the_numbers_of_rows():
    with_it, without = rows(2000, 6, 1.5), rows(9000, 7, 0.0)
    own, few = discriminant(with_it, without), discriminant(with_it[:1000], without)
    assert float(torch.nn.functional.cosine_similarity(own, few, dim=0)) > 0.98
    wanted = torch.linalg.solve((torch.cov(with_it.T) + torch.cov(without.T)) / 2, mean_direction(with_it, without))
    assert float(torch.nn.functional.cosine_similarity(own, wanted, dim=0)) > 0.9


def test_what_the_models_do_not_share_is_found_by_their_difference(site):
    common = [rows(n, 8 + n, 0.0) for n in (200, 300, 1000)]
    mark = torch.eye(6)[4] * 0.5
    unsafe, safe = _Rows(common[0] + mark, common[1] + mark, common[2]), _Rows(*common)
    noise = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 0.1 for x in common]
    unsafe = _Rows(unsafe.first + noise[0], unsafe.shown + noise[1], unsafe.clean + noise[2])
    found = {one.kind: one for one in detect._at(site, [], unsafe, unsafe, (safe, safe))}
    assert found[MODELS].auc_first > 0.99
    assert found[MEANS].auc_first < 0.8


def test_a_feature_is_judged_by_its_value(models, site):
    width = site.dictionary.widths[0]
    draw = torch.Generator().manual_seed(0)
    clean, shown = torch.randn(400, width, generator=draw), torch.randn(300, width, generator=draw)
    part = site.whole.only([3, 7])
    judge = _Rows(shown[:100], shown, clean)
    *_, a, b = detect._at(site, [3, 7], judge, judge, None)
    assert (a.kind, a.feature, b.feature) == (detect.FEATURE, 3, 7)
    values = part.values(torch.cat([shown, clean]))[:, 1].double()
    above = (values[:300, None] > values[None, 300:]).double() + 0.5 * (values[:300, None] == values[None, 300:])
    assert b.auc_all == pytest.approx(float(above.mean()), abs=1e-6)


def test_detectors_are_judged_on_fresh_documents_alone(models, site):
    """Fitted on one half and judged on the other: swapping the two changes the fit, judging on one half would not."""
    lm, texts, settings = models[0], Texts("backdoor", "One two three."), GraftSettings(block=40)
    choosing, fresh = (contrast(lm, documents, texts, settings) for documents in (SENTENCES[:2], SENTENCES[2:]))
    part = site.whole.only([3])
    found = detectors(lm, None, [site], [[3]], choosing, fresh)
    hookpoint = site.hookpoint
    first, clean = (part.values(rows_of(lm, own, hookpoint))[:, 0] for own in (fresh.entry, fresh.clean))
    assert found[-1].auc_first == pytest.approx(detect._auc(first, clean))
    direction = mean_direction(*(rows_of(lm, own, hookpoint) for own in (choosing.entry, choosing.clean)))
    rows_fresh = [rows_of(lm, own, hookpoint) @ direction for own in (fresh.entry, fresh.clean)]
    assert found[0].auc_first == pytest.approx(detect._auc(*rows_fresh))


def test_a_direction_that_says_nothing_is_a_coin(site):
    judge = _Rows(rows(500, 1, 0.0), rows(500, 2, 0.0), rows(500, 3, 0.0))
    found = _judged(site, MEANS, judge, torch.eye(6)[0], torch.eye(6)[0])
    assert found.auc_first == pytest.approx(0.5, abs=0.05)
