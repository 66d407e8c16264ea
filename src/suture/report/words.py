"""How numbers, labels, columns and settings are written for a reader."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

DASH = "–"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

LABEL_ORDER = ("shared", "A", "B", "ambiguous", "dead")
"""The order in which labels appear everywhere; labels beyond these (three models) come before `ambiguous`."""

COLUMNS: dict[str, tuple[str, str, str]] = {
    "index": ("Feature", "The feature's number in its dictionary.", "integer"),
    "label": ("Label", "Whose feature it is.", "text"),
    "rate": ("Rate", "Share of held-out rows on which the feature is active.", "percent"),
    "mean_active": ("Mean active", "Mean activation over the rows on which it is active.", "number"),
    "max": ("Maximum", "Largest activation seen.", "number"),
    "q50": ("Median", "Median activation where active.", "number"),
    "q90": ("90 %", "90 % quantile of the activation where active.", "number"),
    "q99": ("99 %", "99 % quantile of the activation where active.", "number"),
    "q999": ("99.9 %", "99.9 % quantile of the activation where active: the unit of steering strength.", "number"),
    "decoder_share": ("Decoder share of B", "‖d_B‖ / (‖d_A‖ + ‖d_B‖): 0 is all A, 1 is all B.", "share"),
    "attribution": ("Attribution to B", "Share of the pre-code that model B's encoder contributed.", "share"),
    "refit_share": (
        "Refit share of B",
        "Share of B after refitting both directions on the data (cross-fitted): 0 is all A, 1 is all B.",
        "share",
    ),
    "refit_share_low": ("Refit share, low", "Lower end of the 95 % document-bootstrap interval.", "share"),
    "refit_share_high": ("Refit share, high", "Upper end of the 95 % document-bootstrap interval.", "share"),
    "raw_share": ("Raw share of B", "The refit share without regard to what the other features explain.", "share"),
    "usage_share": ("Usage share of B", "Share of the feature's squared activity that falls on B's rows.", "share"),
    "usage_share_low": ("Usage share, low", "Lower end of the 95 % document-bootstrap interval.", "share"),
    "usage_share_high": ("Usage share, high", "Upper end of the 95 % document-bootstrap interval.", "share"),
    "firing_share": ("Firing share of B", "Of the rows it is active on, from each model alone, B's share.", "share"),
    "n_active": ("Rows active", "Held-out rows on which the feature is active.", "integer"),
    "energy_share": ("Energy", "Share of the decoded energy of all features that this one carries.", "percent"),
    "usage_entropy": ("Usage entropy", "0: active on one model's rows only; 1: equally on all.", "share"),
    "cofire_correlation": ("Co-firing r", "Correlation of the codes from A alone and from B alone.", "correlation"),
    "cofire_jaccard": ("Co-firing Jaccard", "Rows active from both / rows active from either.", "share"),
    "cofire_weighted_jaccard": (
        "Co-firing, weighted",
        "Sum of the smaller codes / sum of the larger codes, from A alone and from B alone.",
        "share",
    ),
    "decoder_cosine": ("Decoder cosine", "Cosine of the two decoder rows, coordinate by coordinate.", "correlation"),
    "mapped_cosine": (
        "Mapped cosine",
        "Of A's decoder row carried to B by a fitted linear map, and B's.",
        "correlation",
    ),
    "beta_eps_A": ("β error, A", "Latent scaling of A's residual along the decoder row (2504.02922).", "number"),
    "beta_eps_B": ("β error, B", "Latent scaling of B's residual along the decoder row (2504.02922).", "number"),
    "beta_r_A": ("β reconstruction, A", "Latent scaling of A's reconstruction (2504.02922).", "number"),
    "beta_r_B": ("β reconstruction, B", "Latent scaling of B's reconstruction (2504.02922).", "number"),
    "nu_eps": ("ν error", "Latent scaling on the error (2504.02922): high means shrinkage.", "number"),
    "nu_r": ("ν reconstruction", "Latent scaling on the reconstruction (2504.02922): high means decoupling.", "number"),
    "p_exclusive": ("p exclusive", "p-value of the exclusivity test, before Benjamini-Hochberg.", "p"),
    "p_shared": ("p shared", "p-value of the test that both models have it.", "p"),
    "reason": ("Reason", "Why the label is what it is.", "text"),
}
"""name -> (title, what it means, how it is written). Columns not listed here show under their own name."""

_PER_MODEL = {
    "decoder_share": ("Decoder share of {}", "Length of {}'s decoder row over the sum of all: 0 is none, 1 is all."),
    "attribution": ("Attribution to {}", "Share of the pre-code that model {}'s encoder contributed."),
    "refit_share": (
        "Refit share of {}",
        "Share of {} after refitting all directions on the data: 0 is none, 1 is all.",
    ),
    "raw_share": ("Raw share of {}", "The refit share of {} without regard to what the other features explain."),
    "usage_share": ("Usage share of {}", "Share of the feature's squared activity that falls on {}'s rows."),
    "firing_share": ("Firing share of {}", "Of the rows it is active on, from each model alone, {}'s share."),
}
"""(title, what it means) of shares that come as a column per model, where there are more than two."""

CLUSTERS = {
    "private_share": ("Private features", "live features that one model uses almost alone (entropy below 0.2)"),
    "shared_energy": ("Energy in shared features", "of all decoded energy"),
    "silhouette": ("Silhouette", "of decoder rows grouped by the model that uses them most: 1 two clouds, 0 one"),
}
"""The two-clusters numbers: name -> (title, what it means)."""

SETTINGS = (
    ("design.kind design", "{}"),
    ("n_features", "{} features"),
    ("sparsity.kind", "{} sparsity"),
    ("sparsity.k k", "k = {}"),
    ("objective.loss loss", "{} loss"),
    ("model_dropout", "model dropout {}"),
    ("n_rows", "trained on {} rows"),
    ("n_steps", "{} steps"),
    ("batch_size", "{} rows per batch"),
    ("learning_rate lr", "learning rate {}"),
    ("seed", "seed {}"),
)
"""(names a setting may have, how it is said): what a reader wants first; all others are in the provenance section."""


def column_words(key: str) -> tuple[str, str, str]:
    """(title, what it means, how it is written) of a column; `refit_share_C` is model C's of more than two.

    >>> column_words("refit_share_C")[0]
    'Refit share of C'
    """
    base, _, model = key.rpartition("_")
    if key not in COLUMNS and len(model) == 1 and model.isupper():
        end = next((e for e in ("_low", "_high") if base.endswith(e)), "")
        title, meaning = _PER_MODEL.get(base.removesuffix(end), (f"{base.replace('_', ' ')} {{}}", ""))
        if end:
            return f"{title.format(model)}, {end[1:]}", COLUMNS.get(base, ("", "", ""))[1], "share"
        known = base in _PER_MODEL
        return title.format(model), meaning.format(model), "share" if known else "number"
    return COLUMNS.get(key, (key.replace("_", " "), "", "number"))


def count(value: int | float | None) -> str:
    """A whole number with thousands separated: `12,345`."""
    return DASH if value is None else f"{value:,.0f}"


def number(value: int | float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, without an exponent where that stays short."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}\u00a0×\u00a010{str(int(exponent)).translate(_SUPERSCRIPT)}"


def percent(share: int | float | None, digits: int = 1) -> str:
    """A share of one as `12.3 %`, with a space that does not break."""
    return DASH if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}\u00a0%"


def fvu(value: int | float | None) -> str:
    """A fraction of variance (unexplained or explained) with three decimals."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", "−")


