"""Dictionaries of random weights over a store's spaces, and what they see there as dense matrices: for brute force."""

from dataclasses import replace

import torch
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.pieces import cuts, pieces

F = 12


def made(
    store: Store, kind: str = "batchtopk", design: str = "crosscoder", *, n: int = F, seed: int = 5, **more: object
) -> Dictionary:
    """A dictionary of random weights and of decoder rows of different norms."""
    of = list(store.spaces)[: 1 if design == "sae" else None]
    spaces = [replace(space, mean=None) for space in of]
    sparsity = Sparsity(kind=kind, k=3)  # pyright: ignore[reportArgumentType]
    dictionary = Dictionary(spaces, Design(kind=design, n_features=n, sparsity=sparsity, **more))  # pyright: ignore[reportArgumentType]
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in dictionary.state_dict().items():
        tensor.copy_(torch.randn(tensor.shape, generator=draw) * (0.3 if name != "W_dec" else 1.0))
    dictionary.threshold.copy_(dictionary.threshold.abs())
    if kind in ("topk", "topk+batchtopk", "relu+l1"):
        dictionary.threshold.zero_()
    return dictionary.requires_grad_(requires_grad=False)


def seen_by(dictionary: Dictionary, store: Store) -> Store:
    return store if dictionary.n_spaces == len(store.spaces) else store.select([0])


def dense(dictionary: Dictionary, view: Store, rows: Tensor) -> list[tuple[slice, Tensor, Tensor]]:
    """(columns, codes, rows) of every kind of item, float64."""
    found = []
    for number, cut in enumerate(cuts(dictionary)):
        own = [p for p in pieces(dictionary, view, rows) if p.kind == number]
        x = torch.cat([p.x[:, cut] for p in own]).double()
        found.append((cut, torch.cat([p.codes(dictionary).dense() for p in own]).double(), x))
    return found


def error(dictionary: Dictionary, view: Store, rows: Tensor) -> float:
    """Sum of squared errors, dense and in float64."""
    W, b = dictionary.W_dec.double(), dictionary.b_dec.double()
    return sum(float((x - b[cut] - f @ W[:, cut]).square().sum()) for cut, f, x in dense(dictionary, view, rows))
