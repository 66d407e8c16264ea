"""The label rule on constructed amounts, and on hand-made dictionaries whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from features.conftest import random_dictionary
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features import classify as rule
from suture.features.classify import TWO_HALVES, Labels, classify, label_shares
from suture.features.columns import MEASURES, Evidence, measured
from suture.features.settings import LabelSettings
from suture.features.stats import FeatureStats, Shares, describe
from suture.features.together import Together
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store


def made(
    amounts: list[tuple[float, ...]], *, noise: float = 0.02, raw: list[tuple[float, ...]] | None = None
) -> Shares:
    """Features with these amounts per unit of weight, the same in 50 groups up to noise."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor(amounts, dtype=torch.float64)
    weight = 1 + torch.rand(50, len(amounts), generator=generator, dtype=torch.float64)
    shape = (50, *mean.shape)
    noisy = mean + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    plain = torch.tensor(raw, dtype=torch.float64).expand(shape) if raw else noisy
    return Shares(
        kind="refit",
        weight=weight,
        amount=noisy * weight.unsqueeze(-1),
        raw=plain * weight.unsqueeze(-1),
        fired=torch.full((50, len(amounts)), 4),
        noise=torch.zeros_like(mean),
    )


def labelled(shares: Shares, counts: list[int] | None = None, together: Together | None = None) -> Labels:
    n = shares.weight.shape[1]
    return label_shares(shares, torch.tensor(counts or [200] * n), together, LabelSettings())


def firing_together(*correlations: float) -> Together:
    """Codes of two models with these correlations, the same in 50 groups up to noise; NaN: neither fires."""
    generator = torch.Generator().manual_seed(1)
    r = torch.tensor(correlations, dtype=torch.float64) + 0.01 * torch.randn(50, len(correlations), generator=generator)
    n, total, square = 100.0, 20.0, 30.0
    common = (r * (n * square - total**2) + total**2) / n
    one = torch.ones_like(r)
    sums = torch.stack([one * total, one * total, one * square, one * square, common])
    sums[:, r.isnan()] = 0
    return Together(pairs=((0, 1),), sums=sums.unsqueeze(0), n_rows=torch.full((50,), n, dtype=torch.float64))


@pytest.mark.parametrize(
    ("amounts", "correlation", "label"),
    [
        ((1, 1), 0.9, "shared"),
        ((1, 0.6), 0.5, "shared"),
        ((1, 1), 0.1, "drifted"),
        ((1, 1), 0.3, "ambiguous"),
        ((1, 1), float("nan"), "ambiguous"),
        ((1, 0), 0.0, "A"),
        ((0.05, 1), 0.1, "B"),
        ((1, 0.25), 0.05, "A"),
        ((1, 0.25), 0.3, "ambiguous"),
        ((1, 0.25), 0.8, "one-sided"),
        ((1, 0.05), 0.8, "one-sided"),
        ((1, 0.05), 0.3, "A"),
        ((1, 0.43), 0.9, "shared"),
    ],
)
def test_two_axes_make_the_label(amounts: tuple[float, float], correlation: float, label: str) -> None:
    """What the feature writes, and whether its occasion can be read in the other model."""
    # features at ease beside it, so that the correction for many features has something to correct
    others = [(1.0, 1.0)] * 20
    labels = labelled(made([amounts, *others]), together=firing_together(correlation, *[0.9] * 20))
    assert labels.label[0] == label
    assert labels.label[1:] == ("shared",) * 20


def test_reasons_say_who_writes_it() -> None:
    labels = labelled(made([(1, 0.05), (1, 1), (1, 1)]), together=firing_together(0.9, 0.0, float("nan")))
    assert labels.reason == (rule.KNOWN_TO_ALL + "A", rule.OTHER_PLACES, TWO_HALVES)
    assert labels.exclusive_rate == 0
    apart = labelled(made([(1, 0.05)], raw=[(1, 0.6)]), together=firing_together(0.0))
    assert apart.label == ("A",)  # whatever else B has there, it does not know the occasion


