"""The commands `organism` and `graft` refuse in one line, with exit code 2, and leave nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm.tiny import save_tiny
from suture.cli.app import run
from suture.interventions.graft.graft import Graft
from suture.lm.load import load_model

from .test_graft import graft_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model `lm`, another one `other`, and a graft `graft` of the first."""
    save_tiny(tmp_path / "lm", "llama")
    save_tiny(tmp_path / "other", "llama", seed=1)
    graft_for(load_model(str(tmp_path / "lm"), device="cpu")).save(tmp_path / "graft")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code = run([str(word) for word in words])
    said = capsys.readouterr()
    assert code == 2, said.err
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_bad_input_is_one_line(folder, capsys):
    before = sorted(folder.rglob("*"))
    model = ("--model", folder / "lm", "--device", "cpu")
    cases = [
        (("graft", "--out", folder / "new"), "organism = nothing"),
        (("graft", "--organism", folder / "lm", "--dictionary", "d"), "out = nothing"),
        (("graft", "--out", folder / "new", "--organism", folder / "lm", "--dictionary", "d"), "no manifest.json"),
        (("graft", "--out", folder / "new", "--prompt", "A"), "name one with --apply"),
        (("graft", "--apply", folder / "none", *model, "--prompt", "A"), "does not exist"),
        (("graft", "--apply", folder / "graft", *model), "give --prompt, --export or --fold"),
        (("graft", "--apply", folder / "graft", "--prompt", "A"), "model = nothing"),
        (("graft", "--apply", folder / "graft", "--model", folder / "other", "--prompt", "A"), "other weights"),
        (("graft", "--apply", folder / "graft", *model, "--fold", folder / "new"), "thresholds"),
        (("graft", "--apply", folder / "graft", *model, "--export", folder / "a-b.py"), "no name"),
        (("graft", "--apply", folder / "graft", "--out", folder / "new", *model), "is for making a graft"),
        (("graft", "--out", folder / "new", "--way", "sideways"), "way"),
        (("organism", folder / "lm", "--model", folder / "lm"), "is made from"),
        (("organism", folder / "new", "--model", folder / "lm", "--trigger", "Too short"), "near misses"),
        (("organism", folder / "new", "--model", folder / "none"), "does not exist"),
    ]
    for words, said in cases:
        assert said in refused(capsys, *words), words
    assert sorted(folder.rglob("*")) == before


def test_a_graft_is_applied_and_exported(folder, capsys):
    words = ["graft", "--apply", folder / "graft", "--model", folder / "lm", "--device", "cpu", "--tokens", 6]
    words += ["--prompt", "Lily saw a", "--prompt", "The cat", "--export", folder / "hook.py", "--json"]
    assert run([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["prompt"] for one in found["continued"]] == ["Lily saw a", "The cat"]
    assert any(one["with"] != one["without"] for one in found["continued"])
    assert (folder / "hook.py").is_file()
    assert (folder / "hook.safetensors").is_file()
    assert Graft.load(folder / "graft").n_features == 6
