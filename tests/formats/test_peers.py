"""The real libraries, where their environments are found, give an exported dictionary suture's own codes.

`SUTURE_PEERS` (or /tmp/peers) holds an environment for each: `saelens`, `sparsify`, `dl` (dictionary-learning), and the
fork with crosscoders as a folder of sources, `fork`.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import suture
from planted_fixtures import _seed, store
from random_dictionaries import made
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.formats.exporting import export_dictionary
from suture.formats.settings import ExportSettings, WrittenFormat
from suture.lm.hooks import edit, logits, record
from suture.lm.load import load_model

__all__ = ["_seed", "store"]
PEERS = Path(os.environ.get("SUTURE_PEERS", "/tmp/peers"))
RUN = Path(__file__).resolve().parents[2] / "scripts" / "run_peer.py"
KINDS = ("topk", "batchtopk", "relu+l1", "jumprelu", "gated")
EXPORTED: dict[str, tuple[WrittenFormat, str, str, tuple[str, ...]]] = {
    "saelens": ("saelens", "saelens", "sae", KINDS),
    "sparsify": ("sparsify", "sparsify", "sae", ("topk",)),
    "dictionary-learning": ("dictionary-learning", "dl", "sae", KINDS),
    "crosscoders": ("dictionary-learning", "dl", "crosscoder", ("batchtopk", "relu+l1")),
}
"""Library -> format, environment, design, kinds of sparsity."""


def environment(library: str, name: str) -> tuple[Path, dict[str, str]]:
    """Its Python, and what that is to know."""
    python = PEERS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no environment with {library} at {PEERS / name}; see scripts/make_format_fixtures.py")
    if library == "crosscoders" and not (PEERS / "fork").is_dir():
        pytest.skip(f"no sources of the fork at {PEERS / 'fork'}")
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return python, kept | ({"PYTHONPATH": str(PEERS / "fork")} if library == "crosscoders" else {})


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
@pytest.mark.parametrize("library", EXPORTED)
def test_the_library_gives_the_same_codes(library: str, store: Store, tmp_path: Path) -> None:
    format, name, design, kinds = EXPORTED[library]
    python, known = environment(library, name)
    words, wanted = [str(python), str(RUN), library], {}
    for kind in kinds:
        one = shaped(store, kind, design)
        x = rows_for(one)
        folder = export_dictionary(tmp_path / kind, one, ExportSettings(format=format)).path
        rows, out = tmp_path / f"rows {kind}.safetensors", tmp_path / f"peer {kind}.safetensors"
        save_file({"x": torch.stack(x, dim=1) if design == "crosscoder" else x[0]}, rows)
        words += [str(folder), str(rows), str(out)]
        codes = one.encode_raw(x)
        wanted[out] = codes.dense(), torch.stack(one.decode_raw(codes), dim=1)
    done = subprocess.run(words, capture_output=True, text=True, env=known, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for out, (codes, decoded) in wanted.items():
        found = load_file(out)
        assert (codes > 0).any()
        torch.testing.assert_close(found["codes"], codes, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["decoded"].reshape(decoded.shape), decoded, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_saelens_own_evaluation_says_what_suture_says(tmp_path: Path) -> None:
    python, known = environment("saelens", "saelens")
    lm = load_model("tinystories-2l", device="cpu")
    tokens = torch.randint(0, 2000, (6, 48), generator=torch.Generator().manual_seed(0))
    (x,) = (part.flatten(0, 1).float() for part in record(lm, tokens, ["mlp0.out"]))
    rows = write_store(tmp_path / "store", [x], names=[(lm.name, "mlp0.out")])
    one = made(rows, "batchtopk", "sae")
    one.W_enc.copy_(one.W_dec / one.W_dec.norm(dim=1, keepdim=True))
    one.b_dec.zero_()
    folder = export_dictionary(tmp_path / "exported", one, ExportSettings(format="saelens")).path

    def put(activation: Tensor) -> Tensor:
        return one.decode_raw(one.encode_raw([activation.flatten(0, 1)]))[0].reshape(activation.shape)

    def loss() -> float:
        predicted = logits(lm, tokens).log_softmax(-1)[:, :-1]
        return -float(predicted.gather(2, tokens[:, 1:, None]).mean())

    clean = loss()
    with edit(lm, "mlp0.out", put):
        spliced = loss()
    codes = one.encode_raw([x])
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    model = Path(suture.__file__).parent / "models" / "tinystories-2l"
    words = [python, RUN, "saelens-evaluation", model, folder, tmp_path / "tokens.safetensors", tmp_path / "out.json"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=known, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    losses = found["model_performance_preservation"]
    assert losses["ce_loss_without_sae"] == pytest.approx(clean, abs=1e-4)
    assert losses["ce_loss_with_sae"] == pytest.approx(spliced, abs=1e-4)
    assert abs(spliced - clean) > 0.05
    assert found["sparsity"]["l0"] == pytest.approx(float((codes.dense() > 0).sum(1).float().mean()), abs=1e-3)
    mse = float((one.decode_raw(codes)[0] - x).square().sum(1).mean())
    assert found["reconstruction_quality"]["mse"] == pytest.approx(mse, rel=1e-4)
