"""The report's section on features: what the page's scripts fill with the tables, and the tables' data in pieces."""

from collections.abc import Sequence
from pathlib import Path

from suture import units
from suture.features.table import FeatureTable, LeftOut
from suture.report.gather import Comparison, Gathered
from suture.report.html import Html, embedded_json, join, tag
from suture.report.parts import section
from suture.report.payload import Limits
from suture.report.payload import explorer as explorer_data
from suture.report.pieces import Beside, inline, packed

_SEARCHES = (
    ("number", "Number", "526 or 500-540"),
    ("token", "Strongest on token", 'happy or "happy"'),
    ("promoted", "Promotes token", "happy"),
)


def described(gathered: Gathered) -> list[tuple[Comparison, FeatureTable]]:
    """The comparisons whose features are known, in the order of their letters."""
    return [(c, c.table) for c in gathered.comparisons if c.table is not None]


def explorer(gathered: Gathered, limits: Limits, page: Path) -> tuple[Html | None, Beside]:
    """The section, without which there are no tables, and the pieces that were written beside the page."""
    tables, beside = described(gathered), Beside(page)
    if not tables:
        return None, beside
    whole = sum(table.n_features for _, table in tables) <= limits.n_inline
    data: list[Html] = [embedded_json([c.name for c, _ in tables], id_="tables")]
    for i, (c, table) in enumerate(tables):
        found = explorer_data(table, name=c.name, identity=_identity(c), limits=limits, whole=whole)
        data.append(inline(f"t{i}", packed(found.index)))
        for name, content in found.pieces:
            if whole:
                data.append(inline(f"t{i}-{name}", packed(content)))
            else:
                beside.write(f"t{i}-{name}", packed(content))
    notes = filter(None, (_examples_note(c.name, table.found.examples) for c, table in tables))
    said = (
        "Every feature has a page of its own and an address, and so has the table as it is filtered and sorted. "
        + " ".join(notes)
    )
    body = tag("div", _controls(tables), _frame(), id="explorer")
    feature = tag("div", id="feature", hidden=True)
    return section("features", "The features", tag("p", said, class_="about"), body, feature, data), beside


def _identity(comparison: Comparison) -> str:
    """What notes are kept under: the dictionary's checksum, or the table's where it is not there."""
    artifact = comparison.dictionary or comparison.features
    assert artifact is not None
    return artifact.manifest_sha256[:16]


def _examples_note(name: str, kept: LeftOut | None) -> str:
    """What a dictionary's strongest examples leave out; empty where that is not recorded."""
    if kept is None:
        return ""
    said = (
        f"{name}: the strongest examples are of the {units.count(kept.n_rows_described)} rows described, "
        f"at most {kept.n_per_document} from one document."
    )
    if kept.n_rows_searched == 0:
        return said
    searched, stronger = units.count(kept.n_rows_searched), units.count(kept.n_features_stronger_elsewhere)
    return f"{said} Of {searched} rows of the whole store {stronger} features have stronger ones, shown beside."


def _controls(tables: Sequence[tuple[Comparison, FeatureTable]]) -> Html:
    options = [
        tag("option", f"{c.name} ({units.count(table.n_features)} features)", value=i)
        for i, (c, table) in enumerate(tables)
    ]
    searches = [
        tag("label", title, tag("input", type="search", id=id_, autocomplete="off", placeholder=hint))
        for id_, title, hint in _SEARCHES
    ]
    order = tag(
        "div",
        tag("label", "Sort by", tag("select", id="sort", autocomplete="off")),
        tag("button", "↑ rising", type="button", id="direction"),
        class_="joined",
    )
    first = tag(
        "div",
        tag("label", "Dictionary", tag("select", options, id="pick", autocomplete="off")) if len(tables) > 1 else None,
        searches,
        order,
        tag("label", "Your notes", tag("select", id="noted", autocomplete="off")),
        class_="controls",
    )
    second = tag(
        "div",
        tag("fieldset", tag("legend", "Labels"), tag("div", id="labels", class_="toggles")),
        tag("button", "Show all again", type="button", id="reset"),
        class_="controls",
    )
    return join([first, second])


def _frame() -> Html:
    pager = tag(
        "div",
        tag("button", "‹ Previous", type="button", id="previous"),
        tag("span", id="where", role="status", aria_live="polite"),
        tag("button", "Next ›", type="button", id="next"),
        class_="pager",
    )
    grid = tag(
        "table", tag("thead", id="head", role="rowgroup"), tag("tbody", id="rows", role="rowgroup"),
        class_="features", role="table", aria_label="Features",
    )  # fmt: skip
    box = tag("div", grid, class_="scroll")
    script_off = tag("noscript", tag("p", "The feature table and the figures need JavaScript."))
    keep = tag(
        "div",
        tag("button", "Save notes to a file", type="button", id="notes-save"),
        tag(
            "label",
            tag("span", "Read notes from a file"),
            tag("input", type="file", id="notes-read", accept=".json,application/json"),
            class_="file",
        ),
        tag("span", id="notes-say", role="status", class_="quiet-note"),
        class_="controls notes-file",
    )
    return join([script_off, box, pager, keep, tag("div", id="left-out")])
