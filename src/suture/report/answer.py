"""The page's first screen: in plain sentences what is shared, whose the rest is, and what all of it rests on.

1. How many live features are shared, and whose the others are.
2. What could have been found: the false-positive rate and the ceiling of a model against itself, and from which
   strength on known features were found.
3. How well the dictionary reconstructs, with and without outlier rows.
4. What steering showed. Then the numbers as figures.
"""

from collections import Counter
from collections.abc import Sequence

from suture import units
from suture.interventions.steer.effect import Effect
from suture.labels import DRIFTED, ONE_SIDED, is_exclusive
from suture.report import words
from suture.report.gather import Comparison, Gathered
from suture.report.html import Child, Html, join, tag
from suture.report.limits import DetectionLimit, limit_of
from suture.report.parts import chip, legend

_LABEL_HELP = {
    "shared": "both models have it",
    "one-sided": "every model knows its occasion, hardly any but some write it",
    "drifted": "every model writes it, each on other occasions",
    "ambiguous": "the data do not decide",
    "dead": "never active on held-out text",
}


def answer(comparison: Comparison, gathered: Gathered) -> Html:
    """The sentences, the bar of labels and the tiles."""
    counts = comparison.counts
    parts: list[Child] = [legend(comparison.models)]
    said: list[tuple[str, Child]] = []
    if counts and len(comparison.models) > 1:
        parts.append(tag("p", _shared(comparison), class_="answer"))  # 1
        parts.append(_stack(counts))
        said.append(("Could it be chance?", _null_sentence(comparison)))  # 2
        said.append(("What could have been found?", _limit_sentence(limit_of(comparison, gathered))))
    said.append(("How well does it reconstruct?", _fit_sentence(comparison)))  # 3
    said.append(("What does steering show?", _steering_sentence([e for _, e in gathered.results(Effect)])))  # 4
    known = [(question, sentence) for question, sentence in said if sentence]
    items = [tag("div", tag("dt", question), tag("dd", sentence)) for question, sentence in known]
    if items:
        parts.append(tag("dl", items, class_="answers questions"))
    parts.append(tag("div", _tiles(comparison), class_="tiles"))
    return tag("div", parts, class_="hero")


def _tiles(comparison: Comparison) -> list[Html]:
    summary, null = comparison.summary, comparison.null
    typical = dict(_per_model(summary.fvu_typical))
    tiles: list[Html] = []
    for letter, value in _per_model(summary.fvu):
        meaning = "variance the dictionary does not explain"
        if typical.get(letter) is not None:
            meaning += f"; {units.fvu(typical[letter])} without outlier rows and the ten largest coordinates"
        tiles.append(_tile(f"FVU of {letter}", units.fvu(value), meaning))
    if summary.l0 is not None:
        tiles.append(_tile("L0", units.number(summary.l0), "features active on an average row"))
    if null is not None:
        tiles.append(
            _tile("Null rate", units.percent(null.exclusive_share), "labelled exclusive, a model against itself")
        )
        tiles.append(_tile("Ceiling", units.percent(null.shared_share), "labelled shared, a model against itself"))
    return tiles


def _shared(c: Comparison) -> Html:
    counts, live = c.counts, c.n_live
    own = [
        join([tag("b", units.count(n)), f" only in {words.owners(label)}, "])
        for label, n in counts.items()
        if is_exclusive(label)
    ]
    between = [f"{units.count(counts[name])} {name}, " for name in (ONE_SIDED, DRIFTED) if counts[name]]
    return join(
        [
            "Of ",
            tag("b", units.count(live)),
            f" live features of the {c.design}, ",
            tag("b", units.count(counts["shared"]), " are shared"),
            f" ({units.percent(c.shared_share, 0)}), ",
            own,
            between,
            f"and {units.count(counts['ambiguous'])} remain ambiguous.",
        ]
    )


