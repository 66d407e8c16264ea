"""Promoted tokens of known directions: unembedding rows in the last stream, and what a model does with early ones."""

from dataclasses import replace

import pytest
import torch

from lm.families import WIDTH, tiny_family
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.promoted import NOTHING, opened_first, promoted, promoted_by_running
from suture.lm.downstream import changes, contexts_of
from suture.lm.load import LanguageModel

TEXTS = ("Once upon a time, there was a little dog named Max.", "The cat sat on the mat, and Lily saw a ball.")
N_FEATURES = 6


def made(lm: LanguageModel, *hookpoints: str, width: int = WIDTH) -> Dictionary:
    spaces = [Space(model=lm.name, hookpoint=h, width=width, scale=2.0, fingerprint=lm.fingerprint) for h in hookpoints]
    dictionary = Dictionary(
        spaces,
        Design(kind="crosscoder" if len(hookpoints) > 1 else "sae", n_features=N_FEATURES, sparsity=Sparsity(k=2)),
    )
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(dictionary.W_dec.shape, generator=torch.Generator().manual_seed(0)))
    return dictionary.requires_grad_(requires_grad=False)


def test_the_last_stream_is_direct_and_earlier_ones_are_run_for_some() -> None:
    lm = tiny_family("llama")
    dictionary = made(lm, "resid1.post", "resid0.post", "mlp0.in")
    scales = torch.tensor([1.0, 2.0, torch.nan, 1.0, 1.0, 0.0])
    sides = promoted(dictionary, [lm] * 3, TEXTS, scales=scales, first=[1, 2, 4, 5], n_top=4)
    assert len(sides) == N_FEATURES
    assert [side["path"] for side, *_ in sides] == ["direct"] * N_FEATURES
    assert [side["path"] for _, side, _ in sides] == ["direct", "run", "direct", "direct", "run", "direct"]
    assert [side["path"] for *_, side in sides] == ["", "run", "", "", "run", ""]
    assert sides[0][2] == NOTHING
    vectors = dictionary.raw_decoder(1)[[1, 4]] * scales[[1, 4], None]
    change = torch.cat(list(changes(lm, "resid0.post", vectors, contexts_of(lm, TEXTS))))
    for feature, row in zip((1, 4), change, strict=True):
        values = [value for _, value in sides[feature][1]["promoted"]]
        assert values == pytest.approx(row[: len(lm.tokenizer)].topk(4).values.tolist(), rel=1e-3)


def test_values_do_not_depend_on_the_dictionarys_units() -> None:
    lm = tiny_family("llama")
    one = made(lm, "resid0.post")
    other = made(lm, "resid0.post")
    other.spaces = (replace(other.spaces[0], scale=4.0),)
    other.W_dec.mul_(2)
    scales = torch.ones(N_FEATURES)
    sides = [promoted_by_running(d, 0, lm, [3], TEXTS, scales=scales) for d in (one, other)]
    assert sides[0][3]["promoted"] == sides[1][3]["promoted"]


def test_refusals() -> None:
    lm = tiny_family("llama")
    dictionary = made(lm, "resid0.post")
    with pytest.raises(UserError, match="models = 0"):
        promoted(dictionary, [], TEXTS, scales=torch.ones(N_FEATURES), first=[], n_top=3)
    with pytest.raises(UserError, match="never fires"):
        promoted_by_running(dictionary, 0, lm, [1], TEXTS, scales=torch.zeros(N_FEATURES))


def test_a_reader_opens_the_strongest_of_every_label_first() -> None:
    labels = ["A", "shared", "shared", "dead", "shared", "A"]
    energy = torch.tensor([0.1, 0.5, 0.9, 2.0, 0.7, 0.2])
    assert opened_first(labels, energy, 4) == [2, 5, 0, 4]
    assert opened_first(labels, energy, 0) == []
