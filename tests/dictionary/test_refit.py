"""Refitting, against least squares on dense matrices and against counting; every kind of sparsity and of design."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from random_dictionaries import F, dense, error, made, seen_by
from suture.activations.batches import split_rows
from suture.activations.store import Store
from suture.dictionary import refit as module
from suture.dictionary.activation import SparsityKind
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.parts import as_kind, portable
from suture.dictionary.pieces import gram
from suture.dictionary.refit import Sums, refit, refitted, solved, to_l0
from suture.dictionary.refit_settings import RefitSettings
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact

KINDS = get_args(SparsityKind)
RANKED = ("topk", "topk+batchtopk")
N = 1500
NOTHING = RefitSettings(fit=())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("design", ["sae", "crosscoder", "pooled"])
def test_one_offset_brings_every_kind_to_its_l0(kind: str, design: str, store: Store, unequal_store: Store) -> None:
    given = unequal_store if design == "pooled" else store
    dictionary = made(given, kind, design)
    view, rows = seen_by(dictionary, given), torch.arange(N)
    for l0 in (1.5, 4.0):
        found = to_l0(dictionary, view, rows, l0)
        counts = torch.cat([(f != 0).sum(1) for _, f, _ in dense(found, view, rows)]).double()
        assert float(counts.mean()) == pytest.approx(l0, abs=2e-3)
        moved = found.threshold - dictionary.threshold
        inside = found.threshold > found.sparsity.activation.floor(found) + 1e-6
        assert bool(inside.any())
        assert float(moved[inside].max() - moved[inside].min()) < 1e-5, "one offset for all"
    assert found.sparsity.kind == ("batchtopk" if kind in RANKED else kind)
    most = to_l0(dictionary, view, rows, float(F))
    assert 4.0 < evaluate(most, view, rows, alone=False).l0 < F, "no more than what is positive"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("design", ["sae", "crosscoder", "pooled"])
def test_decoder_and_bias_are_those_of_ridge_regression(
    kind: str, design: str, store: Store, unequal_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "gated":
        monkeypatch.setattr(module, "DENSE_FEATURES", 0)  # by conjugate gradients
    given = unequal_store if design == "pooled" else store
    dictionary = made(given, kind, design)
    view, rows = seen_by(dictionary, given), torch.arange(N)
    found = refitted(dictionary, view, rows, RefitSettings(fit=("decoder",), penalty=0.01))
    parts = dense(dictionary, view, rows)
    for column in range(dictionary.width):
        having = [(f, x[:, column]) for cut, f, x in parts if cut.stop > column]
        f, x = torch.cat([h[0] for h in having]), torch.cat([h[1] for h in having])
        fc, xc = f - f.mean(0), x - x.mean()
        system = fc.T @ fc
        floor = 0.01 * float(system.diagonal().mean())
        before = dictionary.W_dec[:, column].double()
        exact = torch.linalg.solve(system + floor * torch.eye(F).double(), fc.T @ xc + floor * before)
        norms = 1.0 if kind in ("relu+l1", *RANKED) else found_norms(dictionary, found)
        torch.testing.assert_close(found.W_dec[:, column].double() * norms, exact, atol=2e-5, rtol=1e-4)
        assert float(found.b_dec[column]) == pytest.approx(float(x.mean() - f.mean(0) @ exact), abs=2e-5)
    assert error(found, view, rows) < error(dictionary, view, rows)


def found_norms(before: Dictionary, after: Dictionary) -> Tensor:
    """What went from decoder rows into the values."""
    torch.testing.assert_close(after.W_dec.norm(dim=1), torch.ones(F))
    return (after.W_enc.norm(dim=1) / before.W_enc.norm(dim=1)).double()


@pytest.mark.parametrize("design", ["crosscoder", "pooled"])
def test_scales_are_the_best_factors_all_together(design: str, store: Store, unequal_store: Store) -> None:
    given = unequal_store if design == "pooled" else store
    dictionary = made(given, "relu+l1", design)
    rows = torch.arange(N)
    found = refitted(dictionary, given, rows, RefitSettings(fit=("scales",), penalty=1e-9))
    parts, wanted = [], []
    for cut, f, x in dense(dictionary, given, rows):
        parts.append((f[:, :, None] * dictionary.W_dec[:, cut].double()).transpose(1, 2).reshape(-1, F))
        wanted.append((x - dictionary.b_dec[cut].double()).reshape(-1))
    exact = np.linalg.lstsq(torch.cat(parts).numpy(), torch.cat(wanted).numpy(), rcond=None)[0]
    scales = (found.W_dec / dictionary.W_dec).double()
    torch.testing.assert_close(scales[:, 0], torch.from_numpy(exact), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scales, scales[:, :1].expand_as(scales), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.b_dec, dictionary.b_dec)


def test_the_bias_alone_takes_up_the_mean_error(store: Store) -> None:
    dictionary, rows = made(store), torch.arange(N)
    found = refitted(dictionary, store, rows, RefitSettings(fit=("bias",)))
    ((_, f, x),) = dense(dictionary, store, rows)
    exact = (x - f @ dictionary.W_dec.double()).mean(0)
    torch.testing.assert_close(found.b_dec.double(), exact, atol=1e-5, rtol=1e-4)


def test_silent_features_stay_and_dedicated_ones_keep_to_their_space(store: Store) -> None:
    dictionary = made(store, dedicated=(0.25, 0.25))
    owned = dictionary.owned_columns
    assert owned is not None
    dictionary.W_dec *= owned
    dictionary.W_enc *= owned
    dictionary.b_enc[-1] = -1e6
    found = refitted(dictionary, store, torch.arange(N), RefitSettings())
    assert float(found.W_dec[~owned].abs().max()) == 0
    silent = dictionary.W_dec[-1] / dictionary.W_dec[-1].norm()
    torch.testing.assert_close(found.W_dec[-1], silent)
    plain = refitted(made(store), store, torch.arange(N), RefitSettings())
    assert error(found, store, torch.arange(N)) < error(dictionary, store, torch.arange(N))
    assert plain.design.dedicated == ()


def test_conjugate_gradients_agree_with_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.sparse import random as random_sparse

    f = random_sparse(400, 60, density=0.1, random_state=0, format="csr")
    f.data += 1
    ff, mean = (f.T @ f).tocsr(), np.asarray(f.mean(axis=0)).ravel()
    wanted = np.random.default_rng(0).normal(size=(60, 5))
    exact = solved(ff, wanted, 0.05, mean=mean, n=400)
    monkeypatch.setattr(module, "DENSE_FEATURES", 10)
    np.testing.assert_allclose(solved(ff, wanted, 0.05, mean=mean, n=400), exact, atol=1e-6)


@pytest.mark.parametrize("design", ["crosscoder", "pooled"])
def test_gram_is_the_product_of_what_features_add(design: str, unequal_store: Store) -> None:
    dictionary, rows = made(unequal_store, "jumprelu", design), torch.arange(300)
    parts = dense(dictionary, unequal_store, rows)
    exact = sum((f.T @ f) * (w @ w.T) for f, w in ((f, dictionary.W_dec[:, cut].double()) for cut, f, _ in parts))
    codes = torch.cat([f for _, f, _ in parts])
    kind = np.repeat(np.arange(len(parts)), [len(f) for _, f, _ in parts])
    from scipy.sparse import csr_matrix

    found = gram(csr_matrix(codes.numpy()), kind, dictionary.W_dec, [cut for cut, _, _ in parts])
    np.testing.assert_allclose(found.toarray(), exact.numpy(), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_other_units_and_other_kinds_are_the_same_function(kind: str, store: Store) -> None:
    dictionary = made(store, kind)
    x = torch.randn(300, dictionary.width, generator=torch.Generator().manual_seed(0))
    exact = dictionary.decode(dictionary.encode(x))
    if kind not in RANKED:
        found = portable(dictionary)
        torch.testing.assert_close(found.decode(found.encode(x)), exact, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(F))
    for other in ("jumprelu", "gated"):
        if kind in RANKED or (kind == "gated" and other != kind):
            with pytest.raises(UserError, match="cannot be written as"):
                as_kind(dictionary, other)  # pyright: ignore[reportArgumentType]
        else:
            found = as_kind(dictionary, other)  # pyright: ignore[reportArgumentType]
            torch.testing.assert_close(found.decode(found.encode(x)), exact, atol=1e-4, rtol=1e-4)
    moved = dictionary.with_scales([2.0 * space.scale for space in dictionary.spaces])
    torch.testing.assert_close(moved.decode(moved.encode(2 * x)), 2 * exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("opened", [False, True])
def test_the_stage_writes_a_dictionary_like_any_other(opened: bool, store: Store, tmp_path: Path) -> None:
    before = made(store, "topk")
    before.save(tmp_path / "given", settings={"seed": 3, "heldout": 0.2})
    given = Dictionary.load(tmp_path / "given") if opened else tmp_path / "given"
    found = refit(tmp_path / "out", given, store, RefitSettings(l0=2.0, fit_rows=4000))
    assert found.sparsity.kind == "batchtopk"
    manifest = artifact.open_artifact(tmp_path / "out", stage="dictionary")
    assert manifest.settings["heldout"] == 0.2
    assert artifact.is_made_from(manifest, store.path)
    assert artifact.is_made_from(manifest, tmp_path / "given")
    train, heldout = split_rows(store, heldout=0.2, seed=3)
    kept = evaluate(found, store, heldout)
    assert kept.l0 == pytest.approx(2.0, abs=0.1)
    assert found.fvu == pytest.approx(tuple(kept.fvu))
    assert sum(found.fvu) < sum(evaluate(before, store, heldout).fvu)
    again = refitted(before, store, module.whole_documents(store.documents, train, 4000), RefitSettings(l0=2.0))
    torch.testing.assert_close(found.W_dec, again.W_dec)


def test_what_cannot_be_refitted_is_said_in_one_line(store: Store, unequal_store: Store, tmp_path: Path) -> None:
    made(store).save(tmp_path / "given")
    with pytest.raises(UserError, match=r"l0 = 13.0: exceeds the 12 features"):
        refit(tmp_path / "no", tmp_path / "given", store, RefitSettings(l0=13.0))
    with pytest.raises(UserError, match="width"):
        refit(tmp_path / "no", tmp_path / "given", unequal_store)
    with pytest.raises(ArtifactError, match="is what is read"):
        refit(tmp_path / "given", tmp_path / "given", store, overwrite=True)
    with pytest.raises(UserError, match=r"l0 = 0"):
        RefitSettings(l0=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_nothing_asked_changes_nothing(store: Store) -> None:
    dictionary = made(store)
    found = refitted(dictionary, store, torch.arange(100), NOTHING)
    for name, tensor in dictionary.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0)
    assert Sums.of(dictionary, store, torch.arange(100)).blocks[0].n == 100
