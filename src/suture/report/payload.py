"""The feature table's data in the small form that the page's script unpacks.

1. Columns are rounded to four significant digits.
2. Every token text is stored once, the most frequent ones first so that their numbers are short.
3. An example keeps the tokens around its peak, the non-zero activations only, and the second side's tokens only where
   they differ from the first side's.
4. Examples per feature are as many as a token budget allows, the same number for every feature.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture.features.table import FeatureTable
from suture.pipeline.table import Column
from suture.report.gather import short_labels


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the examples goes into the page."""

    n_examples: int = 10
    """Examples per feature at most."""
    n_before: int = 15
    """Tokens kept before the peak."""
    n_after: int = 8
    """Tokens kept after the peak."""
    n_promoted: int = 10
    """Promoted and suppressed tokens kept, each, per model."""
    n_tokens: int = 500_000
    """Tokens of all examples together; fewer examples per feature are kept where this is exceeded."""

    def per_feature(self, n_features: int) -> int:
        """Examples per feature within the token budget; 0 where not even one fits."""
        window = self.n_before + 1 + self.n_after
        return min(self.n_examples, self.n_tokens // max(1, n_features * window))


def explorer_payload(table: FeatureTable, *, name: str, limits: Limits) -> dict[str, Any]:
    """What the feature table of one dictionary needs, as plain JSON values.

    Args:
        table: the features with their examples and promoted tokens, where there are any.
        name: how the report calls the dictionary.
        limits: how much of the examples to keep.
    """
    kept = limits.per_feature(table.n_features)
    cut = [[_window(example, limits) for example in _shown(per_feature, kept)] for per_feature in table.examples]
    tops = [[_top(side, limits) for side in per_feature] for per_feature in table.logits]
    strings, index = _string_table(cut, tops)
    return {
        "name": name,
        "models": short_labels(table.models),
        "n": table.n_features,
        "columns": {key: [_rounded(v) for v in values] for key, values in table.plain_columns().items()},
        "meta": {column.name: column_meta(column) for column in table.described},
        "strings": strings,
        "examples": [[_packed(e, index) for e in per_feature] for per_feature in cut],
        "logits": [[[_pairs(side[kind], index) for kind in (0, 1)] for side in per_feature] for per_feature in tops],
        "paths": [[str(side.get("path", "direct")) for side in per_feature] for per_feature in table.logits],
        "examples_left_out": bool(table.examples) and kept == 0,
    }


def column_meta(column: Column) -> dict[str, str]:
    """Title, explanation and kind of a column."""
    return {"title": column.title, "help": column.sentence, "kind": column.format}


def _shown(examples: Sequence[Mapping[str, Any]], n: int) -> list[Mapping[str, Any]]:
    """At most `n` examples: the strongest, and up to half of the others."""
    top = [e for e in examples if e.get("kind", "top") == "top"]
    others = [e for e in examples if e.get("kind", "top") != "top"][: n // 2]
    return [*top[: n - len(others)], *others]


def _window(example: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    sides = []
    for side in example["sides"]:
        peak = side["peak"]
        start, stop = max(0, peak - limits.n_before), peak + limits.n_after + 1
        sides.append(
            {
                "tokens": [str(t) for t in side["tokens"][start:stop]],
                "values": [_rounded(v) or 0 for v in side["values"][start:stop]],
                "peak": peak - start,
            }
        )
    # The joint code has the tokens of the first side; other sides have their own positions where tokenizers differ.
    peak = example["sides"][0]["peak"] if sides else 0
    joint = example["joint"][max(0, peak - limits.n_before) : peak + limits.n_after + 1]
    return {**example, "sides": sides, "joint": [_rounded(v) or 0 for v in joint]}


def _top(side: Mapping[str, Any], limits: Limits) -> tuple[list[Any], list[Any]]:
    return side["promoted"][: limits.n_promoted], side["suppressed"][: limits.n_promoted]


def _string_table(
    examples: list[list[dict[str, Any]]], tops: list[list[tuple[list[Any], list[Any]]]]
) -> tuple[list[str], dict[str, int]]:
    seen: Counter[str] = Counter()
    for per_feature in examples:
        for example in per_feature:
            for side in example["sides"]:
                seen.update(side["tokens"])
    for per_feature in tops:
        for promoted, suppressed in per_feature:
            seen.update(str(token) for token, _ in (*promoted, *suppressed))
    strings = [text for text, _ in seen.most_common()]
    return strings, {text: i for i, text in enumerate(strings)}


def _packed(example: Mapping[str, Any], index: Mapping[str, int]) -> dict[str, Any]:
    sides: list[dict[str, Any]] = []
    first: list[int] | None = None
    for side in example["sides"]:
        tokens = [index[t] for t in side["tokens"]]
        sides.append({"t": None if tokens == first else tokens, "v": _sparse(side["values"]), "p": side["peak"]})
        first = first or tokens
    about = {"v": _rounded(example["value"]), "d": example["document"], "r": example["row"]}
    about["k"] = example.get("kind", "top")
    return {**about, "j": _sparse(example["joint"]), "s": sides}


def _sparse(values: Sequence[Any]) -> list[Any]:
    return [x for i, v in enumerate(values) if v for x in (i, v)]


def _pairs(pairs: Sequence[Sequence[Any]], index: Mapping[str, int]) -> list[Any]:
    return [x for token, value in pairs for x in (index[str(token)], _rounded(value))]


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
