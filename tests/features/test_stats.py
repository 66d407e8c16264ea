"""The one pass, and the fitted directions, against dense float64 matrices."""

import pytest
import torch
from torch import Tensor

from features.conftest import Case, random_dictionary, scaled
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.imputation import Imputation
from suture.errors import UserError
from suture.features.settings import StatsSettings
from suture.features.stats import describe
from suture.uncertainty import deal_groups, hashed_rank


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-4) -> bool:
    size = float(expected.nan_to_num().abs().max())
    return torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance * size, equal_nan=True)


def per_space(case: Case, product: Tensor) -> Tensor:
    """Sum of [.., D] over each space's columns."""
    return torch.stack([part.sum(-1) for part in product.split(case.dictionary.widths, dim=-1)], dim=-1)


def unit(case: Case, v: Tensor) -> Tensor:
    parts = v.split(case.dictionary.widths, dim=-1)
    return torch.cat([part / part.norm(dim=-1, keepdim=True) for part in parts], dim=-1).nan_to_num()


def test_codes_are_kept_whole(case: Case) -> None:
    _, _, _, f, solo = case.dense(case.rows)
    stats = case.stats
    grid = torch.meshgrid(torch.arange(len(case.rows)), torch.arange(f.shape[1]), indexing="ij")
    assert torch.equal(stats.rows, case.rows)
    assert close(stats.joint.lookup(*grid), f, 1e-5)
    for m in range(2):
        assert close(stats.solo[m].lookup(*grid), solo[m], 1e-5)
        assert torch.equal(stats.solo_counts[:, m], (solo[m] > 0).sum(0))
    assert torch.equal(stats.firing.counts, (f > 0).sum(0))
    assert float((solo[0] != solo[1]).double().mean()) > 0


def test_each_half_of_the_documents_is_judged_by_the_other(case: Case) -> None:
    """Crossing is two one-way passes added up: what a half fits, it does not judge."""
    dictionary, store = case.dictionary, case.store
    rows = torch.arange(len(store))
    parity = hashed_rank(store.documents) % 2
    settings = StatsSettings(n_groups=12)
    crossed = describe(dictionary, store, rows, settings=settings)
    assert crossed.n_rows == len(store)
    ways = [
        describe(dictionary, store, rows[parity == h], discovery_rows=rows[parity != h], settings=settings)
        for h in range(2)
    ]
    for h, one in enumerate(ways):
        for name in ("amount", "weight", "raw"):
            both = getattr(crossed.shares, name)
            assert close(both[h::2].sum(0), getattr(one.shares, name).sum(0))
    assert torch.equal(crossed.solo_counts, ways[0].solo_counts + ways[1].solo_counts)
    assert torch.equal(crossed.firing.counts, ways[0].firing.counts + ways[1].firing.counts)


@pytest.mark.parametrize(("wanted", "made"), [(1, 2), (7, 6)])
def test_no_group_lies_in_both_halves(planted: Store, wanted: int, made: int) -> None:
    stats = describe(random_dictionary(planted), planted, torch.arange(400), settings=StatsSettings(n_groups=wanted))
    assert stats.shares.weight.shape[0] == made


