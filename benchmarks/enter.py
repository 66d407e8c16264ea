"""An entry to the planted benchmark by another library: dictionary_learning's BatchTopK on both models' rows at once.

Runs in that library's environment, without suture. A crosscoder with a joint loss is an SAE of the rows side by side,
each model's centred and scaled; whose a feature is follows from its decoder norms (the bounds of 2504.02922).

    pip install dictionary-learning
    python benchmarks/enter.py ROWS ENTRY.npz [--features 400] [--k 5] [--train-rows 600000]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from dictionary_learning.trainers import BatchTopKTrainer  # pyright: ignore[reportMissingImports]

BOUNDS = (0.1, 0.4, 0.6, 0.9)
"""Below the first A's own, above the last B's, between the middle ones shared; the rest is left open."""


def label(share: float) -> str:
    """Whose a feature is, from B's share of its decoder norms."""
    if share < BOUNDS[0] or share > BOUNDS[3]:
        return "A" if share < BOUNDS[0] else "B"
    return "shared" if BOUNDS[1] < share < BOUNDS[2] else "ambiguous"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--features", type=int, default=400)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--train-rows", type=int, default=600_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=1e-2)
    given = parser.parse_args()
    torch.manual_seed(0)
    models = [torch.from_numpy(np.load(given.rows / f"model-{m}.npy")) for m in (0, 1)]
    means = [x.mean(0) for x in models]
    scales = [1 / (x - mean).square().mean().sqrt() for x, mean in zip(models, means, strict=True)]
    x = torch.cat([(x - mean) * scale for x, mean, scale in zip(models, means, scales, strict=True)], 1)
    n_steps = given.train_rows // given.batch_size
    trainer = BatchTopKTrainer(
        steps=n_steps, activation_dim=x.shape[1], dict_size=given.features, k=given.k, layer=0, lm_name="none",
        lr=given.lr, device="cpu", warmup_steps=n_steps // 20, decay_start=int(0.8 * n_steps), seed=0,
    )  # fmt: skip
    fired = torch.zeros(given.features)
    for step in range(n_steps):
        batch = x[torch.randint(len(x), (given.batch_size,))]
        trainer.update(step, batch)
    with torch.no_grad():
        for part in x[:65_536].split(4096):
            fired += (trainer.ae.encode(part) > 0).sum(0)
    parts = trainer.ae.decoder.weight.detach().T.split([m.shape[1] for m in models], 1)
    norms = torch.stack([part.norm(dim=1) for part in parts], 1)
    labels = [label(float(b / (a + b))) if n else "dead" for (a, b), n in zip(norms, fired, strict=True)]
    raw = {f"decoder_{m}": (part / scale).numpy() for m, (part, scale) in enumerate(zip(parts, scales, strict=True))}
    np.savez(given.out, labels=np.array(labels), **raw)


if __name__ == "__main__":
    main()
