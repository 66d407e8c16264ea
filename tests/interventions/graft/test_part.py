"""A removal is the ablation that its dictionary does, in tensors alone, for every kind and design with thresholds."""

import pytest
import torch

from random_dictionaries import made
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.clipping import Clipping
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.imputation import Imputation
from suture.errors import UserError
from suture.interventions import edits
from suture.interventions.graft.part import projection, removal

WIDTH = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    draw = torch.Generator().manual_seed(0)
    causes = torch.randn(2000, 4, generator=draw).relu()
    spaces = [causes @ torch.randn(4, WIDTH, generator=draw) + 0.1 * torch.randn(2000, WIDTH, generator=draw) + m
              for m in (1.0, -2.0)]  # fmt: skip
    return write_store(tmp_path_factory.mktemp("graft") / "store", spaces, documents=torch.arange(2000) // 20)


def known(store: Store, kind: str, design: str, *, imputes: bool) -> Dictionary:
    dictionary = made(store, kind, design)
    if imputes:
        dictionary.imputation = Imputation.of_rows(store, torch.arange(2000))
    return dictionary


CASES = [
    ("batchtopk", "crosscoder", True),
    ("batchtopk", "crosscoder", False),
    ("jumprelu", "sae", False),
    ("relu+l1", "universal", False),
    ("gated", "crosscoder", True),
    ("batchtopk", "pooled", False),
]


@pytest.mark.parametrize(("kind", "design", "imputes"), CASES)
def test_a_removal_reads_and_writes_what_the_dictionary_does(store, kind, design, imputes):
    dictionary = known(store, kind, design, imputes=imputes)
    space = dictionary.n_spaces - 1
    rows = store.read_space(torch.arange(300), space)
    features = [7, 0, 3, 11]
    part = removal(dictionary, space, features)
    codes = edits.solo_codes(dictionary, space, rows, torch.tensor(features))
    assert (codes > 0).any(0).sum() >= 2
    torch.testing.assert_close(part.values(rows), codes, atol=1e-4, rtol=1e-4)
    x = rows.view(3, 100, -1)
    torch.testing.assert_close(part.edit()(x), edits.ablate(dictionary, space, features)(x), atol=1e-4, rtol=1e-4)
    half = edits.scaled(edits.ablate(dictionary, space, features), 0.5)
    torch.testing.assert_close(part.edit(0.5)(x), half(x), atol=1e-4, rtol=1e-4)
    assert torch.equal(part.edit(0.0)(x), x)
    torch.testing.assert_close(part.only([2, 1]).values(rows), part.values(rows)[:, [2, 1]])
    assert part.only([2, 1]).features == (3, 0)


def test_outlier_rows_are_read_as_training_read_them(store):
    dictionary = known(store, "batchtopk", "crosscoder", imputes=True)
    rows = store.read_space(torch.arange(100), 1)
    centre = rows.mean(0)
    radius = float((rows - centre).norm(dim=1).median())
    dictionary.clipping = Clipping(bounds=(None, (centre, radius)))
    features = [7, 0, 3, 11]
    part = removal(dictionary, 1, features)
    codes = edits.solo_codes(dictionary, 1, rows, torch.tensor(features))
    torch.testing.assert_close(part.values(rows), codes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(part.values(rows.view(4, 25, -1)).flatten(0, 1), codes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(part.only([2, 1]).values(rows), part.values(rows)[:, [2, 1]])
    free = removal(known(store, "batchtopk", "crosscoder", imputes=True), 1, features)
    beyond = (rows - centre).norm(dim=1) > radius
    assert (free.values(rows) - part.values(rows))[beyond].abs().max() > 0.1
    assert torch.equal(free.values(rows)[~beyond], part.values(rows)[~beyond])
    free_rows = rows.clone().requires_grad_()
    for one in (free, part):  # ranking takes gradients through what is read
        (gradient,) = torch.autograd.grad(one.values(free_rows).sum(), free_rows)
        assert gradient.isfinite().all()
        assert gradient.any()


def test_what_is_written_instead_is_the_decoder_difference(store):
    dictionary = known(store, "batchtopk", "crosscoder", imputes=True)
    x = store.read_space(torch.arange(50), 1).view(1, 50, -1)
    part = removal(dictionary, 1, range(12), instead=dictionary.raw_decoder(0))
    torch.testing.assert_close(part.edit()(x), edits.difference(dictionary, 1, 0, range(12))(x), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(part.edit()(x), removal(dictionary, 1, range(12)).edit()(x))


def test_a_dictionary_that_ranks_is_refused(store):
    with pytest.raises(UserError, match="suture refit"):
        removal(made(store, "topk"), 0, [1])


@pytest.mark.parametrize(("space", "feature"), [(2, 0), (0, 12)])
def test_an_unknown_space_or_feature_is_refused(store, space, feature):
    with pytest.raises(UserError, match="does not have it"):
        removal(made(store, "batchtopk"), space, [feature])


def test_a_projection_leaves_the_mean_along_its_directions_and_all_else(store):
    part = removal(made(store, "batchtopk"), 0, [1, 2, 2 + 3])
    mean = torch.randn(WIDTH)
    out = projection(part, mean)
    x = torch.randn(2, 5, WIDTH)
    U = out.directions
    torch.testing.assert_close(U @ U.T, torch.eye(len(U)), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.edit()(x) @ U.T, (mean @ U.T).expand(2, 5, -1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.edit()(out.edit()(x)), out.edit()(x), atol=1e-5, rtol=1e-5)
    rest = torch.eye(WIDTH) - U.T @ U
    torch.testing.assert_close(out.edit()(x) @ rest, x @ rest, atol=1e-5, rtol=1e-5)
    assert torch.equal(out.edit(0.0)(x), x)
    assert len(edits.orthonormal(torch.stack([x[0, 0], 2 * x[0, 0]]))) == 1
