"""Maps between spaces against planted truth and against scikit-learn, scipy and brute force over rows."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from bridge_worlds import AFFINE, ROTATION, SOME_ALONE, WIDER, mapped_rows, store_of
from suture.activations.moments import AffineMap, Moments, chosen_affine
from suture.activations.settings import View
from suture.activations.store import Store
from suture.bridges.bridge import Bridge, bridge
from suture.bridges.fit import PATIENCE, TwoWayLoss, _Best, as_relu, fitted
from suture.bridges.ground import Ground, ground
from suture.bridges.maps import ReluMap
from suture.bridges.settings import KINDS, BridgeSettings, Kind
from suture.cli.app import run
from suture.errors import NumericalError, UserError
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

SETTINGS = BridgeSettings(heldout=0.3, draws=100, relu_rows=20_000, rank=16)
WORLDS = {"rotation": ROTATION, "wider": WIDER, "affine": AFFINE, "some alone": SOME_ALONE}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    made = tmp_path_factory.mktemp("stores")
    return {name: planted_store(made / name.replace(" ", "-"), own, 6000) for name, own in WORLDS.items()}


def on(store: Store, settings: BridgeSettings = SETTINGS) -> Ground:
    return ground(store, settings.view, n_rows=settings.n_rows, heldout=settings.heldout, seed=settings.seed)


def truth(store: Store, settings: PlantedSettings, source: int) -> torch.Tensor:
    """The planted map, in scaled units."""
    scales = [space.scale for space in store.spaces]
    return PlantedModels(settings).map(source, 1 - source) * scales[1 - source] / scales[source]


@pytest.mark.parametrize("kind", ["ridge", "procrustes"])
def test_a_rotation_is_recovered(stores: dict[str, Store], kind: Kind) -> None:
    store = stores["rotation"]
    found = fitted(kind, on(store), SETTINGS)
    centred = store.read_space(torch.arange(2000), 0) * store.spaces[0].scale
    centred -= centred.mean(0)
    for way, own in enumerate(found.maps):
        assert isinstance(own, AffineMap)
        x = store.read_space(torch.arange(2000), way) * store.spaces[way].scale
        x = (x - x.mean(0)).double()
        wanted = x @ truth(store, ROTATION, way).double()
        # only where rows lie: thirty concepts do not fill forty dimensions
        assert float((x @ own.matrix - wanted).norm() / wanted.norm()) < 2e-4


def test_procrustes_is_the_nearest_rotation_even_with_too_few_directions(stores: dict[str, Store]) -> None:
    (own, _) = fitted("procrustes", on(stores["rotation"]), SETTINGS).maps
    assert isinstance(own, AffineMap)
    length = own.matrix.norm() / math.sqrt(40)
    Q = own.matrix / length
    assert torch.allclose(Q @ Q.T, torch.eye(40).double(), atol=1e-8)
    assert float(length) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", ["rotation", "wider", "affine"])
def test_procrustes_is_scipys(stores: dict[str, Store], name: str) -> None:
    where = on(stores[name])
    x, y = (rows.double() for rows in where.fit.read(torch.arange(len(where.fit))))
    x, y = x - x.mean(0), y - y.mean(0)
    width = max(x.shape[1], y.shape[1])
    one, other = (np.pad(v.numpy(), ((0, 0), (0, width - v.shape[1]))) for v in (x, y))
    Q, total = orthogonal_procrustes(one, other)
    mine, back = fitted("procrustes", where, SETTINGS).maps
    for own, (source, theirs) in zip((mine, back), ((x, Q), (y, Q.T)), strict=True):
        assert isinstance(own, AffineMap)
        sent = np.pad(source.numpy(), ((0, 0), (0, width - source.shape[1]))) @ theirs
        sent = sent[:, : own.matrix.shape[1]]
        ours = (source @ own.matrix).numpy()
        # its length is the least-squares one: one number, the same for all rows
        length = float(total) / float((sent**2).sum())
        assert np.abs(ours - length * sent).max() < 1e-6 * np.abs(ours).max()


@pytest.mark.parametrize("penalty", [1e-4, 0.1])
def test_ridge_is_scikit_learns(stores: dict[str, Store], penalty: float) -> None:
    where = on(stores["affine"])
    own = fitted("ridge", where, replace(SETTINGS, penalties=(penalty,))).maps[0]
    x, y = (rows.double().numpy() for rows in where.fit.read(torch.arange(len(where.fit))))
    theirs = Ridge(alpha=penalty * x.var(0).mean() * len(x), solver="cholesky").fit(x, y)
    judged = where.judge.read(torch.arange(200))[0].double()
    assert np.abs(own(judged).numpy() - theirs.predict(judged.numpy())).max() < 1e-6


def test_each_way_chooses_its_penalty_on_other_documents(stores: dict[str, Store]) -> None:
    where = on(stores["some alone"])
    found = fitted("ridge", where, SETTINGS)
    for source, penalty in enumerate(found.penalties):
        scores = {
            p: where.check.moments.explained(
                where.fit.moments.affine(source, 1 - source, penalty=p), source, 1 - source
            )
            for p in SETTINGS.penalties
        }
        assert penalty == max(scores, key=lambda p: scores[p])
    rows = torch.randn(30, 24, generator=torch.Generator().manual_seed(0))
    small, other = Moments([12, 12]), Moments([12, 12])
    small.add(rows[:15])
    other.add(rows[15:])
    _, chosen = chosen_affine(small, other, 0, 1, SETTINGS.penalties)
    assert chosen == max(SETTINGS.penalties), "rows that have nothing to do with each other"


def test_reduced_rank_is_the_best_of_its_rank(stores: dict[str, Store]) -> None:
    where, penalty, rank = on(stores["affine"]), 0.05, 6
    own = fitted("reduced", where, replace(SETTINGS, penalties=(penalty,), rank=rank)).maps[0]
    assert isinstance(own, AffineMap)
    assert int(torch.linalg.matrix_rank(own.matrix, rtol=1e-8)) == rank
    x, y = (rows.double() for rows in where.fit.read(torch.arange(len(where.fit))))
    x, y = x - x.mean(0), y - y.mean(0)
    floor = (penalty * x.square().mean(0).mean() * len(x)).sqrt()
    X = torch.cat([x, floor * torch.eye(40).double()])  # a penalty is a few more rows
    Y = torch.cat([y, torch.zeros(40, 40).double()])
    P = torch.linalg.lstsq(X, Y).solution
    V = torch.linalg.svd(X @ P, full_matrices=False).Vh[:rank].T
    assert torch.allclose(own.matrix, P @ V @ V.T, atol=1e-6)


def test_the_two_way_loss_is_that_of_the_rows_and_is_lowered(stores: dict[str, Store]) -> None:
    where = on(stores["some alone"])
    x, y = (rows.double() for rows in where.fit.read(torch.arange(len(where.fit))))
    x, y = x - x.mean(0), y - y.mean(0)
    draw = torch.Generator().manual_seed(1)
    P, Q = (torch.randn(40, 40, generator=draw) * 0.2 for _ in range(2))
    loss = TwoWayLoss.of(where.fit.moments, 0.3)

    def part(left: torch.Tensor, right: torch.Tensor) -> float:
        return float((left - right).square().sum() / right.square().sum())

    p, q = P.double(), Q.double()
    wanted = part(x @ p, y) + part(y @ q, x) + 0.3 * (part(x @ p @ q, x) + part(y @ q @ p, y))
    assert float(loss(P, Q)) == pytest.approx(wanted, rel=1e-4)
    settings = replace(SETTINGS, inversion=1.0)
    ends = [[own.matrix.float() for own in fitted(kind, where, settings).maps if isinstance(own, AffineMap)]
            for kind in ("ridge", "two-way")]  # fmt: skip
    dear = TwoWayLoss.of(where.check.moments, 1.0)
    before, after = (float(dear(*pair)) for pair in ends)
    assert after < before - 0.01


def test_a_relu_map_starts_as_an_affine_one_and_learns_what_that_cannot(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(2)
    W, V = torch.randn(12, 16, generator=draw), torch.randn(16, 10, generator=draw)
    store = mapped_rows(tmp_path / "bent", lambda x: (x @ W).relu() @ V)
    where = on(store)
    straight = fitted("ridge", where, SETTINGS).maps[0]
    assert isinstance(straight, AffineMap)
    x = where.judge.read(torch.arange(50))[0]
    assert torch.allclose(as_relu(straight, 20, seed=0)(x), straight(x), atol=1e-4)
    assert torch.allclose(as_relu(straight, 33, seed=0)(x), straight(x), atol=1e-4)
    settings = replace(SETTINGS, relu_rows=150_000, relu_rate=3e-3, hidden=64, kinds=("ridge", "relu"))
    found = bridge(tmp_path / "b", store, settings)
    ridge, relu = found.scores["r2"][:, 0]
    assert relu > ridge + 0.15
    assert relu > 0.95


def test_what_did_best_is_kept_and_not_what_came_last() -> None:
    best = _Best()
    for loss, number in ((3.0, 0), (1.0, 1), (2.0, 2)):
        best.look(loss, [torch.tensor(number)])
    assert [int(tensor) for tensor in best.kept] == [1]
    assert not best.is_old
    for _ in range(PATIENCE):
        best.look(1.5, [torch.tensor(9)])
    assert best.is_old
    assert [int(tensor) for tensor in best.kept] == [1]


def test_anchors_need_no_common_tokens(tmp_path: Path) -> None:
    """Rows of the second model in another order inside every text: only the texts belong together."""
    draw = torch.Generator().manual_seed(3)
    n, per, width = 6000, 20, 10
    topic = torch.randn(n // per, width, generator=draw).repeat_interleave(per, 0)
    x = topic + 0.5 * torch.randn(n, width, generator=draw)
    R = torch.linalg.qr(torch.randn(width, width, generator=draw)).Q
    y = x @ R
    order = torch.cat([per * d + torch.randperm(per, generator=draw) for d in range(n // per)])
    apart = bridge(tmp_path / "b", store_of(tmp_path / "apart", [x, y[order]]), SETTINGS)
    together = store_of(tmp_path / "together", [x, y])
    rows = torch.arange(1000)
    wanted = together.read_space(rows, 1)
    error = {kind: float((apart.carry(together.read_space(rows, 0), 0, kind) - wanted).norm() / wanted.norm())
             for kind in ("ridge", "anchors")}  # fmt: skip
    assert error["anchors"] < 0.03
    assert error["ridge"] > 0.15
    r2 = apart.scores["r2_texts"][list(apart.maps).index("anchors")]
    assert r2.min() > 0.99


@pytest.fixture(scope="module")
def crossed(stores: dict[str, Store], tmp_path_factory: pytest.TempPathFactory) -> Bridge:
    return bridge(tmp_path_factory.mktemp("bridges") / "b", stores["some alone"], SETTINGS)


def test_r2_is_that_of_the_rows_and_lies_in_its_interval(crossed: Bridge, stores: dict[str, Store]) -> None:
    where = on(stores["some alone"])
    rows = [v.double() for v in where.judge.read(torch.arange(len(where.judge)))]
    texts = where.judge.documents
    for i, kind in enumerate(crossed.maps):
        for way in range(2):
            x, y = rows[way], rows[1 - way]
            left = y - crossed.map(way, kind)(x.float()).double()
            wanted = 1 - float(left.square().sum() / (y - y.mean(0)).square().sum())
            r2, low, high = (crossed.scores[name][i, way] for name in ("r2", "r2_low", "r2_high"))
            assert r2 == pytest.approx(wanted, abs=1e-5)
            assert low < r2 < high < low + 0.1
            means = torch.stack([y[texts == d].mean(0) for d in texts.unique()])
            by_text = torch.stack([left[texts == d].mean(0) for d in texts.unique()])
            share = 1 - float(by_text.square().sum() / (means - means.mean(0)).square().sum())
            assert crossed.scores["r2_texts"][i, way] == pytest.approx(share, abs=1e-5)


def test_the_control_knows_nothing(crossed: Bridge) -> None:
    assert crossed.scores["r2"].min() > 0.4
    assert crossed.scores["control"].max() < 0.01


def test_judging_rows_are_no_fitting_rows(stores: dict[str, Store]) -> None:
    where = on(stores["affine"])
    parts = [set(rows.documents.tolist()) for rows in (where.fit, where.check, where.judge)]
    assert not (parts[0] & parts[1])
    assert not (parts[0] & parts[2])
    assert not (parts[1] & parts[2])
    for rows in (where.shuffled(0).fit, where.shuffled(0).judge):
        assert float((rows.first == rows.second).float().mean()) < 0.05
        assert torch.equal(rows.first.sort().values, rows.second.sort().values)


def test_a_bridge_comes_back_from_disk_as_it_was(crossed: Bridge, stores: dict[str, Store]) -> None:
    assert crossed.path is not None
    again = Bridge.load(crossed.path)
    assert list(again.maps) == list(KINDS) == again.scores.coordinates["kind"]
    assert again.spaces == crossed.spaces
    assert "ridge R2 0." in repr(again)
    x = stores["some alone"].read_space(torch.arange(50), 0)
    for kind in KINDS:
        assert torch.equal(again.carry(x, 0, kind), crossed.carry(x, 0, kind))
    assert isinstance(again.map(0, "relu"), ReluMap)
    # raw units: scaled, mapped, and scaled back
    wanted = crossed.map(0)(x * crossed.spaces[0].scale) / crossed.spaces[1].scale
    assert torch.allclose(again.carry(x, 0), wanted)
    with pytest.raises(UserError, match="by = sideways: was not fitted"):
        again.map(0, "sideways")


def test_the_same_seed_gives_the_same_bridge(stores: dict[str, Store], tmp_path: Path) -> None:
    settings = replace(SETTINGS, kinds=("relu",), relu_rows=5000, control=False)
    one, other = (bridge(tmp_path / name, stores["affine"], settings) for name in "ab")
    assert np.array_equal(one.scores["r2"], other.scores["r2"])
    assert np.isnan(one.scores["control"]).all()


def test_a_rotated_copy_is_crossed_without_loss(stores: dict[str, Store], tmp_path: Path) -> None:
    view = View(spaces=(0,), null=True, rotation_seed=1)
    found = bridge(tmp_path / "null", stores["affine"], replace(SETTINGS, view=view, kinds=("ridge", "procrustes")))
    assert found.summary.null
    assert found.scores["r2"].min() > 0.999


def test_mistakes_are_one_line(stores: dict[str, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(store: Path, *more: str) -> str:
        assert run(["bridge", "--store", str(store), "--out", str(tmp_path / "refused"), *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        lines = [line for line in told.err.splitlines() if " = " in line]
        assert len(lines) == 1
        return lines[0]

    good = stores["affine"].path
    one = planted_store(tmp_path / "one", replace(ROTATION, widths=(40,)), 2000).path
    three = planted_store(tmp_path / "three", replace(ROTATION, widths=(40, 40, 40)), 2000).path
    few = planted_store(tmp_path / "few", ROTATION, 400).path
    assert "has one space alone; collect two models" in said(one)
    assert "has 3 spaces to be bridged" in said(three)
    assert "names one twice" in said(good, "--space", "0", "--space", "0")
    assert "space = 7" in said(good, "--space", "0", "--space", "7")
    assert "documents to judge by, fewer than 20" in said(few)
    assert "penalty" in said(good, "--penalty", "0")
    assert "rank = 0" in said(good, "--rank", "0")
    assert not list(tmp_path.glob("refused*"))


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    store = store_of(tmp_path / "s", [x, y])
    where = on(store)
    where.fit.moments.products[0, 7] = torch.nan
    with pytest.raises(NumericalError, match="not finite"):
        fitted("ridge", where, SETTINGS)


def test_the_command_line_says_what_came_out(
    stores: dict[str, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bridge", "--store", str(stores["affine"].path), "--out", str(tmp_path / "b"), "--heldout", "0.3"]
    kinds: Sequence[str] = ["--kind", "ridge", "--kind", "procrustes"]
    assert run([*words, *kinds]) == 0
    text = capsys.readouterr().out
    assert "A: planted-A @ planted; B: planted-B @ planted" in text
    assert "ridge: A to B R2 " in text
    assert "control" in text
    assert run([*words, *kinds, "--json", "--overwrite", "--no-control"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["way"]) for one in record["maps"]][:2] == [("ridge", "A to B"), ("ridge", "B to A")]
    assert record["maps"][0]["control"] is None
    assert record["maps"][0]["r2"] > 0.9
