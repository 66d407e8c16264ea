"""Write one self-contained HTML report from a handful of artifact folders.

1. Read the folders' JSON and join what belongs together (gather.py); nothing is computed from tensors.
2. Build the sections; one without data is left out.
3. Put Plotly, style, script and data into one page that may not reach the network: its own policy forbids it.
4. Write the page under a temporary name and rename it.
"""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from suture import units
from suture.errors import UserError
from suture.features.table import LeftOut
from suture.interventions.steer.effect import Effect
from suture.pipeline.artifact import Opened, package_version
from suture.pipeline.files import whole_file
from suture.report.behaviour import behaviour
from suture.report.gather import Gathered, find_artifacts, gather
from suture.report.grafting import grafts
from suture.report.html import Html, clean, embedded_json, join, tag
from suture.report.parts import section
from suture.report.payload import Limits, explorer_payload
from suture.report.provenance import provenance
from suture.report.sections import answer, compared, designs, missing_models, shares
from suture.report.steering import steering
from suture.report.study import study_section
from suture.report.study_answer import study_answer
from suture.report.study_numbers import Study
from suture.report.sweep import Sweep, sweep_section

__all__ = ["find_artifacts", "report"]

TITLE = "What {} language models share"
"""The heading of a page that no one gave another."""

_NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"  # noqa: E501
"""What the page may do: run what is inside it. It can fetch nothing and send nothing."""


def report(
    out_html: str | Path,
    folders: Iterable[Opened | str | Path],
    *,
    title: str | None = None,
    commands: Sequence[str] = (),
    limits: Limits | None = None,
) -> Path:
    """Write the report on folders, or on what was loaded from them, to `out_html`: stores, dictionaries, features,
    effects, studies, any number of each.

    Returns the path written. What is not there leaves its section out. Without a title it has a study's, where one
    stands alone, or the usual one.

    Raises:
        ArtifactError: a folder is not a finished artifact, or a file in it is broken.
        UserError: no folder was given, or the page cannot be written there.
    """
    out = Path(out_html)
    if out.is_dir():
        raise UserError("out", out, "is a folder", "name the HTML file in it")
    page = _page(gather(folders), title=title, commands=commands, limits=limits or Limits())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as aside:
            aside.write_text(clean(page), encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError("out", out, problem, "name a file in a folder you may write to") from None
    return out


def _page(gathered: Gathered, *, title: str | None, commands: Sequence[str], limits: Limits) -> str:
    versions = [("suture", package_version()), ("plotly", version("plotly"))]
    first = next((c for c in gathered.comparisons), None) or next((c for c in gathered.nulls), None)
    studies = [study for _, study in gathered.results(Study)]
    alone = studies[0] if studies and first is None else None
    title = title or (alone.title if alone else TITLE.format(_NUMBERS.get(len(first.models) if first else 2, "two")))
    of_studies = [study_section(s, i, with_answer=s is not alone) for i, s in enumerate(studies)]
    sections = [
        *(of_studies if alone else []),
        compared(gathered),
        designs(gathered),
        missing_models(gathered),
        shares(gathered),
        _explorer(gathered, limits),
        steering([effect for _, effect in gathered.results(Effect)]),
        behaviour(gathered),
        grafts(gathered),
        *([] if alone else of_studies),
        *(sweep_section(found) for _, found in gathered.results(Sweep)),
        provenance(gathered, commands=commands, versions=versions),
    ]
    present = [s for s in sections if s is not None]
    hero = answer(first) if first else study_answer(alone) if alone else None
    body = tag(
        "body",
        tag("a", "Skip to the answer", href="#answer", class_="skip"),
        tag("header", tag("p", "suture report", class_="kicker"), tag("h1", title), _contents(present)),
        tag("main", tag("div", hero, id="answer", tabindex=-1), present),
        _script(get_plotlyjs()) if any('class="plot"' in s for s in present) else None,
        _script(_asset("report.js")),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Html(f"<style>{_asset('report.css')}</style>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _contents(sections: Sequence[Html]) -> Html:
    """Links to the sections that are there."""
    short = {
        "study": "Study",
        "sweep": "Sweep",
        "compared": "Compared",
        "designs": "Dictionaries",
        "missing": "R²",
        "shares": "Shares",
        "features": "Features",
        "steering": "Steering",
        "behaviour": "Behaviour",
        "graft": "Grafts",
        "provenance": "Provenance",
    }
    links = [tag("a", name, href=f"#{id_}") for id_, name in short.items() if any(f'id="{id_}"' in s for s in sections)]
    return tag("nav", links, aria_label="Sections")


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


def _explorer(gathered: Gathered, limits: Limits) -> Html | None:
    """The feature table; a page's script fills it from the embedded data."""
    tables = [(c, c.table) for c in gathered.comparisons if c.table is not None]
    if not tables:
        return None
    total = sum(table.n_features for _, table in tables)
    data = []
    for i, (c, table) in enumerate(tables):
        share = table.n_features / max(1, total)
        own = Limits(
            n_examples=limits.n_examples,
            n_before=limits.n_before,
            n_after=limits.n_after,
            n_promoted=limits.n_promoted,
            n_tokens=int(limits.n_tokens * share),
        )
        data.append(embedded_json(explorer_payload(table, name=c.name, limits=own), id_=f"table-{i}"))
    options = [
        tag("option", f"{c.name} ({units.count(table.n_features)} features)", value=i)
        for i, (c, table) in enumerate(tables)
    ]
    note = (
        "A row opens to its numbers with intervals, its strongest examples in every model and the tokens it promotes. "
        "Search looks at the examples' tokens and the promoted and suppressed tokens. "
        + " ".join(filter(None, (_examples_note(c.name, table.found.examples) for c, table in tables)))
    )
    controls = tag(
        "div",
        tag("label", "Dictionary", tag("select", options, id="pick")) if len(tables) > 1 else None,
        tag("label", "Search in tokens", tag("input", type="search", id="search", autocomplete="off")),
        tag("label", "Sort by", tag("select", id="sort")),
        tag("fieldset", tag("legend", "Labels"), tag("div", id="labels", class_="toggles")),
        class_="controls",
    )
    return section(
        "features", "The features", tag("p", note), tag("div", controls, _table_frame(), id="explorer"), data
    )


def _table_frame() -> Html:
    pager = tag(
        "div",
        tag("button", "‹ Previous", type="button", id="previous"),
        tag("span", id="where", role="status", aria_live="polite"),
        tag("button", "Next ›", type="button", id="next"),
        class_="pager",
    )
    grid = tag("table", tag("thead", id="head"), tag("tbody", id="rows"), class_="features")
    box = tag("div", grid, class_="scroll", tabindex=0, role="region", aria_label="Feature table")
    script_off = tag("noscript", tag("p", "The feature table and the figures need JavaScript."))
    return join([script_off, box, pager])


def _script(text: str) -> Html:
    assert "</script" not in text.lower()
    return Html(f"<script>{text}</script>")


def _asset(name: str) -> str:
    return files("suture.report").joinpath(name).read_text(encoding="utf-8")
