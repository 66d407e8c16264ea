"""Each kind of sparsity is one record, and no other file asks which kind it is."""

import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from suture.activations.space import Space
from suture.dictionary.activation import ACTIVATIONS, Sparsity, SparsityKind
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError

SOURCE = Path(__file__).resolve().parents[2] / "src" / "suture"


def test_every_kind_has_a_record() -> None:
    assert tuple(ACTIVATIONS) == get_args(SparsityKind)
    assert [kind for kind in ACTIVATIONS if Sparsity(kind=kind).selects_k] == [
        "topk+batchtopk",
        "topk",
        "batchtopk",
    ]


def test_a_kind_is_decided_nowhere_else() -> None:
    asks, names = r"sparsity\.kind\s*(==|!=|in\b)", r"""["'](batchtopk|relu\+l1|jumprelu|gated)["']\s*(==|!=|in\b)"""
    for file in SOURCE.rglob("*.py"):
        foreign = "formats" in file.parts  # where the names are those of other libraries
        if file.name != "activation.py":
            wrong = re.compile(asks if foreign else f"{asks}|{names}")
            assert not wrong.search(file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("name", ["bandwidth", "initial_threshold"])
def test_a_setting_of_a_kind_is_named_as_the_user_writes_it(name: str) -> None:
    with pytest.raises(UserError, match=f"{name.replace('_', '-')} = -1.0"):
        Sparsity(kind="jumprelu", **{name: -1.0})  # pyright: ignore[reportArgumentType]


def test_a_gated_code_is_the_formula() -> None:
    """2404.16014: the gate decides whether, the magnitude how much."""
    draw = torch.Generator().manual_seed(0)
    design = Design(n_features=20, sparsity=Sparsity(kind="gated"))
    dictionary = Dictionary([Space(model=m, hookpoint="x", width=5) for m in "ab"], design)
    with torch.no_grad():
        for parameter in (*dictionary.parameters(), dictionary.center):
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    x = torch.randn(50, 10, generator=draw)
    linear = (x - dictionary.center) / 2 @ dictionary.W_enc.T
    gate = linear + dictionary.b_enc > 0
    magnitude = (dictionary.own_weights["log_gain"].exp() * linear + dictionary.own_weights["magnitude_bias"]).relu()
    found = dictionary.encode(x).dense()
    torch.testing.assert_close(found, (gate * magnitude).detach())
    assert bool((gate & (magnitude == 0)).any())  # an open gate with nothing behind it is not active
    assert int((found > 0).sum()) == dictionary.encode(x).value.numel()