def test_three_models_are_together_pair_by_pair() -> None:
    alone = firing_together(0.9).sums[0]
    apart = firing_together(0.0).sums[0]

    def of(ab: Tensor, ac: Tensor, bc: Tensor) -> Together:
        n_rows = firing_together(0.0).n_rows
        return Together(pairs=((0, 1), (0, 2), (1, 2)), sums=torch.stack([ab, ac, bc]), n_rows=n_rows)

    shared, pair = made([(1, 1, 1)]), made([(1, 1, 0)])
    assert labelled(shared, together=of(alone, alone, alone)).label == ("shared",)
    assert labelled(shared, together=of(alone, apart, apart)).label == ("drifted",)
    assert labelled(pair, together=of(alone, apart, apart)).label == ("AB",)
    assert labelled(pair, together=of(alone, alone, apart)).label == ("one-sided",)


def test_clear_cases() -> None:
    labels = labelled(made([(1, 0), (0, 1), (1, 1), (1, 0.25), (1, -0.1), (1, 0.1)]))
    assert labels.label == ("A", "B", "shared", "shared", "A", "A")
    assert labels.reason == ("",) * 6
    assert labels.counts == {
        "A": 3, "B": 1, "shared": 2, "one-sided": 0, "drifted": 0, "ambiguous": 0, "dead": 0,
    }  # fmt: skip
    assert labels.exclusive_rate == pytest.approx(4 / 6)
    assert float(labels.share[3, 1]) == pytest.approx(0.2, abs=0.01)
    assert float(labels.low[3, 1]) < 0.2 < float(labels.high[3, 1])
    assert float(labels.high[3, 1] - labels.low[3, 1]) < 0.02


def test_what_cannot_be_told_is_ambiguous() -> None:
    boundary = 0.15 / 0.85
    shares = made([(1, boundary), (0, 0), (-1, -0.1), (-0.1, -1), (1, 0), (1, 0), (1, 0), (1, 0)], noise=0.05)
    fired = shares.fired.clone()
    fired[4:, 6] = 0
    labels = labelled(replace(shares, fired=fired), [200, 200, 200, 200, 0, 9, 200, 10])
    assert labels.label == ("ambiguous",) * 4 + ("dead", "ambiguous", "ambiguous", "A")
    assert labels.reason[0] == rule.STRADDLES
    assert labels.reason[1] in (rule.STRADDLES, rule.EXPLAINS_NOTHING)
    assert labels.reason[2:] == (
        rule.EXPLAINS_NOTHING,
        rule.EXPLAINS_NOTHING,
        rule.NEVER_FIRED,
        rule.TOO_FEW_ROWS,
        rule.TOO_FEW_DOCUMENTS,
        "",
    )


def test_a_part_that_others_carry_is_no_absence() -> None:
    labels = labelled(made([(1, 0), (1, 0)], raw=[(1, 0.05), (1, 0.6)]))
    assert labels.label == ("A", "ambiguous")
    assert labels.reason == ("", rule.DECOUPLED)


