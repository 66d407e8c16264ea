"""The sparse arithmetic agrees with dense arithmetic."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suture.dictionary import kernels
from suture.dictionary.design import Sparsity
from suture.dictionary.kernels import Chunks, Pattern, preactivations, sampled_product, top_k, transpose_times
from suture.dictionary.sparsity import select_inference, select_training
from suture.errors import UserError


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
    torch.testing.assert_close(kernels.decode(at_pairs, W, pattern), dense @ W)


def test_the_fallback_without_mkl_gives_the_same_sampled_product(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, _ = a_pattern()
    x, W = torch.randn(9, 6), torch.randn(14, 6)
    fast = sampled_product(pattern, x, W)
    monkeypatch.setattr(kernels, "_has_sampled_addmm", lambda _: False)
    monkeypatch.setattr(kernels, "CHUNK_ELEMENTS", 20)
    torch.testing.assert_close(sampled_product(pattern, x, W), fast)


def test_an_empty_pattern_decodes_to_zero_and_has_zero_gradients() -> None:
    pattern = Pattern.from_pairs(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 3, 4)
    W = torch.randn(4, 5, requires_grad=True)
    out = kernels.decode(preactivations(torch.randn(3, 5), W, pattern), W, pattern)
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
    assert torch.autograd.gradcheck(lambda v, w: kernels.decode(v, w, pattern), (value, W))


@given(st.integers(0, 10_000), st.sampled_from([8, 24, 64, 96, 512, 1000, 1024]), st.integers(1, 8))
def test_top_k_finds_the_k_largest(seed: int, n_features: int, k: int) -> None:
    pre = torch.randn(5, n_features, generator=torch.Generator().manual_seed(seed))
    found = top_k(pre, k).sort(dim=1).values
    assert torch.equal(found, pre.topk(k).indices.sort(dim=1).values)


@given(st.integers(0, 10_000))
def test_top_k_of_bf16_finds_the_largest_positive_values(seed: int) -> None:
    pre = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed)).bfloat16()
    values = pre.gather(1, top_k(pre, 6)).sort(dim=1, descending=True).values
    assert torch.equal(values, pre.topk(6).values)  # of equal values any may be chosen


def chunks_of(*, precision: str = "float32", n_rows: int = 300, n_features: int = 512, width: int = 48) -> Chunks:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(n_rows, width, generator=draw)
    W = torch.randn(n_features, width, generator=draw) / width**0.5
    return Chunks(x, W, torch.randn(n_features, generator=draw) * 0.1, precision)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_topk_keeps_the_k_largest_of_every_row_even_through_a_bf16_product(precision: str) -> None:
    chunks = chunks_of(precision=precision)
    exact = chunks.x @ chunks.W_enc.T + chunks.b_enc
    selection = select_inference(chunks, Sparsity(kind="topk", k=8), torch.zeros(512))
    chosen = selection.pattern.feature.view(-1, 8).long().sort(dim=1).values
    wanted = exact.topk(8).indices.sort(dim=1).values
    # bf16 may swap entries that differ by less than its rounding; eight spare candidates make that rare
    assert float((chosen == wanted).all(1).double().mean()) >= (1.0 if precision == "float32" else 0.99)
    torch.testing.assert_close(selection.pre, exact[selection.pattern.row.long(), selection.pattern.feature.long()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batchtopk_keeps_exactly_the_best_scores_of_the_batch(precision: str) -> None:
    chunks = chunks_of(precision=precision)
    weight = torch.rand(512, generator=torch.Generator().manual_seed(5)) + 0.5
    score = (chunks.x @ chunks.W_enc.T + chunks.b_enc) * weight
    selection = select_training(
        chunks, Sparsity(kind="batchtopk", k=8), k=8.0, score_weight=weight, threshold=torch.zeros(512)
    )
    best = score.flatten().topk(300 * 8)
    assert selection.pattern.n_active == 300 * 8
    assert selection.cutoff == pytest.approx(float(best.values[-1]), rel=1e-4)
    flat = selection.pattern.row.long() * 512 + selection.pattern.feature.long()
    assert set(flat.tolist()) == set(best.indices.tolist())


def test_batchtopk_with_fewer_positive_scores_than_wanted_keeps_all_of_them() -> None:
    chunks = chunks_of(n_rows=20)
    buried = Chunks(chunks.x, chunks.W_enc, chunks.b_enc - 1.5)
    selection = select_training(
        buried, Sparsity(kind="batchtopk", k=400), k=400.0, score_weight=torch.ones(512), threshold=torch.zeros(512)
    )
    assert selection.pattern.n_active == int(((chunks.x @ chunks.W_enc.T + buried.b_enc) > 0).sum())


def test_rows_are_processed_in_chunks_without_changing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = chunks_of()
    whole = select_inference(chunks, Sparsity(k=8), torch.zeros(512))
    monkeypatch.setattr(kernels, "CHUNK_ELEMENTS", 512 * 64)
    assert len(list(chunks)) == 5
    parts = select_inference(chunks, Sparsity(k=8), torch.zeros(512))
    assert torch.equal(parts.pattern.feature.sort().values, whole.pattern.feature.sort().values)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="precision = float16: is unknown"):
        kernels.resolve_precision("float16", torch.device("cpu"))  # pyright: ignore[reportArgumentType]
