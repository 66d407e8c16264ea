"""A random crosscoder of the two shipped models, and a player of it."""

from pathlib import Path

import pytest
import torch

from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.lm.load import fingerprint_of
from suture.play.player import Player

NAMES = ("tinystories-1l", "tinystories-2l")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spaces = [
        Space(model=name, hookpoint="mlp0.out", width=128, fingerprint=fingerprint_of(name) or "") for name in NAMES
    ]
    dictionary = Dictionary(spaces, Design(kind="crosscoder", n_features=64, sparsity=Sparsity(kind="topk", k=4)))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (dictionary.W_enc, dictionary.W_dec):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.1)
    place = tmp_path_factory.mktemp("play") / "dictionary"
    dictionary.save(place)
    return place


@pytest.fixture(scope="session")
def player(folder: Path) -> Player:
    return Player.open(folder)
