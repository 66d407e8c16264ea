"""What adding features changes, against decoding with them; labels and stand-ins, against scikit-learn and numpy."""

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from random_dictionaries import dense, error, made, seen_by
from suture.activations.store import Store
from suture.dictionary.activation import SparsityKind
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.pieces import cuts
from suture.stitching.insert import changes, couplings, greedy, set_change
from suture.stitching.latents import LABELS, Reading, intervals, labelled, latents, read
from suture.stitching.proxies import average_precision, best_correlation, judged, mixture, nearest, proxies
from suture.uncertainty import auroc_interval, deal_groups

KINDS = [kind for kind in get_args(SparsityKind) if kind != "topk+batchtopk"]
ROWS = torch.arange(700)


def two(given: Store, kind: str, design: str) -> tuple[Dictionary, Dictionary, Store]:
    small, large = made(given, kind, design, n=8, seed=1), made(given, kind, design, n=14, seed=2)
    large.W_dec *= 0.3
    return small, large, seen_by(small, given)


def added(small: Dictionary, large: Dictionary, view: Store, chosen: list[int]) -> list[Tensor]:
    """What a small dictionary leaves of each kind of item with some features of the large one added, float64."""
    found = []
    for (cut, f, x), (_, g, _) in zip(dense(small, view, ROWS), dense(large, view, ROWS), strict=True):
        left = x - small.b_dec[cut].double() - f @ small.W_dec[:, cut].double()
        found.append(left - g[:, chosen] @ large.W_dec[chosen][:, cut].double())
    return found


def squares(left: list[Tensor]) -> float:
    return sum(float(e.square().sum()) for e in left)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("design", ["sae", "crosscoder", "pooled"])
def test_one_pass_finds_what_every_addition_changes(kind: str, design: str, store: Store, unequal_store: Store) -> None:
    small, large, view = two(unequal_store if design == "pooled" else store, kind, design)
    reading = read(small, large, view, ROWS)
    before = squares(added(small, large, view, []))
    assert reading.squared_error.sum() == pytest.approx(before, rel=1e-9)
    exact = np.array([squares(added(small, large, view, [i])) - before for i in range(14)])
    np.testing.assert_allclose(changes(reading), exact, rtol=1e-9, atol=1e-8)
    n_numbers = sum(e.numel() for e in added(small, large, view, []))
    found = latents(reading, draws=20)
    np.testing.assert_allclose(found.delta, exact / n_numbers, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.rows, sum((f > 0).sum(0).numpy() for _, f, _ in dense(large, view, ROWS)))
    by_space = found.delta_space * reading.numbers_by_space
    np.testing.assert_allclose(by_space.sum(1), exact, rtol=1e-8, atol=1e-8)
    i = int(np.nanargmax(found.gain))
    with torch.no_grad():
        large.W_dec[i] *= float(found.beta[i])
        best = squares(added(small, large, view, [i])) - before
        assert -best / n_numbers == pytest.approx(found.gain[i], rel=1e-5)
        large.W_dec[i] *= 1.01
        assert squares(added(small, large, view, [i])) - before > best


