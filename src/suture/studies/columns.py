"""The columns of a study's table: what each number is called, what it says in one sentence, which way is better."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from suture.planted.scores import true_labels

Better = Literal["high", "low"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of every cell."""

    key: str
    title: str
    help: str
    better: Better | None
    format: Literal["share", "number", "count"]
    group: str


def columns_for(n_models: int) -> tuple[Column, ...]:
    """All columns, in the order of the table; those without a number are left out of it."""
    letters = ascii_uppercase[:n_models]
    names = true_labels(n_models)
    return (
        *_group(
            "planted truth",
            (
                "macro_f1",
                "Macro-F1",
                (
                    "Mean over the classes of concepts of F1, where a concept that was not found or not decided is a "
                    "miss of its class."
                ),
                "high",
                "number",
            ),
            (
                "auroc",
                "AUROC",
                (
                    "How well the lengths of a feature's directions tell concepts that some model lacks from shared "
                    "ones, over the concepts found."
                ),
                "high",
                "number",
            ),
            (
                "recovery_80",
                "Recovered",
                "Concepts that a live feature points at with a cosine of 0.8, all models' directions side by side.",
                "high",
                "share",
            ),
            (
                "recovery_80_exclusive",
                "Recovered, exclusive",
                "The same, of the concepts that some model lacks.",
                "high",
                "share",
            ),
            ("recovery_90", "Recovered at 0.9", "The same of all concepts, at a cosine of 0.9.", "high", "share"),
            (
                "directions_80",
                "Directions found",
                (
                    "Pairs of a concept and a model that has it, whose direction there some live feature has with a "
                    "cosine of 0.8, whatever it does elsewhere."
                ),
                "high",
                "share",
            ),
            (
                "mcc",
                "MCC",
                "Mean cosine of the best one-to-one matching of concepts and live features.",
                "high",
                "number",
            ),
            (
                "detection_f1",
                "Detection F1",
                (
                    "Mean over concepts of the F1 with which a concept's feature being active tells that the concept "
                    "fires."
                ),
                "high",
                "number",
            ),
        ),
        *_group(
            "fit",
            *(
                (
                    f"fvu_{m}",
                    f"FVU {m}",
                    f"Share of model {m}'s variance left unexplained on held-out rows.",
                    "low",
                    "number",
                )
                for m in letters
            ),
            ("l0", "L0", "Active features for a text position in all, each code counted once.", None, "number"),
            (
                "r2_missing",
                "R² with models missing",
                "Mean over pairs of models of the variance of one explained from the code of the other alone.",
                "high",
                "number",
            ),
            ("dead", "Dead", "Share of features that never fired on held-out rows.", "low", "share"),
            *(
                (
                    f"price_{m}",
                    f"Price {m}",
                    f"FVU of model {m} less that of its own dictionary with as many active features in a code.",
                    "low",
                    "number",
                )
                for m in letters
            ),
            *(
                (
                    f"price_in_all_{m}",
                    f"Price in all {m}",
                    (
                        f"FVU of model {m} less that of its own dictionary, where all codes of a text position "
                        "together have as many active features."
                    ),
                    "low",
                    "number",
                )
                for m in letters
            ),
        ),
        *_group(
            "labels",
            *(
                (f"n_{name}", name if name == "shared" else f"Only {name}", _labelled(name), None, "count")
                for name in names
            ),
            ("n_one-sided", "one-sided", "Every model knows their occasion, hardly any writes them.", None, "count"),
            ("n_drifted", "drifted", "Every model writes them, each on other occasions.", None, "count"),
            ("n_ambiguous", "ambiguous", "Features whose data do not decide.", None, "count"),
            ("exclusive_rate", "Exclusive", "Share of live features that some model is said to lack.", None, "share"),
            (
                "null_rate",
                "Null rate",
                (
                    "The same share for this design on the first model against its rotated copy, where every one is "
                    "false."
                ),
                "low",
                "share",
            ),
            (
                "ceiling",
                "Ceiling",
                "Share of live features labelled shared on that null, where all are.",
                "high",
                "share",
            ),
        ),
        *_group(
            "two clusters",
            (
                "private_share",
                "Private",
                "Share of live features that one model alone uses (entropy of usage below 0.2).",
                None,
                "share",
            ),
            (
                "shared_energy",
                "Shared energy",
                "Share of the decoded energy that features labelled shared carry.",
                None,
                "share",
            ),
            (
                "silhouette",
                "Silhouette",
                "How far decoder rows lie in one cloud per model: near 1 apart, near 0 mixed.",
                None,
                "number",
            ),
        ),
        *_group(
            "behaviour",
            *(
                (
                    f"ce_clean_{m}",
                    f"CE {m}",
                    f"Loss of model {m} left alone on held-out text, nats per token.",
                    None,
                    "number",
                )
                for m in letters
            ),
            *(
                (
                    f"ce_spliced_{m}",
                    f"CE spliced {m}",
                    f"The same with the dictionary's reconstruction in place of the activation of model {m}.",
                    "low",
                    "number",
                )
                for m in letters
            ),
            *(
                (
                    f"ce_recovered_{m}",
                    f"CE recovered {m}",
                    (
                        f"1 - (spliced - clean) / (mean-ablated - clean) of model {m}: 1 as good as untouched, 0 as "
                        "bad as the mean activation."
                    ),
                    "high",
                    "share",
                )
                for m in letters
            ),
            (
                "agreement",
                "Agreement",
                "How much more alike the models answer when steered with one shared feature than with two that "
                "do not belong together, mean over some of them.",
                "high",
                "number",
            ),
            (
                "agreement_mismatched",
                "Agreement, mismatched",
                "How much alike they answer to features that do not belong together.",
                None,
                "number",
            ),
        ),
        *_group("cost", ("seconds", "Seconds", "Wall time of the cell, its null included.", None, "number")),
    )


def headline(n_models: int) -> tuple[str, ...]:
    """Keys of the columns that fit a terminal."""
    fit = (*(f"fvu_{m}" for m in ascii_uppercase[:n_models]), "l0", "r2_missing")
    return ("macro_f1", "auroc", "recovery_80", "recovery_80_exclusive", *fit, "exclusive_rate", "null_rate", "ceiling")


def in_words(value: Mapping[str, Any] | None, style: str) -> str:
    """A mean with half the width of its interval.

    >>> in_words({"mean": 0.914, "low": 0.894, "high": 0.934, "n": 3}, "share")
    '91.4 ± 2.0 %'
    >>> in_words({"mean": 12.0, "low": None, "high": None, "n": 1}, "count"), in_words(None, "share")
    ('12', '-')
    """
    if value is None:
        return "-"
    digits, times, unit = {"share": (1, 100, " %"), "number": (3, 1, ""), "count": (0, 1, "")}[style]
    middle = f"{times * value['mean']:.{digits}f}"
    half = "" if value["low"] is None else f" ± {times * (value['high'] - value['mean']):.{digits}f}"
    return middle + half + unit


def _group(name: str, *columns: tuple[Any, ...]) -> tuple[Column, ...]:
    """Columns from (key, title, help, better, format)."""
    return tuple(
        Column(key=key, title=title, help=text, better=better, format=style, group=name)
        for key, title, text, better, style in columns
    )


def _labelled(name: str) -> str:
    if name == "shared":
        return "Features that every model has."
    return (
        f"Features that {'model ' + name if len(name) == 1 else 'models ' + ' and '.join(name)} alone is said to have."
    )
