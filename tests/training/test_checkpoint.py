"""Laws of checkpoints: what was written is read, by any number of ranks; what is damaged is passed over."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from suture.errors import DiskSpaceError
from suture.parallel import ALONE, Grid, Ranks
from suture.pipeline import artifact
from suture.training import checkpoint
from suture.training.checkpoint import Checkpoint, load_checkpoint, room_for, save_checkpoint

N_FEATURES = 7
"""Three ranks hold two, two and three of them."""


@dataclass(frozen=True)
class Scripted(Ranks):
    """A rank whose meetings with the others are played by the test, which comes to them one after the other."""

    meet: Callable[[], None] = lambda: None

    def wait(self) -> None:
        self.meet()


def rank_of_three(rank: int, meet: Callable[[], None] = lambda: None) -> Grid:
    """One of three ranks over which the features are split."""
    return Grid(features=Ranks(rank, 3), world=Scripted(rank, 3, meet=meet))


def made(step: int, own: slice = slice(0, N_FEATURES)) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weights = torch.randn(N_FEATURES, 3, generator=generator)
    silent = torch.randint(1000, (N_FEATURES,), generator=generator)
    common = {"steps": torch.tensor(step), "cutoff": torch.rand((), dtype=torch.float64, generator=generator)}
    return Checkpoint(step=step, per_feature={"weights.W": weights[own], "silent": silent[own]}, common=common)


def save(folder: Path, step: int) -> Path:
    save_checkpoint(folder, made(step), n_features=N_FEATURES)
    return folder / "checkpoints" / f"{step:012d}"


def save_as_three(folder: Path, step: int) -> Path:
    """The leader makes the folder, all write their parts between its two meetings, then it gives the name."""
    aside = folder / "checkpoints" / f"{step:012d}.tmp"
    seen: list[set[str]] = []

    def write(rank: int, meet: Callable[[], None] = lambda: None) -> None:
        grid = rank_of_three(rank, meet)
        part = made(step, grid.features.share(N_FEATURES))
        save_checkpoint(folder, part, n_features=N_FEATURES, grid=grid)

    def meet() -> None:
        seen.append({f.name for f in aside.glob("*.safetensors")})
        if len(seen) == 2:
            write(1)
            write(2)
            assert not aside.with_suffix("").exists()

    write(0, meet)
    assert seen == [set(), {"common.safetensors", "features-00000.safetensors"}]
    return aside.with_suffix("")


def assert_same(found: Checkpoint | None, step: int, own: slice = slice(0, N_FEATURES)) -> None:
    assert found is not None
    expected = made(step, own)
    assert found.step == step
    for read, written in ((found.per_feature, expected.per_feature), (found.common, expected.common)):
        assert read.keys() == written.keys()
        for name, tensor in written.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save(tmp_path, 5)
    assert_same(load_checkpoint(tmp_path), 5)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 100):
        save(tmp_path, step)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["000000000030", "000000000100"]
    assert_same(load_checkpoint(tmp_path), 100)


def test_parts_of_three_ranks_are_read_by_one_and_by_two(tmp_path: Path) -> None:
    found = save_as_three(tmp_path, 40)
    rows = [load_file(f)["silent"].shape[0] for f in sorted(found.glob("features-*.safetensors"))]
    assert rows == [2, 2, 3]
    assert_same(load_checkpoint(tmp_path), 40)
    for rank in range(2):
        own = Ranks(rank, 2).share(N_FEATURES)
        # in a group of one the leader's choice needs no journey; the features are those of a rank of two
        assert_same(load_checkpoint(tmp_path, grid=Grid(features=Ranks(rank, 2))), 40, own)


def truncate(found: Path) -> None:
    file = found / "features-00002.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def flip(name: str, byte: int) -> Callable[[Path], None]:
    def damage(found: Path) -> None:
        content = bytearray((found / name).read_bytes())
        content[byte] ^= 0x10
        (found / name).write_bytes(content)

    damage.__name__ = f"flip {name} {byte}"
    return damage


def lose(*names: str) -> Callable[[Path], None]:
    def damage(found: Path) -> None:
        for name in names:
            (found / name).unlink()

    damage.__name__ = "lose " + " ".join(names)
    return damage


def garble_note(found: Path) -> None:
    (found / "common.safetensors.json").write_text("[1, 2]")


DAMAGE = [
    truncate,
    flip("features-00000.safetensors", -1),
    flip("features-00001.safetensors", 3),
    flip("common.safetensors", -1),
    flip("features-00001.safetensors.json", 40),
    lose("features-00002.safetensors"),
    lose("features-00002.safetensors", "features-00002.safetensors.json"),
    lose("features-00000.safetensors", "features-00000.safetensors.json"),
    lose("features-00001.safetensors.json"),
    lose("common.safetensors", "common.safetensors.json"),
    garble_note,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_a_damaged_checkpoint_is_passed_over(damage: Callable[[Path], None], tmp_path: Path) -> None:
    save_as_three(tmp_path, 10)
    found = save_as_three(tmp_path, 20)
    damage(found)
    assert_same(load_checkpoint(tmp_path), 10)
    damage(found.with_name("000000000010"))
    assert load_checkpoint(tmp_path) is None


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, 10)
    file = save(tmp_path, 20) / "features-00000.safetensors"
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        file.write_bytes(broken)
        assert_same(load_checkpoint(tmp_path), 10)
    file.write_bytes(whole)
    assert_same(load_checkpoint(tmp_path), 20)


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    found = save(tmp_path, 10)
    shutil.copytree(found, found.with_name("000000000030.tmp"))  # killed while it was written
    shutil.copytree(found, found.with_name("000000000010 (copy)"))
    (found.parent / ".DS_Store").write_bytes(b"\0")
    (found.parent / "000000000040").write_text("a file")
    assert_same(load_checkpoint(tmp_path), 10)
    for step in (20, 30, 50):
        save(tmp_path, step)
    left = sorted(f.name for f in found.parent.iterdir())
    assert left == [".DS_Store", "000000000010 (copy)", "000000000030", "000000000040", "000000000050"]


def test_damaged_newer_ones_do_not_push_a_good_one_out(tmp_path: Path) -> None:
    """Both newest are damaged, so training began anew: what it writes first must outlive what is damaged."""
    for step in (30, 40):
        truncate_first(save(tmp_path, step))
    assert load_checkpoint(tmp_path) is None
    save(tmp_path, 10)
    assert_same(load_checkpoint(tmp_path), 10)
    save(tmp_path, 20)
    save(tmp_path, 30)  # where a damaged one lay
    assert_same(load_checkpoint(tmp_path), 30)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["000000000020", "000000000030"]


def truncate_first(found: Path) -> None:
    os.truncate(found / "features-00000.safetensors", 5)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    """Only JSON, and safetensors whose header says where each tensor lies."""
    found = save(tmp_path, 10)
    assert sorted(f.name for f in found.iterdir()) == [
        "common.safetensors", "common.safetensors.json", "features-00000.safetensors", "features-00000.safetensors.json"
    ]  # fmt: skip
    for file in found.iterdir():
        content = file.read_bytes()
        if file.suffix == ".json":
            assert set(artifact.read_json(file)) <= {"sha256", "first_feature", "last_feature", "n_features"}
            continue
        size = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + size]
        assert header.startswith(b"{")
        assert header.rstrip().endswith(b"}")
        tensors: dict[str, Tensor] = load_file(file)
        assert len(content) == 8 + size + sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_where_the_disk_is_full_the_older_one_stays(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "mkdir" else checkpoint.os, call, full)
        with pytest.raises(DiskSpaceError, match=r"out = .*: has no room for a checkpoint .*go on with --resume"):
            save(tmp_path, 20)
    assert_same(load_checkpoint(tmp_path), 10)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["000000000010"]
    save(tmp_path, 20)
    assert_same(load_checkpoint(tmp_path), 20)


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    """safetensors tells the system's error only in words."""
    tensors = {"W": torch.zeros(3)}
    with pytest.raises(FileNotFoundError, match=r"No such file or directory"), room_for("a checkpoint", tmp_path):
        checkpoint.save_file(tensors, tmp_path / "absent" / "file")
    with pytest.raises(PermissionError), room_for("a checkpoint", tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_alone_is_a_grid_of_one() -> None:
    assert (ALONE.world.size, ALONE.data.size, ALONE.features.size) == (1, 1, 1)
