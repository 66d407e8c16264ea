"""Examples carry the store's own text and the codes of the rows they show."""

import pytest
import torch

from features.conftest import Case, random_dictionary
from suture.activations.store import Store
from suture.errors import UserError
from suture.features.examples import examples, passages
from suture.features.settings import ContextSettings
from suture.features.stats import describe


def test_examples_show_the_rows_around_the_peak(case: Case) -> None:
    found = examples(case.stats, case.store, ContextSettings(before=5, after=3))
    _, _, _, f, solo = case.dense(torch.arange(1500))
    documents = case.store.documents
    n_cut = 0
    for i, per_feature in enumerate(found):
        assert len(per_feature) == int((case.stats.top.position[i] >= 0).sum())
        values = [e["value"] for e in per_feature]
        assert values == sorted(values, reverse=True)
        for example in per_feature:
            row = example["row"]
            shown = [r for r in range(row - 5, row + 4) if 0 <= r < 1500 and documents[r] == documents[row]]
            n_cut += len(shown) < 9
            assert example["document"] == int(documents[row])
            assert example["value"] == pytest.approx(float(f[row, i]), rel=1e-3)
            assert example["joint"] == pytest.approx([float(f[r, i]) for r in shown], rel=1e-3)
            for m, side in enumerate(example["sides"]):
                assert side["peak"] == shown.index(row)
                context = [text for text, _ in case.store.row_context(row, before=5, after=3)]
                assert side["tokens"] == context
                assert side["values"] == pytest.approx([float(solo[m][r, i]) for r in shown], rel=1e-3)
    assert n_cut > 5  # documents' ends were among them


def test_the_example_of_a_pooled_dictionary_is_the_stronger_side(planted: Store) -> None:
    stats = describe(random_dictionary(planted, "pooled"), planted, torch.arange(300), discovery_rows=torch.arange(9))
    for per_feature in examples(stats, planted):
        for example in per_feature:
            left, right = (side["values"] for side in example["sides"])
            assert example["joint"] == [max(a, b) for a, b in zip(left, right, strict=True)]
            assert example["value"] == max(s["values"][s["peak"]] for s in example["sides"])


def test_refusals() -> None:
    with pytest.raises(UserError, match="before = -1"):
        ContextSettings(before=-1)


def test_passages_hold_every_row_once_with_its_text_and_stay_in_their_document(case: Case) -> None:
    settings = ContextSettings(before=2, after=1, longer=3)
    found = examples(case.stats, case.store, settings)
    kept = passages(found, case.store, settings)
    documents = case.store.documents.tolist()
    token: dict[int, str] = {}
    for passage in kept:
        rows = range(passage["row"], passage["row"] + len(passage["tokens"]))
        assert {documents[row] for row in rows} == {passage["document"]}
        assert not set(rows) & set(token)
        token |= dict(zip(rows, passage["tokens"], strict=True))
    for example in (e for own in found for e in own):
        row = example["row"]
        wanted = [r for r in range(row - 5, row + 5) if 0 <= r < 1500 and documents[r] == documents[row]]
        assert set(wanted) <= set(token)
        for side in example["sides"]:
            first = row - side["peak"]
            assert side["tokens"] == [token[first + i] for i in range(len(side["tokens"]))]
    assert len(token) < 1500  # what no example is near is left out
    assert passages([], case.store) == []
