"""Features taken out, put in another order or side by side read and write what they did before."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from suture.activations.space import Space
from suture.dictionary.activation import ACTIVATIONS, Sparsity, SparsityKind
from suture.dictionary.design import Design, DesignKind
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.parts import join, reorder, take
from suture.errors import UserError

# without one that ranks the features of a row, and so depends on which there are
FINISHED = [kind for kind, record in ACTIVATIONS.items() if record.then is None and kind != "topk"]

WIDTHS = (5, 3)


def a_dictionary(
    kind: DesignKind = "crosscoder",
    sparsity: SparsityKind = "relu+l1",
    *,
    n: int = 12,
    seed: int = 0,
    flag: bool = False,
) -> Dictionary:
    spaces = [Space(model=m, hookpoint="x", width=w, scale=2.0) for m, w in zip("ab", WIDTHS, strict=True)]
    design = Design(kind=kind, n_features=n, flag=flag, sparsity=Sparsity(kind=sparsity, k=3))
    dictionary = Dictionary(spaces[:1] if kind == "sae" else spaces, design, flag_scale=1.5 if flag else 0.0)
    draw = torch.Generator().manual_seed(seed)
    for tensor in dictionary.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    dictionary.threshold.abs_()
    return dictionary.requires_grad_(requires_grad=False)


def dense(dictionary: Dictionary, x: Tensor) -> Tensor:
    model = None if dictionary.design.joint else torch.arange(len(x)) % 2
    return dictionary.encode(x, model=model).dense()


@pytest.mark.parametrize("sparsity", FINISHED)
@pytest.mark.parametrize("kind", get_args(DesignKind))
def test_features_taken_out_read_and_write_what_they_did(kind: DesignKind, sparsity: SparsityKind) -> None:
    whole = a_dictionary(kind, sparsity, flag=kind == "pooled")
    chosen = torch.tensor([7, 0, 11, 4])
    taken = take(whole, chosen)
    x = torch.randn(40, whole.width, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(dense(taken, x), dense(whole, x)[:, chosen])
    assert torch.equal(taken.W_dec, whole.W_dec[chosen])
    rest = torch.tensor([i for i in range(12) if i not in chosen.tolist()])
    model = None if whole.design.joint else torch.arange(40) % 2
    parts = [d.decode(d.encode(x, model=model)) - d.b_dec for d in (taken, take(whole, rest))]
    torch.testing.assert_close(sum(parts) + whole.b_dec, whole.decode(whole.encode(x, model=model)))


def test_reordering_and_back_is_the_same_dictionary() -> None:
    whole = a_dictionary(sparsity="gated")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    back = reorder(reorder(whole, order), torch.argsort(order))
    assert back.design == whole.design
    for name, tensor in whole.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    x = torch.randn(30, whole.width)
    torch.testing.assert_close(dense(reorder(whole, order), x), dense(whole, x)[:, order])


@pytest.mark.parametrize("sparsity", FINISHED)
@pytest.mark.parametrize("kind", ["sae", "crosscoder", "universal"])
def test_joined_features_read_and_write_what_they_did(kind: DesignKind, sparsity: SparsityKind) -> None:
    """The parts' centres differ, as those of two seeds do."""
    parts = [a_dictionary(kind, sparsity, n=n, seed=n) for n in (12, 5)]
    joined = join(parts)
    x = torch.randn(40, joined.width, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(dense(joined, x), torch.cat([dense(p, x) for p in parts], dim=1), rtol=1e-4, atol=1e-5)
    written = [p.decode(p.encode(x)) - p.b_dec for p in parts]
    torch.testing.assert_close(joined.decode(joined.encode(x)), sum(written) + parts[0].b_dec, rtol=1e-4, atol=1e-4)


def test_taking_apart_and_joining_is_identity() -> None:
    whole = a_dictionary("pooled", "batchtopk", flag=True)
    again = join([take(whole, range(5), k=3), take(whole, range(5, 12), k=3)])
    assert again.design == whole.design
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_top_k_chooses_among_all_that_are_joined() -> None:
    parts = [a_dictionary(sparsity="topk", seed=s) for s in (0, 1)]
    joined = join(parts, k=5)
    assert joined.sparsity.k == 5
    assert take(joined, [3, 1]).sparsity.k == 2
    assert int(joined.encode(torch.randn(9, 8)).counts.sum()) == 45


def test_what_does_not_fit_together_is_refused() -> None:
    one = a_dictionary()
    for features, problem in (([], "are not features"), ([12], "are not features"), ([1, 1], "name a feature twice")):
        with pytest.raises(UserError, match=problem):
            take(one, features)
    with pytest.raises(UserError, match="are not all 12 features"):
        reorder(one, torch.arange(5))
    with pytest.raises(UserError, match="differ in design or sparsity"):
        join([one, a_dictionary(sparsity="gated")])
    with pytest.raises(UserError, match="other spaces"):
        join([one, a_dictionary("sae")])
    with pytest.raises(UserError, match="cannot take up another centre"):
        join([a_dictionary("pooled"), a_dictionary("pooled", seed=1)])
