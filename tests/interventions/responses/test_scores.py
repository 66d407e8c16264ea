"""What is known before: r beyond the token against a computation by hand, from each model alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bridge_worlds import SOME_ALONE
from random_dictionaries import made
from suture.activations.store import Store
from suture.interventions.edits import solo_codes
from suture.interventions.responses.scores import beyond_token, scores
from suture.planted.store import planted_store

from .test_responses import LABELS, table_of

CHOSEN = [1, 4, 7, 9]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return planted_store(tmp_path / "store", SOME_ALONE, 3000)


def test_r_beyond_the_token_is_that_of_codes_less_their_tokens_means(store: Store, tmp_path: Path) -> None:
    dictionary = made(store)
    dictionary.save(tmp_path / "dictionary")
    found = beyond_token(tmp_path / "dictionary", store, CHOSEN)
    rows = torch.arange(len(store))
    a, b = (solo_codes(dictionary, m, store.read_space(rows, m), torch.tensor(CHOSEN)).double().numpy() for m in (0, 1))
    _, token, count = np.unique(store.token_ids.numpy(), axis=0, return_inverse=True, return_counts=True)
    token = token.ravel()
    kept = count[token] >= 2
    wanted = []
    for f, g in zip(a.T, b.T, strict=True):
        less = []
        for x in (f, g):
            mean = np.bincount(token[kept], x[kept], len(count)) / np.maximum(
                np.bincount(token[kept], minlength=len(count)), 1
            )
            less.append((x - mean[token])[kept])
        wanted.append(np.corrcoef(*less)[0, 1])
    assert found == pytest.approx(np.nan_to_num(wanted), abs=1e-6)
    assert np.ptp(found) > 0.01


def test_what_is_not_known_is_no_number(store: Store, tmp_path: Path) -> None:
    made(store, n=len(LABELS)).save(tmp_path / "dictionary")
    found = scores(tmp_path / "dictionary", table_of(LABELS), CHOSEN)
    assert np.isnan(found["r_ctx"]).all()  # it names no store
    assert np.isnan(found["mapped_cosine"]).all()
    assert found["r"] == pytest.approx(table_of(LABELS).columns["cofire_correlation"][CHOSEN].numpy())
