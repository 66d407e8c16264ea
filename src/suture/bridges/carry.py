"""A dictionary of one space as the maps of a bridge alone make it in the other.

With P_up the map there and P_dn the map back, each fitted in its own right (never an inverse or a
   transpose), m the means, c the centre: what the encoder reads of x_A is what it reads of m_A + (x_B - m_B) P_dn, so

    W_enc' = W_enc P_dn',  b_enc' = b_enc + W_enc (m_A - c),  c' = m_B,
    W_dec' = W_dec P_up,   b_dec' = m_B + (b_dec - m_A) P_up."""

from __future__ import annotations

from dataclasses import replace

import torch

from suture.activations.moments import AffineMap
from suture.bridges.bridge import Bridge
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError


def affine(bridge: Bridge, source: int, kind: str) -> AffineMap:
    """The map from a space that is a matrix.

    Raises:
        UserError: there is none of this kind, or it has a hidden layer.
    """
    found = bridge.map(source, kind)
    if not isinstance(found, AffineMap):
        raise UserError("by", kind, "has a hidden layer, through which no single row can be carried", "use ridge")
    return found


def source_of(bridge: Bridge, dictionary: Dictionary) -> int:
    """Of which of the bridge's spaces a dictionary is.

    Raises:
        UserError: of neither, or of several spaces.
    """
    if dictionary.n_spaces != 1:
        problem = f"is over {dictionary.n_spaces} spaces; what is carried is of one"
        raise UserError("dictionary", dictionary.path, problem, "carry a single model's dictionary (--design sae)")
    (own,) = dictionary.spaces
    for number, space in enumerate(bridge.spaces):
        if space.stands_for(own) and space.width == own.width:
            return number
    ends = " and ".join(f"{space.label} ({space.width} wide)" for space in bridge.spaces)
    problem = f"is of {own.label} ({own.width} wide), the bridge between {ends}"
    raise UserError("dictionary", dictionary.path, problem, "carry a dictionary of one of these, or fit another bridge")


@torch.no_grad()
def carried(bridge: Bridge, dictionary: Dictionary, kind: str = "ridge") -> Dictionary:
    """The dictionary over the bridge's other space, as the maps alone make it.

    Raises:
        UserError: a dictionary that is not of one of the bridge's spaces; a map that is no matrix.
    """
    source = source_of(bridge, dictionary)
    up, down = affine(bridge, source, kind), affine(bridge, 1 - source, kind)
    given = dictionary.with_scales([bridge.spaces[source].scale])
    P, Q = (own.matrix.to(given.W_dec) for own in (up, down))
    here, there = up.source_mean.to(given.W_dec), up.target_mean.to(given.W_dec)
    made = Dictionary([replace(bridge.spaces[1 - source], mean=None)], given.design)
    moved = given.W_enc @ (here - given.center)
    weights = given.state_dict() | {
        "W_enc": given.W_enc @ Q.T,
        "b_enc": given.b_enc + moved,
        "W_dec": given.W_dec @ P,
        "b_dec": there + (given.b_dec - here) @ P,
        "center": there,
        **given.sparsity.activation.shifted(given.own_weights, moved),
    }
    made.load_state_dict(weights)
    return made.requires_grad_(requires_grad=False)
