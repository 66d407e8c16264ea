"""Artifact folders as the other rooms write them, small and with texts that try to break a page."""

import json
import math
import random
from pathlib import Path
from typing import Any

from suture import artifact

NASTY = (
    "<script>alert(1)</script>",
    "</script><script>document.title='owned'</script>",
    "<!-- <script>",
    "<img src=x onerror=alert(1)>",
    "🧵🪡",
    " سلام عليكم",
    "line\nbreak",
    "\ttab",
    "“quotes” & 'marks'",
    "‮reversed",
    "averyveryverylongtokenwithoutanyspace" * 8,
    "\ud83d",
)
"""Token texts: markup, other scripts, control characters, a lone surrogate, a very long one."""

STORY = " Once upon a time , there was a little girl named Lily . She loved to play outside in the park with a ball"
LABELS = ("shared", "A", "B", "ambiguous", "dead")
MODELS = ["tinystories-1l @ mlp0.out", "tinystories-2l @ mlp0.out"]


def make_all(folder: Path, *, n_features: int = 60, n_examples: int = 4) -> Path:
    """store/, crosscoder/, pooled/, null/, features-*/ and steering/feature-3/ below `folder`."""
    make_store(folder / "store")
    for design in ("crosscoder", "pooled"):
        make_dictionary(folder / design, folder / "store", design=design, n_features=n_features)
        make_features(
            folder / f"features-{design}", folder, dictionary=design, n_features=n_features, n_examples=n_examples
        )
    make_dictionary(folder / "null", folder / "store", design="crosscoder", n_features=n_features)
    make_features(folder / "features-null", folder, dictionary="null", n_features=n_features, n_examples=1, null=True)
    make_effect(folder / "steering" / "feature-3", folder / "crosscoder")
    return folder


def make_store(path: Path) -> None:
    """A store's JSON; its shards are of no interest to a report."""
    spaces = [
        {"model": m.split(" @ ")[0], "hookpoint": "mlp0.out", "width": 128, "scale": 0.5, "fingerprint": m}
        for m in MODELS
    ]
    alignment = [{"n_tokens": 100_000, "n_kept": 98_000, "n_special": 900}] * 2
    settings = {"corpus": "stories <b>.txt", "block": 128, "dtype": "bfloat16"}
    with artifact.create(path, step="store", settings=settings, command="suture collect store") as draft:
        index = {"spaces": spaces, "alignment": alignment, "dtype": "bfloat16", "shards": [65_536, 32_464]}
        artifact.write_json(draft.folder / "store.json", index)


