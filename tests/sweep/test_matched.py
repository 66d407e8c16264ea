"""Sweeps whose cells are matchings, and the presets: models and dictionaries of their shapes, shrunk and random.

Models and dictionaries lie in local folders that have the names of the hub's repositories, so that a preset runs as it
is written but for its counts. Numbers of blocks are the real ones, on which patterns depend; widths and vocabularies
are not (64 for 512 to 1,024), nor is the size of the dictionaries (96 for 8,192 to 32,768).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from lm.tiny import byte_level_tokenizer
from suture.cli.app import run
from suture.errors import UserError
from suture.matching.match import Matching
from suture.pipeline import artifact
from suture.sweep.file import preset, presets, read_study

WIDTH, N_FEATURES = 64, 96
HEADS = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64}
MODELS = {
    "roneneldan/TinyStories-1Layer-21M": (
        transformers.GPTNeoConfig,
        {"num_layers": 1, "hidden_size": WIDTH, "num_heads": 2, "attention_types": [[["global"], 1]]},
    ),
    "roneneldan/TinyStories-2Layers-33M": (
        transformers.GPTNeoConfig,
        {"num_layers": 2, "hidden_size": WIDTH, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    ),
    "openai-community/gpt2-medium": (transformers.GPT2Config, {"n_layer": 24, "n_embd": WIDTH, "n_head": 2}),
    "EleutherAI/pythia-70m": (transformers.GPTNeoXConfig, HEADS | {"num_hidden_layers": 6}),
    "EleutherAI/pythia-160m": (transformers.GPTNeoXConfig, HEADS | {"num_hidden_layers": 12}),
    "google/gemma-3-270m": (
        transformers.Gemma3TextConfig,
        HEADS | {"num_hidden_layers": 18, "head_dim": 32, "num_key_value_heads": 1},
    ),
    "google/gemma-3-270m-it": (
        transformers.Gemma3TextConfig,
        HEADS | {"num_hidden_layers": 18, "head_dim": 32, "num_key_value_heads": 1},
    ),
}
PRESETS = {
    # name: models, cells
    "tinystories-1l-x-2l": (2, 1),
    "tinystories-1l-x-gpt2-medium": (2, 24),
    "pythia-70m-x-160m": (2, 72),
    "gemma-scope-2-270m-pt-x-it": (2, 4),
}
Command = Callable[..., tuple[int, str, str]]


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
    things = [f"{a} {b}" for a in ("red", "big", "sad", "old") for b in ("dog", "cat", "ball", "tree", "boy")]
    stories = [f"The {a} saw the {b}." for a in things for b in things]
    for name in ("roneneldan/TinyStories", "NeelNanda/pile-10k"):
        Path(name).mkdir(parents=True)
        (Path(name) / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    return tmp_path


def model(name: str) -> None:
    """A random model in a folder of this name."""
    kind, sizes = MODELS[name]
    words = byte_level_tokenizer()
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        made = transformers.AutoModelForCausalLM.from_config(kind(vocab_size=len(words), **sizes, **ids))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(name)
    words.save_pretrained(name)


def sparsify(repository: str, layer: int) -> None:
    """A random SAE of EleutherAI's kind."""
    folder = Path(repository) / f"layers.{layer}.mlp"
    folder.mkdir(parents=True)
    g = torch.Generator().manual_seed(layer)
    rows = torch.nn.functional.normalize(torch.randn(N_FEATURES, WIDTH, generator=g), dim=1)
    save_file(
        {
            "encoder.weight": rows.clone(),
            "encoder.bias": torch.zeros(N_FEATURES),
            "W_dec": rows,
            "b_dec": torch.zeros(WIDTH),
        },
        folder / "sae.safetensors",
    )
    config = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": N_FEATURES, "k": 8, "d_in": WIDTH}
    (folder / "cfg.json").write_text(json.dumps(config))


def gemma_scope(repository: str, layer: int) -> None:
    """A random JumpReLU SAE of Gemma Scope 2's kind."""
    folder = Path(repository) / "resid_post" / f"layer_{layer}_width_16k_l0_medium"
    folder.mkdir(parents=True)
    g = torch.Generator().manual_seed(layer)
    rows = torch.nn.functional.normalize(torch.randn(N_FEATURES, WIDTH, generator=g), dim=1)
    weights = {
        "w_enc": rows.T.contiguous(),
        "w_dec": rows,
        "b_enc": torch.zeros(N_FEATURES),
        "b_dec": torch.zeros(WIDTH),
    }
    save_file(weights | {"threshold": torch.full((N_FEATURES,), 0.5)}, folder / "params.safetensors")
    config = {
        "hf_hook_point_in": f"model.layers.{layer}.output", "hf_hook_point_out": f"model.layers.{layer}.output",
        "width": N_FEATURES, "model_name": "google/gemma-3-270m", "architecture": "jump_relu", "l0": 30,
        "affine_connection": False, "type": "sae",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def made_for(name: str) -> str:
    """All that a preset names, in local folders; its text with small counts."""
    text = preset(name).read_text()
    named = re.findall(r'"([^"]+/[^"]+)"', text)
    for one in named:
        if one in MODELS:
            model(one)
    if "pythia" in name:
        for layer in range(12):
            sparsify("EleutherAI/sae-pythia-160m-32k", layer)
            if layer < 6:
                sparsify("EleutherAI/sae-pythia-70m-32k", layer)
    if "gemma" in name:
        for layer in (5, 9, 12, 15):
            gemma_scope("google/gemma-scope-2-270m-pt", layer)
            gemma_scope("google/gemma-scope-2-270m-it", layer)
    for setting, count in (("tokens", 6000), ("features", 48), ("k", 4), ("rows", 1536)):
        text = re.sub(rf"^{setting} = \d+$", f"{setting} = {count}", text, flags=re.MULTILINE)
    text = text.replace("[train]\n", "[train]\nbatch-size = 256\n")
    return text.replace("[collect]\n", '[collect]\noffline = true\ndevice = "cpu"\nblock = 32\n')


def test_presets_are_these() -> None:
    assert set(presets()) == set(PRESETS)
    with pytest.raises(UserError, match="is no file and no preset; name a TOML file, or one of gemma-scope-2"):
        read_study("tinystories")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if "pythia" not in name])