def _null_sentence(c: Comparison) -> str:
    two = len(c.models) == 2
    if c.null is None:
        exclusive = "“only A” and “only B”" if two else "“only A”, “only A and B” and the like"
        made = "No model was compared with a copy of itself on these rows with these settings"
        return f"{made}, so the false-positive rate of {exclusive} is unknown."
    own = "one model's own" if two else "lacking in some model"
    return (
        f"{units.percent(c.exclusive_share)} are labelled {own}; of a model compared with itself, where none "
        f"should be, it is {units.percent(c.null.exclusive_share)}. There {units.percent(c.null.shared_share)} are "
        "labelled shared, which is as high as it gets."
    )


def _fit_sentence(c: Comparison) -> str | None:
    summary = c.summary
    if not summary.fvu:
        return None
    whole = " and ".join(f"{units.percent(1 - v)} of {letter}'s" for letter, v in _per_model(summary.fvu))
    said = f"On held-out text the dictionary explains {whole} variance"
    said += "" if summary.l0 is None else f", with {units.number(summary.l0)} features on an average row"
    if summary.fvu_typical is None:
        return f"{said}."
    typical = " and ".join(f"{units.percent(1 - v)} of {letter}'s" for letter, v in _per_model(summary.fvu_typical))
    apart = [abs(a - b) for a, b in zip(summary.fvu, summary.fvu_typical, strict=True)]
    meaning = (
        "a few rows and coordinates make it look better or worse than it is on most text"
        if max(apart) > 0.05
        else "so that it does not rest on them"
    )
    return f"{said}. Without outlier rows and the ten largest coordinates it is {typical}: {meaning}."


def _limit_sentence(limit: DetectionLimit | None) -> str:
    if limit is None:
        return (
            "Not known. Known features were not added to these rows to see from which strength on they are found "
            "(suture study power); what is too weak or too rare to be found is not in the numbers above."
        )
    return limit.sentence + (f" This is of {limit.made_with}." if limit.made_with else "")


def _steering_sentence(effects: Sequence[Effect]) -> str | None:
    if not effects:
        return None
    agreeing = [e.agreement for e in effects if e.agreement is not None]
    sure = [a for a in agreeing if a.interval is not None and a.interval[0] > 0]
    n = len(effects)
    said = f"{units.count(n)} feature{'s were' if n > 1 else ' was'} steered in every model. "
    if agreeing:
        mean = sum(a.value for a in agreeing) / len(agreeing)
        said += (
            f"The models' next tokens change alike, beyond what mismatched features do, for {len(sure)} of "
            f"{len(agreeing)} (mean correlation above that: {units.correlation(mean)}). "
        )
    compared = [(m, control) for e in effects for m in e.models if (control := m.control("covariance"))]
    known = [(m, control) for m, control in compared if m.effect_at_kl is not None and control.n_at_kl]
    stronger = [1 for _, control in known if control.n_as_far == 0]
    if known:
        said += (
            f"At equal side effect on neutral text the feature moves its tokens further than every direction drawn "
            f"with the activations' own covariance in {len(stronger)} of {len(known)} cases."
        )
    return said.strip()


def _stack(counts: Counter[str]) -> Html:
    total = sum(counts.values())
    live = (total - counts["dead"]) or 1
    shown = [(label, counts[label]) for label in words.ordered_labels(counts)]
    bars = [
        tag("span", class_=f"bar {words.label_class(label)}", style=f"flex-grow:{n}", title=f"{label}: {n}")
        for label, n in shown
        if n
    ]
    items = [
        tag(
            "li",
            chip(label),
            tag("b", units.count(n)),
            tag("small", f"of {units.count(total)}" if label == "dead" else units.percent(n / live)),
            title=f"{_label_help(label)}; percent of the live features",
        )
        for label, n in shown
    ]
    return tag("div", tag("div", bars, class_="stack", aria_hidden="true"), tag("ul", items, class_="counts"))


def _label_help(label: str) -> str:
    return _LABEL_HELP[label] if label in _LABEL_HELP else f"only {words.owners(label)} has it"


def _tile(name: str, value: str, meaning: str) -> Html:
    return tag("div", tag("span", name, class_="name"), tag("b", value), tag("small", meaning), class_="tile")


def _per_model(values: Sequence[int | float] | None) -> list[tuple[str, int | float]]:
    return [(words.letter(m), v) for m, v in enumerate(values or [])]
