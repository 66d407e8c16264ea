"""The report's section on a study of designs: its answer, table, plots and matrices."""

from collections.abc import Mapping, Sequence

from suture import units
from suture.report import words
from suture.report.html import Child, Html, join, tag
from suture.report.parts import figure, figure_choice, heat_table, section
from suture.report.study_answer import study_answer
from suture.report.study_figures import dots, null_bars, scatter, small_histogram
from suture.report.study_numbers import Column, Confusion, Study, averaged, summed
from suture.report.study_table import design_table, seeds_table, settings_list, table_key

_PAIRS = (
    ("fvu_", "macro_f1"),
    ("recall_shared", "recall_exclusive"),
    ("recovery_80", "recovery_80_exclusive"),
    ("null_rate", "exclusive_rate"),
    ("fvu_", "n_shared"),
    ("fvu_", "ce_recovered_"),
    ("agreement_mismatched", "agreement"),
)
"""(across, up) of the scatters offered, where both are known."""

_MATCHED = {
    "n_rows": "{} training rows",
    "parameters": "{} weights",
    "n_features": "a crosscoder's size being {} features",
    "l0": "{} active features in a code",
}
"""What designs are matched in, in the order in which it is said."""


def study_section(study: Study, number: int, *, with_answer: bool) -> Html:
    """All of one study; `number` keeps the ids of several apart."""
    id_ = f"study-{number}"
    return section(
        "study" if number == 0 else id_,
        study.title,
        study_answer(study) if with_answer else None,
        tag("p", _given(study)),
        tag("ul", [tag("li", note) for note in study.notes]) if study.notes else None,
        tag("h3", "Every design, every number"),
        design_table(study, id_),
        tag("p", table_key(study), class_="note"),
        seeds_table(study),
        settings_list(study),
        tag("noscript", tag("p", "The figures and the sorting of the table need JavaScript.")),
        _one_column(study, id_),
        _against(study, id_),
        _nulls(study, id_),
        _confusions(study),
        _clusters(study, id_),
        _missing(study),
    )


def _given(study: Study) -> str:
    skipped = len(study.designs) - len(study.measured)
    parts = [f"{len(study.measured)} designs" + (f" ({skipped} skipped)" if skipped else "")]
    n = len(study.seeds)
    parts.append(f"{n} seeds each" if n > 1 else "one seed each")
    truth = {
        "planted": "Planted models, whose concepts and owners are known. ",
        "language models": "Language models, where no one knows the right answer. ",
    }
    known = {key: value for key, value in study.matched.items() if isinstance(value, int | float | str)}
    ordered = sorted(known, key=lambda key: [*_MATCHED, key].index(key))
    phrases = {key: f"{key.replace('_', ' ')} {{}}" for key in known} | _MATCHED
    said = [phrases[key].format(words.plain(known[key])) for key in ordered]
    every = f" Matched between designs: {', '.join(said)}." if said else ""
    return f"{truth.get(study.truth, '')}{', '.join(parts)}.{every}"


def _one_column(study: Study, id_: str) -> Html | None:
    if not study.columns or not study.measured:
        return None
    key = "macro_f1" if study.column("macro_f1") else study.columns[0].key
    columns = sorted(study.columns, key=lambda c: c.key != key)
    height = 52 + 34 * len(study.measured)
    specs = [(f"{c.title} ({c.group})" if c.group else c.title, dots(study, c)) for c in columns]
    note = (
        "Large dots: mean over seeds with its 95\u00a0% interval, full for the best design and those not told apart "
        "from it. Small dots below them: single seeds."
        if len(study.seeds) > 1
        else "One seed: no intervals. The best number is full."
    )
    plot = figure_choice(specs, f"{id_}-dots", label="Number", height=height)
    return join([tag("h3", "One number, all designs"), plot, tag("p", note, class_="note")])


def _against(study: Study, id_: str) -> Html | None:
    specs = []
    for across, up in _PAIRS:
        for x, y in _column_pairs(study, across, up):
            spec = scatter(study, x, y)
            if spec is not None:
                specs.append((f"{y.title} against {x.title}", spec))
    if not specs:
        return None
    plot = figure_choice(specs, f"{id_}-against", label="Compare", height=420)
    return join([tag("h3", "One number against another"), plot, _numbered(study)])


def _column_pairs(study: Study, across: str, up: str) -> list[tuple[Column, Column]]:
    """The columns of a pair; a beginning stands for one column per model, two beginnings for the same model's."""
    xs = study.of_model(across) if across.endswith("_") else [c] if (c := study.column(across)) else []
    ys = study.of_model(up) if up.endswith("_") else [c] if (c := study.column(up)) else []
    both = across.endswith("_") and up.endswith("_")
    return [(x, y) for x in xs for y in ys if not both or x.key.removeprefix(across) == y.key.removeprefix(up)]


def _numbered(study: Study) -> Html:
    """Which number in a scatter is which design."""
    items = [
        tag("li", tag("span", str(i + 1), class_="ordinal"), arm.name)
        for i, arm in enumerate(study.designs)
        if not arm.skipped
    ]
    return tag("ol", items, class_="numbered")


