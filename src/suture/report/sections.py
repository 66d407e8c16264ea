"""The report's sections on comparisons: what was compared, designs, R² with models missing, shares."""

from collections.abc import Callable, Sequence

from suture import units
from suture.activations.store import Store
from suture.features.clusters import TwoClusters
from suture.features.columns import column_called
from suture.report import words
from suture.report.figures import (
    SHARE_COLUMNS,
    entropy_histogram,
    per_model,
    share_histogram,
    simplex,
    training_curves,
)
from suture.report.gather import Artifact, Comparison, Gathered, short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import badge, chip, figure, heat_table, section, table

_CLUSTERS: tuple[tuple[str, str, Callable[[TwoClusters], float | None], Callable[[float | None], str]], ...] = (
    (
        "Private features",
        "live features that one model uses almost alone (entropy below 0.2)",
        lambda clusters: clusters.private_share,
        units.percent,
    ),
    ("Energy in shared features", "of all decoded energy", lambda clusters: clusters.shared_energy, units.percent),
    (
        "Silhouette",
        "of decoder rows grouped by the model that uses them most: 1 two clouds, 0 one",
        lambda clusters: clusters.silhouette,
        units.correlation,
    ),
)
"""The two-clusters numbers: title, what it means, which it is, how it is written."""


def compared(gathered: Gathered) -> Html | None:
    """What was compared and how."""
    stores = gathered.results(Store)
    if not stores and not gathered.comparisons:
        return None
    parts: list[Child] = [_store(made, store, alone=len(stores) == 1) for made, store in stores]
    items = []
    for c in (*gathered.comparisons, *gathered.nulls):
        if c.dictionary is None:
            continue
        null = " on a model against itself (null)" if c.is_null else ""
        items.append(tag("li", tag("b", c.name), f"{null}: {words.settings_sentence(c.dictionary.settings)}."))
    if items:
        parts += [tag("h3", "Dictionaries"), tag("ul", items)]
    return section("compared", "What was compared, and how", parts)


def designs(gathered: Gathered) -> Html | None:
    """FVU, L0, dead share and label counts of every dictionary, with null rate and ceiling."""
    every = [*gathered.comparisons, *gathered.nulls]
    if not every:
        return None
    labels = words.ordered_labels({label: 1 for c in every for label in c.counts})
    labelled = any(c.counts for c in every)
    n_models = max((len(c.summary.fvu) for c in every), default=0)
    head: list[Child] = ["Dictionary", "Features", *[f"FVU {words.letter(m)}" for m in range(n_models)], "L0", "Dead"]
    if labelled:
        head += [*[chip(label) for label in labels if label != "dead"], "Null rate", "Ceiling"]
    rows = [_design_row(c, labels if labelled else [], n_models) for c in every]
    note = (
        "FVU: fraction of a model's variance that the dictionary leaves unexplained on held-out text (0 is perfect). "
        "L0: features active on an average row. Label counts in features, and as a share of the live ones. "
        "Null rate: the share labelled as one model's own when a model is compared with a copy of itself, where the "
        "right answer is none; read the label counts against it. Ceiling: the share labelled shared there, "
        "as high as it gets for identical models."
    )
    curves = []
    for i, c in enumerate(gathered.comparisons):
        spec = training_curves(c.trained.metrics) if c.trained else None
        if spec is not None:
            curves.append(figure(spec, f"training-{i}", title=c.name, caption="FVU while training", height=220))
    more = tag("details", tag("summary", "Training curves"), tag("div", curves, class_="grid")) if curves else None
    return section(
        "designs",
        "How well each dictionary explains the models",
        table(head, rows, label="Dictionaries"),
        tag("p", note, class_="note"),
        more,
    )


def missing_models(gathered: Gathered) -> Html | None:
    """R²[i, j]: what is explained of model j when only model i is seen."""
    maps = []
    for c in (*gathered.comparisons, *gathered.nulls):
        r2 = c.summary.r2
        if r2 and len(r2[0]) > 1:
            maps.append(tag("figure", tag("figcaption", tag("strong", c.name)), _heat_map(r2, c)))
    if not maps:
        return None
    n_models = max(len(c.models) for c in (*gathered.comparisons, *gathered.nulls))
    note = (
        "Each cell is R², the share of a model's variance explained on held-out text. Off the diagonal a model is "
        "reconstructed from another one alone: that is what the models have in common and the dictionary knows. "
        "A crosscoder's missing models are imputed by a linear map, whose own R² stands below; what lies above it "
        "is the dictionary's part. Below 0 the reconstruction is worse than the mean."
    )
    return section(
        "missing",
        "One model reconstructed from another" if n_models > 2 else "One model reconstructed from the other",
        tag("div", maps, class_="grid"),
        tag("p", note, class_="note"),
    )


