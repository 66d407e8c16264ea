"""`suture sweep`: a file becomes a table; what is done is kept, what failed is tried again, a sweep may grow."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable
from suture.pipeline import artifact
from suture.report.sweep import Sweep
from suture.studies.sweep import sweep

Command = Callable[..., tuple[int, str, str]]
FILE = """
[collect]
model = ["tinystories-1l", "tinystories-2l"]
at = ["mlp0.out", ["mlp*.out"]]
corpus = "stories.txt"
tokens = 1500
offline = true
device = "cpu"

[train]
features = 24
k = 2
rows = 2048
batch-size = 256

[features]
rows = 600

[sweep]
"train.k" = [2, 3]
exclude = [{at = ["*", "mlp1.out"], "train.k" = 3}]
"""


@pytest.fixture
def suture(capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    stories = [f"Once upon a time there was a {a} {b}. It ran home." for a in ("red", "big", "sad") for b in "abcdefgh"]
    Path("stories.txt").write_text("\n<|endoftext|>\n".join(stories * 8))
    Path("study.toml").write_text(FILE)
    return tmp_path


def written(folder: Path) -> dict[Path, int]:
    return {f: f.stat().st_mtime_ns for f in folder.rglob("manifest.json")}


def test_a_sweep_makes_one_store_a_table_and_a_report_and_keeps_what_is_done(suture: Command, desk: Path) -> None:
    code, out, err = suture("sweep", "study.toml", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert [c["cell"] for c in said["cells"]] == [
        "train.k=2 at=mlp0.out,mlp0.out", "train.k=2 at=mlp0.out,mlp1.out", "train.k=3 at=mlp0.out,mlp0.out",
    ]  # fmt: skip
    assert [(c["k"], c["at_B"]) for c in said["cells"]] == [(2, "mlp0.out"), (2, "mlp1.out"), (3, "mlp0.out")]
    assert said["jobs"] == {"made": 7, "kept": 0, "failed": 0, "not run": 0}
    store = Store.open(desk / "study" / "store")
    assert [space.hookpoint for space in store.spaces] == ["mlp0.out", "mlp0.out", "mlp1.out"], "one store for all"
    folders = sorted((desk / "study" / "cells").iterdir())
    assert len(folders) == 3
    for cell in said["cells"]:
        own = [f for f in folders if [s.hookpoint for s in Dictionary.load(f / "dictionary").spaces][1] == cell["at_B"]]
        (folder,) = [f for f in own if Dictionary.load(f / "dictionary").design.sparsity.k == cell["k"]]
        evaluation = artifact.read_json(folder / "dictionary" / "evaluation.json")
        assert [cell["fvu_A"], cell["fvu_B"]] == evaluation["fvu"]
        counts = FeatureTable.load(folder / "features").counts
        live = sum(counts.values()) - counts.get("dead", 0)
        assert cell["shared"] == pytest.approx(counts.get("shared", 0) / live)
    saved = Sweep.load(desk / "study" / "sweep").table
    assert saved.to_pandas()["fvu_B"].tolist() == [c["fvu_B"] for c in said["cells"]]
    page = (desk / "study" / "report.html").read_text()
    assert "train.k=3 at=mlp0.out,mlp0.out" in page
    links = re.findall(r'href="(cells/[^"]+/report\.html)"', page)
    assert len(links) == 5, "each cell from the table, and the two of one map from there"
    assert len(set(links)) == 3
    assert all((desk / "study" / link).is_file() for link in links)
    best = max((c for c in said["cells"] if c["k"] == 2), key=lambda c: c["shared"])
    assert f"Largest of 2 cells: {best['at_A']} with {best['at_B']}" in page
    written_at = {link: (desk / "study" / link).stat().st_mtime_ns for link in set(links)}
    # again, with another axis, from Python: what is done is kept, byte for byte
    before = written(desk)
    grown = FILE.replace('"train.k" = [2, 3]', '"train.seed" = [0, 1]\n"train.k" = [2, 3]')
    Path("study.toml").write_text(grown.replace('"train.k" = 3}', '"train.k" = 3}, {"train.seed" = 1, "train.k" = 3}'))
    result = sweep("study.toml", "study")
    assert len(result.table) == 5
    assert (result.count("kept"), result.count("made")) == (7, 4)
    after = written(desk)
    assert [f for f in before if after[f] != before[f]] == [desk / "study" / "sweep" / "manifest.json"]
    assert {link: (desk / "study" / link).stat().st_mtime_ns for link in written_at} == written_at
    again = sweep("study.toml", "study")
    assert again.count("kept") == 11
    assert written(desk) == after
    assert again.to_pandas().equals(result.to_pandas())
    assert repr(again).startswith("Sweep(study: 5 cells; jobs: 11 kept")


def test_what_fails_is_told_at_the_end_and_tried_again(suture: Command, desk: Path) -> None:
    lines = FILE.replace('at = ["mlp0.out", ["mlp*.out"]]', 'at = "mlp0.out"').replace("exclude", "# exclude")
    Path("study.toml").write_text(lines.replace('"train.k" = [2, 3]', '"train.batch-size" = [100000, 256]'))
    code, out, err = suture("sweep", "study.toml", "--out", "out", "--workers", 2)
    assert code == 2
    told = err.splitlines()[-2:]
    assert re.match(r"suture: train train.batch-size=100000 failed: batch-size = 100000: exceeds the", told[0]), err
    assert re.match(r"suture: describe .* not run: needs what failed: train", told[1]), err
    assert "jobs: 3 made, 1 failed, 1 not run" in out
    assert len(Sweep.load("out/sweep").table) == 1
    before = written(desk / "out")
    code, out, _ = suture("sweep", "study.toml", "--out", "out")
    assert code == 2, "it is tried again, and fails again"
    assert "jobs: 3 kept, 1 failed, 1 not run" in out
    assert written(desk / "out") == before


def test_other_settings_of_the_store_are_refused_and_replaced_when_asked(suture: Command) -> None:
    few = FILE.replace('at = ["mlp0.out", ["mlp*.out"]]', 'at = "mlp0.out"').split("[sweep]")[0]
    Path("study.toml").write_text(few)
    assert suture("sweep", "study.toml")[0] == 0
    Path("study.toml").write_text(few.replace("tokens = 1500", "tokens = 1400"))
    code, _, err = suture("sweep", "study.toml")
    assert code == 2
    assert "collect failed: out = study/store: is finished already, with n-rows-wanted 1500" in err
    code, out, _ = suture("sweep", "study.toml", "--overwrite")
    assert code == 0
    assert "3 made" in out
    assert len(Store.open("study/store")) == 1400


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (FILE.replace("k = 2\n", "k = 99\n").split("[sweep]")[0], (), "k = 99: exceeds the 24 features"),
        (FILE.replace("rows = 600", "rows = 0"), (), "features.rows = 0: is less than 1"),
        (FILE, ("--workers", 0), "workers = 0: is less than 1"),
        (FILE, ("--out", "stories.txt"), "out = stories.txt: is a file"),
        (FILE.split("[train]")[0], (), "file = study.toml: trains nothing; add a [train] table"),
        ("[sweep", (), "is not TOML"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_runs(
    suture: Command, desk: Path, text: str, words: tuple[object, ...], message: str
) -> None:
    Path("study.toml").write_text(text)
    code, out, err = suture("sweep", "study.toml", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(f.name for f in desk.iterdir()) == ["stories.txt", "study.toml"]


def test_a_sweep_without_a_cell_says_so(desk: Path) -> None:
    Path("study.toml").write_text(FILE.replace("stories.txt", "gone.txt"))
    result = sweep("study.toml", "out")
    assert result.report is None
    assert "gone.txt" in str(result.failed[0].error)
    with pytest.raises(UserError, match="has no cell that is done"):
        _ = result.table
