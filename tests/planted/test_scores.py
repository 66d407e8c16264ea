"""The scores agree with sklearn, scipy and hand-made cases."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from suture.planted import scores
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings

ALL = torch.ones(3, dtype=torch.bool)


def test_cosines_of_a_hand_made_case() -> None:
    concepts = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    decoder = torch.tensor([[3.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    expected = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0.5**0.5, -(0.5**0.5), 0]])
    assert torch.allclose(scores.cosines(concepts, decoder), expected)


def test_recovery_and_mmcs_count_live_features_only() -> None:
    cosine = torch.tensor([[0.95, 0.1, 0.2], [0.3, 0.85, -1.0], [0.1, 0.2, 0.99]])
    live = torch.tensor([True, True, False])
    assert scores.recovery(cosine, live, 0.8) == pytest.approx(2 / 3)
    assert scores.recovery(cosine, live, 0.9) == pytest.approx(1 / 3)
    assert scores.recovery(cosine, ALL, 0.9) == pytest.approx(2 / 3)
    assert scores.mmcs(cosine, live) == pytest.approx((0.95 + 0.85 + 0.2) / 3)
    nobody = torch.zeros(3, dtype=torch.bool)
    assert scores.recovery(cosine, nobody, 0.8) == scores.mmcs(cosine, nobody) == scores.mcc(cosine, nobody) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_features=st.integers(2, 6))
def test_mcc_is_the_best_of_all_one_to_one_matchings(seed: int, n_features: int) -> None:
    cosine = torch.rand(4, n_features, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    positive = cosine.clamp(min=0).double()
    if n_features >= 4:
        sums = [sum(positive[c, f] for c, f in enumerate(p)) for p in permutations(range(n_features), 4)]
    else:
        sums = [sum(positive[c, f] for f, c in enumerate(p)) for p in permutations(range(4), n_features)]
    assert scores.mcc(cosine, torch.ones(n_features, dtype=torch.bool)) == pytest.approx(float(max(sums)) / 4)


def test_a_feature_stands_for_one_concept_only() -> None:
    cosine = torch.tensor([[0.95, 0.1, 0.0], [0.9, 0.85, 0.0], [0.88, 0.2, 0.7]])
    assert scores.assign(cosine, ALL).tolist() == [0, 1, -1]
    assert scores.assign(cosine, torch.tensor([True, False, True])).tolist() == [0, -1, -1]
    assert scores.assign(cosine, ALL, threshold=0.6).tolist() == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_confusion_and_macro_f1_equal_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(scores.TRUE_LABELS, 60).tolist()
    found = [t if rng.random() < 0.6 else str(rng.choice(scores.FOUND_LABELS)) for t in truth]
    table = scores.confusion(truth, found)
    reference = confusion_matrix(truth, found, labels=list(scores.FOUND_LABELS))[:3]
    assert table.tolist() == reference.tolist()
    expected = f1_score(truth, found, labels=list(scores.TRUE_LABELS), average="macro", zero_division=0)
    assert scores.macro_f1(table) == pytest.approx(expected)


def test_macro_f1_of_a_hand_made_case_and_over_the_labels_that_occur() -> None:
    table = torch.tensor([[2, 0, 0, 0, 0, 2], [0, 4, 0, 0, 0, 0], [1, 0, 5, 2, 0, 0]])
    assert scores.macro_f1(table) == pytest.approx((4 / 7 + 1.0 + 10 / 13) / 3)
    only_shared = torch.tensor([[0] * 6, [0] * 6, [1, 0, 9, 0, 0, 0]])
    assert scores.macro_f1(only_shared) == pytest.approx(18 / 19)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_levels=st.integers(1, 20))
def test_auroc_equals_sklearn_ties_included(seed: int, n_levels: int) -> None:
    rng = np.random.default_rng(seed)
    positive = np.r_[True, False, rng.random(40) < 0.3]
    score = rng.integers(0, n_levels, 42).astype(np.float32)
    mine = scores.auroc(torch.from_numpy(score), torch.from_numpy(positive))
    assert mine == pytest.approx(roc_auc_score(positive, score))


def test_auroc_without_one_of_the_kinds_is_nan() -> None:
    assert np.isnan(scores.auroc(torch.rand(3), ALL))


def test_detection_f1_equals_sklearn_per_concept() -> None:
    generator = torch.Generator().manual_seed(0)
    active = torch.rand(500, 7, generator=generator) < 0.3
    fired = torch.rand(500, 4, generator=generator) < 0.2
    assignment = torch.tensor([6, -1, 2, 0])
    mine = scores.detection_f1(active, fired, assignment)
    for concept, feature in enumerate(assignment.tolist()):
        expected = 0.0 if feature < 0 else f1_score(fired[:, concept].numpy(), active[:, feature].numpy())
        assert float(mine[concept]) == pytest.approx(expected)


def test_map_error() -> None:
    truth = torch.eye(3)
    assert scores.map_error(truth, truth) == 0
    assert scores.map_error(torch.zeros(3, 3), truth) == pytest.approx(1.0)
    assert scores.map_error(1.1 * truth, truth) == pytest.approx(0.1, rel=1e-5)


def test_decoder_share_and_exclusivity() -> None:
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[0.0], [2.0], [0.0], [3.0]])
    share = scores.decoder_share(a, b)
    assert share.tolist() == pytest.approx([0.0, 1.0, 0.5, 0.75])
    assert scores.exclusivity(share).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.5])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scores_of_three_models_equal_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names, columns = scores.true_labels(3), scores.found_columns(3)
    assert names == ("A", "B", "C", "AB", "AC", "BC", "shared")
    truth = rng.choice(names, 80).tolist()
    found = [t if rng.random() < 0.5 else str(rng.choice(columns)) for t in truth]
    table = scores.confusion(truth, found, names, columns)
    assert table.tolist() == confusion_matrix(truth, found, labels=list(columns))[:7].tolist()
    occurring = sorted(set(truth))
    expected = f1_score(truth, found, labels=occurring, average="macro", zero_division=0)
    assert scores.macro_f1(table) == pytest.approx(expected)


def test_lacking_is_exclusivity_for_two_and_zero_where_three_have_it_alike() -> None:
    r = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scores.exclusivity(r), (2 * r - 1).abs())
    shares = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert scores.lacking(shares).tolist() == pytest.approx([0, 1, 1], abs=1e-6)
    rows = [torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [0.0]])]
    assert scores.decoder_shares(rows).tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_directions_are_counted_in_each_model_that_has_the_concept() -> None:
    truth = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])]
    decoder = [torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.3, 0.3]])]
    live = torch.tensor([True, True])
    assert scores.directions_found(truth, decoder, live) == pytest.approx(2 / 3)
    assert scores.directions_found(truth, decoder, torch.tensor([True, False])) == pytest.approx(1 / 3)


def test_the_truth_itself_scores_perfectly_and_a_shuffled_one_does_not() -> None:
    models = PlantedModels(PlantedSettings(n_concepts=50, embedding="affine"))
    scales = (2.0, 0.5)
    raw = [models.directions(0), models.directions(1)]
    decoders = [d * s for d, s in zip(raw, scales, strict=True)]
    live = torch.ones(50, dtype=torch.bool)
    truth = models.labels()
    perfect = scores.score_dictionary(raw, decoders, scales, live, truth, truth)
    assert perfect.recovery_90 == perfect.recovery_90_exclusive == perfect.macro_f1 == perfect.auroc == 1.0
    assert perfect.mmcs == pytest.approx(1.0)
    assert perfect.mcc == pytest.approx(1.0)
    half_dead = torch.arange(50) < 25
    assert scores.score_dictionary(raw, decoders, scales, half_dead, truth, truth).recovery_90 == pytest.approx(0.5)
    crossed = [raw[0], raw[1].roll(1, dims=0)]
    assert scores.score_dictionary(raw, crossed, (1.0, 1.0), live, truth, truth).recovery_90 < 0.3
