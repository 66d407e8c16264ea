"""Small trainings whose every bit is known: `python tests/training/golden.py` records them in golden.json.

Record again only where training was meant to change, and say so in the commit.
"""

import hashlib
import json
import platform
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import suture
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

FILE = Path(__file__).with_suffix(".json")
PLANTED = PlantedSettings(widths=(16, 10), n_concepts=24, exclusive=0.125, mean_active=2.0, noise=(0.05,), seed=7)
EQUAL = PlantedSettings(widths=(12, 12), n_concepts=24, exclusive=0.125, mean_active=2.0, embedding="affine", seed=8)

Case = tuple[str, str, dict[str, object], dict[str, object]]
CASES: dict[str, Case] = {
    "crosscoder topk": ("crosscoder", "topk", {}, {"model_dropout": 0.2, "k_start": 2.0}),
    "crosscoder batchtopk": ("crosscoder", "batchtopk", {}, {"k_start": 2.0}),
    "crosscoder relu+l1": ("crosscoder", "relu+l1", {}, {"model_dropout": 0.3}),
    "crosscoder jumprelu": ("crosscoder", "jumprelu", {}, {}),
    "crosscoder dedicated and tied": ("crosscoder", "topk", {"dedicated": (0.2, 0.1), "tied": 0.3}, {}),
    "sae topk": ("sae", "topk", {}, {}),
    "sae jumprelu": ("sae", "jumprelu", {}, {}),
    "pooled topk": ("pooled", "topk", {"flag": True}, {}),
    "pooled relu+l1": ("pooled", "relu+l1", {"pad": "zeros"}, {}),
    "universal batchtopk": ("universal", "batchtopk", {}, {}),
}
"""Name -> (design, sparsity, the design's other settings, those of training)."""


def machine() -> str:
    """Where bits may be compared: the rounding of a matrix product depends on all of this."""
    return f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {cpu()}"


def cpu() -> str:
    """The processor's name, empty where it is not known."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def measured(name: str, folder: Path) -> dict[str, object]:
    """One case trained: the digest of its weights, and numbers that any processor should give nearly."""
    kind, sparsity, design, train = CASES[name]
    store = folder / ("equal" if design.get("tied") else "unequal")
    if not store.exists():
        planted_store(store, EQUAL if design.get("tied") else PLANTED, 4_000)
    opened = suture.Store.open(store)
    settings = suture.TrainSettings(
        design=suture.Design(
            kind=kind,  # pyright: ignore[reportArgumentType]
            n_features=48,
            sparsity=suture.Sparsity(kind=sparsity, k=4),  # pyright: ignore[reportArgumentType]
            **design,  # pyright: ignore[reportArgumentType]
        ),
        objective=suture.Objective(dead_after=2_000),
        n_rows=128 * 60,
        batch_size=128,
        validate_every=60,
        validation_rows=256,
        seed=3,
        precision="float32",
        **train,  # pyright: ignore[reportArgumentType]
    )
    out = folder / name.replace(" ", "-")
    suture.train(out, opened.select((0,)) if kind == "sae" else opened, settings)
    weights = load_file(out / "dictionary.safetensors")
    bits = hashlib.sha256()
    for key in sorted(weights):
        bits.update(key.encode() + weights[key].contiguous().numpy().tobytes())
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "digest": bits.hexdigest(),
        "fvu": evaluation["fvu"],
        "l0": evaluation["l0"],
        "weights": {key: float(w.double().norm()) for key, w in sorted(weights.items())},
    }


def record() -> None:
    """Write golden.json."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: measured(name, Path(folder)) for name in CASES}
    FILE.write_text(json.dumps({"machine": machine(), "cases": cases}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
