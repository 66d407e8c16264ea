"""The live page: one file in the report's style, which may ask this server and no other.

It holds the frame and its scripts; whatever is said of features and texts comes as data, and reaches it as text only.
"""

from importlib.resources import files
from typing import Any

from suture.report.html import Html, embedded_json, tag
from suture.report.parts import legend, section
from suture.report.shell import asset, document
from suture.report.words import letter

ASKS_HOME = "; connect-src 'self'"


def page(about: dict[str, Any]) -> str:
    """The page for one dictionary, of which `about` tells (`Player.about`)."""
    models: list[str] = about["models"]
    body = tag(
        "body",
        tag("a", "Skip to what the models write", href="#grid-title", class_="skip"),
        tag("header", tag("p", "suture play", class_="kicker"), tag("h1", "Read, find, steer"), legend(models)),
        tag("main", _text(), _features(), _steering(), _grid(models), _keeping()),
        embedded_json(about, id_="about"),
        Html(f'<script>(() => {{\n"use strict";\n{asset("base.js")}\n{_own("play.js")}\n}})();</script>'),
        class_="play",
    )
    return document("suture play", Html(f"<style>{_own('play.css')}</style>{body}"), may=ASKS_HOME)


def _own(name: str) -> str:
    return files("suture.play").joinpath(name).read_text(encoding="utf-8")


def _text() -> Html:
    return section(
        "text",
        "Your text",
        tag("textarea", id="prompt", rows=3, aria_label="Text that the models read", spellcheck="false", dir="auto"),
        tag("p", id="said", class_="note", role="status"),
        tag("div", id="shaded"),
    )


def _features() -> Html:
    controls = tag(
        "div",
        tag("label", "Find a word or number", tag("input", type="search", id="find", autocomplete="off")),
        tag("label", "Any feature, by number", tag("input", type="text", id="number", inputmode="numeric")),
        tag("button", "Shade by it", type="button", id="add-shade"),
        tag("button", "Steer with it", type="button", id="add-steer"),
        class_="controls",
    )
    about = tag(
        "p",
        "Those on which the models differ come first, then the strongest. Click a token above to see what fires on it.",
        class_="note",
    )
    return section(
        "fires",
        "What fires on it",
        about,
        controls,
        tag("p", id="at", class_="note", hidden=True),
        tag("ul", id="features", class_="fires"),
    )


def _steering() -> Html:
    return section(
        "steering",
        "Steering",
        tag("p", id="units", class_="note"),
        tag("div", id="sliders"),
        tag(
            "div",
            _number("tokens", "Tokens to write", 1, 500, 1),
            _number("temperature", "Temperature", 0, 10, 0.1),
            _number("seed", "Seed", 0, 2**53 - 1, 1),
            class_="controls",
        ),
    )


def _number(id_: str, name: str, least: int, most: int, step: int | float) -> Html:
    return tag("label", name, tag("input", type="number", id=id_, min=least, max=most, step=step, autocomplete="off"))


def _grid(models: list[str]) -> Html:
    """DEFAULT and STEERED beside each other, a row for each model."""
    rows = []
    for m in range(len(models)):
        cells = [
            tag(
                "div",
                tag("h3", f"{kind} · model {letter(m)}"),
                tag("ol", class_="next", aria_label="Likeliest next tokens"),
                tag("p", class_="prose written", dir="auto"),
                class_="cell",
                data_cell=f"{kind.lower()}-{m}",
            )
            for kind in ("DEFAULT", "STEERED")
        ]
        rows.append(tag("div", cells, class_="pair"))
    progress = tag(
        "div",
        tag("progress", id="bar", max=1, value=0, aria_label="How far"),
        tag("span", id="progress", role="status"),
        tag("button", "Stop", type="button", id="stop", disabled=True),
        tag("button", "Write again", type="button", id="again"),
        class_="controls run",
    )
    return section("grid", "What the models write", progress, tag("p", id="wrong", role="alert"), rows)


def _keeping() -> Html:
    return section(
        "keep",
        "Keep it",
        tag(
            "p",
            "The address holds all that is set here. The file holds that and what the models wrote; it opens on any "
            "page of the same dictionary, and says so where it is of another.",
            class_="note",
        ),
        tag(
            "div",
            tag("button", "Save to a file", type="button", id="save"),
            tag(
                "label",
                tag("span", "Open a file"),
                tag("input", type="file", id="open", accept=".json,application/json"),
            ),
            tag("span", id="kept", role="status", class_="quiet-note"),
            class_="controls",
        ),
    )
