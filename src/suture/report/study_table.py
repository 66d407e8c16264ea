"""The table of a study: a row per design, sortable, with intervals, marks, null rates and every seed's numbers."""

from collections.abc import Sequence

from suture import units
from suture.report import words
from suture.report.html import Child, Html, join, tag
from suture.report.parts import table
from suture.report.study_numbers import Column, Estimate, Study


def design_table(study: Study, id_: str) -> Html:
    """A row per design, a column per measure; groups of columns can be hidden."""
    groups = list(dict.fromkeys(c.group for c in study.columns))
    columns = [c for group in groups for c in study.columns if c.group == group]
    over = [
        tag("th", group, scope="colgroup", colspan=sum(c.group == group for c in columns), data_group=g)
        for g, group in enumerate(groups)
    ]
    corner = tag("th", _sorter("Design", "In the order of the study."), scope="col", rowspan=2, aria_sort="ascending")
    names = [_heading(c, groups.index(c.group), _edge(columns, i)) for i, c in enumerate(columns)]
    rows = [_row(study, i, columns, groups) for i in range(len(study.designs))]
    inner = tag(
        "table",
        tag("thead", tag("tr", corner, over, class_="over"), tag("tr", names)),
        tag("tbody", rows),
        class_="designs numeric",
    )
    toggles = [
        tag("button", group or "other", type="button", aria_pressed="true", data_group=g)
        for g, group in enumerate(groups)
    ]
    switch = tag("fieldset", tag("legend", "Columns"), tag("div", toggles, class_="toggles"))
    box = tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=f"Designs of {study.title}")
    controls = tag("div", switch, class_="controls") if len(groups) > 1 else None
    return tag("div", controls, box, class_="study-table", id=f"{id_}-table")


def _heading(column: Column, group: int, edge: str | None) -> Html:
    return tag(
        "th",
        _sorter(column.title, column.help),
        scope="col",
        data_group=group,
        data_better=column.better or "high",
        aria_sort="none",
        class_=edge,
    )


def _sorter(title: str, help_: str) -> Html:
    return tag("button", title, type="button", title=help_ or None)


def _edge(columns: Sequence[Column], i: int) -> str | None:
    """The class of a column that begins a group."""
    return "edge" if i == 0 or columns[i - 1].group != columns[i].group else None


def _row(study: Study, number: int, columns: Sequence[Column], groups: Sequence[str]) -> Html:
    design = study.designs[number]
    name, group = design.name, design.group
    first = number == 0 or study.designs[number - 1].group != group
    n = len(study.rows_of(name))
    seeds = f"{n} seed{'s' * (n != 1)}" if len(study.seeds) > 1 and not design.skipped else None
    under = " · ".join(part for part in (group if group != name else "", seeds) if part)
    head = tag(
        "th",
        tag(
            "span",
            tag("span", str(number + 1), class_="ordinal"),
            tag("span", name, class_="name"),
            tag("small", under),
        ),
        scope="row",
        title=design.says or None,
    )
    if design.skipped:
        why = tag("td", f"skipped: {design.skipped}", colspan=len(columns), class_="edge skipped")
        return tag("tr", head, why, class_="skipped first" if first else "skipped")
    cells = [_cell(study, name, c, groups.index(c.group), _edge(columns, i)) for i, c in enumerate(columns)]
    return tag("tr", head, cells, class_="first" if first else None)


def _cell(study: Study, design: str, column: Column, group: int, edge: str | None) -> Html:
    estimate = study.estimate(design, column.key)
    if estimate is None:
        return tag("td", units.DASH, data_group=group, class_=edge)
    standing = study.standing(column.key)
    kind = None
    if standing is not None:
        kind = (
            "best"
            if design in (standing.best, *standing.level)
            else "tied"
            if standing.certain and design in standing.tied
            else None
        )
    seeds = " · ".join(f"seed {seed}: {column.write(value)}" for seed, value in study.values(design, column.key))
    null = study.estimate(design, "null_rate") if column.is_exclusive_count else None
    return tag(
        "td",
        _mark(kind) if kind else None,
        column.write(estimate.mean),
        _spread(study, column, estimate),
        tag("small", f"null {units.percent(null.mean)}", class_="null") if null else None,
        data_group=group,
        data_value=repr(float(estimate.mean)),
        title=seeds or None,
        class_=" ".join(part for part in (edge, kind) if part) or None,
    )


def _spread(study: Study, column: Column, estimate: Estimate) -> Html | None:
    if estimate.has_interval:
        return tag("small", column.write_interval(estimate))
    return tag("small", "one seed") if len(study.seeds) > 1 else None


def _mark(kind: str) -> Html:
    """The dot of the best cell, full, or of one not told apart from it, open."""
    spoken = {"best": "best", "tied": "not told apart from the best"}[kind]
    return join([tag("i", class_=f"standing {kind}", aria_hidden="true"), tag("span", f"{spoken} ", class_="spoken")])


def seeds_table(study: Study) -> Html | None:
    """A row per design and seed, to be unfolded; None where there is one seed only."""
    if not study.rows or len(study.seeds) < 2:
        return None
    rows: list[list[Child]] = [
        [
            join([cell.design, tag("small", f"seed {cell.seed}")]),
            *[c.write(cell.number(c.key)) for c in study.columns],
            units.seconds(cell.seconds) if cell.seconds is not None else units.DASH,
        ]
        for cell in study.rows
    ]
    head = ["Design", *[tag("span", c.title, title=c.help or None) for c in study.columns], "Took"]
    inner = table(head, rows, label="Every seed's numbers")
    return tag("details", tag("summary", "Every seed’s numbers"), inner, class_="seeds")


def settings_list(study: Study) -> Html:
    """What each design is, in words and by its settings, to be unfolded."""
    items = []
    for design in study.designs:
        settings = words.flatten(design.settings)
        said = ", ".join(f"{key.replace('_', ' ')} {words.plain(value)}" for key, value in settings.items())
        items.append(
            tag(
                "div",
                tag("dt", design.name),
                tag("dd", design.says, tag("small", said) if said else None),
            )
        )
    return tag("details", tag("summary", "What each design is"), tag("dl", items, class_="says"))


def table_key(study: Study) -> Html:
    """What the marks and the small numbers of the table mean."""
    key: list[Child] = [_mark("best"), " best mean of its column. "]
    if len(study.seeds) > 1:
        key += [_mark("tied"), " not told apart from it: the 95\u00a0% intervals over seeds overlap. "]
    else:
        key.append("One seed gives no interval, so nothing is told apart. ")
    if any(c.is_exclusive_count for c in study.columns):
        key.append(
            "Null: the share that the same design labels one model's own when a model is compared with a copy of "
            "itself, where the right answer is none; read exclusive counts against it."
        )
    return join(key)
