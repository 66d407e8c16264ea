"""How labels and settings are written for a reader."""

from collections.abc import Mapping, Sequence
from typing import Any

from suture import units
from suture.labels import ONE_SIDED, is_exclusive

LABEL_ORDER = ("shared", "A", "B", "ambiguous", "dead")
"""The order in which labels appear everywhere; labels beyond these (three models) come before `ambiguous`."""

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
UNITS = {"activation": "99.9\u00a0% activation", "norm": "typical norm of activations"}
"""What strengths of steering are multiples of."""


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
    return f"only {owners(label)}" if is_exclusive(label) else label


def label_class(label: str) -> str:
    """The CSS class that gives a label its colour and mark."""
    if label in (*LABEL_ORDER, "C", "D", ONE_SIDED):
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
        return units.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return units.count(value)
    if isinstance(value, float):
        return f"{value:.6g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else units.number(value)
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or units.DASH
    return str(value)
