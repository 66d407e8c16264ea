"""Artifact folders as the other rooms write them, small and with texts that try to break a page."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suture.pipeline import artifact

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
    with artifact.create(path, stage="store", settings=settings, command="suture collect store") as draft:
        index = {"spaces": spaces, "alignment": alignment, "dtype": "bfloat16", "shards": [65_536, 32_464]}
        artifact.write_json(draft.folder / "store.json", index)


def make_dictionary(path: Path, store: Path | None, *, design: str, n_features: int) -> None:
    """A trained dictionary's JSON files."""
    settings = {"design": {"kind": design, "n_features": n_features, "sparsity": {"kind": "batchtopk", "k": 24}}}
    with artifact.create(
        path,
        stage="dictionary",
        settings=settings | {"n_steps": 2000, "lr": 3e-4},
        seed=1,
        parents=(store,) if store else (),
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
    with artifact.create(path, stage="features", settings={"null": null}, seed=0, parents=parents) as draft:
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


def make_effect(path: Path, dictionary: Path, *, models: Sequence[str] = MODELS) -> None:
    """A steering effect in every model, with control and agreement."""
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
        "models": list(models[:2]),
        "correlation": 0.71,
        "mismatched": 0.06,
        "random": 0.01,
        "value": 0.65,
        "interval": [0.58, 0.71],
        "n_tokens": 2000,
    }
    effect = {
        "feature": 3,
        "models": [model(name, 1.0 + 0.4 * i) for i, name in enumerate(models)],
        "prompts": ["Once upon a time", NASTY[1]],
        "agreement": agreement,
    }
    with artifact.create(
        path, stage="effect", settings={"feature": 3}, seed=0, parents=(dictionary,), command="suture steer crosscoder"
    ) as draft:
        (draft.folder / "effects.json").write_text(json.dumps(effect))


# ---- three models ----------------------------------------------------------------------------------------------------

THREE = [*MODELS, "tinystories-4l @ mlp0.out"]
THREE_LABELS = ("A", "B", "C", "AB", "AC", "BC", "shared", "ambiguous", "dead")


def make_three_models(folder: Path, *, n_features: int = 80, kind: str = "refit") -> Path:
    """dictionary/, features/ and steering/feature-3/ of a crosscoder of three models below `folder`."""
    rng = random.Random(3)
    settings = {"design": {"kind": "crosscoder", "n_features": n_features}}
    r2 = [[0.81, 0.42, 0.3], [0.47, 0.78, 0.35], [0.4, 0.5, 0.7], [0.88, 0.86, 0.83]]
    evaluation = {"fvu": [0.12, 0.14, 0.17], "l0": 23.7, "dead": 0.05, "r2": r2}
    with artifact.create(folder / "dictionary", stage="dictionary", settings=settings, seed=1) as draft:
        artifact.write_json(draft.folder / "dictionary.json", {**settings, "spaces": []})
        artifact.write_json(draft.folder / "evaluation.json", evaluation)
    labels = rng.choices(THREE_LABELS, (10, 8, 9, 6, 4, 5, 60, 8, 3), k=n_features)
    shares = [_three_shares(label, rng) for label in labels]
    columns: dict[str, list[Any]] = {
        "label": labels,
        "reason": [""] * n_features,
        "index": list(range(n_features)),
        "rate": [rng.lognormvariate(-5, 1) for _ in labels],
        "cofire_correlation": [rng.random() for _ in labels],
    }
    for m, letter in enumerate("ABC"):
        own = [None if s is None else s[m] for s in shares]
        columns[f"{kind}_share_{letter}"] = own
        columns[f"{kind}_share_low_{letter}"] = [None if v is None else max(0.0, v - 0.05) for v in own]
        columns[f"{kind}_share_high_{letter}"] = [None if v is None else min(1.0, v + 0.05) for v in own]
        columns[f"decoder_share_{letter}"] = own
    examples = [[_three_sides(make_example(rng, "shared", nasty=i == 0))] for i in range(n_features)]
    logits = [[make_logits(rng) for _ in THREE] for _ in range(n_features)]
    counts = {label: labels.count(label) for label in THREE_LABELS}
    clusters = {"entropy_histogram": [rng.randint(0, 9) for _ in range(20)], "private_share": 0.2}
    summary = {"design": "crosscoder", "counts": counts, **evaluation, "two_clusters": clusters, "null": False}
    parents = (folder / "dictionary",)
    with artifact.create(folder / "features", stage="features", settings={}, seed=0, parents=parents) as draft:
        content = {"n_features": n_features, "models": THREE, "columns": columns}
        for name, value in (("columns", content), ("examples", examples), ("logits", logits), ("summary", summary)):
            (draft.folder / f"{name}.json").write_text(json.dumps(value))
    make_effect(folder / "steering" / "feature-3", folder / "dictionary", models=THREE)
    return folder