def _nulls(study: Study, id_: str) -> Html | None:
    real, null = study.column("exclusive_rate"), study.column("null_rate")
    if real is None or null is None:
        return None
    note = (
        "Share of live features labelled one model's own, between the models and between a model and a copy of "
        "itself. Only what rises above the second bar can be a difference between the models."
    )
    key = tag(
        "p",
        tag("span", tag("span", class_="swatch", aria_hidden="true"), "the models", class_="key-item"),
        tag(
            "span",
            tag("span", class_="swatch null", aria_hidden="true"),
            "null: a model and its copy",
            class_="key-item",
        ),
        class_="key",
    )
    title, height = "Exclusive rate beside null rate", 52 + 40 * len(study.measured)
    plot = figure(null_bars(study, real, null), f"{id_}-null", title=title, height=height)
    return join([tag("h3", "Differences beside the null"), tag("p", note), key, plot])


def _confusions(study: Study) -> Html | None:
    maps = []
    for design in study.measured:
        found = [cell.confusion for cell in study.rows_of(design) if cell.confusion]
        if found:
            maps.append(_named(design, _confusion(found, label=f"Planted against found: {design}")))
    if not maps:
        return None
    note = (
        "Rows: whose a planted concept is. Columns: the label of the feature that stands for it; missed: no feature "
        "does. Concepts, summed over seeds; shaded by the share of the row. The right answers are bold."
    )
    return join([tag("h3", "Planted against found"), tag("p", note), tag("div", maps, class_="grid")])


def _confusion(found: Sequence[Confusion], *, label: str) -> Html:
    planted, labels = found[0].rows, found[0].columns
    alike = [one.counts for one in found if one.rows == planted and one.columns == labels]
    rows = []
    for name, counts in zip(planted, summed(alike), strict=True):
        whole = sum(counts) or 1
        cells: list[tuple[Child, int | float]] = [
            (tag("b" if name == other else "span", units.count(n)), n / whole)
            for other, n in zip(labels, counts, strict=True)
        ]
        rows.append((str(name), cells))
    return heat_table([str(one) for one in labels], rows, label=label, small=True)


def _named(design: str, content: Html) -> Html:
    return tag("figure", tag("figcaption", tag("strong", design)), content)


def _clusters(study: Study, id_: str) -> Html | None:
    private, shared = study.column("private_share"), study.column("shared_energy")
    spec = scatter(study, private, shared) if private and shared else None
    entropies = {d: [cell.entropy_histogram for cell in study.rows_of(d)] for d in study.measured}
    entropy = _histograms(entropies, f"{id_}-entropy_histogram", ends=("one", "all"), what="Usage entropy")
    two = len(study.models) == 2
    shares = {d: [cell.share_histogram for cell in study.rows_of(d)] for d in study.measured}
    ends = ("all A", "all B") if two else ("0", "1")
    share = _histograms(shares, f"{id_}-share_histogram", ends=ends, what="Share")
    if spec is None and not entropy and not share:
        return None
    note = (
        "Whether a dictionary falls apart into one half per model: features that one model uses almost alone (entropy "
        "below 0.2), and how much of the decoded energy the shared ones carry."
    )
    parts: list[Child] = [tag("h3", "Two private halves?"), tag("p", note)]
    if spec is not None:
        title = "Private features against energy in shared ones"
        parts += [figure(spec, f"{id_}-clusters", title=title, height=360), _numbered(study)]
    if entropy:
        parts.append(tag("h4", "How evenly the models use each feature: usage entropy, all seeds"))
        parts.append(tag("div", entropy, class_="grid four"))
    if share:
        title = f"Whose each feature is: the share of {'B' if two else 'its largest owner'}, all seeds"
        parts.append(tag("details", tag("summary", title), tag("div", share, class_="grid four")))
    return join(parts)


def _histograms(
    counts: Mapping[str, Sequence[Sequence[int] | None]], id_: str, *, ends: tuple[str, str], what: str
) -> list[Html]:
    figures = []
    for i, (design, every) in enumerate(counts.items()):
        found = [[one] for one in every if one]
        if found:
            spec = small_histogram(summed(found)[0], ends=ends, alt=f"{what} of the features of {design}.")
            figures.append(figure(spec, f"{id_}-{i}", title=design, height=110))
    return figures


def _missing(study: Study) -> Html | None:
    maps = []
    for design in study.measured:
        found = [cell.r2 for cell in study.rows_of(design) if cell.r2]
        if found and len(found[0][0]) > 1:
            maps.append(_named(design, _r2(averaged(found), label=f"R² matrix of {design}")))
    if not maps:
        return None
    note = (
        "R², the share of a model's variance that is explained, mean over seeds. A row: whose activations the "
        "dictionary was shown. A column: whose it reconstructs. Below 0 the reconstruction is worse than the mean."
    )
    return join(
        [tag("h3", "One model reconstructed from another"), tag("p", note), tag("div", maps, class_="grid three")]
    )


def _r2(means: Sequence[Sequence[int | float | None]], *, label: str) -> Html:
    letters = [words.letter(m) for m in range(len(means[0]))]
    names = [f"from {letter}" for letter in letters] + ["from all"]
    rows: list[tuple[Child, list[tuple[Child, int | float]]]] = [
        (name, [(units.correlation(value), value or 0.0) for value in values])
        for name, values in zip(names, means, strict=False)
    ]
    return heat_table([f"of {letter}" for letter in letters], rows, label=label, small=True)
