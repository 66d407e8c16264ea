"""Artifact folders, written by the rooms that write them, small and with texts that try to break a page."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from suture.activations.shards import Rows, ShardWriter, write_index
from suture.activations.space import Copy, Space
from suture.activations.store import Alignment
from suture.activations.view import View
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import Evaluation
from suture.features.clusters import TwoClusters
from suture.features.details import Details
from suture.features.settings import FeatureSettings
from suture.features.table import FeatureTable
from suture.interventions.causal import Causal, Cause, PairShift, Verdict
from suture.interventions.splice import Loss, Splice, SplicedModel
from suture.interventions.steer.effect import (
    Agreement,
    Effect,
    Generation,
    ModelEffect,
    RandomControl,
    SteerSettings,
)
from suture.pipeline import artifact
from suture.training.run import EVALUATION, TrainProgress, recorded_settings
from suture.training.settings import TrainSettings
from suture.training.tracking import Tracker

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

WRITABLE = tuple(text for text in NASTY if text != "\ud83d")
"""Those that come from files: UTF-8 holds no lone surrogate."""

STORY = " Once upon a time , there was a little girl named Lily . She loved to play outside in the park with a ball"
LABELS = ("shared", "A", "B", "ambiguous", "dead")
MODELS = ["tinystories-1l @ mlp0.out", "tinystories-2l @ mlp0.out"]
SPACES = tuple(Space(model=m.split(" @ ")[0], hookpoint="mlp0.out", width=8, scale=0.5, fingerprint=m) for m in MODELS)
N_ROWS = 96


def make_all(folder: Path, *, n_features: int = 60, n_examples: int = 4) -> Path:
    """store/, crosscoder/, pooled/, null/, features-*/ and steering/feature-3/ below `folder`."""
    make_store(folder / "store")
    for design in ("crosscoder", "pooled"):
        make_dictionary(folder / design, folder / "store", design=design, n_features=n_features)
        make_features(
            folder / f"features-{design}", folder, dictionary=design, n_features=n_features, n_examples=n_examples
        )
    make_dictionary(folder / "null", folder / "store", design="crosscoder", n_features=n_features, null=True)
    make_features(folder / "features-null", folder, dictionary="null", n_features=n_features, n_examples=1, null=True)
    make_effect(folder / "steering" / "feature-3", folder / "crosscoder")
    return folder


def make_store(path: Path, *, seed: int = 0) -> None:
    """A store of few rows; what became of the tokens is made up."""
    alignment = [Alignment(n_tokens=100_000, n_kept=98_000, n_special=900)] * len(SPACES)
    settings = {"corpus": "stories <b>.txt", "block": 128, "dtype": "float32", "seed": seed}
    with artifact.create(path, stage="store", settings=settings, seed=seed, command="suture collect store") as draft:
        writer = ShardWriter(draft.folder, spaces=SPACES, dtype="float32", shard_rows=64)
        generator = torch.Generator().manual_seed(seed)
        rows = Rows(
            activations=[torch.randn(N_ROWS, space.width, generator=generator) for space in SPACES],
            documents=torch.zeros(N_ROWS, dtype=torch.int32),
            ends=torch.arange(1, N_ROWS + 1, dtype=torch.int32),
            token_ids=torch.zeros(N_ROWS, len(SPACES), dtype=torch.int32),
            texts={0: "." * N_ROWS},
        )
        writer.append(rows, state={})
        writer.finish({})
        write_index(writer, alignment)


def make_dictionary(
    path: Path,
    store: Path | None,
    *,
    design: str,
    n_features: int,
    null: bool = False,
    k: int = 4,
    seed: int = 1,
    spaces: Sequence[Space] = SPACES,
    evaluation: Evaluation | None = None,
) -> None:
    """A dictionary as training leaves it, its weights zero; a null's second space is a copy of the first."""
    sparsity = Sparsity(kind="batchtopk", k=k)
    chosen = Design(kind=design, n_features=n_features, sparsity=sparsity)  # pyright: ignore[reportArgumentType]
    view = View(spaces=(1,), null=True, rotation_seed=0) if null else View()
    if null:
        own = spaces[1]
        spaces = [own, replace(own, copy_of=Copy(original=own.label, rotated=True, seed=0))]
    settings = recorded_settings(
        TrainSettings(design=chosen, view=view, n_rows=20_000, learning_rate=3e-4, seed=seed, device="cpu"),
        {"store": str(store), "n_spaces": len(spaces)},
    )
    evaluation = evaluation or Evaluation(
        fvu=[0.12, 0.14], l0=23.7, dead=0.05, r2=[[0.81, 0.42], [0.47, 0.78], [0.88, 0.86]], n_rows=9800
    )
    parents = (store,) if store else ()
    with artifact.create(path, stage="dictionary", settings=settings, seed=seed, parents=parents) as draft:
        Dictionary(spaces, chosen).write(draft.folder)
        artifact.write_json(draft.folder / EVALUATION, evaluation.to_json() | {"heldout": True})
        with Tracker(draft.folder, first_step=0, kinds=(), settings={}, leads=True) as tracker:
            for step in range(0, 2001, 50):
                tracker.log(make_progress(step))


