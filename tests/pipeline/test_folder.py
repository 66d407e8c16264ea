"""Laws of writing a folder: nothing of the user's is touched, nothing finished is lost, one writer at a time.

Children of this process are killed at every moment at which they are about to change what lies on the disk.
"""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from children import dying_at, ended_well
from suture.errors import ArtifactError, DiskSpaceError, InUseError
from suture.pipeline import artifact, files
from suture.pipeline.folder import settle
from suture.pipeline.lock import LOCK, STALE, Holder, living_holder


def make(path: Path, text: str = "hello", **options: Any) -> None:
    with artifact.create(path, stage="probe", settings={"text": text}, **options) as draft:
        (draft.folder / "scratch").mkdir(exist_ok=True)
        (draft.folder / "scratch" / "checkpoint").write_text(text)
        draft.scratch.append("scratch")
        (draft.folder / "data").write_text(text)


def text_of(path: Path) -> str:
    artifact.verify(path)
    return (path / "data").read_text()


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


# --- what is not ours -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".partial", ".replaced"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_of_the_users_own_making_is_never_deleted(tmp_path: Path, ending: str, options: dict) -> None:
    own = tmp_path / f"a{ending}"
    own.mkdir()
    (own / "thesis.tex").write_text("ten years")
    (own / "unfinished.json").write_text("{}")
    (own / LOCK).write_text('{"pid": 3}')
    with pytest.raises(ArtifactError, match=f"a{ending}, which is there and was not made by suture; move that away"):
        make(tmp_path / "a", **options)
    assert (own / "thesis.tex").read_text() == "ten years"
    assert names(tmp_path) == [f"a{ending}"]


@pytest.mark.parametrize("name", ["a.partial", "a.replaced"])
def test_no_result_has_the_name_of_an_unfinished_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="give the folder a name of its own"):
        make(tmp_path / name)


def test_a_link_is_refused_before_the_work(tmp_path: Path) -> None:
    make(tmp_path / "there", "old")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(ArtifactError, match=r"is a symbolic link, .* name .*there itself"):
        make(tmp_path / "link", overwrite=True)
    (tmp_path / "b.partial").symlink_to(tmp_path / "there")
    with pytest.raises(ArtifactError, match="not made by suture"):
        make(tmp_path / "b")
    assert text_of(tmp_path / "there") == "old"
    assert names(tmp_path) == ["b.partial", "link", "there"]


@pytest.mark.parametrize("kind", [["-t", "tmpfs", "tmpfs"], ["--bind"]])
def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, kind: list[str]) -> None:
    place, other = tmp_path / "mounted", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    words = ["mount", *kind, *([str(other)] if kind == ["--bind"] else []), str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(ArtifactError, match="is a mount point"):
            make(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert names(tmp_path) == ["mounted", "other"]


# --- two at once ------------------------------------------------------------------------------------------------------


def test_the_second_writer_of_an_output_is_told_who_has_it(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "a", stage="probe", settings={}):
        before = names(tmp_path / "a.partial")
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InUseError, match=rf"is being written by process {os.getpid()} on .* since .*; wait"):
                make(tmp_path / "a", **options)
        assert names(tmp_path / "a.partial") == before
    assert artifact.verify(tmp_path / "a").stage == "probe"


SECOND = """
import sys
from pathlib import Path
from suture.errors import UserError
from suture.pipeline import artifact
try:
    with artifact.create(Path(sys.argv[1]), stage="probe", settings={"text": sys.argv[2]}) as draft:
        (draft.folder / "data").write_text(sys.argv[2])
        print("writing", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error)
"""


def test_of_several_processes_exactly_one_writes(tmp_path: Path) -> None:
    several = [
        subprocess.Popen(
            [sys.executable, "-c", SECOND, str(tmp_path / "a"), str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(4)
    ]  # fmt: skip
    said = [process.stdout.readline() for process in several if process.stdout is not None]
    assert sorted(line.startswith("writing") for line in said) == [False, False, False, True]
    winner = next(n for n, line in enumerate(said) if line.startswith("writing"))
    assert all(f"process {several[winner].pid} on" in line for line in said if not line.startswith("writing"))
    for process in several:
        process.communicate()
    assert text_of(tmp_path / "a") == str(winner)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SECOND, str(tmp_path / "a"), "first"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.kill()
        while living_holder(tmp_path / "a.partial"):  # a process that is only waited for is dead
            time.sleep(0.01)
        make(tmp_path / "a", "second")
    assert text_of(tmp_path / "a") == "second"


def test_a_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    this = Holder.this()
    assert this.lives(0.0, 1e9)
    assert not replace(this, start="7").lives(0.0, 1.0)
    gone = replace(this, pid=2**22 - 3)
    assert not gone.lives(0.0, 1.0)
    elsewhere = replace(gone, host="elsewhere")
    assert elsewhere.lives(0.0, STALE - 1)
    assert not elsewhere.lives(0.0, STALE + 1)


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_killed_at_any_moment_of_a_replacement_the_old_or_the_new_is_there(tmp_path: Path, resume: bool) -> None:
    moment, done, seen = 0, False, set()
    while not done:
        moment += 1
        path = tmp_path / f"{moment}" / "a"
        make(path, "old")
        done = ended_well(dying_at(moment, lambda: make(path, "new", overwrite=True, resume=resume)))  # noqa: B023
        found = text_of(path)  # a reader finds it
        seen.add(found)
        assert found == "new" or not done
        make(path, "new", overwrite=True, resume=resume)  # and the next run goes on
        assert text_of(path) == "new"
        assert names(path) == ["data", "manifest.json", "run.log"], moment
        assert names(path.parent) == ["a"], moment
    assert moment > 10
    assert seen == {"old", "new"}


def test_killed_at_any_moment_of_a_first_run_the_next_one_ends_well(tmp_path: Path) -> None:
    moment, done = 0, False
    while not done:
        moment += 1
        path = tmp_path / f"{moment}" / "a"
        done = ended_well(dying_at(moment, lambda: make(path, "new", resumable=True)))  # noqa: B023
        assert path.exists() or not done
        if not artifact.is_made(path, stage="probe", settings={"text": "new"}):
            make(path, "new", resume=True)
        assert text_of(path) == "new"
        assert names(path) == ["data", "manifest.json", "run.log"], moment
        assert names(path.parent) == ["a"], moment


def test_what_has_its_name_is_not_touched_while_its_writer_lives(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "a", stage="probe", settings={}):
        mark = tmp_path / "a.partial" / "unfinished.json"
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"finished": True, "scratch": []}))
        settle(tmp_path / "a")
        assert not (tmp_path / "a").exists()


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_json(tmp_path / "v.json", {"a": 1})
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(tmp_path / "v.json", {"a": 2})
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path / "a")
    monkeypatch.undo()
    assert names(tmp_path) == ["v.json"]
    assert files.read_json(tmp_path / "v.json") == {"a": 1}


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    files.check_room(tmp_path / "not" / "there", 1, "lower it")
    with pytest.raises(DiskSpaceError, match=r"needs 5,000,000\.0 GB of disk, .* are free; lower it, or name a folder"):
        files.check_room(tmp_path / "not" / "there", 5 * 10**15, "lower it")


