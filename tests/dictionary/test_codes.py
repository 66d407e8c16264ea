"""The sparse code says what the dense matrix says, in whatever order its pairs came."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from suture.dictionary.codes import Codes, Pattern, union


def random_codes(seed: int, n_rows: int = 40, n_features: int = 7, rate: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(n_rows, n_features, generator=generator) < rate
    return torch.where(on, torch.rand(on.shape, generator=generator) + 0.01, torch.zeros(()))


def shuffled(dense: Tensor, seed: int) -> Codes:
    """As `encode` gives them: rows in order, the features of a row in any."""
    codes = Codes.from_dense(dense)
    place = torch.rand(len(codes.value), generator=torch.Generator().manual_seed(seed))
    order = torch.argsort(codes.row + place * 0.999)
    return Codes(Pattern(codes.crow, codes.feature[order], codes.n_features), codes.value[order])


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.4, 1.0]))
def test_any_order_of_pairs_is_the_same_code(seed: int, rate: float) -> None:
    dense = random_codes(seed, rate=rate)
    codes = shuffled(dense, seed)
    row, feature = torch.meshgrid(torch.arange(40), torch.arange(7), indexing="ij")
    order = torch.randperm(len(codes.value), generator=torch.Generator().manual_seed(seed))
    pairs = (t[order] for t in (codes.row, codes.feature, codes.value))
    for same in (codes, codes.ordered, Codes.from_pairs(*pairs, n_rows=40, n_features=7), codes.to("cpu")):
        assert torch.equal(same.dense(), dense)
        assert torch.equal(same.lookup(row, feature), dense)
        assert torch.equal(same.counts, (dense > 0).sum(0))
        assert torch.allclose(same.sums(2), dense.double().square().sum(0))
        group = torch.arange(40) % 3
        fired = torch.stack([(dense[group == g] > 0).sum(0) for g in range(3)])
        summed = torch.stack([dense[group == g].double().sum(0) for g in range(3)])
        assert torch.equal(same.by_group(group, 3), fired)
        assert torch.allclose(same.by_group(group, 3, same.value.double()), summed)
        assert torch.equal(torch.stack([same.column(i) for i in range(7)], dim=1), dense)
    assert bool((codes.ordered.key.diff() > 0).all())
    assert codes.ordered.ordered is codes.ordered


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_union_is_the_larger_and_concatenation_stacks(seed: int, n_parts: int) -> None:
    dense = [random_codes(seed + i) for i in range(n_parts)]
    parts = [shuffled(d, seed + i) for i, d in enumerate(dense)]
    assert torch.equal(union(parts).dense(), torch.stack(dense).amax(0))
    assert torch.equal(Codes.concatenate(parts).dense(), torch.cat(dense))
    chosen = parts[0].value > 0.5
    assert torch.equal(parts[0].kept(chosen).dense(), torch.where(dense[0] > 0.5, dense[0], 0))
    some = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[: 10 * n_parts]
    assert torch.equal(parts[0].rows(some).dense(), dense[0][some])


def test_codes_say_what_they_are() -> None:
    codes = Codes.from_dense(torch.eye(1000, 4096))
    assert repr(codes) == "Codes of 1,000 rows: 1.0 of 4,096 features active in the average row"
    assert repr(Codes.from_dense(torch.zeros(0, 3))).startswith("Codes of 0 rows")
    assert Codes.from_dense(torch.zeros(2, 3)).lookup(torch.tensor([1]), torch.tensor([2])).tolist() == [0.0]