def make_progress(step: int) -> TrainProgress:
    """A line of metrics."""
    return TrainProgress(
        step=step,
        n_steps=2000,
        rows=10 * step,
        loss=1.0,
        terms={},
        fvu=[0.12 + math.exp(-step / 300), 0.14 + 0.9 * math.exp(-step / 400)],
        training_fvu=[0.1, 0.1],
        l0=24.0,
        dead=0.0,
        learning_rate=3e-4,
        k=24.0,
        rows_per_second=1.0,
    )


def make_features(
    path: Path,
    root: Path,
    *,
    dictionary: str,
    n_features: int,
    n_examples: int,
    null: bool = False,
    store: str = "store",
    settings: FeatureSettings | None = None,
    rate: float = 0.0123,
) -> None:
    """A feature table; feature 0 fires on every nasty text."""
    rng = random.Random(dictionary)
    columns = make_columns(n_features, rng, pooled=dictionary == "pooled", null=null)
    examples = [
        [] if label == "dead" else [make_example(rng, label, nasty=i == 0) for _ in range(n_examples)]
        for i, label in enumerate(columns["label"])
    ]
    logits = [[make_logits(rng) for _ in MODELS] for _ in range(n_features)]
    counts = {label: columns["label"].count(label) for label in LABELS}
    old = dictionary == "pooled"
    if not old:
        for own in logits:
            for side in own:
                side |= {"farthest": 3.0, "counts": [1, 40, 900, 30, 2]}
        for own in examples:
            for example, kind in zip(own, ("top", "q50-q90", "weakest", "random"), strict=False):
                example["kind"] = kind
        if n_features > 8 and examples[8]:
            examples[8][0] |= make_excerpt(row=500, before=14, after=9)
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
        summary["false_positive_rate"] = rate
    recorded = asdict(settings or FeatureSettings()) | {"store": str(root / store), "view": "", "null": null}
    parents = (root / dictionary, root / store)
    models = [MODELS[1], MODELS[1].replace(" @", " (rotated copy) @")] if null else MODELS
    table = make_table(models, columns, examples, logits, summary)
    if not old:
        table = replace(table, passages=make_passages(), details=make_details(n_features))
    with artifact.create(path, stage="features", settings=recorded, seed=0, parents=parents) as draft:
        table.write(draft.folder)


PASSAGE: dict[str, Any] = {"document": 7, "row": 440, "tokens": [f" {w}" for w in STORY.split()] * 5}


def make_passages() -> list[dict[str, Any]]:
    """One passage of the store's text."""
    return [PASSAGE]


def make_excerpt(*, row: int, before: int, after: int) -> dict[str, Any]:
    """Row, document and sides of an example that lies in the passage."""
    first = row - before - PASSAGE["row"]
    tokens = PASSAGE["tokens"][first : first + before + 1 + after]
    values = [3.0 if i == before else 0.0 for i in range(len(tokens))]
    sides = [{"tokens": tokens, "values": [s * v for v in values], "peak": before} for s in (1.0, 0.5)]
    return {"value": 3.0, "document": PASSAGE["document"], "row": row, "joint": values, "sides": sides}