def test_each_space_has_its_own_change(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    found = latents(read(small, large, view, ROWS), draws=20).delta_space
    for m in range(2):
        cut = small.columns(m)
        before, after = (added(small, large, view, chosen)[0][:, cut] for chosen in ([], [3]))
        exact = float(after.square().mean() - before.square().mean())
        assert found[3, m] == pytest.approx(exact, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("design", ["crosscoder", "pooled"])
def test_sets_change_what_decoding_with_them_does(design: str, store: Store, unequal_store: Store) -> None:
    small, large, view = two(unequal_store if design == "pooled" else store, "gated", design)
    reading, chosen = read(small, large, view, ROWS), np.array([2, 3, 5, 7, 11, 13])
    coupled, change = couplings(reading, large, chosen), changes(reading)[chosen]
    before = squares(added(small, large, view, []))
    for size in (1, 2, 3, 6):
        for members in list(combinations(range(6), size))[:6]:
            exact = squares(added(small, large, view, chosen[list(members)].tolist())) - before
            assert set_change(change, coupled, members) == pytest.approx(exact, rel=1e-9, abs=1e-8)
    assert abs(set_change(change, coupled, range(6)) - change.sum()) > 1e-3 * abs(change.sum()), "they do not add"


def test_greedy_takes_the_best_one_of_all_each_time(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    large.W_dec *= 0.5
    reading, everyone = read(small, large, view, ROWS), np.arange(14)
    order, changed = greedy(changes(reading), couplings(reading, large, everyone))
    assert 2 <= len(order) < 14
    inside: list[int] = []
    now = squares(added(small, large, view, []))
    for i, gain in zip(order.tolist(), changed, strict=True):
        tried = {j: squares(added(small, large, view, [*inside, j])) - now for j in range(14) if j not in inside}
        assert min(tried, key=lambda j: tried[j]) == i
        assert tried[i] == pytest.approx(gain, rel=1e-8)
        assert gain < 0
        inside.append(i)
        now += tried[i]
    left = {j: squares(added(small, large, view, [*inside, j])) - now for j in range(14) if j not in inside}
    assert min(left.values()) >= 0, "none that is left lowers the error"
    few, _ = greedy(changes(reading), couplings(reading, large, everyone), most=1)
    assert few.tolist() == order[:1].tolist()
    whole, _ = greedy(changes(reading), couplings(reading, large, everyone), to_the_end=True)
    assert sorted(whole.tolist()) == list(range(14))


def test_intervals_are_those_of_documents_drawn_anew(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    reading = read(small, large, view, ROWS)
    low, high = intervals(reading.per_document, draws=2000, seed=0)
    documents = view.documents[ROWS].numpy()
    np.testing.assert_array_equal(reading.document, np.unique(documents, return_inverse=True)[1])
    dense_sums = reading.per_document.toarray()
    assert len(dense_sums) == len(np.unique(documents))
    np.testing.assert_allclose(dense_sums.sum(0), changes(reading), rtol=1e-9, atol=1e-9)
    chance = np.random.default_rng(1)
    drawn = np.stack([dense_sums[chance.integers(0, len(dense_sums), len(dense_sums))].sum(0) for _ in range(2000)])
    spread = np.maximum(drawn.std(0), 1e-9)
    assert (abs(low - np.quantile(drawn, 0.025, axis=0)) < 0.3 * spread).all()
    assert (abs(high - np.quantile(drawn, 0.975, axis=0)) < 0.3 * spread).all()


def test_labels_say_what_is_sure() -> None:
    low, high = np.array([-2.0, 1.0, -1.0, 0.0]), np.array([-1.0, 2.0, 1.0, 0.0])
    found = labelled(low, high, np.array([5, 5, 5, 0]))
    assert [LABELS[i] for i in found] == ["novel", "reconstruction", "undecided", "dead"]


def test_scores_of_stand_ins_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    positive = draw.random(200) < 0.3
    score = np.round(draw.normal(size=200) + positive, 1)  # with ties
    assert average_precision(score, positive) == pytest.approx(average_precision_score(positive, score))
    assert np.isnan(average_precision(score, np.zeros(200, dtype=bool)))
    label = np.where(positive, 0, 1)
    label[:20], score[30] = 2, np.nan
    asked = np.arange(200)[20:]
    asked = asked[asked != 30]
    found = judged({"decoder_cosine": -score, "beta_elsewhere": score}, label)
    for one in found.values():
        assert one.roc_auc == pytest.approx(roc_auc_score(positive[asked], score[asked]))
        assert one.pr_auc == pytest.approx(average_precision_score(positive[asked], score[asked]))
        assert (one.n_novel, one.n_decided) == (int(positive[asked].sum()), len(asked))
        ends = auroc_interval(one.roc_auc, one.n_novel, len(asked) - one.n_novel)
        assert (one.roc_low, one.roc_high) == ends


def test_stand_ins_are_what_they_say(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    reading = read(small, large, view, ROWS)
    f, g = reading.large.toarray(), reading.small.toarray()
    with np.errstate(invalid="ignore"):
        r = np.corrcoef(f.T, g.T)[:14, 14:]
    together = (f > 0).T.astype(float) @ (g > 0) >= 5
    exact = np.where(together & (r >= 0.02), np.nan_to_num(r), 0).max(1)
    np.testing.assert_allclose(best_correlation(reading.large, reading.small), exact, atol=1e-10)
    left, right = (torch.nn.functional.normalize(d.W_dec, dim=1).double().numpy() for d in (large, small))
    cosine, whose = nearest(large.W_dec, small.W_dec, 3)
    np.testing.assert_allclose(cosine[:, 0], (left @ right.T).max(1), atol=1e-6)
    np.testing.assert_array_equal(whose[:, 0], (left @ right.T).argmax(1))
    exact = [1 - nnls(right.T, row)[1] ** 2 for row in left]  # the small one has fewer than ten
    np.testing.assert_allclose(mixture(large.W_dec, small.W_dec), exact, atol=1e-6)
    found, told = proxies(reading, small, large, draws=50, seed=0)
    assert set(found) == set(told)
    assert len(cuts(small)) == 1


def test_stand_ins_and_labels_are_of_different_documents(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    rows = torch.arange(3000)
    whole: Reading = read(small, large, view, rows)
    found, told = proxies(whole, small, large, draws=50, seed=0)
    half = deal_groups(view.documents[rows], 2)
    elsewhere, here = (read(small, large, view, rows[half == side]) for side in (0, 1))
    np.testing.assert_allclose(found["beta_elsewhere"], latents(elsewhere, draws=5).beta, rtol=1e-9)
    exact = best_correlation(elsewhere.large, elsewhere.small)
    np.testing.assert_allclose(found["activation_correlation"], exact, atol=1e-12)
    assert told == judged(found, latents(here, draws=50).label)
    assert error(small, view, rows) == pytest.approx(whole.squared_error.sum(), rel=1e-9)
