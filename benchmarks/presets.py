"""The presets of `suture sweep` on models and dictionaries of random weights that have exactly the real ones' shapes.

1. Every model that a preset names is made in a folder of its name, from the sizes of its published configuration; so
   are the dictionaries that it imports. Texts are sentences, the tokenizer is that of the shipped models: what is
   checked is that shapes go together and what a cell costs, not what comes out.
2. The preset is run as written, with few rows; of presets with many blocks only the first of some (--blocks).

    python benchmarks/presets.py [NAME ..] [--blocks 2] [--rows 2000] [--write]
"""

import argparse
import json
import os
import re
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from results import circumstances, table, write_section
from safetensors.torch import save_file

from suture.studies.sweep import sweep
from suture.sweep.file import preset, presets

TOKENIZER = files("suture") / "models" / "tinystories-1l"
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "roneneldan/TinyStories-1Layer-21M": (
        transformers.GPTNeoConfig,
        {"num_layers": 1, "hidden_size": 1024, "num_heads": 16, "attention_types": [[["global"], 1]]},
    ),
    "roneneldan/TinyStories-2Layers-33M": (
        transformers.GPTNeoConfig,
        {"num_layers": 2, "hidden_size": 1024, "num_heads": 16, "attention_types": [[["global", "local"], 1]]},
    ),
    "openai-community/gpt2-medium": (transformers.GPT2Config, {"n_layer": 24, "n_embd": 1024, "n_head": 16}),
    "EleutherAI/pythia-70m": (
        transformers.GPTNeoXConfig,
        {"num_hidden_layers": 6, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
        | {"vocab_size": 50_304},
    ),
    "EleutherAI/pythia-160m": (
        transformers.GPTNeoXConfig,
        {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
        | {"vocab_size": 50_304},
    ),
}
GEMMA = (
    transformers.Gemma3TextConfig,
    {"num_hidden_layers": 18, "hidden_size": 640, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
    | {"intermediate_size": 2048, "vocab_size": 262_144},
)
MODELS |= {"google/gemma-3-270m": GEMMA, "google/gemma-3-270m-it": GEMMA}
DICTIONARIES = {
    "EleutherAI/sae-pythia-70m-32k": (32_768, 512),
    "EleutherAI/sae-pythia-160m-32k": (32_768, 768),
    "google/gemma-scope-2-270m-pt": (16_384, 640),
    "google/gemma-scope-2-270m-it": (16_384, 640),
}


def make_model(name: str) -> None:
    """1."""
    kind, sizes = MODELS[name]
    words = transformers.AutoTokenizer.from_pretrained(str(TOKENIZER))
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    torch.manual_seed(len(name))
    transformers.AutoModelForCausalLM.from_config(kind(**{"vocab_size": 50_257, **sizes, **ids})).save_pretrained(name)
    words.save_pretrained(name)


def make_dictionary(repository: str, layer: int) -> None:
    """1: a random one, in the files of the library that wrote the real one."""
    n, width = DICTIONARIES[repository]
    rows = torch.nn.functional.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(layer)), dim=1)
    zeros = {"n": torch.zeros(n), "width": torch.zeros(width)}
    if "pythia" in repository:
        folder = Path(repository) / f"layers.{layer}.mlp"
        folder.mkdir(parents=True)
        weights = {"encoder.weight": rows, "encoder.bias": zeros["n"], "W_dec": rows.clone(), "b_dec": zeros["width"]}
        save_file(weights, folder / "sae.safetensors")
        config: dict[str, Any] = {"expansion_factor": n // width, "normalize_decoder": True, "num_latents": n}
        config |= {"k": 32, "d_in": width}
        (folder / "cfg.json").write_text(json.dumps(config))
        return
    folder = Path(repository) / "resid_post" / f"layer_{layer}_width_16k_l0_medium"
    folder.mkdir(parents=True)
    weights = {"w_enc": rows.T.contiguous(), "w_dec": rows, "b_enc": zeros["n"], "b_dec": zeros["width"]}
    save_file(weights | {"threshold": torch.full((n,), 2.5)}, folder / "params.safetensors")
    place = f"model.layers.{layer}.output"
    config = {"hf_hook_point_in": place, "hf_hook_point_out": place, "width": n, "model_name": "google/gemma-3-270m"}
    config |= {"architecture": "jump_relu", "l0": 60, "affine_connection": False, "type": "sae"}
    (folder / "config.json").write_text(json.dumps(config))


def shortened(name: str, n_blocks: int, n_rows: int) -> str:
    """2."""
    text = preset(name).read_text()
    for setting, count in (("tokens", n_rows), ("rows", n_rows)):
        text = re.sub(rf"^{setting} = \d+$", f"{setting} = {count}", text, flags=re.MULTILINE)
    text = re.sub(r"heldout = [\d.]+", "heldout = 0.4", text)
    text = text.replace("mlp*.out", f"mlp[0-{n_blocks - 1}].out")
    text = text.replace("[collect]\n", '[collect]\noffline = true\ndevice = "cpu"\nblock = 64\n')
    return text.replace("[train]\n", "[train]\nbatch-size = 512\n")


def run(name: str, n_blocks: int, n_rows: int) -> list[str]:
    """A line of the table."""
    text = shortened(name, n_blocks, n_rows)
    for repository in dict.fromkeys(re.findall(r'"([\w-]+/[\w.-]+)"', text)):
        if repository in MODELS and not Path(repository).is_dir():
            make_model(repository)
        layers = range(n_blocks) if "pythia" in repository else (5, 9, 12, 15)
        if repository in DICTIONARIES:
            for layer in layers:
                make_dictionary(repository, layer)
    things = [f"{a} {b}" for a in ("red", "big", "sad", "old") for b in ("dog", "cat", "ball", "tree", "boy")]
    for corpus in ("roneneldan/TinyStories", "NeelNanda/pile-10k"):
        Path(corpus).mkdir(parents=True, exist_ok=True)
        stories = [f"The {a} saw the {b}. {a} and {b} ran." for a in things for b in things]
        (Path(corpus) / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    Path(f"{name}.toml").write_text(text)
    started = time.perf_counter()
    found = sweep(f"{name}.toml", name)
    seconds = time.perf_counter() - started
    assert not found.failed, [str(one.error) for one in found.failed]
    n = len(found.table)
    sizes = ", ".join(f"{found.table[f'asked_{letter}'].min():,.0f}" for letter in "AB")
    return [name, f"{n}", f"{len(found.jobs)}", sizes, f"{seconds:.0f}", f"{seconds / n:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(presets()))
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = []
        for name in options.names:
            rows.append(run(name, options.blocks, options.rows))
            print(rows[-1], flush=True)
    head = ["preset", "cells", "jobs", "features that fire: least, A, B", "s", "s a cell, all jobs counted"]
    said = (
        f"Random weights of exactly the shapes of the models and dictionaries that the presets name, {options.rows:,} "
        f"rows; of MLPs by block the first {options.blocks} of each model. Nothing real: the hub was not reached."
    )
    text = "\n\n".join(["## Presets of sweeps", circumstances(("torch", "transformers")), said, table(head, rows)])
    print(text)
    if options.write:
        write_section("presets", text)


if __name__ == "__main__":
    main()
