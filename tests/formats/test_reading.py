"""Other libraries' files: what they encode and decode is what those libraries do, and every known misreading shows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.formats.importing import import_dictionary
from suture.formats.settings import ImportSettings

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-5
AT = {"model": ("tiny",), "at": ("resid3.post",)}
TWO = {"model": ("base", "chat"), "at": ("resid3.post",)}
GEMMA = "gemma/gemma-scope-2-270m-pt"
CROSSCODER = f"{GEMMA}/crosscoder/layer_5_9_12_15_width_16_l0_medium"
WHOLE: dict[str, dict] = {
    **{
        f"saelens/{name}": {}
        for name in (
            "standard", "standard-square", "standard-no-b-dec", "topk", "topk-rescaled", "jumprelu", "gated",
            "batchtopk", "batchtopk-checkpoint", "legacy-standard", "legacy-topk",
        )
    },
    "sparsify/layers.3": {},
    "sparsify/layers.4": {},
    **{
        f"dictionary_learning/{name}": {}
        for name in (
            "AutoEncoder", "AutoEncoder-square", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder",
            "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE",
        )
    },
    **{f"crosscoders/{name}": TWO for name in ("relu", "relu-scaled", "crosscoder", "sae", "none")},
    f"{GEMMA}/resid_post/layer_5_width_16k_l0_small": {},
    f"{GEMMA}/attn_out/layer_7_width_16k_l0_small": {},
    "gemma/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": {},
    CROSSCODER: {},
    "llama_scope/Llama3_1-8B-Base-L15R-8x": {},
    "qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50": {},
    "goodfire/Llama-3.3-70B-Instruct-SAE-l50.pt": AT,
    "openai/relu.pt": AT,
    "kissane/blocks.14.hook_resid_pre": {"model": ("gemma-2-2b", "gemma-2-2b-it"), "scale": (0.3, 0.2)},
}  # fmt: skip
"""Fixtures, and what must be said of those that do not say it."""


def brought(tmp_path: Path, source: Path, **settings: object) -> Dictionary:
    """Imported, with names for what the fixture leaves open; a Gemma's width is only in its name."""
    return import_dictionary(tmp_path / "imported", source, ImportSettings(**settings), overwrite=True)  # pyright: ignore[reportArgumentType]


def expected(folder: Path) -> dict[str, Tensor]:
    place = folder if folder.is_dir() else folder.parent
    return load_file(place / "expected.safetensors")


def both(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction of raw activations, spaces side by side."""
    codes = dictionary.encode_raw(list(x.split(dictionary.widths, dim=-1)))
    return codes.dense(), torch.cat(dictionary.decode_raw(codes), dim=-1)


@pytest.fixture
def plain_gemma(tmp_path: Path) -> Callable[[str], Path]:
    """Gemma Scope's tiny fixtures, whose names promise 16k features, under names that promise 16."""

    def made(name: str) -> Path:
        where = tmp_path / name.replace("width_16k", "width_16")
        shutil.copytree(DATA / name, where)
        return where

    return made


@pytest.mark.parametrize("name", WHOLE)
def test_codes_and_reconstruction_are_those_of_the_library(
    name: str, tmp_path: Path, plain_gemma: Callable[[str], Path]
) -> None:
    source = plain_gemma(name) if name.startswith("gemma/") else DATA / name
    dictionary = brought(tmp_path, source, **WHOLE[name])
    wanted = expected(DATA / name)
    codes, decoded = both(dictionary, wanted["x"])
    assert ((codes > 0) == (wanted["codes"] > 0)).all()
    torch.testing.assert_close(codes, wanted["codes"], rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(decoded, wanted["decoded"], rtol=TOLERANCE, atol=TOLERANCE)