def _three_shares(label: str, rng: random.Random) -> list[float] | None:
    if label == "dead":
        return None
    has = "ABC" if label in ("shared", "ambiguous") else label
    weights = [(1.0 if letter in has else 0.04) * rng.uniform(0.6, 1.4) for letter in "ABC"]
    return [w / sum(weights) for w in weights]


def _three_sides(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "sides": [*example["sides"], example["sides"][0]]}


# ---- behaviour -------------------------------------------------------------------------------------------------------


def make_behaviour(folder: Path) -> Path:
    """dictionary/, splice/ and causal/ below `folder`."""
    make_dictionary(folder / "dictionary", None, design="crosscoder", n_features=9)
    models = [
        {
            "model": name,
            "clean": {"ce": 2.314, "se": 0.021},
            "spliced": {"ce": 2.401 + 0.1 * m, "se": 0.023},
            "mean": {"ce": 4.02, "se": 0.05},
            "alone": [{"ce": 2.5, "se": None}, {"ce": 4.1, "se": 0.04}],
            "n_predictions": 8_000,
            "replaced": 0.97,
            "recovered": 0.949 - 0.06 * m,
            "recovered_alone": [0.891, -0.047],
        }
        for m, name in enumerate(MODELS)
    ]
    parents = (folder / "dictionary",)
    with artifact.create(folder / "splice", stage="splice", settings={"n_documents": 64}, parents=parents) as draft:
        artifact.write_json(draft.folder / "splice.json", {"models": models, "n_documents": 64, "n_rows": 7_900})
    features = [
        {
            "feature": 10 * i,
            "label": label,
            "n_positions": 0 if verdict == "undecided" else 412,
            "kl": [0.0213, 0.0007],
            "ratio": None if verdict == "undecided" else [[1.0, 1.0], [0.02, 0.05]],
            "pairs": [{"models": [0, 1], "correlation": 0.61, "control": -0.12, "above": [0.4, 0.58]}],
            "verdict": verdict,
        }
        for i, (label, verdict) in enumerate(
            [("shared", "confirms"), ("shared", "contradicts"), ("A", "confirms"), (NASTY[0], "undecided")]
        )
    ]
    tally = {
        "shared": {"confirms": 1, "contradicts": 1, "undecided": 0},
        "A": {"confirms": 1, "contradicts": 0, "undecided": 0},
        NASTY[0]: {"confirms": 0, "contradicts": 0, "undecided": 1},
    }
    with artifact.create(folder / "causal", stage="causal", settings={}, seed=0, parents=parents) as draft:
        artifact.write_json(draft.folder / "causal.json", {"models": MODELS, "features": features, "verdicts": tally})
    return folder


# ---- studies ---------------------------------------------------------------------------------------------------------

STUDY_COLUMNS = (
    ("macro_f1", "Macro-F1", "high", "number", "planted truth"),
    ("auroc", "AUROC", "high", "share", "planted truth"),
    ("recovery_80", "Concepts found", "high", "share", "planted truth"),
    ("recovery_80_exclusive", "Exclusive ones found", "high", "share", "planted truth"),
    ("mcc", "MCC", "high", "share", "planted truth"),
    ("fvu_A", "FVU A", "low", "number", "fit"),
    ("fvu_B", "FVU B", "low", "number", "fit"),
    ("l0", "L0", None, "number", "fit"),
    ("r2_missing", "R² missing", "high", "share", "fit"),
    ("dead", "Dead", "low", "share", "fit"),
    ("n_A", "Only A", None, "count", "labels"),
    ("n_B", "Only B", None, "count", "labels"),
    ("n_shared", "shared", None, "count", "labels"),
    ("n_ambiguous", "Ambiguous", None, "count", "labels"),
    ("exclusive_rate", "Exclusive rate", None, "share", "labels"),
    ("null_rate", "Null rate", "low", "share", "labels"),
    ("ceiling", "Ceiling", "high", "share", "labels"),
    ("private_share", "Private features", None, "share", "two clusters"),
    ("shared_energy", "Shared energy", "high", "share", "two clusters"),
    ("silhouette", "Silhouette", None, "share", "two clusters"),
    ("ce_recovered_A", "CE recovered A", "high", "share", "behaviour"),
    ("ce_recovered_B", "CE recovered B", "high", "share", "behaviour"),
    ("agreement", "Agreement", "high", "share", "behaviour"),
    ("agreement_mismatched", "Agreement, mismatched", None, "share", "behaviour"),
)
"""(key, title, better, format, group)."""

DESIGNS = (
    ("crosscoder", "crosscoder", 0.94),
    ("crosscoder, dropout 0.25", "crosscoder", 0.955),
    ("crosscoder, dedicated", "crosscoder", 0.92),
    ("tied", "crosscoder", None),
    ("universal", "universal", 0.90),
    ("pooled", "pooled", 0.71),
    ("pooled + flag", "pooled", 0.74),
    ("two SAEs, matched afterwards", "separate", 0.86),
    (NASTY[0], NASTY[3], 0.66),
    (NASTY[11] + NASTY[10][:90], NASTY[3], 0.62),
)
"""(name, group, how good it is; None: skipped)."""

