"""The path from a small dictionary to a large one: novel features put in, the rest swapped for their counterparts.

1. Insert: every novel feature by itself, each time the one that lowers the error most given those before (`greedy`).
2. Swap: features of the small dictionary and those of the large one that are alike form a bipartite graph; its
   components, links made from the strongest on and none that would grow beyond the cap, are swapped whole. A small
   one's feature without counterpart is dropped, a large one's added. Each time the component whose swap is best, from
   the exact products of what components contribute.
3. Bias: the small dictionary's b_dec gives way to the large one's. So the path begins and ends exactly at the two.

Ordered on rows that chose, walked on rows that judge: there the residuals themselves are carried along, so that every
step's error is what decoding with that step's dictionary gives. Nothing makes a path monotone: `violations` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csc_matrix, csr_matrix, diags, hstack, vstack
from torch import Tensor
from torch.nn.functional import normalize

from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.parts import join, take
from suture.dictionary.pieces import as_sparse, cuts, gram, pieces
from suture.matching.correlate import top_correlations
from suture.pipeline.table import Table
from suture.stitching.columns import PATH
from suture.stitching.insert import greedy
from suture.stitching.latents import Reading, residual, spaces_of
from suture.stitching.settings import StitchSettings

START, INSERT, SWAP, DROP, ADD, BIAS = PHASES = ("start", "insert", "swap", "drop", "add", "bias")
LINKS_OF_A_FEATURE = 16
BLOCK = 1024
WORTH_SAYING = 1e-9
"""A rise of the error below this part of it is rounding."""

Spliced = Callable[[Dictionary], Sequence[float]]
"""Each model's loss with a dictionary in place of its activations."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Move:
    """One step of the path."""

    phase: str
    small: Int[ndarray, "own"]
    """Features of the small dictionary that go."""
    large: Int[ndarray, "other"]
    """Features of the large one that come."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """All steps, and what was measured at each."""

    moves: tuple[Move, ...]
    table: Table
    end_gap: float
    """Distance of the last step's error from that of the large dictionary itself, as a part of that."""

    @property
    def violations(self) -> dict[str, tuple[int, int]]:
        """Of each phase, how many of its steps raise the error, and how many it has."""
        phase, mse = self.table["phase"], self.table["mse"]
        rises = np.append(False, np.diff(mse) > WORTH_SAYING * mse[:-1])
        return {name: (int(rises[phase == name].sum()), int((phase == name).sum())) for name in PHASES[1:]}


# --- which steps ------------------------------------------------------------------------------------------------------


def plan(
    reading: Reading,
    small: Dictionary,
    large: Dictionary,
    novel: Int[ndarray, "chosen"],
    settings: StitchSettings,
) -> list[Move]:
    """1 to 3, in order, from what was read of rows that choose; `novel` are features of the large dictionary."""
    n_small, n_large = small.n_features, large.n_features
    sign = np.concatenate([np.ones(n_small), -np.ones(n_large)])
    codes = csr_matrix(hstack([reading.small, reading.large], format="csr"))
    decoder = torch.cat([small.W_dec.detach(), large.W_dec.detach()])
    turn = diags(sign)
    coupled = csr_matrix(turn @ gram(codes, reading.kind, decoder, cuts(small)) @ turn)
    overlap = sign * np.concatenate([reading.own_overlap, reading.summed(reading.overlap)])
    singles = csr_matrix(coupled[n_small + novel][:, n_small + novel])
    order, _ = greedy(singles.diagonal() + 2 * overlap[n_small + novel], singles, to_the_end=True)  # 1
    moves = [Move(phase=INSERT, small=np.zeros(0, np.int64), large=novel[[i]]) for i in order]
    inserted = np.zeros(n_small + n_large)
    inserted[n_small + novel] = 1
    overlap = overlap + coupled @ inserted
    rest = np.setdiff1d(np.arange(n_large), novel)
    groups = components(*links(reading, small, large, rest, settings), n_small, rest, settings.cap)  # 2
    members = np.concatenate([np.concatenate([own, n_small + other]) for own, other in groups] or [np.zeros(0)])
    which = np.repeat(np.arange(len(groups)), [len(own) + len(other) for own, other in groups])
    shape = (len(groups), n_small + n_large)
    grouping = csr_matrix((np.ones(len(members)), (which, members.astype(np.int64))), shape=shape)
    together = csr_matrix(grouping @ coupled @ grouping.T)
    order, _ = greedy(together.diagonal() + 2 * (grouping @ overlap), together, to_the_end=True)
    for i in order:
        own, other = groups[i]
        phase = SWAP if len(own) and len(other) else DROP if len(own) else ADD
        moves.append(Move(phase=phase, small=own, large=other))
    nobody = np.zeros(0, np.int64)
    return [*moves, Move(phase=BIAS, small=nobody, large=nobody)]


