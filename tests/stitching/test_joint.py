"""A joint dictionary's start from two single ones: the formulas, planted concepts, and training that begins with it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bridge_worlds import SOME_ALONE, concepts
from random_dictionaries import made
from suture.activations.batches import split_rows
from suture.activations.settings import View
from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.pipeline import artifact
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.stitching.joint import Joined, first_of_their_kind, joined, joint_start
from suture.stitching.joint_settings import JointSettings
from suture.training.result import TrainResult
from suture.training.settings import TrainSettings
from suture.training.train import train

UNEQUAL = replace(SOME_ALONE, widths=(40, 32), n_concepts=28, seed=9)
N = SOME_ALONE.n_concepts


@dataclass(frozen=True)
class World:
    folder: Path
    planted: PlantedModels
    store: Store
    singles: tuple[Path, Path]

    def joined(self, *, n_features: int = 60, **how: object) -> Joined:
        one, other = (Dictionary.load(path) for path in self.singles)
        rows, _ = split_rows(self.store, heldout=0.3, seed=0)
        settings = JointSettings(**how)  # pyright: ignore[reportArgumentType]
        return joined(one, other, self.store, rows, n_features=n_features, settings=settings)

    @property
    def judge(self) -> torch.Tensor:
        return split_rows(self.store, heldout=0.3, seed=0)[1]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    found = {}
    for name, settings in {"equal": SOME_ALONE, "unequal": UNEQUAL}.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = _world(folder, settings)
    return found


def _world(folder: Path, settings: PlantedSettings) -> World:
    store, planted = planted_store(folder / "store", settings, 6000), PlantedModels(settings)
    singles = []
    for m, letter in enumerate("AB"):
        own = [i for i, label in enumerate(planted.labels()) if label in ("shared", letter)]
        singles.append(concepts(folder / f"sae{m}", store, planted, m, own))
    return World(folder, planted, store, (singles[0], singles[1]))


@pytest.mark.parametrize("name", ["equal", "unequal"])
@pytest.mark.parametrize("fill", ["fit", "zeros"])
def test_shared_concepts_are_taken_once_and_the_others_kept(worlds: dict[str, World], name: str, fill: str) -> None:
    world = worlds[name]
    found = world.joined(fill=fill)
    labels = world.planted.labels()
    owned = [[i for i, label in enumerate(labels) if label in ("shared", letter)] for letter in "AB"]
    shared = {(owned[0][a], owned[1][b]) for a, b in zip(found.a, found.b, strict=True) if a >= 0 and b >= 0}
    assert all(one == other and labels[one] == "shared" for one, other in shared)
    assert len(shared) >= 0.9 * labels.count("shared")
    alone = [labels[owned[0][a]] for a, b in zip(found.a, found.b, strict=True) if b < 0]
    assert alone.count("A") >= labels.count("A") - 1
    d = found.dictionary
    for i, (a, b) in enumerate(zip(found.a.tolist(), found.b.tolist(), strict=True)):
        norms = d.decoder_norms()[i]
        if fill == "zeros" and (a < 0 or b < 0):
            assert float(norms[0 if a < 0 else 1]) == 0
        if a >= 0 and b >= 0:
            assert 0.35 < float(norms[1] / norms.sum()) < 0.65
        elif labels[owned[0][a] if a >= 0 else owned[1][b]] != "shared":
            assert float(norms[0 if a < 0 else 1] / norms.sum()) < 0.2
    parts = [evaluate(Dictionary.load(p), world.store.select([m]), world.judge, alone=False).fvu[0]
             for m, p in enumerate(world.singles)]  # fmt: skip
    both = evaluate(d, world.store, world.judge, alone=False)
    for own, before in zip(both.fvu, parts, strict=True):  # at the L0 of one of them, for all that either has
        assert own < before + 0.1


def test_a_shared_feature_reads_the_mean_of_both_in_units_of_the_first(worlds: dict[str, World]) -> None:
    """We = [Wa / 2, Wb / 2c], Wd = [da, c db], before rows get norm 1; twice that, for a crosscoder takes the mean."""
    world = worlds["unequal"]
    one, other = (Dictionary.load(path) for path in world.singles)
    found = world.joined(fill="zeros")
    rows = world.judge[:800]
    x = [world.store.read_space(rows, m) * world.store.spaces[m].scale for m in range(2)]
    pre = [(own - d.center) @ d.W_enc.T + d.b_enc for own, d in zip(x, (one, other), strict=True)]
    joint = found.dictionary
    got = joint.encoder_input(torch.cat(x, 1)) @ joint.W_enc.T + joint.b_enc
    training, _ = split_rows(world.store, heldout=0.3, seed=0)
    f = [
        d.encode(world.store.read_space(training, m) * world.store.spaces[m].scale).dense().double()
        for m, d in enumerate((one, other))
    ]
    checked = 0
    for i, (a, b) in enumerate(zip(found.a.tolist(), found.b.tolist(), strict=True)):
        lengths = one.W_dec[a].norm(), other.W_dec[b].norm()  # of a side that is not there, unused
        if a >= 0 and b >= 0:
            fa, fb = f[0][:, a] * lengths[0], f[1][:, b] * lengths[1]
            c = float((fa * fb).sum() / fa.square().sum())
            code = (pre[0][:, a] * lengths[0] + pre[1][:, b] * lengths[1] / c) / 2
            row = torch.cat([one.W_dec[a] / lengths[0], c * other.W_dec[b] / lengths[1]])
            wanted, writes = code * row.norm(), row / row.norm()
            checked += 1
        elif a >= 0:
            wanted = pre[0][:, a] * lengths[0]
            writes = torch.cat([one.W_dec[a] / lengths[0], torch.zeros(other.width)])
        else:
            wanted = pre[1][:, b] * lengths[1]
            writes = torch.cat([torch.zeros(one.width), other.W_dec[b] / lengths[1]])
        assert torch.allclose(got[:, i], wanted, atol=2e-3 * float(wanted.abs().max()))
        assert torch.allclose(joint.W_dec[i], writes, atol=1e-3)
    assert checked > 10


def test_the_strongest_are_kept_and_doubles_go(worlds: dict[str, World]) -> None:
    world = worlds["equal"]
    whole, few = world.joined(fill="zeros"), world.joined(n_features=12, fill="zeros")
    assert few.dictionary.n_features == 12
    assert torch.equal(few.a, whole.a[:12])
    rows = torch.eye(4)[[0, 1, 0, 2, 1, 3]] + 0.01
    assert first_of_their_kind(rows, 0.8).tolist() == [True, True, False, True, False, True]
    assert first_of_their_kind(rows, 1.0).all()


def test_the_order_of_the_two_does_not_matter(worlds: dict[str, World]) -> None:
    world = worlds["unequal"]
    rows, _ = split_rows(world.store, heldout=0.3, seed=0)
    starts = [joint_start(paths, 40) for paths in (world.singles, world.singles[::-1])]
    one, other = (start.make(world.store, rows) for start in starts)
    assert torch.equal(one.W_enc, other.W_enc)
    assert torch.equal(one.W_dec, other.W_dec)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two single dictionaries that were trained, as a user has them."""
    folder = tmp_path_factory.mktemp("trained")
    settings = PlantedSettings(widths=(32, 24), n_concepts=60, exclusive=0.1, mean_active=3.0, noise=(0.05,), seed=2)
    store = planted_store(folder / "store", settings, 12_000)
    design = Design(kind="sae", n_features=96, sparsity=Sparsity(k=3))
    base = TrainSettings(design=design, n_rows=60_000, batch_size=512, k_start=4.0)
    for m in range(2):
        train(folder / f"sae{m}", store, replace(base, view=View(spaces=(m,))))
    return {name: folder / name for name in ("store", "sae0", "sae1")}