_QUANTILE_T = {2: 12.706, 3: 4.303}


def make_study(path: Path, *, truth: str = "planted", seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """A study artifact of ten designs; returns what its study.json says."""
    unknown = ("planted truth",) if truth != "planted" else ("behaviour",)
    columns = [
        {"key": k, "title": t, "help": f"What {t} is.", "better": b, "format": f, "group": g}
        for k, t, b, f, g in STUDY_COLUMNS
        if g not in unknown
    ]
    rows = [
        _study_row(name, quality, seed, [c["key"] for c in columns], planted=truth == "planted")
        for name, _, quality in DESIGNS
        if quality is not None
        for seed in seeds
    ]
    names = [name for name, _, quality in DESIGNS if quality is not None]
    content = {
        "kind": "designs",
        "truth": truth,
        "title": "Which joint design finds out?",
        "models": ["planted-A", "planted-B"] if truth == "planted" else MODELS,
        "seeds": list(seeds),
        "matched": {"n_rows": 1_000_000, "n_features": 512, "l0": 8, "parameters": 131_072},
        "designs": [
            {
                "name": name,
                "group": group,
                "says": f"what {name} is, in one sentence",
                "settings": {"design": "crosscoder", "k": 8, "model_dropout": 0.25},
                "skipped": None if quality is not None else "tied features need equal widths <b>",
            }
            for name, group, quality in DESIGNS
        ],
        "columns": columns,
        "rows": rows,
        "summary": {d: _study_summary(d, rows, [c["key"] for c in columns]) for d in names},
        "notes": ["Tied features were skipped: the models have unequal widths.", NASTY[1]],
    }
    with artifact.create(path, stage="study", settings={"seeds": list(seeds)}, command="suture study designs") as draft:
        (draft.folder / "study.json").write_text(json.dumps(content))
    return content


def _study_row(design: str, quality: float, seed: int, keys: list[str], *, planted: bool) -> dict[str, Any]:
    rng = random.Random(f"{design!a}-{seed}")
    bad = 1 - quality
    centre = {
        "macro_f1": quality, "auroc": 1 - bad / 3, "recovery_80": 1 - bad / 2, "recovery_80_exclusive": 1 - 1.4 * bad,
        "mcc": 1 - bad / 2, "fvu_A": 0.05 + bad / 3, "fvu_B": 0.06 + bad / 3, "l0": 8.0, "r2_missing": quality - 0.4,
        "dead": bad / 5, "n_A": 60 + 200 * bad, "n_B": 58 + 210 * bad, "n_shared": 420 - 500 * bad,
        "n_ambiguous": 160 * bad, "exclusive_rate": 0.2 + bad, "null_rate": bad / 2, "ceiling": 1 - bad / 2,
        "private_share": 0.15 + bad, "shared_energy": 0.8 - 1.2 * bad, "silhouette": bad / 3,
        "ce_recovered_A": 1 - bad / 2, "ce_recovered_B": 1 - bad / 3, "agreement": quality - 0.2,
        "agreement_mismatched": 0.05,
    }  # fmt: skip
    numbers = {k: max(0.0, centre[k] * (1 + 0.012 * rng.gauss(0, 1))) for k in keys}
    if "pooled" in design:
        numbers["r2_missing"] = None
    right, half = int(60 * quality), int(180 * quality)
    confusion = {
        "rows": ["A", "B", "shared"],
        "columns": ["A", "B", "shared", "ambiguous", "dead", "missed"],
        "counts": [
            [right, 0, 2, 1, 0, 57 - right + 3],
            [0, right, 1, 2, 0, 60 - right],
            [4, 3, half, 180 - half, 1, 2],
        ],
    }
    middle = [rng.randint(0, 6) for _ in range(20)]
    return {
        "design": design,
        "seed": seed,
        "numbers": numbers,
        "confusion": confusion if planted else None,
        "r2": None if "SAE" in design else [[0.8, quality - 0.4], [quality - 0.42, 0.78], [0.9, 0.88]],
        "entropy_histogram": [int(300 * bad), *middle[1:19], int(400 * quality)],
        "share_histogram": [60, *middle[1:9], 150, 160, *middle[11:19], 58],
        "seconds": 12.3 + seed,
    }


def _study_summary(design: str, rows: list[dict[str, Any]], keys: list[str]) -> dict[str, Any]:
    summary = {}
    for key in keys:
        values = [r["numbers"][key] for r in rows if r["design"] == design and r["numbers"][key] is not None]
        if values:
            n, mean = len(values), sum(values) / len(values)
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) * _QUANTILE_T[n] if n > 1 else None
            ends = {"low": None, "high": None} if spread is None else {"low": mean - spread, "high": mean + spread}
            summary[key] = {"mean": mean, "n": n, **ends}
    return summary
