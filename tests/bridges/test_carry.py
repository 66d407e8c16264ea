"""Dictionaries and directions over a bridge: the formulas against rows, planted concepts, and what does not survive."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bridge_worlds import AFFINE, ROTATION, SOME_ALONE, WIDER, concepts
from suture.activations.store import Store
from suture.bridges.bridge import Bridge, bridge
from suture.bridges.carry import carried
from suture.bridges.crossing import Carried, carry
from suture.bridges.directions import Directions, carry_directions
from suture.bridges.settings import BridgeSettings, CarrySettings
from suture.bridges.survival import DEAD, LOST, SURVIVES, Crossing, survival
from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.refit_settings import RefitSettings
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.training.result import TrainResult

SETTINGS = BridgeSettings(kinds=("ridge", "procrustes"), heldout=0.3, draws=50, control=False)
KINDS = ("batchtopk", "topk", "jumprelu", "relu+l1", "gated")


@dataclass(frozen=True)
class World:
    folder: Path
    planted: PlantedModels
    store: Store
    bridge: Bridge

    def dictionary(
        self, space: int, *, kind: str = "batchtopk", chosen: list[int] | None = None, seed: int = 0
    ) -> Path:
        everything = list(range(self.planted.settings.n_concepts))
        of = everything if chosen is None else chosen
        path = self.folder / f"{kind}-{space}-{len(of)}-{seed}"
        return path if path.exists() else concepts(path, self.store, self.planted, space, of, kind=kind, seed=seed)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    found = {}
    given = {"rotation": ROTATION, "wider": WIDER, "affine": AFFINE, "alone": SOME_ALONE}
    for name, settings in given.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = _world(folder, settings)
    return found


def _world(folder: Path, settings: PlantedSettings) -> World:
    store = planted_store(folder / "store", settings, 6000)
    made = bridge(folder / "bridge", store, replace(SETTINGS, kinds=("ridge", "procrustes", "relu"), relu_rows=1000))
    return World(folder, PlantedModels(settings), store, made)


def rows_of(world: World, space: int, n: int = 500) -> torch.Tensor:
    return world.store.read_space(torch.arange(n), space) * world.store.spaces[space].scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["affine", "wider"])
@pytest.mark.parametrize("source", [0, 1])
def test_it_reads_the_mapped_row_and_writes_the_mapped_reconstruction(
    worlds: dict[str, World], name: str, kind: str, source: int
) -> None:
    """What it does to a row of B is: to A by the map back, through the dictionary, to B by the map there."""
    world = worlds[name]
    given = Dictionary.load(world.dictionary(source, kind=kind))
    found = carried(world.bridge, given)
    x = rows_of(world, 1 - source)
    back = world.bridge.map(1 - source)(x)
    before, after = given.encode(back), found.encode(x)
    assert torch.allclose(before.dense(), after.dense(), atol=2e-4)
    assert before.value.numel() > 500
    wanted = world.bridge.map(source)(given.decode(before))
    assert torch.allclose(found.decode(after), wanted, atol=2e-3)
    assert found.spaces[0].label == world.store.spaces[1 - source].label
    assert found.spaces[0].scale == world.store.spaces[1 - source].scale


def test_units_of_the_dictionary_do_not_matter(worlds: dict[str, World]) -> None:
    world = worlds["affine"]
    given = Dictionary.load(world.dictionary(0))
    one, other = carried(world.bridge, given), carried(world.bridge, given.with_scales([0.37]))
    x = rows_of(world, 1)
    assert torch.allclose(one.encode(x).dense(), other.encode(x).dense(), atol=2e-4)
    assert torch.allclose(one.decode(one.encode(x)), other.decode(other.encode(x)), atol=2e-3)


@pytest.mark.parametrize("name", ["rotation", "wider"])
@pytest.mark.parametrize("by", ["ridge", "procrustes"])
def test_over_an_exact_map_every_feature_survives(worlds: dict[str, World], tmp_path: Path, name: str, by: str) -> None:
    world = worlds[name]
    native = world.dictionary(1)
    settings = CarrySettings(kind=by)  # pyright: ignore[reportArgumentType]
    found = carry(tmp_path / "c", world.bridge, world.dictionary(0), settings, native=native)
    s = found.summary
    live = sum(n for label, n in s.survival.items() if label != DEAD)
    assert live >= 25
    if by == "ridge" or name == "rotation":
        assert s.survival[SURVIVES] == live
        assert s.map_fvu < 1e-3
        assert s.zero_shot.fvu == pytest.approx(s.at_home.fvu, abs=0.01)
    else:  # the narrower space's rotation into the wider one keeps most
        assert s.survival[SURVIVES] >= 0.8 * live
    assert s.refitted.l0 == pytest.approx(s.l0, rel=0.1)
    codes = Dictionary.load(world.dictionary(0)).encode(rows_of(world, 0)).dense()
    theirs = found.dictionary.encode(rows_of(world, 1)).dense()
    both = [(a, b) for a, b in zip(codes.T, theirs.T, strict=True) if int((a > 0).sum()) > 20]
    r = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in both]
    assert len(r) > 20
    assert np.median(r) > 0.9


@pytest.fixture(scope="module")
def crossed(worlds: dict[str, World]) -> Carried:
    world = worlds["alone"]
    return carry(world.folder / "c", world.bridge, world.dictionary(0), native=world.dictionary(1))


def test_what_the_other_model_lacks_does_not_survive(worlds: dict[str, World], crossed: Carried) -> None:
    world = worlds["alone"]
    owner, label, why = world.planted.labels(), crossed.survival["label"], crossed.survival["why"]
    before = crossed.survival["rows_before"]
    often = [i for i in range(len(owner)) if before[i] >= 30]
    shared = [label[i] for i in often if owner[i] == "shared"]
    alone = [i for i in often if owner[i] == "A"]
    assert len(shared) > 8
    assert len(alone) > 3
    assert np.mean([one == SURVIVES for one in shared]) > 0.9
    assert all(label[i] == LOST for i in alone)
    assert all(why[i] for i in alone)
    assert not any(why[i] for i in range(len(owner)) if label[i] in (SURVIVES, DEAD))
    assert all(crossed.survival["norm_kept"][i] < 0.5 for i in alone)


def test_r_is_that_of_the_codes(worlds: dict[str, World], crossed: Carried) -> None:
    world = worlds["alone"]
    recorded = artifact.open_artifact(crossed.path or "").settings
    assert (recorded["heldout"], recorded["seed"]) == (0.3, 0)
    from suture.activations.batches import split_rows

    _, judge = split_rows(world.store, heldout=0.3, seed=0)
    codes = []
    for own, space in ((Dictionary.load(world.dictionary(0)), 0), (crossed.dictionary, 1)):
        x = world.store.read_space(judge, space) * world.store.spaces[space].scale
        codes.append(own.encode(x).dense().double())
    assert crossed.summary.n_rows == len(judge)
    for i in range(codes[0].shape[1]):
        pair = torch.stack([codes[0][:, i], codes[1][:, i]])
        if bool((pair > 0).any(1).all()):
            assert crossed.survival["r"][i] == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-4)
        else:
            assert np.isnan(crossed.survival["r"][i])
    assert np.array_equal(crossed.survival["rows_after"], (codes[1] > 0).sum(0).numpy())


def test_the_refit_closes_some_of_the_gap(crossed: Carried) -> None:
    s = crossed.summary
    assert s.native_at_l0 is not None
    assert s.gap_closed is not None
    assert s.refitted.fvu < s.zero_shot.fvu
    gap = (s.zero_shot.fvu - s.refitted.fvu) / (s.zero_shot.fvu - s.native_at_l0.fvu)
    assert s.gap_closed == pytest.approx(gap)
    assert s.refitted.l0 == pytest.approx(3, abs=0.1)
    assert s.native_at_l0.l0 == pytest.approx(3, abs=0.1)
    assert TrainResult.load(crossed.path or "").evaluation is not None


def test_without_a_refit_it_is_what_the_maps_make(worlds: dict[str, World], tmp_path: Path) -> None:
    world = worlds["alone"]
    settings = CarrySettings(refit=RefitSettings(fit=()))
    found = carry(tmp_path / "c", world.bridge, world.dictionary(0), settings).dictionary
    plain = carried(world.bridge, Dictionary.load(world.dictionary(0)))
    assert torch.allclose(found.W_dec, plain.W_dec)
    assert torch.allclose(found.W_enc, plain.W_enc)


def test_it_comes_back_from_disk_and_is_a_dictionary_like_any_other(
    worlds: dict[str, World], crossed: Carried, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crossed.path is not None
    again = Carried.load(crossed.path)
    assert again.summary == crossed.summary
    assert list(again.survival["label"]) == list(crossed.survival["label"])
    assert "FVU zero-shot" in repr(again)
    assert {p.path for p in artifact.open_artifact(crossed.path).parents} >= {str(worlds["alone"].bridge.path)}
    store = str(worlds["alone"].store.path)
    assert run(["refit", str(crossed.path), "--store", store, "--out", f"{crossed.path}-2", "--l0", "2"]) == 0
    assert "FVU" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match="was not carried"):
        Carried.load(worlds["alone"].dictionary(0))


def test_survival_says_what_is_seen() -> None:
    crossing = Crossing(
        n_rows=1000,
        before=np.array([100, 100, 100, 5, 0, 100, 100]),
        after=np.array([90, 0, 900, 5, 0, 80, 90]),
        r=np.array([0.8, np.nan, 0.1, 0.1, np.nan, 0.05, 0.3]),
    )
    kept = torch.tensor([1.0, 1, 1, 1, 1, 0.2, 1])
    table = survival(crossing, norm_kept=kept, round_trip=kept, refit_cosine=kept, survives_above=0.5, lost_below=0.2)
    assert list(table["label"]) == ["survives", "lost", "lost", "lost", "dead", "lost", "fades"]
    assert [text[:14] for text in table["why"]] == [
        "", "never fires in", "fires on far m", "fires on too f", "", "its decoder ro", "its occasion i",
    ]  # fmt: skip


def test_mistakes_are_one_line(worlds: dict[str, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(over: Path | None, what: Path, *more: str) -> str:
        assert run(["carry", str(over), str(what), "--out", str(tmp_path / "refused"), *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        lines = [line for line in told.err.splitlines() if " = " in line]
        assert len(lines) == 1, told.err
        return lines[0]

    here, there = worlds["alone"], worlds["wider"]
    mine, back = here.dictionary(0), here.dictionary(1)
    assert "the bridge between planted-A @ planted (40 wide) and planted-B @ planted (56 wide)" in said(
        there.bridge.path, back
    )
    assert "is a dictionary, not a bridge" in said(mine, mine)
    assert "what is carried comes to planted-B" in said(here.bridge.path, mine, "--native", str(mine))
    line = said(here.bridge.path, here.dictionary(0, seed=1))
    assert "kept other documents back (data seed 1) than the bridge (0)" in line
    assert "exceeds the 30 features" in said(here.bridge.path, mine, "--l0", "31")
    assert "is what is read" in said(here.bridge.path, mine, "--out", str(mine), "--overwrite")
    assert "by = " in said(here.bridge.path, mine, "--by", "two-way")
    assert "was fitted on" in said(here.bridge.path, mine, "--store", str(there.store.path))
    assert not list(tmp_path.glob("refused*"))
    with pytest.raises(UserError, match="has a hidden layer"):
        carried(here.bridge, Dictionary.load(mine), "relu")


# --- directions -------------------------------------------------------------------------------------------------------


def test_directions_go_through_the_matrix_alone(worlds: dict[str, World], tmp_path: Path) -> None:
    world = worlds["rotation"]
    v = world.planted.directions(0)[:5] * 3
    found = carry_directions(tmp_path / "d", world.bridge, v, CarrySettings(from_space=0))
    wanted = torch.nn.functional.normalize(world.planted.directions(1)[:5], dim=1)
    assert torch.allclose(found.vectors, wanted, atol=1e-3)
    assert np.allclose(found.summary.round_trip, 1, atol=1e-4)
    again = Directions.load(tmp_path / "d")
    assert torch.equal(again.vectors, found.vectors)
    assert (again.summary.source, again.summary.target) == ("planted-A @ planted", "planted-B @ planted")
    alone = worlds["alone"]
    only = alone.planted.labels().index("A")
    shared = alone.planted.labels().index("shared")
    both = alone.planted.directions(0)[[only, shared]]
    kept = carry_directions(tmp_path / "e", alone.bridge, both, CarrySettings(from_space=0)).summary.norm_kept
    assert kept[0] < 0.4 < 0.8 < kept[1]


def test_directions_on_the_command_line(
    worlds: dict[str, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = worlds["wider"]
    v = world.planted.directions(1)[0]
    save_file({"v": v}, tmp_path / "v.safetensors")
    np.save(tmp_path / "v.npy", v.numpy())
    base = ["carry", str(world.bridge.path), "--json", "--out"]
    vectors = []
    for name in ("v.safetensors", "v.npy"):
        out = tmp_path / f"{name}-out"
        assert run([*base, str(out), str(tmp_path / name)]) == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["source"], record["target"]) == ("planted-B @ planted", "planted-A @ planted")
        vectors.append(Directions.load(out).vectors)
    assert torch.equal(vectors[0], vectors[1])
    assert vectors[0].shape == (1, 40)
    assert float(vectors[0].norm()) == pytest.approx(1)


def test_bad_directions_are_one_line(
    worlds: dict[str, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, world: str, *more: str) -> str:
        words = ["carry", str(worlds[world].bridge.path), str(tmp_path / name), "--out", str(tmp_path / "refused")]
        assert run([*words, *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        (line,) = [line for line in told.err.splitlines() if " = " in line]
        return line

    np.save(tmp_path / "narrow.npy", np.ones(7, dtype=np.float32))
    np.save(tmp_path / "zero.npy", np.zeros(40, dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full(40, np.nan, dtype=np.float32))
    np.save(tmp_path / "good.npy", np.ones(40, dtype=np.float32))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones(40, dtype=np.int64))
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    assert "is not the width of a space of the bridge (40, 40)" in said("narrow.npy", "alone")
    assert "from-space" in said("good.npy", "alone")
    assert "zero or not finite" in said("zero.npy", "wider")
    assert "zero or not finite" in said("nan.npy", "wider")
    assert "cannot be read" in said("objects.npy", "wider")
    assert "cannot be read" in said("whole.npy", "wider")
    assert "cannot be read" in said("text.safetensors", "wider")
    assert "does not exist" in said("nowhere", "wider")
    assert "has directions 40 wide, planted-B @ planted is 56 wide" in said("good.npy", "wider", "--from-space", "1")
    assert not list(tmp_path.glob("refused*"))