def make_details(n_features: int) -> Details:
    """Histograms of 17 rows in one bin, and every feature's neighbours those after it."""
    values = torch.zeros(3, n_features, 20, dtype=torch.int32)
    values[:, :, 3] = 17
    after = torch.stack([(torch.arange(n_features) + step) % n_features for step in (1, 2)], dim=1)
    return Details(
        largest=torch.full((n_features,), 8.0),
        values=values,
        nearest=after,
        cosine=torch.full((n_features, 2), 0.5),
        cosine_each=torch.full((n_features, 2, 2), 0.4),
        together=after.clone(),
        correlation=torch.full((n_features, 2), 0.3),
        n_rows=torch.tensor([100]),
    )


def make_table(
    models: Sequence[str],
    columns: Mapping[str, list[Any]],
    examples: Sequence[Sequence[Mapping[str, Any]]],
    logits: Sequence[Sequence[Mapping[str, Any]]],
    summary: Mapping[str, Any],
) -> FeatureTable:
    """A feature table of columns as JSON has them."""
    numbers = {name: values for name, values in columns.items() if name not in ("label", "reason")}
    return FeatureTable(
        models=tuple(models),
        labels=tuple(columns["label"]),
        reasons=tuple(columns["reason"]),
        columns={n: torch.tensor([math.nan if v is None else v for v in own]).double() for n, own in numbers.items()},
        examples=examples,
        logits=logits,
        summary=summary,
    )


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
    tokens = (plain[start : start + 14] + list(WRITABLE) + plain[:14]) if nasty else plain[start : start + 40]
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
    strengths = (0.5, 1.0, 2.0, 4.0)

    def generations() -> tuple[Generation, ...]:
        text = f" there was {NASTY[0]} and a ball, {{}} times."
        said = {"prompt": "Once upon a time", "repetition": 0.464, "nats": 10.6}
        return tuple(Generation(strength=s, text=text.format(s), **said) for s in (0.0, 1.0, 2.0))

    def measures(size: float) -> dict[str, tuple[float, ...]]:
        return {
            "kl_neutral": tuple(size * 0.02 * s * s for s in strengths),
            "delta_ce": tuple(size * 0.01 * s * s for s in strengths),
            "target_effect": tuple(size * 1.1 * math.tanh(s) for s in strengths),
        }

    lists: dict[str, Any] = {
        "top_promoted": ((" ball", 1.2), (" <b>bold</b>", 0.8), (NASTY[0], 0.7)),
        "top_suppressed": ((" the", -0.4), ("\n", -0.3)),
        "generations": generations(),
        "strengths": strengths,
        "strength_at_kl": None,
        "effect_at_kl": None,
    }

    def model(name: str, size: float) -> ModelEffect:
        own = measures(size)
        nothing = (0.0,) * len(strengths)
        control = {**measures(size * 0.1), "kl_neutral_sd": nothing, "delta_ce_sd": nothing}
        return ModelEffect(
            model=name,
            direction_norm=1.0,
            n_tokens=900,
            n_texts=30,
            plain_ce=2.3,
            **own,
            **{f"{k}_interval": tuple((0.9 * v, 1.1 * v) for v in own[k]) for k in ("kl_neutral", "delta_ce")},
            target_effect_interval=(None,) * len(strengths),
            targets=(" ball",),
            anti_targets=(" the",),
            targets_from="given",
            random=RandomControl(n_directions=3, target_effect_sd=(0.05,) * 4, **control, **lists),
            **lists,
        )

    agreement = Agreement(
        models=(models[0], models[1]),
        correlation=0.71,
        mismatched=0.06,
        random=0.01,
        value=0.65,
        interval=(0.58, 0.71),
        value_over_random=0.7,
        interval_over_random=None,
        n_tokens=2000,
        n_prompts=2,
        mismatched_features=(4,),
    )
    effect = Effect(
        feature=3,
        scale=2.0,
        models=tuple(model(name, 1.0 + 0.4 * i) for i, name in enumerate(models)),
        agreements=(agreement,),
        prompts=("Once upon a time", NASTY[1]),
        evaluation_prompts=(1,),
        settings=SteerSettings(strengths=strengths),
    )
    effect.save(path, parents=(dictionary,), command="suture steer crosscoder")


