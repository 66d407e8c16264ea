"""A training's result is what it wrote, read without its weights."""

from pathlib import Path

import pytest

from report.made_artifacts import make_dictionary, make_progress, make_store
from suture.errors import ArtifactError
from suture.training.result import TrainResult


def test_it_is_what_was_written(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    make_dictionary(tmp_path / "d", tmp_path / "store", design="crosscoder", n_features=20, k=3)
    result = TrainResult.load(tmp_path / "d")
    assert result.description.design.n_features == 20
    assert result.description.design.sparsity.k == 3
    assert [space.model for space in result.description.spaces] == ["tinystories-1l", "tinystories-2l"]
    assert result.evaluation is not None
    assert result.evaluation.fvu == [0.12, 0.14]
    assert result.metrics[1] == make_progress(50)
    said = "crosscoder of 20 features over tinystories-1l @ mlp0.out x tinystories-2l @ mlp0.out"
    assert repr(result) == f"TrainResult({said}; FVU 0.120, 0.140, L0 23.7; {tmp_path / 'd'})"


def test_what_is_something_else_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    with pytest.raises(ArtifactError, match="store"):
        TrainResult.load(tmp_path / "store")
    make_dictionary(tmp_path / "d", None, design="crosscoder", n_features=20)
    file = tmp_path / "d" / "evaluation.json"
    file.write_text('{"fvu": "none"}'.ljust(file.stat().st_size), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"evaluation\.json"):
        TrainResult.load(tmp_path / "d")
