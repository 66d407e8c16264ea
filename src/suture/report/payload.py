"""The feature table's data in the small form that the page's script unpacks.

1. The index is read when the page opens: columns to four significant digits, the tokens that each feature is strongest
   on and those that it promotes, every text once, the most frequent first so that their numbers are short.
2. Blocks hold what a feature's own page shows, so many features each: examples, logit effects, histograms, neighbours.
   They are read when one of their features is looked at.
3. The texts around examples are in chunks of rows (`texts`), each row once, whatever models and examples share it.
4. Examples with the same text are folded into one; there are as many per feature as `Limits` allow.
5. Of a large dictionary only the columns that the table opens with are in the index; others are pieces of their own.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any

from suture.features.columns import ABOUT
from suture.features.table import FeatureTable
from suture.pipeline.table import Column
from suture.report.gather import short_labels
from suture.report.texts import Texts

FIRST = ("index", "label", "reason", "rate", "mean_active", "cofire_correlation")
"""Columns that the table opens with; shares besides."""
SHARES = ("refit_share", "decoder_share", "usage_share", "attribution")
BLOCK = 128
"""Features of a block."""
KINDS = {"top": "t", "store": "s", "q50-q90": "u", "q10-q50": "l", "weakest": "w", "random": "r"}
N_PEAKS = 8
"""Tokens kept per feature that it is strongest on."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the examples goes into the page."""

    n_examples: int = 18
    """Examples per feature at most."""
    n_before: int = 15
    """Tokens shown before the peak."""
    n_after: int = 8
    """Tokens shown after the peak."""
    n_promoted: int = 10
    """Promoted tokens kept per model."""
    n_suppressed: int = 8
    """Suppressed ones."""
    n_total: int = 50_000
    """Examples of all features together; fewer per feature are kept where this is exceeded, within one file."""
    n_inline: int = 8_192
    """Features up to which everything is in one file; beyond it blocks are files in a folder beside the page."""

    def per_feature(self, n_features: int) -> int:
        """Examples per feature; 0 where not even one fits."""
        if n_features > self.n_inline:
            return self.n_examples
        return min(self.n_examples, self.n_total // max(1, n_features))


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """One dictionary's data, piece by piece."""

    index: dict[str, Any]
    pieces: Iterator[tuple[str, Any]]
    """(name, content): `b0`, .. the blocks; `x0`, .. the chunks of texts; `c0`, .. the columns that come later."""


def explorer(table: FeatureTable, *, name: str, identity: str, limits: Limits, whole: bool = True) -> Explorer:
    """What the page needs of one dictionary, as plain JSON values.

    Args:
        table: the features with their examples and promoted tokens, where there are any.
        name: how the report calls the dictionary.
        identity: what a reader's notes are kept under, in this report and later ones on the same dictionary.
        limits: how much of the examples to keep.
        whole: every column in the index; otherwise only those that the table opens with.
    """
    n = limits.per_feature(table.n_features)
    shown = [_folded(_shown(own, n), limits) for own in table.examples]
    texts = Texts.of(table.passages, [[e for e, _ in own] for own in shown])
    peaks = [_peaks([e for e, _ in own]) for own in shown]
    promoted = [[[str(t) for t, _ in side["promoted"][: limits.n_promoted]] for side in own] for own in table.logits]
    strings, number = _numbered([*peaks, *(side for own in promoted for side in own)])
    columns = {key: [_rounded(v) for v in values] for key, values in table.plain_columns().items()}
    later = [] if whole else [key for key in columns if key not in FIRST and not key.startswith(SHARES)]
    index = {
        "name": name,
        "id": identity,
        "models": short_labels(table.models),
        "n": table.n_features,
        "columns": {key: values for key, values in columns.items() if key not in later},
        "later": later,
        "meta": {column.name: column_meta(column) for column in table.described},
        "about": ABOUT,
        "strings": strings,
        "peaks": [[number[t] for t in own] for own in peaks],
        "promoted": [[[number[t] for t in side] for side in own] for own in promoted],
        "block": BLOCK,
        "chunk": texts.chunk,
        "window": [limits.n_before, limits.n_before + 1 + limits.n_after],
        "missing": _missing(table, n),
    }

    def pieces() -> Iterator[tuple[str, Any]]:
        for begin in range(0, table.n_features, BLOCK):
            yield f"b{begin // BLOCK}", _block(table, range(begin, min(begin + BLOCK, table.n_features)))
        yield from texts.pieces()
        for place, key in enumerate(later):
            yield f"c{place}", columns[key]

    def _block(table: FeatureTable, features: range) -> dict[str, Any]:
        words: dict[str, int] = {}
        own = [_feature(table, i, shown[i] if i < len(shown) else [], texts, words, limits) for i in features]
        for i, record in zip(features, own, strict=True):
            if later:
                record["n"] = [columns[key][i] for key in later]
        return {"strings": list(words), "features": own}

    return Explorer(index=index, pieces=pieces())


def column_meta(column: Column) -> dict[str, str]:
    """Title, explanation, kind and group of a column."""
    return {"title": column.title, "help": column.sentence, "kind": column.format, "group": column.group}


def _missing(table: FeatureTable, n_examples: int) -> list[str]:
    """What this table has not, in words for the page."""
    said = []
    if not table.examples:
        said.append("The table holds no examples.")
    elif n_examples == 0:
        said.append("This dictionary is too large for examples on this page; they are in its examples.json.")
    old = []
    if table.details is None:
        old += ["histograms of values", "neighbours"]
    if table.examples and not table.passages:
        old.append("longer text around examples")
    if table.logits and not any("counts" in side for own in table.logits for side in own):
        old.append("histograms of logit effects")
    if not table.logits:
        said.append("No tokens are promoted here: the features were described without their models (--no-tokens).")
    if old:
        listed = old[0] if len(old) == 1 else f"{', '.join(old[:-1])} and {old[-1]}"
        said.append(f"This table has no {listed}: an older suture made it. Describe the features again to have them.")
    return said


# ---- examples --------------------------------------------------------------------------------------------------------

Example = Mapping[str, Any]
Folded = list[tuple[dict[str, Any], list[Example]]]
"""Examples as they are shown, each with those that have the same text."""


def _shown(examples: Sequence[Example], n: int) -> list[Example]:
    """At most `n` examples: the strongest, and up to ten of eighteen from the other kinds."""
    top = [e for e in examples if e.get("kind", "top") == "top"]
    others = [e for e in examples if e.get("kind", "top") != "top"][: 10 * n // 18]
    return [*top[: n - len(others)], *others]


def _folded(examples: Sequence[Example], limits: Limits) -> Folded:
    """Windows around the peaks; a row once, and examples of one text together.  (4)"""
    found: Folded = []
    by_text: dict[tuple[str, ...], int] = {}
    rows: set[tuple[int, int]] = set()
    for example in examples:
        row = (example["document"], example["row"])
        cut = _window(example, limits)
        text = tuple(chain.from_iterable(side["tokens"] for side in cut["sides"]))
        if text in by_text:
            if row not in rows:
                found[by_text[text]][1].append(example)
        else:
            by_text[text] = len(found)
            found.append((cut, []))
        rows.add(row)
    return found


def _window(example: Example, limits: Limits) -> dict[str, Any]:
    sides = []
    for side in example["sides"]:
        tokens, values, peak = side["tokens"], side["values"], side["peak"]
        start, stop = max(0, peak - limits.n_before), peak + limits.n_after + 1
        sides.append({"tokens": tokens[start:stop], "values": values[start:stop], "peak": peak - start})
    # The joint code has the tokens of the first side; other sides have their own positions where tokenizers differ.
    peak = example["sides"][0]["peak"] if sides else 0
    joint = example["joint"][max(0, peak - limits.n_before) : peak + limits.n_after + 1]
    return {**example, "sides": sides, "joint": joint}


def _peaks(examples: Sequence[Example]) -> list[str]:
    """The different tokens that a feature is strongest on, the strongest first."""
    strongest = [e for e in examples if e.get("kind", "top") in ("top", "store")]
    found: dict[str, None] = {}
    for example in strongest:
        for side in example["sides"]:
            if side["tokens"]:
                found.setdefault(side["tokens"][side["peak"]])
    return list(found)[:N_PEAKS]


def _packed(shown: Folded, texts: Texts, words: dict[str, int], limits: Limits) -> dict[str, Any]:
    """A feature's examples, each property a list over them, which deflates best; what is as usual is left out.

    | key | content |
    |-----|---------|
    | k   | kinds, a letter each |
    | r   | rows |
    | v   | values: place, value of all models together, value of each model alone, token after token |
    | w   | place of an example -> [tokens before the peak, tokens], where these are not as `Limits` have them |
    | s   | place -> [value, row] of those with the same text |
    | o   | place -> [document, tokens and place of the peak per side], where the text is not in the chunks |
    """
    packed: dict[str, Any] = {
        "k": "".join(KINDS.get(e.get("kind", "top"), "?") for e, _ in shown),
        "r": [e["row"] for e, _ in shown],
        "v": [_values(e) for e, _ in shown],
    }
    windows, same, own = {}, {}, {}
    for i, (example, others) in enumerate(shown):
        first = example["sides"][0] if example["sides"] else {"tokens": [], "peak": 0}
        window = [first["peak"], len(first["tokens"])]
        if window != [limits.n_before, limits.n_before + 1 + limits.n_after]:
            windows[str(i)] = window
        if others:
            same[str(i)] = [[_short(e["value"]), e["row"]] for e in others]
        if not texts.holds(example):
            own[str(i)] = [example["document"], _own(example, words)]
    return packed | {key: value for key, value in (("w", windows), ("s", same), ("o", own)) if value}


def _values(example: Example) -> list[Any]:
    """Places with a value: at the peak to three significant digits, elsewhere to two."""
    lists = [example["joint"], *(side["values"] for side in example["sides"])]
    peaks = {side["peak"] for side in example["sides"]}
    found: list[Any] = []
    for i, values in enumerate(zip_longest(*lists, fillvalue=0)):
        if any(values):
            digits = 3 if i in peaks else 2
            found.append(i)
            found += [_short(v, digits) for v in values]
    return found


def _own(example: Example, words: dict[str, int]) -> list[Any]:
    """Per side its tokens, None where they are the first side's, and the place of its peak."""
    first = example["sides"][0]["tokens"]
    return [
        [None if m and side["tokens"] == first else [_word(t, words) for t in side["tokens"]], side["peak"]]
        for m, side in enumerate(example["sides"])
    ]


# ---- a feature -------------------------------------------------------------------------------------------------------


def _feature(
    table: FeatureTable, i: int, shown: Folded, texts: Texts, words: dict[str, int], limits: Limits
) -> dict[str, Any]:
    """All that its own page shows beyond the index.

    | key | content |
    |-----|---------|
    | e   | examples (`_packed`) |
    | l   | logit effects per model (`_logits`) |
    | h   | largest value, then rows per bin of every code |
    | c   | nearest by direction: feature, cosine, cosine in each model, in hundredths, one after the other |
    | o   | nearest by firing: feature, correlation in hundredths |
    | n   | the values of the columns that come later |
    """
    record: dict[str, Any] = {"e": _packed(shown, texts, words, limits)}
    if i < len(table.logits):
        record["l"] = [_logits(side, words, limits) for side in table.logits[i]]
    found = table.details
    if found is not None:
        record["h"] = [_rounded(float(found.largest[i])), found.values[:, i].tolist()]
        directions = zip(
            found.nearest[i].tolist(), found.cosine[i].tolist(), found.cosine_each[i].tolist(), strict=True
        )
        together = zip(found.together[i].tolist(), found.correlation[i].tolist(), strict=True)
        record["c"] = [x for f, v, own in directions if f >= 0 for x in (f, *map(_hundredths, (v, *own)))]
        record["o"] = [x for f, v in together if f >= 0 for x in (f, _hundredths(v))]
    return record


def _logits(side: Mapping[str, Any], words: dict[str, int], limits: Limits) -> list[Any]:
    """[path, values of the promoted, suppressed tokens and values, farthest, counts]; the promoted are in the index.

    Two significant digits are as many as a page shows.
    """
    up, down = side["promoted"][: limits.n_promoted], side["suppressed"][: limits.n_suppressed]
    return [
        str(side.get("path", "direct")),
        [_short(v, 2) for _, v in up],
        [x for token, v in down for x in (_word(str(token), words), _short(v, 2))],
        _rounded(side.get("farthest")),
        [_short(n, 2) for n in side.get("counts", ())],
    ]


def _numbered(lists: Sequence[Sequence[str]]) -> tuple[list[str], dict[str, int]]:
    """Every text once, the most frequent first, and the number of each."""
    seen = Counter(text for own in lists for text in own)
    strings = [text for text, _ in seen.most_common()]
    return strings, {text: i for i, text in enumerate(strings)}


def _word(text: str, words: dict[str, int]) -> int:
    return words.setdefault(text, len(words))


@lru_cache(maxsize=2**16)  # windows that overlap have the same values
def _short(value: float | int | None, digits: int = 3) -> float | int:
    """So many significant digits; what is no number is 0."""
    if value is None or value != value:
        return 0
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def _hundredths(value: float) -> int:
    """A cosine or a correlation; what is no number is 0."""
    return round(100 * value) if value == value else 0


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if value != value:
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
