"""A planted store holds exactly the planted rows, and its text names the concepts that fire."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from suture.activations.space import are_null
from suture.errors import ArtifactError, UserError
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store, strongest_concepts

SETTINGS = PlantedSettings(widths=(6, 10), n_concepts=20, mean_active=2.0, rows_per_document=30)


def test_the_store_holds_the_planted_rows(tmp_path: Path) -> None:
    n_rows = 10_000  # more than one piece, and no whole number of documents
    store = planted_store(tmp_path / "store", SETTINGS, n_rows, start=77, shard_rows=4096)
    planted = PlantedModels(SETTINGS).rows(77, 77 + n_rows)
    assert len(store) == n_rows
    for stored, expected in zip(store.read(torch.arange(n_rows)), planted.activations, strict=True):
        assert torch.equal(stored, expected)
    assert torch.equal(store.documents.long(), torch.arange(n_rows) // 30)
    assert [space.label for space in store.spaces] == ["planted-A @ planted", "planted-B @ planted"]
    assert store.manifest.settings["planted"]["n_concepts"] == 20


def test_a_rows_token_is_its_strongest_concept(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", SETTINGS, 1000)
    concepts = strongest_concepts(PlantedModels(SETTINGS).rows(0, 1000))
    silent = PlantedModels(SETTINGS).rows(0, 1000).codes.dense().sum(1) == 0
    assert torch.equal(concepts == 20, silent)
    for row in range(1000):
        text, end = store.text(int(store.documents[row])), int(store.ends[row])
        token = text[end - 4 : end]
        assert token == (" c--" if silent[row] else f" c{int(concepts[row]):02d}")
        assert store.token_ids[row].tolist() == [int(concepts[row])] * 2
    assert end == len(text)


def test_scales_bring_the_centred_rows_mean_squared_norm_to_the_width(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", replace(SETTINGS, embedding="affine"), 3000)
    for raw, space in zip(store.read(torch.arange(3000)), store.spaces, strict=True):
        centred = (raw - raw.mean(dim=0)) * space.scale
        assert float(centred.square().sum(dim=1).mean()) == pytest.approx(space.width, rel=1e-4)


def test_a_null_store_says_so(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", SETTINGS.as_null("rotated"), 100)
    assert [s.label for s in store.spaces] == ["planted-A @ planted", "planted-A (rotated copy) @ planted"]
    assert are_null(store.spaces)
    assert store.spaces[0].fingerprint == store.spaces[1].fingerprint


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="n_rows"):
        planted_store(tmp_path / "store", SETTINGS, 0)
    planted_store(tmp_path / "store", SETTINGS, 10)
    with pytest.raises(ArtifactError):
        planted_store(tmp_path / "store", SETTINGS, 10)