# --- is it made? ------------------------------------------------------------------------------------------------------


def test_made_means_these_settings_and_these_very_inputs(tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    make(store, "one")

    def made(**changes: Any) -> bool:
        wanted = {"k": 3, "design": {"kind": "sae"}, "precision": "auto", "device": "cuda"} | changes
        return artifact.is_made(out, stage="probe", settings=wanted, parents=(store,))

    assert not made()
    recorded = {"k": 3, "design": {"kind": "sae", "tied": 0.0}, "precision": "bfloat16", "device": "cpu", "n_rows": 9}
    with artifact.create(out, stage="probe", settings=recorded, parents=(store,)) as draft:
        (draft.folder / "data").write_text("x")
    assert made()
    assert not made(k=4)
    assert not made(design={"kind": "pooled"})
    assert not made(precision="float32")
    assert not artifact.is_made(out, stage="other", settings={}, parents=(store,))
    assert not artifact.is_made(out, stage="probe", settings={}, parents=())
    make(store, "two", overwrite=True)
    assert not made(), "a path says nothing: another store lies there now"


def test_what_is_damaged_is_not_made(tmp_path: Path) -> None:
    make(tmp_path / "a")
    assert artifact.is_made(tmp_path / "a", stage="probe", settings={"text": "hello"})
    (tmp_path / "a" / "data").write_text("jello")
    assert not artifact.is_made(tmp_path / "a", stage="probe", settings={"text": "hello"})


def test_what_differs_is_named(tmp_path: Path) -> None:
    def begin(path: Path, k: int, *parents: Path, **options: Any) -> None:
        settings = {"design": {"k": k}, "rows": 100}
        with artifact.create(path, stage="probe", settings=settings, parents=parents, **options):
            if options.get("resumable"):
                raise KeyboardInterrupt

    make(tmp_path / "store")
    begin(tmp_path / "a", 3)
    with pytest.raises(ArtifactError, match=r"is finished already, with design.k 3; name another folder"):
        begin(tmp_path / "a", 4)
    with pytest.raises(ArtifactError, match=r"is finished already, from other inputs"):
        begin(tmp_path / "a", 3, tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "b", 3, tmp_path / "store", resumable=True)
    with pytest.raises(Exception, match=r"features = 4: was 3 in the unfinished run; use its settings"):
        begin(tmp_path / "b", 4, tmp_path / "store", resume=True, names={("design", "k"): "features"})
    make(tmp_path / "store", "other text", overwrite=True)
    with pytest.raises(ArtifactError, match=r"store: is not what the unfinished run was made from"):
        begin(tmp_path / "b", 3, tmp_path / "store", resume=True)


def test_the_child_of_another_parent_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name, name)
    with artifact.create(tmp_path / "table", stage="features", settings={}, parents=(tmp_path / "one",)):
        pass
    artifact.need_parent(tmp_path / "table", tmp_path / "one", setting="table", fix="mend it")
    with pytest.raises(ArtifactError, match=r"table = .*table: was made from another probe than .*two; mend it"):
        artifact.need_parent(tmp_path / "table", tmp_path / "two", setting="table", fix="mend it")
    (tmp_path / "one").rename(tmp_path / "moved")
    artifact.need_parent(tmp_path / "table", tmp_path / "moved", setting="table", fix="mend it")
