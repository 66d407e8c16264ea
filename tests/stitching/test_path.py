"""The path begins and ends at the two dictionaries, and is at every step what that step's dictionary gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from random_dictionaries import dense, error, made, seen_by
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.stitching.insert import changes
from suture.stitching.latents import read
from suture.stitching.path import BIAS, Move, at_step, components, links, plan, walk
from suture.stitching.settings import StitchSettings

FIT, ROWS = torch.arange(600), torch.arange(600, 1000)
SETTINGS = StitchSettings(link_above=0.2, cap=4)


def two(given: Store, kind: str, design: str) -> tuple[Dictionary, Dictionary, Store]:
    small, large = made(given, kind, design, n=7, seed=1), made(given, kind, design, n=12, seed=2)
    large.W_dec *= 0.4
    large.center.copy_(large.center + 0.5)
    return small, large, seen_by(small, given)


def steps(small: Dictionary, large: Dictionary, view: Store, settings: StitchSettings = SETTINGS) -> list[Move]:
    reading = read(small, large, view, FIT)
    return plan(reading, small, large, np.argsort(changes(reading))[:3], settings)


@pytest.mark.parametrize("kind", ["batchtopk", "relu+l1", "jumprelu", "gated"])
@pytest.mark.parametrize("design", ["sae", "crosscoder", "pooled"])
def test_every_step_is_what_its_dictionary_gives(kind: str, design: str, store: Store, unequal_store: Store) -> None:
    small, large, view = two(unequal_store if design == "pooled" else store, kind, design)
    if design == "pooled":
        large.center.copy_(small.center)  # pooled ones over unequal widths cannot take up another
    moves = steps(small, large, view)
    found = walk(moves, small, large, view, ROWS)
    n_numbers = sum(x.numel() for _, _, x in dense(small, view, ROWS))
    variance = sum_of_variance(small, view)
    for step in range(len(moves) + 1):
        dictionary = at_step(moves, step, small, large)
        assert found.table["mse"][step] == pytest.approx(error(dictionary, view, ROWS) / n_numbers, rel=1e-6)
        active = torch.cat([(f > 0).sum(1) for _, f, _ in dense(dictionary, view, ROWS)])
        assert found.table["l0"][step] == pytest.approx(float(active.double().mean()), rel=1e-9)
        assert found.table["n_features"][step] == dictionary.n_features
    first, last = (error(d, view, ROWS) / n_numbers for d in (small, large))
    assert found.table["mse"][0] == pytest.approx(first, rel=1e-6)
    assert found.table["mse"][-1] == pytest.approx(last, rel=1e-6)
    assert found.end_gap < 1e-9
    shares = found.table["fvu"] @ variance / n_numbers
    np.testing.assert_allclose(shares, found.table["mse"], rtol=1e-7)
    assert np.isnan(found.table["loss"]).all()


def sum_of_variance(small: Dictionary, view: Store) -> np.ndarray:
    scaled = [view.read_space(ROWS, m).double() * np.float32(s.scale) for m, s in enumerate(small.spaces)]
    return np.array([float((x - x.mean(0)).square().sum()) for x in scaled])


def test_the_last_dictionary_is_the_large_one_in_another_order(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    moves = steps(small, large, view)
    came = np.concatenate([move.large for move in moves])
    gone = np.concatenate([move.small for move in moves])
    assert sorted(came.tolist()) == list(range(12))
    assert sorted(gone.tolist()) == list(range(7))
    last = at_step(moves, len(moves), small, large)
    torch.testing.assert_close(last.W_dec, large.W_dec[came], rtol=0, atol=0)
    torch.testing.assert_close(last.b_dec, large.b_dec, rtol=0, atol=0)
    torch.testing.assert_close(at_step(moves, 0, small, large).W_enc, small.W_enc, rtol=0, atol=0)
    assert [move.phase for move in moves[:3]] == ["insert"] * 3
    assert moves[-1].phase == BIAS


def test_swaps_are_taken_best_first(store: Store) -> None:
    """On the rows that choose, by trying every one that is left."""
    small, large, view = two(store, "batchtopk", "crosscoder")
    large.W_dec *= 2.5  # so that what was inserted decides what is swapped first
    moves = steps(small, large, view)
    begin = 3
    now = error(at_step(moves, begin, small, large), view, FIT)
    for place in range(begin, len(moves) - 1):
        tried = []
        for other in moves[place:-1]:
            after = at_step([*moves[:place], other], place + 1, small, large)
            tried.append(error(after, view, FIT) - now)
        assert tried[0] <= min(tried) + 1e-4 * abs(min(tried))
        now += tried[0]


def test_components_are_a_partition_that_keeps_to_the_cap() -> None:
    strength = np.array([0.9, 0.8, 0.7, 0.95, 0.6])
    own, other = np.array([0, 0, 1, 2, 1]), np.array([10, 11, 11, 12, 12])
    rest = np.array([10, 11, 12, 13])

    def sets(cap: int) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
        groups = components(strength, own, other, 4, rest, cap)
        return {(tuple(sorted(a.tolist())), tuple(sorted(b.tolist()))) for a, b in groups}

    assert sets(8) == {((0, 1, 2), (10, 11, 12)), ((3,), ()), ((), (13,))}
    assert sets(4) == {((0, 1), (10, 11)), ((2,), (12,)), ((3,), ()), ((), (13,))}
    assert sets(2) == {((0,), (10,)), ((1,), (11,)), ((2,), (12,)), ((3,), ()), ((), (13,))}


def test_links_are_those_above_the_bar(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    reading, rest = read(small, large, view, FIT), np.array([1, 4, 9])
    strength, own, other = links(reading, small, large, rest, SETTINGS)
    unit = [torch.nn.functional.normalize(d.W_dec, dim=1).numpy() for d in (small, large)]
    exact = {(i, j): unit[0][i] @ unit[1][j] for i in range(7) for j in rest}
    assert {(i, j) for i, j in zip(own, other, strict=True)} == {p for p, c in exact.items() if c >= 0.2}
    np.testing.assert_allclose(strength, [exact[i, j] for i, j in zip(own, other, strict=True)], atol=1e-6)
    by_values = replace(SETTINGS, link="correlation", link_above=0.1)
    strength, own, other = links(reading, small, large, rest, by_values)
    r = np.corrcoef(reading.small.toarray().T, reading.large.toarray().T)[:7, 7:]
    np.testing.assert_allclose(strength, r[own, other], atol=1e-9)
    assert set(other.tolist()) <= set(rest.tolist())
    assert (strength >= 0.1).all()


def test_rises_are_counted_and_losses_measured_where_asked(store: Store) -> None:
    small, large, view = two(store, "batchtopk", "crosscoder")
    moves = steps(small, large, view)
    seen: list[int] = []

    def spliced(dictionary: Dictionary) -> list[float]:
        seen.append(dictionary.n_features)
        return [float(len(seen)), 0.5]

    found = walk(moves, small, large, view, ROWS, spliced=spliced, n_losses=4)
    measured = np.flatnonzero(np.isfinite(found.table["loss"][:, 0]))
    assert measured[0] == 0
    assert measured[-1] == len(moves)
    assert 4 <= len(measured) == len(seen) <= 5
    assert (seen[0], seen[-1]) == (7, 12)
    mse, phase = found.table["mse"], found.table["phase"]
    up = [int(mse[i] > mse[i - 1] * (1 + 1e-9)) for i in range(1, len(mse))]
    for name, (n_up, n) in found.violations.items():
        assert n == sum(phase[1:] == name)
        assert n_up == sum(u for u, p in zip(up, phase[1:], strict=True) if p == name)
    assert sum(n for n, _ in found.violations.values()) > 0