def test_a_preset_runs_on_models_and_dictionaries_of_its_shapes(name: str, suture: Command, desk: Path) -> None:
    (desk / "study.toml").write_text(made_for(name))
    code, out, err = suture("sweep", "study.toml", "--json")
    assert code == 0, err
    said = json.loads(out)
    n_models, n_cells = PRESETS[name]
    assert n_models == 2
    assert len(said["cells"]) == n_cells
    assert len({(c["at_A"], c["at_B"]) for c in said["cells"]}) == n_cells
    for cell in said["cells"]:
        assert cell["asked_A"] > 0
        assert 0 <= cell["same_beyond_token_A"] <= 1
        assert cell["seconds"] > 0
    if "gemma" in name:
        assert all(c["at_A"] == c["at_B"] for c in said["cells"])
    else:
        n = {"tinystories-1l-x-2l": 2, "tinystories-1l-x-gpt2-medium": 25}[name]
        assert len(list((desk / "study" / "dictionaries").iterdir())) == n, "a space's dictionary is trained once"
    again = json.loads(suture("sweep", "study.toml", "--json")[1])
    assert again["jobs"]["made"] == 0


def test_every_pair_of_blocks_of_two_pythias_is_a_cell_and_a_few_run(suture: Command, desk: Path) -> None:
    text = made_for("pythia-70m-x-160m")
    (desk / "study.toml").write_text(text)
    cells = read_study("study.toml").cells()
    assert len(cells) == 72
    for cell in cells:
        layers = [int(re.findall(r"\d+", at)[0]) for at in cell.at]
        assert [one.settings.file for one in cell.imports] == [f"layers.{layer}.mlp" for layer in layers]
        assert [one.settings.model for one in cell.imports] == [("EleutherAI/pythia-70m",), ("EleutherAI/pythia-160m",)]
    (desk / "study.toml").write_text(text.replace('["mlp*.out"]', '["mlp1.out", "mlp[1,11].out"]'))
    code, out, err = suture("sweep", "study.toml", "--json")
    assert code == 0, err
    assert [(c["at_A"], c["at_B"]) for c in json.loads(out)["cells"]] == [
        ("mlp1.out", "mlp1.out"), ("mlp1.out", "mlp11.out"),
    ]  # fmt: skip
    made = [artifact.open_artifact(p.parent) for p in (desk / "study" / "dictionaries").glob("*/manifest.json")]
    assert len(made) == 3
    assert {m.settings["given"]["file"] for m in made} == {"layers.1.mlp", "layers.11.mlp"}


def test_cells_that_are_matchings_are_what_match_gives(suture: Command, desk: Path) -> None:
    (desk / "study.toml").write_text(made_for("tinystories-1l-x-2l"))
    assert suture("sweep", "study.toml")[0] == 0
    (path,) = (desk / "study" / "cells").iterdir()
    found = Matching.load(path / "matching")
    parents = [Path(p.path) for p in artifact.open_artifact(path / "matching").parents]
    command = ["match", parents[0], parents[1], "--store", parents[2], "--out", "alone", "--rows", 1536]
    assert suture(*command)[0] == 0
    alone = Matching.load(desk / "alone")
    for name in ("r", "kind", "partner"):
        np.testing.assert_array_equal(alone.features_a[name], found.features_a[name])
    assert found.examples is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t + "\n[import]\nsource = 'x'\n", "import = : and [train] are both given"),
        (lambda t: t + "\n[features]\nrows = 5\n", "features = : has no place beside [match]"),
        (lambda t: re.sub(r"\[train\].*?(?=\[match)", "", t, flags=re.DOTALL), "match = : has no dictionaries"),
        (lambda t: t.replace("[match]", "[match]\nkeep = 0"), "match.keep = 0"),
        (
            lambda t: re.sub(r"\[train\].*?(?=\[match)", "[import]\nsource = ['a', 'b', 'c']\n", t, flags=re.DOTALL),
            "import.source = ['a', 'b', 'c']: has 3 entries for 2 models",
        ),
        (
            lambda t: re.sub(r"\[train\].*?(?=\[match)", "[import]\nfiles = 'a'\n", t, flags=re.DOTALL),
            "import.files = a: is not known here",
        ),
    ],
)
def test_tables_that_do_not_go_together_are_refused_before_anything_runs(
    change: Callable[[str], str], said: str, suture: Command, desk: Path
) -> None:
    text = made_for("tinystories-1l-x-2l")
    (desk / "study.toml").write_text(change(text))
    code, _, err = suture("sweep", "study.toml")
    assert code == 2
    assert said in err
    assert not (desk / "study").exists()
