"""A missing model, imputed: exact where the other tells it, blind to what stood there, kept with the dictionary."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from suture.activations.null import random_rotation, self_pair
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.imputation import PENALTIES, Imputation, checking_documents
from suture.errors import UserError
from suture.training.settings import TrainSettings
from suture.training.train import train

N_ROWS = 3000
WIDTHS = (6, 9, 4)


@pytest.fixture(scope="module")
def rows() -> list[Tensor]:
    """Three spaces that see the same five causes, each with noise of its own."""
    g = torch.Generator().manual_seed(0)
    causes = torch.randn(N_ROWS, 5, generator=g).relu()
    mixed = [causes @ torch.randn(5, width, generator=g) for width in WIDTHS]
    return [x + 0.1 * torch.randn(x.shape, generator=g) + 3.0 for x in mixed]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, rows: list[Tensor]) -> Store:
    return write_store(tmp_path_factory.mktemp("three") / "store", rows, documents=torch.arange(N_ROWS) // 30)


@pytest.fixture(scope="module")
def imputation(store: Store) -> Imputation:
    return Imputation.of_rows(store, torch.arange(N_ROWS))


def _scaled(store: Store, n_rows: int = 200) -> Tensor:
    values = store.read(torch.arange(n_rows))
    return torch.cat([x * space.scale for x, space in zip(values, store.spaces, strict=True)], dim=1)


def _random(store: Store, kind: str = "crosscoder") -> Dictionary:
    dictionary = Dictionary(store.spaces, Design(kind=kind, n_features=32, sparsity=Sparsity(k=4)))  # pyright: ignore[reportArgumentType]
    g = torch.Generator().manual_seed(1)
    for parameter in (dictionary.W_enc, dictionary.W_dec, dictionary.b_enc):
        parameter.data.copy_(torch.randn(parameter.shape, generator=g) * 0.3)
    dictionary.center.copy_(_scaled(store).mean(0))
    return dictionary.requires_grad_(requires_grad=False)


def test_the_map_is_numpys_ridge_map_at_the_penalty_that_explains_the_other_documents(
    store: Store, imputation: Imputation
) -> None:
    x = _scaled(store, N_ROWS).double().numpy()
    document = store.documents.numpy()
    checks = np.isin(document, np.unique(document[_checking(store)]))
    fit, check = x[~checks], x[checks]
    source, target = slice(0, 6), slice(6, 19)
    a, b = fit[:, source] - fit[:, source].mean(0), fit[:, target] - fit[:, target].mean(0)
    covariance = a.T @ a / len(a)
    errors = {}
    for penalty in PENALTIES:
        P = np.linalg.solve(covariance + penalty * np.trace(covariance) / 6 * np.eye(6), a.T @ b / len(a))
        guess = (check[:, source] - fit[:, source].mean(0)) @ P + fit[:, target].mean(0)
        errors[penalty] = ((guess - check[:, target]) ** 2).sum(), P
    best = min(errors.values(), key=lambda found: found[0])[1]
    np.testing.assert_allclose(imputation.map((0,)).matrix.numpy(), best, rtol=1e-6, atol=1e-9)


def _checking(store: Store) -> np.ndarray:
    return checking_documents(store.documents).numpy()


def test_present_columns_stay_and_missing_ones_are_never_read(store: Store, imputation: Imputation) -> None:
    x = _scaled(store)
    available = torch.tensor([True, False, True])
    filled = imputation.fill(x, available)
    blind = x.clone()
    blind[:, 6:15] = torch.nan
    assert torch.equal(imputation.fill(blind, available), filled)
    assert torch.equal(filled[:, :6], x[:, :6])
    assert torch.equal(filled[:, 15:], x[:, 15:])
    missed = (x - filled)[:, 6:15].square().sum() / (x - x.mean(0))[:, 6:15].square().sum()
    assert float(missed) == pytest.approx(1 - imputation.explained((0, 2), 1), abs=0.05)
    assert float(missed) < 0.2


def test_more_models_present_explain_no_less(imputation: Imputation) -> None:
    for target, one, both in ((2, (0,), (0, 1)), (0, (2,), (1, 2))):
        assert imputation.explained(both, target) >= imputation.explained(one, target) - 0.01


def test_every_row_may_miss_other_models(store: Store, imputation: Imputation) -> None:
    x = _scaled(store)
    dictionary = _random(store)
    dictionary.imputation = imputation
    patterns = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]]).bool()
    which = torch.randint(4, (len(x),), generator=torch.Generator().manual_seed(2))
    together = dictionary.encode(x, available=patterns[which]).dense()
    for number, pattern in enumerate(patterns):
        here = which == number
        alone = dictionary.encode(x[here], available=pattern).dense()
        assert torch.allclose(together[here], alone, atol=1e-5)
    with pytest.raises(UserError, match="available"):
        dictionary.encode(x, available=torch.zeros(3, dtype=torch.bool))


def test_saved_loaded_folded_the_codes_stay(
    store: Store, imputation: Imputation, rows: list[Tensor], tmp_path: Path
) -> None:
    dictionary = _random(store)
    dictionary.imputation = imputation
    some = [rows[0][:50], None, None]
    codes = dictionary.encode_raw(some).dense()
    dictionary.save(tmp_path / "kept")
    again = Dictionary.load(tmp_path / "kept")
    assert again.missing == "impute"
    assert torch.allclose(again.encode_raw(some).dense(), codes, atol=1e-5)
    folded = dictionary.fold()
    assert torch.allclose(folded.encode_raw(some).dense(), codes, atol=1e-4)
    assert not torch.allclose(dictionary.encode_raw(some, missing="zero").dense(), codes, atol=0.1)


def test_without_second_moments_the_missing_are_left_out_and_imputing_is_refused(store: Store) -> None:
    dictionary = _random(store)
    assert dictionary.missing == "zero"
    x = _scaled(store)
    only = torch.tensor([True, False, False])
    left_out = dictionary.encode(x, available=only, missing="zero").dense()
    assert torch.equal(dictionary.encode(x, available=only).dense(), left_out)
    assert torch.equal(dictionary.encode_alone(x, 0).dense(), left_out)
    with pytest.raises(UserError, match="second moments"):
        dictionary.encode(x, available=only, missing="impute")


def test_only_a_crosscoder_imputes_unasked(store: Store, imputation: Imputation) -> None:
    universal = _random(store, "universal")  # whose codes are trained on one model at a time
    universal.imputation = imputation
    assert universal.missing == "zero"


def test_on_a_rotated_copy_one_model_alone_tells_what_both_tell(store: Store, tmp_path: Path) -> None:
    """The law of the null: what a model's rotated copy adds is nothing."""
    null = self_pair(store, 1, rotation_seed=3)
    settings = TrainSettings(
        design=Design(kind="crosscoder", n_features=24, sparsity=Sparsity(k=3)), n_rows=15_000, batch_size=250
    )
    dictionary = train(tmp_path / "null", store.select([1, 0]), settings)  # a real pair keeps its moments ..
    assert dictionary.missing == "impute"
    assert dictionary.imputation is not None
    assert dictionary.imputation.widths == (9, 6)
    dictionary = _random(null)  # .. and on a null any dictionary reads from one model what it reads from both
    dictionary.imputation = Imputation.of_rows(null, torch.arange(N_ROWS))
    found = evaluate(dictionary, null, torch.arange(500))
    assert found.r2_linear is not None
    assert found.r2_linear[0][0] is None
    assert found.r2_linear[0][1] == pytest.approx(1, abs=1e-3)
    for i in range(2):
        assert found.r2[i] == pytest.approx(found.r2[2], abs=2e-3)
    zeros = evaluate(dictionary, null, torch.arange(500), missing="zero")
    assert zeros.r2_linear is None
    assert abs(zeros.r2[0][0] - zeros.r2[2][0]) > 0.01
    assert zeros.fvu == found.fvu
    assert torch.allclose(random_rotation(9, seed=3), dictionary.imputation.map((0,)).matrix.float(), atol=0.02)


def test_unrelated_models_are_imputed_by_their_mean(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(4)
    apart = [torch.randn(2000, 5, generator=g), torch.randn(2000, 7, generator=g) + 2]
    store = write_store(tmp_path / "apart", apart)
    imputation = Imputation.of_rows(store, torch.arange(2000))
    assert abs(imputation.explained((0,), 1)) < 0.02
    filled = imputation.fill(_scaled(store, 2000), torch.tensor([True, False]))
    mean = store.spaces[1].known_mean * store.spaces[1].scale
    assert float((filled[:, 5:] - mean).abs().max()) < 0.5
