"""The real libraries, where their environments are found, give an exported dictionary suture's own codes.

`SUTURE_PEERS` (or /tmp/peers) holds an environment for each: `saelens`, `sparsify`, `dl` (dictionary-learning), and the
fork with crosscoders as a folder of sources, `fork`.
"""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from planted_fixtures import _seed, store
from random_dictionaries import made
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.formats.exporting import export_dictionary
from suture.formats.settings import ExportSettings, WrittenFormat

__all__ = ["_seed", "store"]
PEERS = Path(os.environ.get("SUTURE_PEERS", "/tmp/peers"))
RUN = Path(__file__).resolve().parents[2] / "scripts" / "run_peer.py"
SINGLE = [
    *(("saelens", "saelens", kind) for kind in ("topk", "batchtopk", "relu+l1", "jumprelu", "gated")),
    ("sparsify", "sparsify", "topk"),
    *(("dictionary-learning", "dl", kind) for kind in ("topk", "batchtopk", "relu+l1", "jumprelu", "gated")),
]


def peer(name: str, library: str, folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and reconstruction by the library itself."""
    python = PEERS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment with {library} at {PEERS / name}; see scripts/make_format_fixtures.py")
    rows, out = folder.parent / "rows.safetensors", folder.parent / "peer.safetensors"
    save_file({"x": x.contiguous()}, rows)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(PEERS / "fork")} if library == "crosscoders" else {}
    words = [str(python), str(RUN), library, str(folder), str(rows), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(out)
    return found["codes"], found["decoded"]


def shaped(store: Store, kind: str, design: str = "sae") -> Dictionary:
    one = made(store, kind, design)
    if kind in ("gated", "batchtopk"):
        one.threshold.fill_(0.3)
    if kind == "relu+l1":
        one.W_dec *= 0.4  # norms that are not 1
    one = one.with_scales((0.3, 1.7)[: one.n_spaces]).requires_grad_(requires_grad=False)
    one.spaces = tuple(replace(space, hookpoint="resid3.post") for space in one.spaces)
    return one


def rows_for(one: Dictionary) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(100, space.width, generator=draw) / space.scale + 0.5 for space in one.spaces]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "name", "kind"), SINGLE)
def test_the_library_gives_the_same_codes(
    format: WrittenFormat, name: str, kind: str, store: Store, tmp_path: Path
) -> None:
    one = shaped(store, kind)
    (x,) = rows_for(one)
    folder = export_dictionary(tmp_path / "out", one, ExportSettings(format=format)).path
    codes, decoded = peer(name, format, folder, x)
    own = one.encode_raw([x])
    torch.testing.assert_close(codes, own.dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoded, one.decode_raw(own)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batchtopk", "relu+l1"])
def test_the_fork_gives_the_same_codes_of_crosscoders(kind: str, store: Store, tmp_path: Path) -> None:
    if not (PEERS / "fork").is_dir():
        pytest.skip(f"no sources of the fork at {PEERS / 'fork'}")
    one = shaped(store, kind, "crosscoder")
    x = rows_for(one)
    folder = export_dictionary(tmp_path / "out", one, ExportSettings(format="dictionary-learning")).path
    codes, decoded = peer("dl", "crosscoders", folder, torch.stack(x, dim=1))
    own = one.encode_raw(x)
    torch.testing.assert_close(codes, own.dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoded, torch.stack(one.decode_raw(own), dim=1), rtol=1e-5, atol=1e-5)
