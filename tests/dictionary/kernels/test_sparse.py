"""The sparse arithmetic agrees with dense arithmetic."""

import pytest
import torch

from suture.dictionary.codes import Pattern
from suture.dictionary.kernels import sparse
from suture.dictionary.kernels.sparse import preactivations, sampled_product, transpose_times


def a_pattern(n_rows: int = 9, n_features: int = 14, *, seed: int = 0) -> tuple[Pattern, torch.Tensor]:
    """A random pattern with empty rows and unused features, and its 0/1 mask."""
    mask = torch.rand(n_rows, n_features, generator=torch.Generator().manual_seed(seed)) < 0.25
    mask[2], mask[:, 5] = False, False
    row, feature = torch.nonzero(mask, as_tuple=True)
    return Pattern.from_pairs(row, feature, n_rows, n_features), mask


def test_a_pattern_knows_its_rows_and_its_order_by_feature() -> None:
    pattern, mask = a_pattern()
    assert torch.equal(torch.stack([pattern.row, pattern.feature], 1).long(), mask.nonzero())
    order, row, begins = pattern.by_feature
    by_column = mask.T.nonzero()
    assert torch.equal(torch.stack([pattern.feature[order], row], 1).long(), by_column)
    assert torch.equal(begins.diff().long(), mask.sum(0))


def test_sampled_product_and_transpose_times_agree_with_dense_products() -> None:
    pattern, mask = a_pattern()
    x, W = torch.randn(9, 6, dtype=torch.float64), torch.randn(14, 6, dtype=torch.float64)
    at_pairs = (x @ W.T)[mask]
    torch.testing.assert_close(sampled_product(pattern, x, W), at_pairs)
    dense = torch.zeros(9, 14, dtype=torch.float64)
    dense[mask] = at_pairs
    torch.testing.assert_close(transpose_times(pattern, at_pairs, x), dense.T @ x)
    torch.testing.assert_close(sparse.decode(at_pairs, W, pattern), dense @ W)


def test_the_fallback_without_mkl_gives_the_same_sampled_product(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, _ = a_pattern()
    x, W = torch.randn(9, 6), torch.randn(14, 6)
    fast = sampled_product(pattern, x, W)
    monkeypatch.setattr(sparse, "_has_sampled_addmm", lambda _: False)
    monkeypatch.setattr(sparse, "PIECE_ELEMENTS", 20)
    torch.testing.assert_close(sampled_product(pattern, x, W), fast)


@pytest.mark.parametrize("n_features", [6, 9, 40])
def test_the_sampled_product_is_the_same_by_row_and_by_feature(n_features: int) -> None:
    pattern, mask = a_pattern(n_features=n_features)
    x, W = torch.randn(9, 6, dtype=torch.float64), torch.randn(n_features, 6, dtype=torch.float64)
    torch.testing.assert_close(sampled_product(pattern, x, W), (x @ W.T)[mask])


@pytest.mark.parametrize("has_mkl", [True, False])
def test_products_of_rows_and_sums_of_features_agree_with_dense_ones(
    has_mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "_has_sampled_addmm", lambda _: has_mkl)
    a, b = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(sparse.row_products(a, b), (a * b).sum(1))
    pattern, mask = a_pattern()
    value = torch.randn(pattern.n_active, dtype=torch.float64)
    dense = torch.zeros(9, 14, dtype=torch.float64)
    dense[mask] = value
    torch.testing.assert_close(sparse.feature_sums(pattern, value), dense.sum(0))


def test_an_empty_pattern_decodes_to_zero_and_has_zero_gradients() -> None:
    pattern = Pattern.from_pairs(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 3, 4)
    W = torch.randn(4, 5, requires_grad=True)
    out = sparse.decode(preactivations(torch.randn(3, 5), W, pattern), W, pattern)
    assert torch.equal(out, torch.zeros(3, 5))
    out.sum().backward()
    assert W.grad is not None
    assert torch.equal(W.grad, torch.zeros(4, 5))


def test_the_two_differentiable_products_pass_gradcheck() -> None:
    pattern, _ = a_pattern()
    x = torch.randn(9, 3, dtype=torch.float64)
    W = torch.randn(14, 3, dtype=torch.float64, requires_grad=True)
    value = torch.randn(pattern.n_active, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: preactivations(x, w, pattern), W)
    assert torch.autograd.gradcheck(lambda v, w: sparse.decode(v, w, pattern), (value, W))
