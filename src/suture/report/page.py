"""Write one self-contained HTML report from a handful of artifact folders.

1. Read the folders' JSON and join what belongs together (gather.py); nothing is computed from tensors.
2. Build the sections; one without data is left out.
3. Put style, scripts and data into one page that may not reach the network: its own policy forbids it. Of a large
   dictionary most data are scripts in a folder beside it (`pieces`), which the page loads when they are looked at.
4. Write the page under a temporary name and rename it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from suture.errors import UserError
from suture.interventions.responses.responses import Responses
from suture.interventions.steer.effect import Effect
from suture.matching.layers import Layers
from suture.matching.match import Matching
from suture.matching.universality import Universality
from suture.pipeline.artifact import Opened, package_version
from suture.pipeline.files import whole_file
from suture.pipeline.garbage import uncollected
from suture.report.answer import answer
from suture.report.behaviour import behaviour
from suture.report.bridges import bridges
from suture.report.explorer import described, explorer
from suture.report.gather import Artifact, Gathered, find_artifacts, gather, parent_of
from suture.report.grafting import grafts
from suture.report.html import Html, clean, embedded_json, tag
from suture.report.ladder import ladder_section
from suture.report.layers import layers_section
from suture.report.matching import matching_section
from suture.report.payload import Limits
from suture.report.pieces import Beside
from suture.report.provenance import provenance
from suture.report.responses import responses_section
from suture.report.sections import compared, designs, missing_models, shares
from suture.report.shell import asset, document
from suture.report.steering import steering
from suture.report.stitching import stitching_section
from suture.report.study import study_section
from suture.report.study_answer import study_answer
from suture.report.study_numbers import Study
from suture.report.sweep import Sweep, sweep_section
from suture.report.universality import universality_section
from suture.stitching.ladder import StitchingStudy
from suture.stitching.stitch import Stitching, is_stitched

__all__ = ["find_artifacts", "report"]

TITLE = "What {} language models share"
"""The heading of a page that no one gave another."""

_NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}

PIECES = " 'self' file:"
"""What a page with pieces beside it may do too: load scripts from where it lies."""
SCRIPTS = ("base", "charts", "notes", "explorer", "feature", "study", "maps", "pairs", "start")
"""The page's scripts in their order; they share one scope."""


@uncollected()
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
    gathered = gather(folders)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        page, beside = _page(gathered, out, title=title, commands=commands, limits=limits or Limits())
        with whole_file(out) as aside:
            aside.write_text(clean(page), encoding="utf-8")
        beside.remove_others()
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError("out", out, problem, "name a file in a folder you may write to") from None
    return out


def _page(
    gathered: Gathered, out: Path, *, title: str | None, commands: Sequence[str], limits: Limits
) -> tuple[str, Beside]:
    versions = [("suture", package_version())]
    first = next((c for c in gathered.comparisons), None) or next((c for c in gathered.nulls), None)
    studies = [study for _, study in gathered.results(Study)]
    alone = studies[0] if studies and first is None else None
    title = title or (alone.title if alone else TITLE.format(_NUMBERS.get(len(first.models) if first else 2, "two")))
    of_studies = [study_section(s, i, with_answer=s is not alone) for i, s in enumerate(studies)]
    features, beside = explorer(gathered, limits, out)
    sections = [
        *(of_studies if alone else []),
        compared(gathered),
        designs(gathered),
        missing_models(gathered),
        shares(gathered),
        features,
        steering([(effect, _table_of(artifact, gathered)) for artifact, effect in gathered.results(Effect)]),
        responses_section([(a.name, found) for a, found in gathered.results(Responses)]),
        behaviour(gathered),
        bridges(gathered),
        grafts(gathered),
        *([] if alone else of_studies),
        *(sweep_section(found, out) for _, found in gathered.results(Sweep)),
        matching_section([(a.name, found) for a, found in gathered.results(Matching)], limits, beside),
        universality_section([(a.name, found) for a, found in gathered.results(Universality)]),
        layers_section([found for _, found in gathered.results(Layers)]),
        ladder_section([(a.name, found) for a, found in gathered.results(StitchingStudy)]),
        stitching_section([(a.name, Stitching.load(a.folder)) for a in gathered.artifacts if is_stitched(a.folder)]),
        provenance(gathered, commands=commands, versions=versions),
    ]
    present = [s for s in sections if s is not None]
    hero = answer(first, gathered) if first else study_answer(alone) if alone else None
    body = tag(
        "body",
        tag("a", "Skip to the answer", href="#answer", class_="skip"),
        tag("header", tag("p", "suture report", class_="kicker"), tag("h1", title), _contents(present)),
        tag("main", tag("div", hero, id="answer", tabindex=-1), present),
        embedded_json(beside.files, id_="pieces") if beside.files else None,
        _script("\n".join(asset(f"{name}.js") for name in SCRIPTS)),
    )
    return document(title, body, also_from=PIECES if beside.files else ""), beside


def _table_of(effect: Artifact, gathered: Gathered) -> int | None:
    """The number of the table that shows the features of what was steered; None where there is none."""
    dictionary = parent_of(effect, "dictionary", gathered.artifacts)
    tables = [c.dictionary for c, _ in described(gathered)]
    known = [i for i, own in enumerate(tables) if own is not None and own is dictionary]
    return known[0] if known else 0 if tables and dictionary is None else None


def _contents(sections: Sequence[Html]) -> Html:
    """Links to the sections that are there."""
    short = {
        "study": "Study",
        "sweep": "Sweep",
        "matching": "Matching",
        "universality": "Universality",
        "layers": "Layers",
        "ladder": "Ladder",
        "stitching": "Stitching",
        "compared": "Compared",
        "designs": "Dictionaries",
        "missing": "R²",
        "shares": "Shares",
        "features": "Features",
        "steering": "Steering",
        "responses": "Responses",
        "behaviour": "Behaviour",
        "bridges": "Bridges",
        "graft": "Grafts",
        "provenance": "Provenance",
    }
    links = [tag("a", name, href=f"#{id_}") for id_, name in short.items() if any(f'id="{id_}"' in s for s in sections)]
    return tag("nav", links, aria_label="Sections")


def _script(text: str) -> Html:
    assert "</script" not in text.lower()
    return Html(f'<script>(() => {{\n"use strict";\n{text}\n}})();</script>')