def links(
    reading: Reading, small: Dictionary, large: Dictionary, rest: Int[ndarray, "other"], settings: StitchSettings
) -> tuple[Float64[ndarray, "pair"], Int[ndarray, "pair"], Int[ndarray, "pair"]]:
    """(how alike, feature of the small one, feature of the large one) of all that are alike enough."""
    if settings.link == "correlation":
        pairs = top_correlations(
            csr_matrix(reading.large[:, rest]), reading.small, keep=LINKS_OF_A_FEATURE, floor=settings.link_above
        )
        return pairs.r, pairs.b, rest[pairs.a]
    unit = normalize(small.W_dec.detach(), dim=1).T
    strength, own, other = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first in range(0, len(rest), BLOCK):
        here = rest[first : first + BLOCK]
        cosine = normalize(large.W_dec.detach()[torch.from_numpy(here)], dim=1) @ unit
        row, column = torch.nonzero(cosine >= settings.link_above, as_tuple=True)
        strength.append(cosine[row, column].double().cpu().numpy())
        own.append(column.cpu().numpy())
        other.append(here[row.cpu().numpy()])
    return np.concatenate(strength), np.concatenate(own), np.concatenate(other)


def components(
    strength: Float64[ndarray, "pair"],
    own: Int[ndarray, "pair"],
    other: Int[ndarray, "pair"],
    n_small: int,
    rest: Int[ndarray, "other"],
    cap: int,
) -> list[tuple[ndarray, ndarray]]:
    """Features that hang together, at most `cap` of them: every one of the small dictionary and of `rest` in one.

    Each as (features of the small dictionary, features of the large one).
    """
    leader = {("S", j): ("S", j) for j in range(n_small)} | {("L", int(i)): ("L", int(i)) for i in rest}
    size = dict.fromkeys(leader, 1)

    def find(node: tuple[str, int]) -> tuple[str, int]:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for place in np.argsort(-strength, kind="stable").tolist():
        one, two = find(("S", int(own[place]))), find(("L", int(other[place])))
        if one != two and size[one] + size[two] <= cap:
            leader[two] = one
            size[one] += size[two]
    groups: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for node in leader:
        groups.setdefault(find(node), ([], []))[node[0] == "L"].append(node[1])
    return [(np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)) for a, b in groups.values()]


# --- walked -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def walk(
    moves: Sequence[Move],
    small: Dictionary,
    large: Dictionary,
    view: Store,
    rows: Int[Tensor, "row"],
    *,
    spliced: Spliced | None = None,
    n_losses: int = 9,
) -> Path:
    """The path on rows that judge."""
    M, columns = small.n_spaces, cuts(small)
    bases = small.W_dec.detach().double(), large.W_dec.detach().double()
    codes: tuple[list[csr_matrix], list[csr_matrix]] = ([], [])
    left, space, kind = [], [], []
    total, energy, count = np.zeros((M, small.width)), np.zeros(M), np.zeros(M)
    end, n_numbers = 0.0, 0
    for piece in pieces(small, view, rows):
        cut, found = columns[piece.kind], [piece.codes(d) for d in (small, large)]
        for own, one in zip(codes, found, strict=True):
            own.append(as_sparse(one))
        e, target = (residual(d, b, c, piece) for d, b, c in zip((small, large), bases, found, strict=True))
        e[:, cut.stop :] = 0
        left.append(e.cpu().numpy())
        kind.append(np.full(len(e), piece.kind))
        space.append(np.full(len(e), spaces_of(small, piece)[0][0]))
        for m, inside in spaces_of(small, piece):
            x = piece.x[:, inside].double().cpu().numpy()
            total[m, : x.shape[1]] += x.sum(0)
            energy[m] += np.square(x).sum()
            count[m] += len(x)
            n_numbers += x.size
            end += float(target[:, inside].square().sum())
    variance = energy - np.square(total).sum(1) / np.maximum(count, 1)
    e, kind, space = np.concatenate(left), np.concatenate(kind), np.concatenate(space)
    union = csc_matrix(hstack([vstack(part, format="csc") for part in codes], format="csc"))
    basis = torch.cat([bases[0], -bases[1]]).cpu().numpy()
    stops = np.array([cut.stop for cut in columns])[kind]
    squares = _squares(e, small, space)
    state = squares.sum(0)
    n_items, n_active = len(e), int(np.diff(union.indptr)[: small.n_features].sum())
    records = [_record(START, state, n_active / n_items, small.n_features, 0, 0)]
    n_features = small.n_features
    for move in moves:
        if move.phase == BIAS:
            shift = (small.b_dec.detach().double() - large.b_dec.detach().double()).cpu().numpy()
            touched, change = np.arange(n_items), np.broadcast_to(shift, e.shape).copy()
        else:
            features = np.concatenate([move.small, small.n_features + move.large])
            part = union[:, features].tocsr()
            touched = np.flatnonzero(np.diff(part.indptr))
            change = part[touched] @ basis[features]
            active = np.diff(union.indptr)
            n_active += int(active[small.n_features + move.large].sum() - active[move.small].sum())
        change[np.arange(change.shape[1]) >= stops[touched][:, None]] = 0
        e[touched] += change
        after = _squares(e[touched], small, space[touched])
        state = state + (after - squares[touched]).sum(0)
        squares[touched] = after
        n_features += len(move.large) - len(move.small)
        record = _record(move.phase, state, n_active / n_items, n_features, len(move.large), len(move.small))
        records.append(record)
    names = [s.label for s in small.spaces]
    losses = _losses(moves, small, large, spliced, n_losses)
    table = _table(records, variance, n_numbers, losses, names)
    return Path(moves=tuple(moves), table=table, end_gap=abs(float(state.sum()) / end - 1))