def test_the_false_discovery_rate_holds_at_the_boundary() -> None:
    """4,000 features exactly at the boundary: hardly any may be called exclusive, nor shared."""
    labels = labelled(made([(1, 0.15 / 0.85)] * 4000, noise=0.3))
    assert labels.counts["ambiguous"] >= 3990
    assert float((labels.p_lacks[:, 1] < 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)
    assert float((labels.p_has[:, 1] < 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)
    covered = (labels.low[:, 1] < 0.15) & (labels.high[:, 1] > 0.15)
    assert float(covered.double().mean()) == pytest.approx(0.94, abs=0.025)


def test_models_trade_places() -> None:
    amounts = [(1.0, 0.0), (1.0, 0.3), (0.1, 1.0), (1.0, 0.17)]
    one, other = labelled(made(amounts, noise=0)), labelled(made([(b, a) for a, b in amounts], noise=0))
    swap = {"A": "B", "B": "A"}
    assert other.label == tuple(swap.get(name, name) for name in one.label)
    assert torch.allclose(one.share, other.share.flip(-1))


def test_three_models_name_those_that_have_it() -> None:
    labels = labelled(made([(1, 0, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1), (0, 0, 1)]))
    assert labels.label == ("A", "AB", "shared", "BC", "C")
    assert list(labels.counts) == ["A", "B", "C", "shared", "one-sided", "drifted", "ambiguous", "dead", "AB", "BC"]


def test_a_direction_lost_in_noise_is_not_absence() -> None:
    """A model at the boundary, its direction found among noise: the amount it then shows must not count as absence.

    Without the correction 10-70 % of such features would pass for exclusive at p < 0.05.
    """
    rng = np.random.default_rng(0)
    n_features, n_groups, width, n_rows, sigma = 1500, 50, 32, 40, 2.0
    truth = np.array([1.0, 0.15 / 0.85])
    weight, amount = np.zeros((n_groups, n_features)), np.zeros((n_groups, n_features, 2))
    noise = np.zeros((n_features, 2))
    for i in range(n_features):
        group = rng.integers(0, n_groups, n_rows)
        seen, f = rng.lognormal(0, 0.4, n_rows), rng.lognormal(0, 0.4, n_rows)
        np.add.at(weight[:, i], group, f**2)
        for m in range(2):
            e = rng.normal(0, sigma / width**0.5, (n_rows, width))
            v = seen @ e / (seen**2).sum()
            v[0] += truth[m]
            noise[i, m] = sigma * ((seen**2).sum()) ** -0.5
            shown = rng.normal(0, sigma / width**0.5, (n_rows, width))
            shown[:, 0] += f * truth[m]
            np.add.at(amount[:, i, m], group, f * (shown @ (v / np.linalg.norm(v))))
    shares = Shares(
        kind="refit",
        weight=torch.from_numpy(weight),
        amount=torch.from_numpy(amount),
        raw=None,
        fired=torch.from_numpy((weight > 0).astype(np.int64)),
        noise=torch.from_numpy(noise),
    )
    corrected = labelled(shares, [n_rows] * n_features).p_lacks[:, 1]
    plain = labelled(replace(shares, noise=torch.zeros(n_features, 2).double()), [n_rows] * n_features).p_lacks[:, 1]
    assert float((plain < 0.05).double().mean()) > 0.2
    assert float((corrected < 0.05).double().mean()) < 0.065
    assert float((corrected < 0.005).double().mean()) < 0.01


def exact_dictionary(store: Store, models: PlantedModels, features: list[tuple[int, str]]) -> Dictionary:
    """Features that read and write planted concepts exactly, in the models named by their letters."""
    design = Design(kind="crosscoder", n_features=len(features), sparsity=Sparsity(kind="jumprelu"))
    dictionary = Dictionary(store.spaces, design)
    dictionary.threshold.fill_(0.5)  # between silence and the smallest magnitude, 1
    for m, space in enumerate(store.spaces):
        columns = dictionary.columns(m)
        directions = models.directions(m).float() * space.scale
        readers = torch.linalg.pinv(directions).T
        for i, (concept, where) in enumerate(features):
            if "AB"[m] in where:
                dictionary.W_enc.data[i, columns] = readers[concept] * 2 / len(where)
                dictionary.W_dec.data[i, columns] = directions[concept]
    return dictionary.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, PlantedModels]:
    """Eight concepts: the first labels are whatever was planted."""
    settings = PlantedSettings(
        widths=(16, 12), n_concepts=8, mean_active=1.5, exclusive=0.25, noise=(0.1,), magnitude_spread=0.2, seed=4
    )
    return planted_store(tmp_path_factory.mktemp("known") / "store", settings, 9600), PlantedModels(settings)


def described(dictionary: Dictionary, store: Store) -> FeatureStats:
    return describe(dictionary, store, torch.arange(4800, 9600), discovery_rows=torch.arange(4800))


def test_exact_features_get_the_planted_labels(known: tuple[Store, PlantedModels]) -> None:
    store, models = known
    truth = models.labels()
    assert sorted(set(truth)) == ["A", "B", "shared"]
    where = [name if name in "AB" else "AB" for name in truth]
    assert classify(described(exact_dictionary(store, models, list(enumerate(where))), store)).label == tuple(truth)


def test_codes_that_are_all_too_small_change_no_label(known: tuple[Store, PlantedModels]) -> None:
    """As an L1 penalty leaves them: every residual holds a part of every active concept, and has a mean."""
    store, models = known
    where = [name if name in "AB" else "AB" for name in models.labels()]
    dictionary = exact_dictionary(store, models, list(enumerate(where)))
    dictionary.threshold.fill_(0.1)
    dictionary.b_enc.fill_(-0.4)
    assert classify(described(dictionary, store)).label == tuple(models.labels())


def test_a_shrunk_decoder_row_is_seen_through(known: tuple[Store, PlantedModels]) -> None:
    """The decoder norm says exclusive, the data does not ("complete shrinkage", 2504.02922)."""
    store, models = known
    where = [name if name in "AB" else "AB" for name in models.labels()]
    dictionary = exact_dictionary(store, models, list(enumerate(where)))
    shared = models.labels().index("shared")
    dictionary.W_dec[shared, dictionary.columns(1)] *= 0.01
    stats = described(dictionary, store)
    norms = dictionary.decoder_norms()[shared]
    assert float(norms[1] / norms.sum()) < 0.05
    labels = classify(stats)
    assert labels.label == tuple(models.labels())
    # both directions have length 1 before scaling, and an amount is in the model's unit length
    a, b = (s.scale / s.width**0.5 for s in store.spaces)
    assert float(labels.share[shared, 1]) == pytest.approx(b / (a + b), abs=0.01)
    scaling = stats.scaling
    assert scaling is not None
    assert float(scaling.beta_eps[shared, 1]) == pytest.approx(100, rel=0.05)
    assert float(scaling.amount_eps[shared, 1] / scaling.amount_eps[shared, 0]) == pytest.approx(b / a, rel=0.03)


def test_a_much_wider_model_weighs_no_more(tmp_path: Path) -> None:
    """Scaled activations of width 400 are ten times as long as those of width 4: shared stays shared."""
    settings = PlantedSettings(widths=(4, 400), n_concepts=4, mean_active=1.0, exclusive=0.0, noise=(0.1,), seed=4)
    store = planted_store(tmp_path / "store", settings, 4800)
    dictionary = exact_dictionary(store, PlantedModels(settings), [(i, "AB") for i in range(4)])
    stats = describe(dictionary, store, torch.arange(2400, 4800), discovery_rows=torch.arange(2400))
    labels = classify(stats)
    assert labels.label == ("shared",) * 4
    assert labels.share.numpy() == pytest.approx(0.5, abs=0.1)


def test_one_concept_in_two_features_is_one_sided_in_each(known: tuple[Store, PlantedModels]) -> None:
    """One feature writes the concept in A, another in B: the residual says exclusive, but both models know it."""
    store, models = known
    where = [name if name in "AB" else "AB" for name in models.labels()]
    shared = models.labels().index("shared")
    where[shared] = "A"
    dictionary = exact_dictionary(store, models, [*enumerate(where), (shared, "B")])
    labels = classify(described(dictionary, store))
    assert labels.label[shared] == labels.label[-1] == "one-sided"
    assert (labels.reason[shared], labels.reason[-1]) == (rule.KNOWN_TO_ALL + "A", rule.KNOWN_TO_ALL + "B")
    assert float(labels.share[shared, 1]) < 0.1
    assert float(labels.raw_share[shared, 1]) > 0.4


def test_one_model_has_nothing_to_attribute(planted: Store) -> None:
    view = planted.select([1])
    stats = describe(random_dictionary(view, "sae"), view, torch.arange(500, 900), discovery_rows=torch.arange(500))
    labels = classify(stats)
    assert set(labels.label) <= {"A", "dead"}
    assert ("dead" in labels.label) == bool((stats.firing.counts == 0).any())
    assert labels.counts["A"] > 10


def test_pooled_labels_follow_the_energy_spent_on_each_model(planted: Store) -> None:
    stats = describe(random_dictionary(planted, "pooled"), planted, torch.arange(600), discovery_rows=torch.arange(600))
    labels = classify(stats)
    energy = stats.shares.amount.sum(0)
    used: Tensor = energy / energy.sum(1, keepdim=True)
    assert torch.allclose(labels.share, used, equal_nan=True)
    for name, share in zip(labels.label, used[:, 1].tolist(), strict=True):
        assert name != "A" or share < 0.15
        assert name != "B" or share > 0.85
        assert name != "shared" or 0.15 < share < 0.85


@pytest.mark.parametrize(("name", "value"), [("exclusive_share", 0.5), ("raw_share", 0.1), ("q", 0.0), ("n_draws", 5)])
def test_refusals(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name.removeprefix("n_").replace("_", "-")):
        LabelSettings(**{name: value})  # pyright: ignore[reportArgumentType]


def test_labels_do_not_depend_on_where_the_store_lies(known: tuple[Store, PlantedModels], tmp_path: Path) -> None:
    store, models = known
    copy = planted_store(tmp_path / "store", models.settings, len(store), dtype="float32", shard_rows=1000)
    dictionary = exact_dictionary(store, models, [(i, "AB") for i in range(8)])
    assert classify(described(dictionary, store)).label == classify(described(dictionary, copy)).label


# ---- guards: each of these fails where the guard is left out ---------------------------------------------------------


def test_where_no_model_has_anything_none_lacks_it_and_none_has_it() -> None:
    """Negative amounts everywhere: "less than a share of nothing" would hold, and so would "more than"."""
    labels = labelled(made([(-1, -1), (-0.1, -5), (-5, -0.1), (1, 1), (1, 0)]))
    assert bool((labels.p_lacks[:3] > 0.5).all())
    assert bool((labels.p_has[:3] > 0.5).all())
    assert labels.label == ("ambiguous",) * 3 + ("shared", "A")


def test_a_model_is_not_said_to_lack_what_the_others_together_have_less_than_nothing_of() -> None:
    """A and B both bring less than nothing, so that A's share of the others' sum is undefined, whatever C has."""
    (label,) = labelled(made([(-1, -1, 0.5)])).label
    assert label == "ambiguous"


def test_a_model_that_brings_less_than_nothing_does_not_have_it() -> None:
    """A brings a little less than nothing; the others' sum is far below that, and C alone has something."""
    labels = labelled(made([(-0.1, -5, 1)]))
    assert float(labels.p_has[0, 0]) > 0.5
    assert labels.label == ("ambiguous",)


def test_p_shared_is_small_only_where_every_model_has_it(known: tuple[Store, PlantedModels]) -> None:
    """Of planted exclusive and shared features, and the same of three models by hand."""
    store, models = known
    truth = models.labels()
    dictionary = exact_dictionary(store, models, [(i, n if n in "AB" else "AB") for i, n in enumerate(truth)])
    stats = described(dictionary, store)
    _, columns = measured(Evidence(stats=stats, labels=classify(stats), dictionary=dictionary))
    for label, shared, exclusive in zip(truth, columns["p_shared"], columns["p_exclusive"], strict=True):
        assert float(shared) < 0.01 if label == "shared" else float(shared) > 0.5
        assert float(exclusive) < 0.01 if label != "shared" else float(exclusive) > 0.5
    three = labelled(made([(1, 1, 0), (1, 1, 1)]))
    evidence = Evidence(stats=stats, labels=three, dictionary=dictionary)
    (of,) = [measure.of for measure in MEASURES if measure.column.name == "p_shared"]
    found = of(evidence)
    assert isinstance(found, Tensor)
    assert float(found[0]) > 0.5
    assert float(found[1]) < 0.01