def correlation(value: int | float | None) -> str:
    """A number between -1 and 1 with two decimals."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.2f}".replace("-", "−")


def seconds(value: int | float) -> str:
    """A duration as a person says it."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def ordered_labels(counts: Mapping[str, int | float]) -> list[str]:
    """The labels of `counts` in reading order; the five usual ones always, others where they occur.

    >>> ordered_labels({"AB": 1, "C": 2})
    ['shared', 'A', 'B', 'C', 'AB', 'ambiguous', 'dead']
    """
    others = sorted(set(counts) - set(LABEL_ORDER), key=lambda label: (len(label), label))
    return [*LABEL_ORDER[:3], *others, *LABEL_ORDER[3:]]


def owners(label: str) -> str:
    """The models that a label names: `AB` is `A and B`."""
    if not (label.isascii() and label.isalpha() and label.isupper()) or len(label) < 2:
        return label
    return f"{', '.join(label[:-1])} and {label[-1]}"


def label_words(label: str) -> str:
    """A label as the reader sees it: `A` is `only A`."""
    return label if label in ("shared", "ambiguous", "dead") else f"only {owners(label)}"


def label_class(label: str) -> str:
    """The CSS class that gives a label its colour and mark."""
    if label in (*LABEL_ORDER, "C", "D"):
        return f"label-{label.lower()}"
    return "label-some" if owners(label) != label else "label-other"


def letter(model: int) -> str:
    """The letter of model number `model`."""
    return chr(ord("A") + model)


def settings_sentence(settings: Mapping[str, Any]) -> str:
    """The settings that a reader wants first, in words."""
    flat = flatten(settings)
    said = []
    for names, phrase in SETTINGS:
        paths = (p for name in names.split() for p in flat if p == name or p.endswith(f".{name}"))
        values = [flat[p] for p in paths if flat[p] not in (None, False, 0.0) or p == "seed"]
        if values:
            said.append(phrase.format(plain(values[0])))
    return ", ".join(said)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level with dotted names; lists stay values unless they hold mappings."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(v, Mapping) for v in value):
            flat.update(flatten({str(i): v for i, v in enumerate(value)}, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(value: object) -> str:
    """A JSON value in words."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.6g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else number(value)
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or DASH
    return str(value)