def test_it_takes_a_third_of_the_rows(trained: dict[str, Path], tmp_path: Path) -> None:
    design = Design(n_features=96, sparsity=Sparsity(k=3))
    base = TrainSettings(design=design, batch_size=512, k_start=4.0)
    start = joint_start([trained["sae0"], trained["sae1"]], 96)

    def fvu(name: str, n_rows: int, *, begun: bool) -> float:
        train(tmp_path / name, trained["store"], replace(base, n_rows=n_rows), start=start if begun else None)
        found = TrainResult.load(tmp_path / name).evaluation
        assert found is not None
        return sum(found.fvu) / 2

    assert fvu("begun", 20_000, begun=True) < fvu("scratch", 60_000, begun=False)


def test_the_command_line_trains_from_two(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "joint"
    words = ["train", str(out), "--store", str(trained["store"]), "--rows", "6000", "--batch-size", "512", "--json"]
    words += ["--start", str(trained["sae0"]), "--start", str(trained["sae1"])]
    assert run(words) == 0
    assert len(json.loads(capsys.readouterr().out)["fvu"]) == 2
    manifest = artifact.open_artifact(out)
    assert {Path(p.path).name for p in manifest.parents} == {"store", "sae0", "sae1"}
    design = manifest.settings["design"]
    assert (design["kind"], design["n_features"], design["sparsity"]["k"]) == ("crosscoder", 96, 3)
    assert manifest.settings["start"]["fill"] == "fit"
    assert manifest.settings["start"]["n_dictionaries"] == 2
    assert run([*words, "--resume"]) == 0  # it is done
    capsys.readouterr()
    assert run([*words, "--fill", "zeros"]) == 2
    assert "is finished already" in capsys.readouterr().err


def test_mistakes_are_one_line(
    worlds: dict[str, World], trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(store: Path, starts: list[Path], *more: str) -> str:
        words = ["train", str(tmp_path / "refused"), "--store", str(store), *more]
        for one in starts:
            words += ["--start", str(one)]
        assert run(words) == 2
        told = capsys.readouterr()
        assert told.out == ""
        lines = [line for line in told.err.splitlines() if " = " in line]
        assert len(lines) == 1, told.err
        return lines[0]

    one, other, store = trained["sae0"], trained["sae1"], trained["store"]
    alien = worlds["equal"].singles[1]
    assert "as" in (line := said(store, [one, one]))
    assert "name dictionaries of two spaces" in line
    assert "start = 3: dictionaries cannot be joined" in said(store, [one, other, one])
    assert "wide), the rows are of" in said(store, [one, alien])
    assert "is for two dictionaries" in said(store, [one], "--fill", "zeros")
    assert "is for two dictionaries" in said(store, [], "--match-above", "0.4")
    assert "match-above = 2" in said(store, [one, other], "--match-above", "2")
    joint = made(Store.open(store))
    with artifact.create(tmp_path / "both", stage="dictionary", settings={}) as draft:
        joint.write(draft.folder)
    assert "is over 2 spaces, joined are dictionaries of one each" in said(store, [one, tmp_path / "both"])
    assert not list(tmp_path.glob("refused*"))
