"""What a study answers: one sentence per question, none that its intervals do not support."""

from collections.abc import Sequence

from suture.report.html import Child, Html, join, tag
from suture.report.parts import legend
from suture.report.study_numbers import Column, Estimate, Study

_QUESTIONS = {
    "planted": (
        ("macro_f1", "Whose labels are right?"),
        ("recovery_80_exclusive", "Who finds what one model has alone?"),
        ("null_rate", "Who invents the fewest differences?"),
        ("fvu_", "Who leaves least unexplained?"),
    ),
    "language models": (
        ("fvu_", "Who leaves least unexplained?"),
        ("n_shared", "Who finds most in common?"),
        ("null_rate", "Who invents the fewest differences?"),
        ("ce_recovered_", "Who keeps the models working?"),
        ("agreement", "Whose shared features act alike?"),
    ),
}
"""truth -> (column, or the beginning of one per model; the question that it answers)."""

_ASKED_FOR = "n_shared"
"""What a question wants high, though by itself it is neither better high nor low."""


_NO_INTERVALS = "Of one seed there are no intervals: these are measurements, and tell no two designs apart."


def study_answer(study: Study) -> Html:
    """One sentence per question, none that the intervals do not support."""
    every = (*_QUESTIONS["planted"], *_QUESTIONS["language models"])
    questions = _QUESTIONS.get(study.truth, every)
    answers: list[Child] = []
    for key, question in dict(questions).items():
        columns = study.of_model(key) if key.endswith("_") else [c] if (c := study.column(key)) else []
        sentences = [s for c in columns if (s := _sentence(study, c)) is not None]
        if sentences:
            answers.append(tag("div", tag("dt", question), [tag("dd", s) for s in sentences]))
    caution = None if _intervals_known(study) else tag("p", _NO_INTERVALS, class_="note")
    return tag("div", legend(study.models), tag("dl", answers, class_="answers"), caution, class_="hero")


def _intervals_known(study: Study) -> bool:
    return any(e.has_interval for one in study.estimates.values() for e in one.values())


def _sentence(study: Study, column: Column) -> Html | None:
    """Who is best in a column, and who cannot be told apart from it."""
    better = column.better or ("high" if column.key == _ASKED_FOR else None)
    standing = study.standing(column.key, better=better)
    if standing is None:
        return None
    best = study.estimate(standing.best, column.key)
    assert best is not None
    most = "highest" if better == "high" else "lowest"
    name = _listed([tag("b", design) for design in (standing.best, *standing.level)])
    title = "features labelled shared" if column.key == "n_shared" else column.title
    value = join([tag("b", column.write(best.mean)), _interval_words(column, best)])
    if standing.level:
        return join(
            [
                name,
                f" {'both' if len(standing.level) == 1 else 'all'} have the {most} ",
                title,
                ": ",
                value,
                ".",
                _rest(study, column, standing.tied),
            ]
        )
    if not (standing.tied or standing.behind):
        said = [name, " alone has a number for ", title, ": ", value, "."]
    elif not standing.certain:
        said = [name, f" measured the {most} ", title, ": ", value, "."]
    elif not standing.tied:
        second = _with_mean(study, standing.behind[0], column)
        said = [name, " is best in ", title, ": ", value, ". No other interval reaches it; next is ", second, "."]
    elif not standing.behind:
        said = ["In ", title, f" no design is told apart: all intervals overlap that of the {most}, ", name]
        said += [", at ", value, "."]
    else:
        said = [name, " leads in ", title, ": ", value, ".", _rest(study, column, standing.tied)]
    return join(said)


def _rest(study: Study, column: Column, tied: Sequence[str]) -> Html | None:
    """Further designs that the best is not told apart from."""
    known = [d for d in tied if (e := study.estimate(d, column.key)) is not None and e.has_interval]
    if not known:
        return None
    return join([" Not told apart by the intervals: ", _listed([_with_mean(study, d, column) for d in known]), "."])


def _with_mean(study: Study, design: str, column: Column) -> Html:
    estimate = study.estimate(design, column.key)
    return join([tag("span", design, class_="design"), f" ({column.write(estimate.mean if estimate else None)})"])


def _interval_words(column: Column, estimate: Estimate) -> str:
    if not estimate.has_interval:
        return ""
    return f" (95\u00a0%: {column.write_interval(estimate, ' to ')}; {estimate.n} seeds)"


def _listed(names: Sequence[Html], *, most: int = 5) -> Html:
    """`x, y and z`; of many the first ones and how many more."""
    if len(names) > most + 1:
        names = [*names[:most], Html(f"{len(names) - most} more")]
    between = ["", *[", "] * (len(names) - 2), " and "] if len(names) > 1 else [""]
    return join([part for pair in zip(between, names, strict=True) for part in pair])
