"""The choice of what is active agrees with a plain search, through bf16 products too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suture.dictionary.kernels import select
from suture.dictionary.kernels.select import Chunks, best_of_row
from suture.errors import UserError


@given(st.integers(0, 10_000), st.sampled_from([8, 24, 64, 96, 512, 1000, 1024]), st.integers(1, 8))
def test_top_k_finds_the_k_largest(seed: int, n_features: int, k: int) -> None:
    pre = torch.randn(5, n_features, generator=torch.Generator().manual_seed(seed))
    found = best_of_row(pre, k).sort(dim=1).values
    assert torch.equal(found, pre.topk(k).indices.sort(dim=1).values)


@given(st.integers(0, 10_000))
def test_top_k_of_bf16_finds_the_largest_positive_values(seed: int) -> None:
    pre = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed)).bfloat16()
    values = pre.gather(1, best_of_row(pre, 6)).sort(dim=1, descending=True).values
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
    selection = chunks.top_k(8)
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
    selection = chunks.top_of_batch(8.0, weight)
    best = score.flatten().topk(300 * 8)
    assert selection.pattern.n_active == 300 * 8
    assert selection.cutoff == pytest.approx(float(best.values[-1]), rel=1e-4)
    flat = selection.pattern.row.long() * 512 + selection.pattern.feature.long()
    assert set(flat.tolist()) == set(best.indices.tolist())


def test_batchtopk_with_fewer_positive_scores_than_wanted_keeps_all_of_them() -> None:
    chunks = chunks_of(n_rows=20)
    buried = Chunks(chunks.x, chunks.W_enc, chunks.b_enc - 1.5)
    selection = buried.top_of_batch(400.0, torch.ones(512))
    assert selection.pattern.n_active == int(((chunks.x @ chunks.W_enc.T + buried.b_enc) > 0).sum())


def test_rows_are_processed_in_chunks_without_changing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = chunks_of()
    whole = chunks.top_k(8)
    monkeypatch.setattr(select, "CHUNK_ELEMENTS", 512 * 64)
    assert len(list(chunks)) == 5
    parts = chunks.top_k(8)
    assert torch.equal(parts.pattern.feature.sort().values, whole.pattern.feature.sort().values)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="precision = float16: is unknown"):
        select.resolve_precision("float16", torch.device("cpu"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_top_k_among_many_equal_values_finds_k_different_entries(
    dtype: torch.dtype, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "PARALLEL_ELEMENTS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    pre = torch.randint(0, 4, (7, 96), generator=torch.Generator().manual_seed(1)).to(dtype)
    found = best_of_row(pre, 8)
    assert all(len(set(row)) == 8 for row in found.tolist())
    assert torch.equal(pre.gather(1, found).sort(dim=1, descending=True).values, pre.topk(8).values)


def test_top_k_of_negative_float32_values_is_in_order() -> None:
    pre = -torch.rand(6, 64, generator=torch.Generator().manual_seed(2)) - 0.1
    assert torch.equal(best_of_row(pre, 5).sort(dim=1).values, pre.topk(5).indices.sort(dim=1).values)


def test_a_larger_group_is_taken_where_features_are_many() -> None:
    assert [select._group_size(n, k) for n, k in ((8192, 40), (2048, 24), (97, 3), (16, 16))] == [8, 8, 1, 1]


@given(st.integers(0, 10_000))
def test_entries_above_a_bar_come_row_by_row(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    pre, bar = torch.randn(5, 33, generator=draw), torch.randn(33, generator=draw)
    row, feature = select.entries_above(pre, bar)
    assert torch.equal(torch.stack([row, feature], 1), (pre > bar).nonzero())


@pytest.mark.parametrize("low", [0.0, -0.5])
def test_entries_of_bf16_above_a_bar_are_those_of_a_plain_comparison(low: float) -> None:
    draw = torch.Generator().manual_seed(4)
    pre = torch.randn(9, 40, generator=draw).bfloat16()
    bar = torch.rand(40, generator=draw) + low
    row, feature = select.entries_above(pre, bar)
    assert torch.equal(torch.stack([row, feature], 1), (pre > bar.bfloat16()).nonzero())


def test_batchtopk_of_equal_scores_keeps_as_many_as_wanted() -> None:
    x, W = torch.ones(6, 4), torch.ones(10, 4)
    selection = Chunks(x, W, torch.zeros(10)).top_of_batch(3.0, torch.ones(10))
    assert (selection.pattern.n_active, selection.cutoff) == (18, 4.0)


def test_a_bar_of_minus_zero_is_zero() -> None:
    pre = torch.tensor([[-1.0, 0.0, 2.0]]).bfloat16()
    assert [t.tolist() for t in select.entries_above(pre, torch.tensor([-0.0] * 3))] == [[0], [2]]