def shares(gathered: Gathered) -> Html | None:
    """Histograms of B's share of every feature, and the two-clusters numbers."""
    blocks: list[Child] = []
    for i, c in enumerate([*gathered.comparisons, *gathered.nulls]):
        figures = _share_figures(c, i)
        if figures:
            name = f"{c.name}, a model against itself" if c.is_null else c.name
            blocks += [tag("h3", name), tag("div", figures, class_="grid three")]
    clusters = _two_clusters(gathered)
    if not blocks and clusters is None:
        return None
    several = any(len(c.models) > 2 for c in gathered.comparisons)
    scale = (
        "A share of 0: the model lacks the feature. 1: it alone has it. With M models, 1 / M: all have it alike. "
        if several
        else "A share of 0: the feature is in A only. 1: in B only. 0.5: in both alike. "
    )
    note = scale + (
        "Decoder share compares the lengths "
        "of the decoder rows; refit share compares what the data say of them; usage share compares how much the "
        "feature is active on each model."
    )
    used = dict.fromkeys((label for c in gathered.comparisons for label in c.counts if label != "dead"), 1)
    key = [chip(label) for label in words.ordered_labels(used) if label in used]
    return section(
        "shares", "Where features live", tag("p", note), tag("p", key, class_="key") if key else None, blocks, clusters
    )


def _share_figures(c: Comparison, number: int) -> list[Html]:
    columns = c.table.plain_columns() if c.table else {}
    figures: list[Html] = []
    for column in SHARE_COLUMNS:
        names = per_model(columns, column)
        specs = [(name, spec) for name in names if (spec := share_histogram(columns, name)) is not None]
        if len(names) == 1 and len(figures) < 2:
            figures += [figure(spec, f"share-{number}-{n}", title=column_called(n).title) for n, spec in specs]
        elif not figures:  # more than two models: the best evidence alone, model by model, and all together
            figures += [figure(spec, f"share-{number}-{n}", title=column_called(n).title) for n, spec in specs]
            together = simplex(columns, column)
            if together is not None:
                title, caption = "All three at once", "a corner: one model's alone; the middle: shared by all"
                figures.append(figure(together, f"simplex-{number}", title=title, caption=caption, height=320))
    spec = entropy_histogram(c.clusters.entropy_histogram) if c.clusters else None
    if spec is not None:
        figures.append(figure(spec, f"entropy-{number}", title="Usage entropy"))
    return figures


def _store(made: Artifact, store: Store, *, alone: bool) -> Html:
    names = short_labels([space.label for space in store.spaces])
    rows = [
        [
            join([badge(m), " ", tag("span", names[m], title=space.label)]),
            words.plain(space.width),
            units.number(space.scale),
            units.count(seen.n_tokens),
            units.percent(seen.kept_share if seen.n_tokens else None),
            units.count(seen.n_special),
        ]
        for m, (space, seen) in enumerate(zip(store.spaces, store.alignment, strict=True))
    ]
    head = ["Model @ hookpoint", "Width", "Scale", "Tokens seen", "Kept as rows", "Special tokens left out"]
    corpus = made.settings.get("corpus")
    text = f"{units.count(len(store))} rows: text positions at which a token of every model ends. "
    text += f"Text: {corpus}. " if corpus else ""
    return join(
        [
            None if alone else tag("h3", "Store ", made.name),
            tag("p", text),
            table(head, rows, label=f"Models of the store {made.name}"),
        ]
    )


def _design_row(c: Comparison, labels: Sequence[str], n_models: int) -> list[Child]:
    fvu = c.summary.fvu
    name = join([tag("b", c.name), tag("small", f"{c.design} (null)" if c.is_null else c.design)])
    row: list[Child] = [name, units.count(c.n_features)]
    row += [units.fvu(fvu[m]) if m < len(fvu) else units.DASH for m in range(n_models)]
    row += [units.number(c.summary.l0), units.percent(c.summary.dead)]
    if not labels:
        return row
    for label in labels:
        if label != "dead":
            n = c.counts[label] if c.counts else None
            share = units.percent(n / c.n_live) if n is not None and c.n_live else None
            row.append(join([units.count(n), tag("small", share)]))
    source = c if c.is_null else c.null
    if source is None:
        return [*row, tag("small", "no null of its own"), units.DASH]
    row += [units.percent(source.exclusive_share), units.percent(source.shared_share)]
    return row


def _heat_map(r2: Sequence[Sequence[int | float | None]], c: Comparison) -> Html:
    letters = [words.letter(m) for m in range(len(r2[0]))]
    # A pooled dictionary never sees two models in one row: its last row is each model from its own code.
    last = "each from its own code" if c.design == "pooled" else "code from all models"
    names = [f"code from {letter} alone" for letter in letters] + [last]
    rows = [
        (name, [(units.fvu(value), value or 0.0) for value in values]) for name, values in zip(names, r2, strict=False)
    ]
    rows += [
        (f"linear map from {letter} alone", [(units.fvu(value), value or 0.0) for value in values])
        for letter, values in zip(letters, c.summary.r2_linear or (), strict=False)
    ]
    return heat_table([f"R² of {letter}" for letter in letters], rows, label=f"R² matrix of {c.name}")


def _two_clusters(gathered: Gathered) -> Html | None:
    known = {c.name: c.clusters for c in gathered.comparisons if c.clusters is not None}
    rows: list[list[Child]] = []
    for title, meaning, value, write in _CLUSTERS:
        values = [value(clusters) for clusters in known.values()]
        if any(v is not None for v in values):
            rows.append([join([tag("b", title), tag("small", meaning)]), *[write(v) for v in values]])
    if not rows:
        return None
    return join(
        [
            tag("h3", "Two private halves?"),
            tag("p", "Whether a dictionary falls apart into one half per model, in numbers.", class_="note"),
            table(["Measure", *known], rows, label="Two-clusters numbers"),
        ]
    )
