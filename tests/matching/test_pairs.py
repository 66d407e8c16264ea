"""Separate dictionaries matched by activity: correlations are numpy's, planted partners are found, chance has none."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.dictionary.codes import Codes
from suture.matching.pairs import MIN_TOGETHER, correlations, match
from suture.studies.findings import labels_of

ROWS = 4_000


def activity(n: int, seed: int) -> Tensor:
    """Independent features, each active on a twentieth of the rows."""
    draw = torch.Generator().manual_seed(seed)
    on = torch.rand(ROWS, n, generator=draw) < 0.05
    return on * (1 + torch.rand(ROWS, n, generator=draw))


DOCUMENTS = torch.arange(ROWS) // 20


def test_correlations_are_numpys() -> None:
    a, b = activity(5, 0), activity(7, 1)
    b[:, 0] = a[:, 2] * 2 + activity(1, 2)[:, 0]
    found = correlations(csr_matrix(a.double().numpy()), csr_matrix(b.double().numpy()))
    expected = np.corrcoef(a.double().numpy().T, b.double().numpy().T)[:5, 5:]
    together = (a > 0).double().T @ (b > 0).double()
    assert np.allclose(found.numpy(), np.where(together >= MIN_TOGETHER, expected, 0), atol=1e-12)
    assert int((together >= MIN_TOGETHER).sum()) > 20
    assert float(correlations(csr_matrix(np.zeros((9, 1))), csr_matrix(np.ones((9, 1))))[0, 0]) == 0


def test_planted_partners_are_found_and_the_others_stay_alone() -> None:
    shared, only_a, only_b = activity(30, 0), activity(8, 1), activity(6, 2)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(3))
    a = torch.cat([shared, only_a, torch.zeros(ROWS, 1)], dim=1)
    b = torch.cat([shared * 3, only_b], dim=1)[:, order]
    found = match([Codes.from_dense(a), Codes.from_dense(b)], DOCUMENTS)
    labels = labels_of(found)
    for i in range(30):
        assert int(found.members[i, 1]) == int((order == i).nonzero())
        assert float(found.score[i]) > 0.99
        assert labels[i] == "shared"
    wrong = sum(name == "shared" for name in labels[30:38])
    assert wrong <= 1  # one pair of chance in a hundred is above the bar
    assert labels.count("dead") == 1
    assert labels.count("A") == 8 - wrong
    assert labels.count("B") == 6 - wrong
    assert 0 <= found.bars[0] < 0.2


def test_of_rows_that_do_not_belong_together_hardly_anything_is_joined() -> None:
    found = match([Codes.from_dense(activity(80, 4)), Codes.from_dense(activity(80, 5))], DOCUMENTS)
    labels = labels_of(found)
    assert labels.count("shared") <= 4
    assert labels.count("A") == labels.count("B") >= 76


def test_three_models_are_joined_one_after_the_other() -> None:
    everyone, pair, late = activity(10, 0), activity(5, 1), activity(4, 2)
    a = torch.cat([everyone, pair], dim=1)
    b = torch.cat([late, everyone], dim=1)
    c = torch.cat([pair, everyone.flip(1), late], dim=1)
    found = match([Codes.from_dense(x) for x in (a, b, c)], DOCUMENTS)
    labels = labels_of(found)
    counts = {name: labels.count(name) for name in sorted(set(labels))}
    assert counts == {"AC": 5, "BC": 4, "shared": 10}
    for row, name in zip(found.members.tolist(), labels, strict=True):
        if name == "shared":
            assert (row[1], row[2]) == (row[0] + 4, 5 + 9 - row[0])
    # every feature of every model is in one joined feature
    for m, width in enumerate((15, 14, 19)):
        members = found.members[:, m]
        assert sorted(members[members >= 0].tolist()) == list(range(width))


def test_a_feature_too_rare_to_be_matched_is_undecided() -> None:
    rare = torch.zeros(ROWS, 1)
    rare[:60:20] = 1.0
    found = match(
        [Codes.from_dense(torch.cat([activity(5, 0), rare], dim=1)), Codes.from_dense(activity(5, 0))], DOCUMENTS
    )
    labels = labels_of(found)
    assert list(labels) == ["shared"] * 5 + ["ambiguous"]


@pytest.mark.parametrize("n_models", [2, 3])
def test_codes_against_themselves_are_all_shared(n_models: int) -> None:
    found = match([Codes.from_dense(activity(40, 6))] * n_models, DOCUMENTS)
    labels = labels_of(found)
    assert set(labels) == {"shared"}
