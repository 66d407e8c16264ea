"""Two processes, or three, describe and match what one does: the same labels and numbers, in one folder."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suture.activations.moments import Moments
from suture.activations.store import Store
from suture.features import chosen
from suture.features.describe import features
from suture.features.settings import ChoiceSettings, FeatureSettings, LabelSettings, StatsSettings
from suture.features.table import FeatureTable
from suture.matching import read
from suture.matching.match import Matching, match
from suture.parallel import ALONE, Grid, grid
from suture.pipeline import artifact

KINDS = ("crosscoder", "pooled")
SETTINGS = FeatureSettings(
    n_rows=900,
    stats=StatsSettings(batch_rows=64, n_groups=7),
    choice=ChoiceSettings(n_searched=1400),
    labels=LabelSettings(n_draws=50),
)
"""Rows are described that are not searched, and searched that are not described."""


def both(folder: Path, out: Path, place: Grid) -> None:
    """Describe both dictionaries, and match one with the other, in batches that no number of ranks divides."""
    chosen.BATCH_ROWS = read.BATCH_ROWS = 100
    ranks = place.world
    for kind in KINDS:
        features(out / kind, folder / kind, folder / "store", SETTINGS, ranks=ranks)
    match(out / "matching", folder / "crosscoder", folder / "other", folder / "store", ranks=ranks)


def work(folder: str, out: str) -> None:
    """What each process does."""
    with grid() as place:
        ranks = place.world
        x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 100
        moments = Moments([1, 2])
        mine = x[: 5 * (ranks.size - 1)][5 * (ranks.rank - 1) :][:5] if ranks.rank else x[:0]  # the first has none
        if len(mine):
            moments.add(mine)
        moments.add_up(ranks)
        expected = x[: 5 * (ranks.size - 1)].double()
        assert moments.n_rows == len(expected)
        torch.testing.assert_close(moments.mean(), expected.mean(0))
        torch.testing.assert_close(moments.covariance(), torch.cov(expected.T, correction=0))
        both(Path(folder), Path(out), place)


@pytest.fixture(scope="module")
def made(planted: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, dictionaries of it, and what one process makes of them."""
    from features.conftest import random_dictionary

    folder = tmp_path_factory.mktemp("ranks")
    (folder / "store").symlink_to(planted.path)
    for kind in KINDS:
        random_dictionary(planted, kind).save(folder / kind)
    other = random_dictionary(planted)
    other.W_enc.data += 0.1 * torch.randn(other.W_enc.shape, generator=torch.Generator().manual_seed(9))
    other.save(folder / "other")
    batches = chosen.BATCH_ROWS, read.BATCH_ROWS
    try:
        both(folder, folder / "alone", ALONE)
    finally:
        chosen.BATCH_ROWS, read.BATCH_ROWS = batches
    return folder


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_several_processes_describe_and_match_as_one_does(made: Path, tmp_path: Path, n_ranks: int) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "RANK", "WORLD_"))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)]
    done = subprocess.run(
        [*command, __file__, str(made), str(tmp_path)], capture_output=True, text=True, check=False, timeout=300,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([*KINDS, "matching"])
    for kind in KINDS:
        one, several = (FeatureTable.load(folder / kind) for folder in (made / "alone", tmp_path))
        assert several.labels == one.labels
        assert_close({n: v.numpy() for n, v in several.columns.items()}, {n: v.numpy() for n, v in one.columns.items()})
        assert [[(e["kind"], e["row"]) for e in own] for own in several.examples] == [
            [(e["kind"], e["row"]) for e in own] for own in one.examples
        ]
        assert several.summary["counts"] == one.summary["counts"]
        assert (
            artifact.open_artifact(tmp_path / kind).settings == artifact.open_artifact(made / "alone" / kind).settings
        )
    one, several = (Matching.load(folder / "matching") for folder in (made / "alone", tmp_path))
    for mine, theirs in ((several.features_a, one.features_a), (several.features_b, one.features_b)):
        assert [c.name for c in mine.columns] == [c.name for c in theirs.columns]
        for column in mine.columns:
            if mine[column.name].dtype == object:
                assert list(mine[column.name]) == list(theirs[column.name])
            else:
                np.testing.assert_allclose(mine[column.name], theirs[column.name], rtol=1e-9, atol=1e-9)
    assert several.summary.substituted == pytest.approx(one.summary.substituted, abs=1e-12)
    assert replace(several.summary, substituted=one.summary.substituted) == one.summary


def assert_close(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Equal but for the order in which float32 sums were added up."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-5, err_msg=name)


if __name__ == "__main__":
    work(*sys.argv[1:])