def make_dictionary(path: Path, store: Path, *, design: str, n_features: int) -> None:
    """A trained dictionary's JSON files."""
    settings = {"design": {"kind": design, "n_features": n_features, "sparsity": {"kind": "batchtopk", "k": 24}}}
    with artifact.create(
        path, step="dictionary", settings=settings | {"n_steps": 2000, "lr": 3e-4}, seed=1, parents=(store,)
    ) as draft:
        artifact.write_json(draft.folder / "dictionary.json", {**settings, "spaces": []})
        r2 = [[0.81, 0.42], [0.47, 0.78], [0.88, 0.86]]
        artifact.write_json(
            draft.folder / "evaluation.json", {"fvu": [0.12, 0.14], "l0": 23.7, "dead": 0.05, "r2": r2, "n_rows": 9800}
        )
        lines = [
            {"step": s, "fvu": [0.12 + math.exp(-s / 300), 0.14 + 0.9 * math.exp(-s / 400)], "l0": 24.0}
            for s in range(0, 2001, 50)
        ]
        (draft.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_features(
    path: Path, root: Path, *, dictionary: str, n_features: int, n_examples: int, null: bool = False
) -> None:
    """A feature table's JSON files; feature 0 fires on every nasty text."""
    rng = random.Random(dictionary)
    columns = make_columns(n_features, rng, pooled=dictionary == "pooled", null=null)
    examples = [
        [] if label == "dead" else [make_example(rng, label, nasty=i == 0) for _ in range(n_examples)]
        for i, label in enumerate(columns["label"])
    ]
    logits = [[make_logits(rng) for _ in MODELS] for _ in range(n_features)]
    counts = {label: columns["label"].count(label) for label in LABELS}
    clusters = {
        "entropy_histogram": [rng.randint(0, 9) for _ in range(20)],
        "private_share": 0.21,
        "shared_energy": 0.64,
        "silhouette": 0.08,
    }
    summary = {
        "design": "pooled" if dictionary == "pooled" else "crosscoder",
        "counts": counts,
        "fvu": [0.12, 0.14],
        "l0": 23.7,
        "dead": counts["dead"] / n_features,
        "r2": [[0.81, 0.42], [0.47, 0.78], [0.88, 0.86]],
        "two_clusters": clusters,
        "n_rows": 9800,
        "null": null,
    }
    if null:
        summary["false_positive_rate"] = 0.0123
    parents = (root / dictionary, root / "store")
    with artifact.create(path, step="features", settings={"null": null}, seed=0, parents=parents) as draft:
        content = {"n_features": n_features, "models": MODELS, "columns": columns}
        for name, value in (("columns", content), ("examples", examples), ("logits", logits), ("summary", summary)):
            (draft.folder / f"{name}.json").write_text(json.dumps(value))  # ASCII: keeps the lone surrogate


def make_columns(n_features: int, rng: random.Random, *, pooled: bool, null: bool) -> dict[str, list[Any]]:
    """Plausible columns; dead features have no numbers."""
    weights = (96, 1, 1, 2, 3) if null else (60, 10, 12, 13, 5)
    labels = rng.choices(LABELS, weights, k=n_features)
    labels[0] = "shared"
    centre = {"shared": 0.5, "A": 0.05, "B": 0.95, "ambiguous": 0.3, "dead": 0.5}
    share = [None if x == "dead" else min(1.0, max(0.0, rng.gauss(centre[x], 0.06))) for x in labels]
    kind = "usage" if pooled else "refit"
    columns: dict[str, list[Any]] = {
        "label": labels,
        "reason": ["straddles the boundary" if x == "ambiguous" else "" for x in labels],
        "index": list(range(n_features)),
        "rate": [0 if x == "dead" else rng.lognormvariate(-5, 1) for x in labels],
        "mean_active": [None if x == "dead" else rng.lognormvariate(0, 0.6) for x in labels],
        "q999": [None if x == "dead" else rng.lognormvariate(1.5, 0.5) for x in labels],
    }
    if not pooled:
        columns["decoder_share"] = [None if s is None else min(1.0, max(0.0, s + rng.gauss(0, 0.05))) for s in share]
        columns["attribution"] = [None if s is None else s for s in share]
    columns[f"{kind}_share"] = share
    columns[f"{kind}_share_low"] = [None if s is None else max(0.0, s - 0.07) for s in share]
    columns[f"{kind}_share_high"] = [None if s is None else min(1.0, s + 0.07) for s in share]
    columns["p_exclusive"] = [None if x == "dead" else rng.random() ** 4 for x in labels]
    columns["cofire_correlation"] = [None if x == "dead" else rng.random() for x in labels]
    return columns


def make_example(rng: random.Random, label: str, *, nasty: bool) -> dict[str, Any]:
    """One example of 40 tokens around a peak, on both sides."""
    plain = [f" {w}" for w in STORY.split()] * 2
    start = rng.randrange(8)
    tokens = (plain[start : start + 14] + list(NASTY) + plain[:14]) if nasty else plain[start : start + 40]
    peak = 14 if nasty else 20
    strength = 2 + 4 * rng.random()
    values = [strength * max(0.0, 1 - abs(i - peak) / 3) for i in range(len(tokens))]
    other = [0.8 * v for v in values] if label in ("shared", "ambiguous") else [0] * len(tokens)
    first, second = (other, values) if label == "B" else (values, other)
    return {
        "value": strength,
        "document": rng.randrange(500),
        "row": rng.randrange(98_000),
        "joint": values,
        "sides": [{"tokens": tokens, "values": v, "peak": peak} for v in (first, second)],
    }


def make_logits(rng: random.Random) -> dict[str, Any]:
    """Promoted and suppressed tokens of one feature in one model."""
    words = [f" {w}" for w in STORY.split()]
    return {
        "promoted": [[rng.choice([*words, *NASTY[:5]]), 3 - 0.2 * i] for i in range(10)],
        "suppressed": [[rng.choice(words), -2 + 0.1 * i] for i in range(10)],
    }


def make_effect(path: Path, dictionary: Path) -> None:
    """A steering effect in two models, with control and agreement."""
    strengths = [0.5, 1.0, 2.0, 4.0]

    def curves(size: float) -> dict[str, Any]:
        return {
            "strengths": strengths,
            "kl_neutral": [size * 0.02 * s * s for s in strengths],
            "delta_ce": [size * 0.01 * s * s for s in strengths],
            "target_effect": [size * 1.1 * math.tanh(s) for s in strengths],
            "top_promoted": [[" ball", 1.2], [" <b>bold</b>", 0.8], [NASTY[0], 0.7]],
            "top_suppressed": [[" the", -0.4], ["\n", -0.3]],
            "generations": [
                {"strength": s, "prompt": "Once upon a time", "text": f" there was {NASTY[0]} and a ball, {s} times."}
                for s in (0.0, 1.0, 2.0)
            ],
        }

    def model(name: str, size: float) -> dict[str, Any]:
        intervals = {f"{k}_interval": [[0.9 * v, 1.1 * v] for v in curves(size)[k]] for k in ("kl_neutral", "delta_ce")}
        spread = {"target_effect_sd": [0.05] * 4}
        return {"model": name, **curves(size), **intervals, "random": {**curves(size * 0.1), **spread}}

    agreement = {
        "models": MODELS,
        "correlation": 0.71,
        "mismatched": 0.06,
        "random": 0.01,
        "value": 0.65,
        "interval": [0.58, 0.71],
        "n_tokens": 2000,
    }
    effect = {
        "feature": 3,
        "models": [model(MODELS[0], 1.0), model(MODELS[1], 1.4)],
        "prompts": ["Once upon a time", NASTY[1]],
        "agreement": agreement,
    }
    with artifact.create(
        path, step="effect", settings={"feature": 3}, seed=0, parents=(dictionary,), command="suture steer crosscoder"
    ) as draft:
        (draft.folder / "effects.json").write_text(json.dumps(effect))
