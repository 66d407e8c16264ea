"""Laws of the folders on disk: whole or not at all, believed only when unchanged, one line for each thing wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from suture.errors import ArtifactError
from suture.pipeline import artifact


def make(path: Path, text: str = "hello", **options: object) -> Path:
    with artifact.create(path, stage="probe", settings={"k": 3}, seed=1, **options) as draft:  # pyright: ignore[reportArgumentType]
        (draft.folder / "inner").mkdir(exist_ok=True)
        (draft.folder / "inner" / "data.txt").write_text(text)
    return path


class PowerCutError(Exception):
    """What ends a step in the middle."""


def cut_short(path: Path, **options: bool) -> None:
    with artifact.create(path, stage="probe", settings={}, **options) as draft:
        (draft.folder / "half").write_text("x")
        raise PowerCutError


def test_a_finished_folder_reads_back_with_what_it_was_made_of(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    with artifact.create(
        tmp_path / "second", stage="child", settings={}, parents=(first,), command="suture x"
    ) as draft:
        draft.settings["counted"] = 7
    manifest = artifact.open_artifact(tmp_path / "second", stage="child")
    assert manifest.settings == {"counted": 7}
    assert manifest.command == "suture x"
    assert manifest.parents[0].manifest_sha256 == artifact.sha256_of(first / "manifest.json")
    own = artifact.verify(first)
    assert own.seed == 1
    assert [(f.name, f.n_bytes) for f in own.files] == [("inner/data.txt", 5)]
    assert not artifact.partial_path(first).exists()


def mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_whoever_may_read_a_result_may_read_all_of_it(tmp_path: Path) -> None:
    """safetensors writes files that their owner alone may read, in folders that a whole group works in."""
    usual = tmp_path / "usual"
    usual.touch()
    with artifact.create(tmp_path / "a", stage="probe", settings={}) as draft:
        save_file({"x": torch.zeros(2)}, draft.folder / "x.safetensors")
        (draft.folder / "run.sh").touch(mode=0o700)
    with artifact.whole_file(tmp_path / "b.safetensors") as aside:
        save_file({"x": torch.zeros(2)}, aside)
    assert mode_of(tmp_path / "a" / "x.safetensors") == mode_of(tmp_path / "b.safetensors") == mode_of(usual)
    assert mode_of(tmp_path / "a" / "run.sh") == 0o700, "what is somebody's own choice stays"


def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        cut_short(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_step_that_may_resume_keeps_its_files_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(PowerCutError):
        cut_short(path, resume=True)
    with pytest.raises(ArtifactError, match=r"unfinished.*--resume"):
        artifact.open_artifact(path)
    with artifact.create(path, stage="probe", settings={}, resume=True) as draft:
        assert (draft.folder / "half").read_text() == "x"
    assert artifact.verify(path).stage == "probe"


def test_an_unfinished_folder_of_ours_is_emptied_without_resume(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        cut_short(tmp_path / "a", resumable=True)
    assert (artifact.partial_path(tmp_path / "a") / "half").exists()
    make(tmp_path / "a")
    assert not (tmp_path / "a" / "half").exists()
    assert artifact.verify(tmp_path / "a").stage == "probe"


def test_a_finished_folder_is_replaced_only_when_asked_and_only_at_the_end(tmp_path: Path) -> None:
    path = make(tmp_path / "a", "old")
    with pytest.raises(ArtifactError, match="finished already"):
        make(path, "new")
    with pytest.raises(PowerCutError):
        cut_short(path, overwrite=True)
    assert (path / "inner" / "data.txt").read_text() == "old"
    make(path, "new", overwrite=True)
    assert (path / "inner" / "data.txt").read_text() == "new"


def test_another_steps_result_is_not_replaced_even_when_asked(tmp_path: Path) -> None:
    path = make(tmp_path / "a", "old")
    with (
        pytest.raises(ArtifactError, match="is a probe, which a store does not replace"),
        artifact.create(path, stage="store", settings={}, overwrite=True),
    ):
        pass
    assert (path / "inner" / "data.txt").read_text() == "old"


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_result_needs_a_name_of_its_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="does not name a new folder"):
        make(Path(name))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    path.mkdir()
    (path / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(ArtifactError, match="not made by suture"):
        make(path, overwrite=True)
    assert (path / "cat.jpg").read_bytes() == b"meow"


def _edit_manifest(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: _edit_manifest(p, format=artifact.FORMAT_VERSION + 1), "format version 3"),
        (lambda p: _edit_manifest(p, stage="store"), "is a store, not a probe"),
        (lambda p: _edit_manifest(p, surprise=1), "not ours"),
        (lambda p: (p / "manifest.json").write_text("{"), "not JSON"),
        (lambda p: (p / "manifest.json").write_text("[]"), "format version None"),
        (lambda p: (p / "manifest.json").unlink(), "no manifest.json"),
        (lambda p: (p / "inner" / "data.txt").unlink(), "lacks its file inner/data.txt"),
        (lambda p: (p / "inner" / "data.txt").write_text("hell"), "has 4 bytes, not 5"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(tmp_path: Path, damage, said: str) -> None:
    path = make(tmp_path / "a")
    damage(path)
    with pytest.raises(ArtifactError, match=said) as caught:
        artifact.open_artifact(path, stage="probe")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        artifact.open_artifact(tmp_path / "nowhere")


def test_verify_sees_a_changed_byte_below_that_open_does_not_look_at(tmp_path: Path) -> None:
    path = make(tmp_path / "a")
    (path / "inner" / "data.txt").write_text("jello")
    manifest = artifact.open_artifact(path)
    assert manifest.stage == "probe"
    for look in (lambda: artifact.verify(path), lambda: artifact.checked(path, manifest.files[0])):
        with pytest.raises(ArtifactError, match=r"file inner/data.txt is damaged"):
            look()


def test_a_changed_byte_beside_the_manifest_is_seen_at_every_opening(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "a", stage="probe", settings={}) as draft:
        (draft.folder / "weights").write_bytes(bytes(range(100)))
    file = tmp_path / "a" / "weights"
    assert artifact.open_artifact(tmp_path / "a").files[0].n_bytes == 100
    flipped = bytearray(file.read_bytes())
    flipped[40] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(ArtifactError, match=r"path = .*: file weights is damaged \(checksum differs\); make it again"):
        artifact.open_artifact(tmp_path / "a")


def test_json_refuses_what_is_no_json(tmp_path: Path) -> None:
    artifact.write_json(tmp_path / "v.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        artifact.write_json(tmp_path / "v.json", {"a": float("nan")})
    assert artifact.read_json(tmp_path / "v.json") == {"a": 1}


def test_nothing_is_made_inside_a_finished_artifact(tmp_path: Path) -> None:
    """Replacing the outer one would take it along."""
    with artifact.create(tmp_path / "outer", stage="store", settings={}):
        pass
    with (
        pytest.raises(ArtifactError, match=r"lies inside .*outer, which is finished"),
        artifact.create(tmp_path / "outer" / "deep" / "inner", stage="dictionary", settings={}),
    ):
        pass
    assert sorted(f.name for f in (tmp_path / "outer").iterdir()) == ["manifest.json", "run.log"]


def test_folders_of_the_first_format_still_open(tmp_path: Path) -> None:
    """What is called a stage was called a step then."""
    path = make(tmp_path / "a")
    file = path / "manifest.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"format": 1, "step": raw.pop("stage")} | {"stage": None}))
    raw = json.loads(file.read_text())
    del raw["stage"]
    file.write_text(json.dumps(raw))
    assert artifact.open_artifact(path, stage="probe").settings == {"k": 3}
