"""Statistics from the non-zeros equal those of the dense matrix, computed by numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from suture.dictionary.codes import Codes
from suture.features.activity import QUANTILES, cofiring, firing, mean_cofiring, top_rows


def sparse(dense: Tensor) -> Codes:
    """The list of a dense matrix's positive entries, given in shuffled order."""
    row, feature = torch.nonzero(dense, as_tuple=True)
    order = torch.randperm(len(row), generator=torch.Generator().manual_seed(0))
    row, feature = row[order], feature[order]
    return Codes.from_pairs(row, feature, dense[row, feature], n_rows=dense.shape[0], n_features=dense.shape[1])


def random_codes(seed: int, n_rows: int = 60, n_features: int = 7, rate: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(n_rows, n_features, generator=generator) < rate
    on[:, 0] = False  # a dead feature
    on[:, 1] = False
    on[3, 1] = True  # one that fires once
    return torch.where(on, torch.rand(on.shape, generator=generator) + 0.01, torch.zeros(()))


@given(st.integers(0, 10**6), st.integers(4, 80), st.integers(2, 9), st.sampled_from([0.0, 0.05, 0.4, 1.0]))
def test_firing_is_numpys(seed: int, n_rows: int, n_features: int, rate: float) -> None:
    dense = random_codes(seed, n_rows, n_features, rate)
    found = firing(sparse(dense))
    for i in range(n_features):
        values = dense[:, i][dense[:, i] > 0].double().numpy()
        assert int(found.counts[i]) == len(values)
        if len(values) == 0:
            assert found.mean[i].isnan()
            assert found.quantiles[i].isnan().all()
            continue
        assert float(found.mean[i]) == pytest.approx(values.mean())
        assert float(found.maximum[i]) == values.max()
        assert found.quantiles[i].numpy() == pytest.approx(np.quantile(values, QUANTILES), rel=1e-12)


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.9]))
def test_cofiring_is_numpys(seed: int, rate: float) -> None:
    a, b = random_codes(seed, rate=rate), random_codes(seed + 1, rate=0.3)
    b = torch.where(torch.rand(b.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, a, b)
    found = cofiring(sparse(a), sparse(b))
    for i in range(a.shape[1]):
        x, y = a[:, i].double().numpy(), b[:, i].double().numpy()
        either = int(((x > 0) | (y > 0)).sum())
        if either:
            assert float(found.jaccard[i]) == pytest.approx(((x > 0) & (y > 0)).sum() / either)
            assert float(found.weighted_jaccard[i]) == pytest.approx(np.minimum(x, y).sum() / np.maximum(x, y).sum())
        else:
            assert found.jaccard[i].isnan()
        if x.std() > 0 and y.std() > 0:
            assert float(found.correlation[i]) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
        else:
            assert found.correlation[i].isnan()


def test_cofiring_of_a_code_with_itself_is_complete() -> None:
    codes = sparse(random_codes(1))
    found = cofiring(codes, codes)
    assert found.jaccard[1:].tolist() == [1.0] * 6
    assert found.correlation[1:].numpy() == pytest.approx(1.0)


def test_cofiring_with_nothing() -> None:
    codes, nothing = sparse(random_codes(1)), sparse(torch.zeros(60, 7))
    for found in (cofiring(codes, nothing), cofiring(nothing, codes)):
        assert found.jaccard[1:].tolist() == [0.0] * 6
        assert found.correlation.isnan().all()


def test_of_three_models_the_pairs_are_averaged() -> None:
    codes = [sparse(random_codes(s)) for s in range(3)]
    pairs = [cofiring(codes[i], codes[j]).jaccard for i, j in ((0, 1), (0, 2), (1, 2))]
    assert torch.allclose(mean_cofiring(codes).jaccard[2:], torch.stack(pairs).mean(0)[2:])


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.integers(1, 20))
def test_top_rows_are_those_of_a_plain_search(seed: int, n_top: int, per_document: int, n_documents: int) -> None:
    dense = random_codes(seed)
    document = torch.randint(n_documents, (60,), generator=torch.Generator().manual_seed(seed)) * 1000 - 5
    found = top_rows(sparse(dense), document, n_top=n_top, n_per_document=per_document)
    for i in range(dense.shape[1]):
        chosen: list[int] = []
        taken: dict[int, int] = {}
        for row in sorted(range(60), key=lambda r: (-float(dense[r, i]), r)):
            number = int(document[row])
            if dense[row, i] > 0 and taken.get(number, 0) < per_document and len(chosen) < n_top:
                chosen.append(row)
                taken[number] = taken.get(number, 0) + 1
        assert found.position[i].tolist() == chosen + [-1] * (n_top - len(chosen))
        assert found.value[i, : len(chosen)].tolist() == [float(dense[r, i]) for r in chosen]
        assert found.value[i, len(chosen) :].isnan().all()