# ---- three models ----------------------------------------------------------------------------------------------------

THREE = [*MODELS, "tinystories-4l @ mlp0.out"]
THREE_LABELS = ("A", "B", "C", "AB", "AC", "BC", "shared", "ambiguous", "dead")


def make_three_models(folder: Path, *, n_features: int = 80, kind: str = "refit") -> Path:
    """dictionary/, features/ and steering/feature-3/ of a crosscoder of three models below `folder`."""
    rng = random.Random(3)
    r2 = [[0.81, 0.42, 0.3], [0.47, 0.78, 0.35], [0.4, 0.5, 0.7], [0.88, 0.86, 0.83]]
    evaluation = Evaluation(fvu=[0.12, 0.14, 0.17], l0=23.7, dead=0.05, r2=r2, n_rows=9800)
    spaces = [replace(SPACES[0], model=name.split(" @ ")[0], fingerprint=name) for name in THREE]
    make_dictionary(
        folder / "dictionary",
        None,
        design="crosscoder",
        n_features=n_features,
        spaces=spaces,
        evaluation=evaluation,
    )
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
    histogram = [rng.randint(0, 9) for _ in range(20)]
    clusters = TwoClusters(entropy_histogram=histogram, private_share=0.2, shared_energy=None, silhouette=None)
    measured = evaluation.to_json() | {"two_clusters": asdict(clusters)}
    summary = {"design": "crosscoder", "counts": counts, "null": False, **measured}
    parents = (folder / "dictionary",)
    with artifact.create(folder / "features", stage="features", settings={}, seed=0, parents=parents) as draft:
        make_table(THREE, columns, examples, logits, summary).write(draft.folder)
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
    models = tuple(
        SplicedModel(
            model=name,
            clean=Loss(ce=2.314, se=0.021),
            spliced=Loss(ce=2.401 + 0.1 * m, se=0.023),
            mean=Loss(ce=4.02, se=0.05),
            alone=[Loss(ce=2.5, se=None), Loss(ce=4.1, se=0.04)],
            n_predictions=8_000,
            replaced=0.97,
        )
        for m, name in enumerate(MODELS)
    )
    parents = (folder / "dictionary",)
    with artifact.create(folder / "splice", stage="splice", settings={"n_documents": 64}, parents=parents) as draft:
        spliced = Splice(models=models, n_documents=64, n_rows=7_900)
        artifact.write_json(draft.folder / "splice.json", spliced.to_json())
    found: tuple[tuple[str, Verdict], ...] = (
        ("shared", "confirms"), ("shared", "contradicts"), ("A", "confirms"), (NASTY[0], "undecided")
    )  # fmt: skip
    features = tuple(
        Cause(
            feature=10 * i,
            label=label,
            n_positions=0 if verdict == "undecided" else 412,
            kl=(0.0213, 0.0007),
            kl_control=(0.0, 0.0),
            ratio=None if verdict == "undecided" else ((1.0, 1.0), (0.02, 0.05)),
            pairs=(PairShift(models=(0, 1), correlation=0.61, control=-0.12, above=(0.4, 0.58)),),
            verdict=verdict,
        )
        for i, (label, verdict) in enumerate(found)
    )
    make_causal(folder / "causal", Causal(models=tuple(MODELS), features=features), parents=parents)
    return folder


def make_causal(path: Path, causal: Causal, *, parents: tuple[Path, ...] = ()) -> None:
    """A causal check."""
    with artifact.create(path, stage="causal", settings={}, seed=0, parents=parents) as draft:
        artifact.write_json(draft.folder / "causal.json", causal.to_json())


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