def at_step(moves: Sequence[Move], step: int, small: Dictionary, large: Dictionary) -> Dictionary:
    """The dictionary after so many moves: 0 is the small one, all of them the large one, its features in another order.

    Features of the small one come first.
    """
    done = moves[:step]
    gone = np.concatenate([np.zeros(0, np.int64), *(move.small for move in done)])
    came = np.concatenate([np.zeros(0, np.int64), *(move.large for move in done)])
    kept = np.setdiff1d(np.arange(small.n_features), gone)
    parts = [take(d, chosen.tolist()) for d, chosen in ((small, kept), (large, came)) if len(chosen)]
    made = join(parts) if len(parts) > 1 else parts[0]
    ended = any(move.phase == BIAS for move in done)
    with torch.no_grad():
        made.b_dec.copy_(large.b_dec if ended else small.b_dec)
    return made


def _squares(left: Float64[ndarray, "item D"], small: Dictionary, space: Int[ndarray, "item"]) -> ndarray:
    """Squared residuals [item, space]; what an item does not hold is 0."""
    if small.design.joint:
        spaces = range(small.n_spaces)
        return np.stack([np.square(left[:, small.columns(m)]).sum(1) for m in spaces], axis=1)
    found = np.zeros((len(left), small.n_spaces))
    found[np.arange(len(left)), space] = np.square(left).sum(1)
    return found


def _record(
    phase: str, squared: Float64[ndarray, "space"], l0: float, n_features: int, n_inserted: int, n_removed: int
) -> Mapping[str, object]:
    return {
        "phase": phase, "squared": squared.copy(), "l0": l0, "n_features": float(n_features),
        "n_inserted": float(n_inserted), "n_removed": float(n_removed),
    }  # fmt: skip


def _losses(
    moves: Sequence[Move], small: Dictionary, large: Dictionary, spliced: Spliced | None, n_losses: int
) -> Float64[ndarray, "step space"]:
    found = np.full((len(moves) + 1, small.n_spaces), np.nan)
    if spliced is not None:
        ends_of_phases = [i + 1 for i in range(len(moves) - 1) if moves[i].phase != moves[i + 1].phase == BIAS]
        for step in sorted({*np.linspace(0, len(moves), n_losses).round().astype(int).tolist(), *ends_of_phases}):
            found[step] = spliced(at_step(moves, step, small, large))
    return found


def _table(
    records: Sequence[Mapping[str, object]],
    variance: Float64[ndarray, "space"],
    n_numbers: int,
    losses: Float64[ndarray, "step space"],
    names: Sequence[str],
) -> Table:
    squared = np.stack([np.asarray(record["squared"]) for record in records])
    values: dict[str, ndarray] = {
        "phase": np.array([record["phase"] for record in records], dtype=object),
        "mse": squared.sum(1) / n_numbers,
        "fvu": squared / np.maximum(variance, 1e-12),
        "loss": losses,
    }
    for name in ("l0", "n_features", "n_inserted", "n_removed"):
        values[name] = np.array([record[name] for record in records], dtype=np.float64)
    values = {column.name: values[column.name] for column in PATH}
    return Table(axes=("step",), columns=PATH, values=values, coordinates={"space": list(names)})
