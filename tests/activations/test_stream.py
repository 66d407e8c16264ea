"""Laws of streaming: a fill is what a store would hold, whenever it is asked for, and the units never change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suture.activations import stream as module
from suture.activations.batches import batches, split_rows
from suture.activations.collect import collect
from suture.activations.settings import Treatment, View
from suture.activations.store import Store
from suture.activations.stream import Stream
from suture.activations.view import seen
from suture.errors import UserError
from suture.lm.corpus import Corpus, open_corpus
from suture.lm.load import LanguageModel

FILL = 700


@pytest.fixture(scope="module")
def settings(lms_loaded: dict[str, LanguageModel], corpus: Corpus) -> dict[str, Any]:
    """Two widths, two tokenizers."""
    sources = [(lms_loaded["one"], "mlp0.out"), (lms_loaded["other"], "resid0.post")]
    return {"sources": sources, "corpus": corpus, "block": 20, "batch_tokens": 50}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> Store:
    """All rows of the corpus, on disk."""
    return collect(tmp_path_factory.mktemp("whole") / "s", n_rows=10**6, **settings)


def rows_of(store: Store) -> tuple[torch.Tensor, ...]:
    return *store.read(torch.arange(len(store))), store.documents, store.ends, store.token_ids


def test_fills_are_the_rows_of_a_store_one_after_the_other_and_begin_anew_at_the_end(
    settings: dict[str, Any], whole: Store
) -> None:
    n = len(whole)
    expected = rows_of(whole)
    with Stream(fill_rows=FILL, **settings) as stream:
        for number in range(n // FILL + 3):
            found = rows_of(stream.fill(number))
            numbers = np.sort(np.arange(number * FILL, (number + 1) * FILL) % n)
            assert all(torch.equal(a, b[numbers]) for a, b in zip(found, expected, strict=True)), number
            documents = found[2]
            assert bool((documents[1:] >= documents[:-1]).all())


def test_units_are_those_of_the_first_fill(settings: dict[str, Any]) -> None:
    with Stream(fill_rows=FILL, **settings) as stream:
        first, third = stream.fill(0), stream.fill(2)
    for space, other, values in zip(first.spaces, third.spaces, first.read(torch.arange(FILL)), strict=True):
        assert (space.scale, space.width) == (other.scale, other.width)
        assert torch.allclose(space.known_mean, values.mean(0), atol=1e-5)
        assert torch.equal(space.known_mean, other.known_mean)
        spread = (values.double() - values.double().mean(0)).square().sum(1).mean()
        assert float(spread) * space.scale**2 == pytest.approx(space.width)


def test_going_on_at_a_position_runs_no_model_on_earlier_fills(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stream(fill_rows=FILL, **settings) as stream:
        unbroken = [stream.fill(number) for number in range(4)]
        kept = json.loads(json.dumps({2: stream.position(2)}))
    rows: list[int] = []
    real = module.rows_of
    monkeypatch.setattr(
        module, "rows_of", lambda plan, window, wanted: rows.append(window.before.n_rows) or real(plan, window, wanted)
    )
    with Stream(fill_rows=FILL, positions=kept, **settings) as stream:
        later = {number: stream.fill(number) for number in (3, 2)}
    assert rows
    assert min(rows) > FILL
    for number, store in later.items():
        assert all(torch.equal(a, b) for a, b in zip(rows_of(store), rows_of(unbroken[number]), strict=True))
        assert [s.scale for s in store.spaces] == [s.scale for s in unbroken[0].spaces]
        assert all(
            torch.equal(s.known_mean, t.known_mean) for s, t in zip(store.spaces, unbroken[0].spaces, strict=True)
        )


@pytest.mark.parametrize("treatment", ["clip", "drop"])
@pytest.mark.parametrize("early", [True, False])
def test_what_counts_as_an_outlier_is_settled_by_the_first_fill_also_when_going_on(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, treatment: Treatment, *, early: bool
) -> None:
    """Also where the first fill has none, or where a resumed run never computes it."""
    real = module.rows_of

    def with_sinks(plan: Any, window: Any, wanted: Any) -> Any:
        rows = real(plan, window, wanted)
        if window.before.n_rows >= FILL or early:
            for x in rows.activations:
                x[3] *= 1000.0
        return rows

    monkeypatch.setattr(module, "rows_of", with_sinks)
    view = View(outliers=treatment)
    with Stream(fill_rows=FILL, **settings) as stream:
        first, unbroken = stream.fill(0), stream.fill(2)
        kept = json.loads(json.dumps({2: stream.position(2)}))
    assert first.extremes is not None
    assert any(e.n_outliers for e in first.extremes) == early
    with Stream(fill_rows=FILL, positions=kept, **settings) as stream:
        later = stream.fill(2)
    assert later.extremes == first.extremes
    seen_at_once, seen_later = seen(unbroken, view), seen(later, view)
    assert all(torch.equal(a, b) for a, b in zip(rows_of(seen_at_once), rows_of(seen_later), strict=True))
    assert [s.scale for s in seen_at_once.spaces] == [s.scale for s in seen_later.spaces]
    assert len(seen_later) == FILL if treatment == "clip" else len(seen_later) < FILL
    for x, own in zip(seen_later.read(torch.arange(len(seen_later))), first.extremes, strict=True):
        assert float((x - own.centre).norm(dim=1).max()) <= 10.01 * own.median
    if not early:  # the units stay those of all rows of the first fill, of which none is out
        assert [s.scale for s in seen_later.spaces] == [s.scale for s in first.spaces]


def test_positions_of_another_stream_are_refused(settings: dict[str, Any]) -> None:
    with Stream(fill_rows=FILL, **settings) as stream:
        kept = {1: stream.position(1)}
    with pytest.raises(UserError, match="block = 19: differs from 20"):
        Stream(fill_rows=FILL, positions=kept, **settings | {"block": 19})


@pytest.mark.parametrize("prefetch", [True, False])
def test_computing_ahead_changes_nothing(settings: dict[str, Any], *, prefetch: bool) -> None:
    with Stream(fill_rows=FILL, **settings) as plain:
        expected = [rows_of(plain.fill(number)) for number in (0, 1, 5)]
    with Stream(fill_rows=FILL, prefetch=prefetch, **settings) as stream:
        found = [rows_of(stream.fill(number)) for number in (0, 1, 5)]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_corpus_smaller_than_a_fill_is_every_fill(settings: dict[str, Any], whole: Store) -> None:
    with Stream(fill_rows=10**5, **settings) as stream:
        for number in (0, 1, 3):
            store = stream.fill(number)
            assert all(torch.equal(a, b) for a, b in zip(rows_of(store), rows_of(whole), strict=True))
        kept = {7: stream.position(7)}
    with Stream(fill_rows=10**5, positions=kept, **settings) as stream:
        assert len(stream.fill(7)) == len(whole)


def test_a_fill_is_split_and_batched_as_a_store_and_views_are_of_it(settings: dict[str, Any]) -> None:
    with Stream(fill_rows=FILL, **settings) as stream:
        held_documents: list[set[int]] = []
        trained: set[int] = set()
        for number in range(9):
            store = stream.fill(number)
            train, held = split_rows(store, heldout=0.2, seed=1)
            held_documents.append(set(store.documents[held].tolist()))
            trained |= set(store.documents[train].tolist())
        assert not trained & held_documents[0], "held-out documents are never trained on, also when they come again"
    batch = next(batches(store, train, batch_size=64, seed=0))
    assert batch.activations.shape == (64, sum(s.width for s in store.spaces))
    swapped = store.select([1, 0])
    rows = torch.tensor([5, 3, 699])
    assert torch.equal(swapped.read(rows)[0], store.read(rows)[1])
    with pytest.raises(KeyError):
        store.text(int(store.documents[0]))


def test_a_corpus_that_gives_no_block_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "t.txt").write_text("the cat")
    stream = Stream(fill_rows=FILL, **settings | {"corpus": open_corpus(tmp_path / "t.txt")})
    with stream, pytest.raises(UserError, match="less than one block of 20"):
        stream.fill(0)