def test_halves_that_fit_for_each_other_encode_a_row_once_from_all_models_and_once_from_each(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_encoded: list[int] = []
    encode = Dictionary.encode
    monkeypatch.setattr(
        Dictionary, "encode", lambda self, x, *a, **b: n_encoded.append(len(x)) or encode(self, x, *a, **b)
    )
    crossed = describe(case.dictionary, case.store, case.rows)
    assert sum(n_encoded) == 3 * len(case.rows)
    grid = torch.meshgrid(torch.arange(len(case.rows)), torch.arange(case.dictionary.n_features), indexing="ij")
    assert close(crossed.joint.lookup(*grid), encode(case.dictionary, scaled(case.store, case.rows)).dense(), 1e-5)


def test_a_missing_model_is_imputed_by_rows_that_judge_nothing(case: Case) -> None:
    """The codes from one model alone are those of whole rows whose other columns a map of the discovery rows filled."""
    stats = describe(case.dictionary, case.store, case.rows, discovery_rows=case.discovery)
    imputation = Imputation.of_rows(case.store, case.discovery)
    x = scaled(case.store, case.rows)
    grid = torch.meshgrid(torch.arange(len(case.rows)), torch.arange(case.dictionary.n_features), indexing="ij")
    for m in range(2):
        filled = imputation.fill(x, torch.arange(2) == m)
        assert close(stats.solo[m].lookup(*grid), case.dictionary.encode(filled).dense(), 1e-4)
        zeros = case.stats.solo[m].lookup(*grid)
        assert not close(stats.solo[m].lookup(*grid), zeros, 1e-2)


def test_amounts_are_those_of_dense_algebra(case: Case) -> None:
    """Steps 1 and 2 of `refit`: directions from the discovery rows, amounts on the held-out rows, group by group."""
    d, norm = case.dictionary.W_dec.detach().double(), torch.tensor([6.0, 10.0]).double().sqrt()
    x, _, e, f, _ = case.dense(case.discovery)
    x_mean, e_mean, f_mean = x.mean(0), e.mean(0), f.mean(0)
    spread = ((f - f_mean) ** 2).sum(0).unsqueeze(1)
    v = unit(case, d + ((f - f_mean).T @ (e - e_mean) / spread).nan_to_num())
    u = unit(case, ((f - f_mean).T @ (x - x_mean) / spread).nan_to_num())
    noise = torch.stack([(f**2).T @ part.square().sum(-1) for part in e.split(case.dictionary.widths, -1)], -1)
    shares, silent = case.stats.shares, spread[:, 0] == 0
    assert shares.kind == "refit"
    assert shares.noise is not None
    assert shares.raw is not None
    assert silent.any()
    assert close(shares.noise[~silent], (noise.sqrt() / spread / norm)[~silent])
    assert shares.noise[silent].isinf().all()
    x, _, e, f, _ = case.dense(case.rows)
    group = deal_groups(case.store.documents[case.rows], 12)
    for g in range(12):
        inside = group == g
        own = f[inside] - f_mean
        weight = (own**2).sum(0)
        rest = own.T @ (e[inside] - e_mean) + weight.unsqueeze(1) * d
        assert torch.equal(shares.fired[g], (f[inside] > 0).sum(0))
        assert close(shares.weight[g], weight)
        assert close(shares.amount[g], per_space(case, v * rest) / norm)
        assert close(shares.raw[g], per_space(case, u * (own.T @ (x[inside] - x_mean))) / norm)


def test_attribution_is_the_share_of_the_pre_code(case: Case) -> None:
    x, _, _, f, _ = case.dense(case.rows)
    seen = x - case.dictionary.center.double()
    W = case.dictionary.W_enc.detach().double()
    for i in range(case.stats.n_features):
        given = per_space(case, (seen * W[i])[f[:, i] > 0]).sum(0).clamp_min(0)
        assert close(case.stats.attribution[i], given / given.sum())


def test_latent_scaling_is_least_squares(case: Case) -> None:
    """beta is the scale of f_i d_i^m that explains y best (2504.02922), found here by numpy's solver."""
    x, mean, e, f, _ = case.dense(case.rows)
    d, scaling = case.dictionary.W_dec.detach().double(), case.stats.scaling
    assert scaling is not None
    rebuilt = x - e - case.dictionary.b_dec.detach().double()
    del mean
    for i in (f > 0).any(0).nonzero().flatten().tolist()[:3]:
        for m in range(2):
            columns = case.dictionary.columns(m)
            one = torch.outer(f[:, i], d[i, columns])
            for y, beta in ((e[:, columns] + one, scaling.beta_eps), (rebuilt[:, columns], scaling.beta_r)):
                best = torch.linalg.lstsq(one.reshape(-1, 1), y.reshape(-1, 1)).solution
                assert float(beta[i, m]) == pytest.approx(float(best), rel=1e-3, abs=1e-4)
            length = float(d[i, columns].norm()) / case.dictionary.widths[m] ** 0.5
            assert float(scaling.amount_eps[i, m]) == pytest.approx(float(scaling.beta_eps[i, m]) * length, rel=1e-6)


def test_batches_and_the_order_of_rows_change_nothing(case: Case) -> None:
    settings = StatsSettings(n_groups=12, batch_rows=37, n_top=4)
    order = torch.randperm(len(case.rows), generator=torch.Generator().manual_seed(0))
    again = describe(
        case.dictionary, case.store, case.rows[order], discovery_rows=case.discovery.flip(0), settings=settings
    )
    assert torch.equal(again.joint.key, case.stats.joint.key)
    assert torch.equal(again.top.position, case.stats.top.position)
    assert close(again.shares.amount, case.stats.shares.amount)
    assert close(again.attribution, case.stats.attribution)


def test_energy_is_the_features_part_of_what_is_decoded(case: Case) -> None:
    f = case.dense(case.rows)[3]
    expected = (f**2).sum(0) * case.dictionary.W_dec.detach().double().square().sum(1)
    assert close(case.stats.energy, expected)


def test_a_pooled_dictionary_is_counted_per_model(planted: Store) -> None:
    dictionary = random_dictionary(planted, "pooled")
    rows = torch.arange(500, 900)
    stats = describe(dictionary, planted, rows, discovery_rows=torch.arange(100))
    x = scaled(planted, rows)
    solo = [dictionary.encode(torch.nn.functional.pad(x[:, :6], (0, 4)), model=torch.zeros(400).long()).dense()]
    solo.append(dictionary.encode(x[:, 6:], model=torch.ones(400).long()).dense())
    counts = torch.stack([(s > 0).sum(0) for s in solo], -1)
    assert torch.equal(stats.solo_counts, counts)
    assert torch.equal(stats.firing.counts, counts.sum(1))
    assert close(stats.shares.amount.sum(0), torch.stack([(s.double() ** 2).sum(0) for s in solo], -1))
    assert float(stats.shares.weight[:, 0].sum()) == 400
    both = torch.cat(solo)[:, 2]
    assert float(stats.firing.quantiles[2, 0]) == pytest.approx(float(both[both > 0].quantile(0.5)), rel=1e-6)
    assert close(stats.attribution, counts / counts.sum(1, keepdim=True))
    assert stats.scaling is None


def test_progress_reaches_all_rows(planted: Store) -> None:
    seen: list[tuple[str, int, int]] = []
    describe(
        random_dictionary(planted),
        planted,
        torch.arange(200, 300),
        discovery_rows=torch.arange(150),
        settings=StatsSettings(batch_rows=64),
        on_progress=lambda *told: seen.append(told),
    )
    assert ("directions", 150, 150) in seen
    assert seen[-1] == ("features", 100, 100)


def test_refusals(planted: Store) -> None:
    with pytest.raises(UserError, match="too few documents"):
        describe(random_dictionary(planted), planted, torch.arange(0), discovery_rows=torch.arange(10))
    with pytest.raises(UserError, match="groups = 0"):
        StatsSettings(n_groups=0)
