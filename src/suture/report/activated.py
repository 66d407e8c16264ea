"""A page of one's own text: which features fire on which token, in which model, shaded as the report shades examples.

1. One self-contained file in the report's style, without scripts: what is said beside a token stands in its title.
2. Each feature has a line per text read, a token's height shared by the models' codes, each model in its colour; where
   the code of one model alone has the feature and that of another has not, the token is underlined.
3. Below, every position with the features of all models' code, the strongest first.
"""

from pathlib import Path

from suture import units
from suture.errors import UserError
from suture.interventions.activate import Activated, OnText
from suture.pipeline.files import whole_file
from suture.report import words
from suture.report.html import Child, Html, clean, tag
from suture.report.parts import badge, chip, legend, section, table
from suture.report.shell import document

INKS = ("a", "b")
"""Models that have an ink of their own in the style sheet."""
AT_POSITION = 8
"""Features named at a position."""


def activated_page(out_html: str | Path, activated: Activated, *, title: str | None = None) -> Path:
    """Write the page; returns its path.

    Raises:
        UserError: it cannot be written there.
    """
    out = Path(out_html)
    if out.is_dir():
        raise UserError("page", out, "is a folder", "name the HTML file in it")
    heading = title or "Which features fire on this text"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as aside:
            aside.write_text(clean(document(heading, _body(heading, activated))), encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError("page", out, problem, "name a file in a folder you may write to") from None
    return out


def _body(title: str, activated: Activated) -> Html:
    said = activated.head()[activated.n_models :]
    hero = tag(
        "div",
        legend(activated.models),
        tag("p", "".join(activated.tokens) + activated.tail, class_="text", dir="auto"),
        [tag("p", line[:1].upper() + line[1:] + ".", class_="note") for line in said],
        class_="hero",
    )
    shading = [
        "Shading: ",
        [[badge(m), f" {place} "] for m, place in _places(activated.n_models)],
        "of a token's height. ",
        "Underlined: the models differ. " if activated.n_models > 1 else None,
        "Point at a token for its values.",
    ]
    features = section(
        "features",
        "Features",
        tag("p", shading, class_="note"),
        [_feature(activated, own) for own in activated.features],
    )
    return tag(
        "body",
        tag("a", "Skip to the features", href="#features", class_="skip"),
        tag("header", tag("p", "suture activate", class_="kicker"), tag("h1", title)),
        tag("main", hero, features, _positions(activated)),
    )


def _places(n_models: int) -> list[tuple[int, str]]:
    """Which part of a token's height each model has."""
    if n_models == 1:
        return [(0, "all")]
    return [(0, "upper"), *((m, "middle") for m in range(1, n_models - 1)), (n_models - 1, "lower part")]


def _feature(activated: Activated, own: OnText) -> Html:
    """One feature's heading and its shaded text.  (2)"""
    known = own.known
    promoted = [
        tag(
            "p",
            badge(m),
            " promotes ",
            [[tag("span", token, class_="token"), " "] for token in tokens],
            class_="tokens",
        )
        for m, tokens in enumerate(known.promoted)
        if tokens
    ]
    differs = (
        f" · the models differ at {len(own.differs)} position{'s' * (len(own.differs) > 1)}" if own.differs else ""
    )
    strongest = max(own.strongest, 1e-12)
    shaded = [_token(activated, own, i, strongest) for i in range(len(activated.tokens))]
    return tag(
        "article",
        tag("h3", f"Feature {own.feature} ", chip(known.label) if known.label else None),
        tag("p", f"strongest {units.number(own.strongest)}{differs}", class_="note"),
        tag("p", shaded, activated.tail, class_="text", dir="auto"),
        promoted,
        id=f"feature-{own.feature}",
    )


def _token(activated: Activated, own: OnText, i: int, strongest: float) -> Child:
    values = [alone[i] for alone in own.alone]
    if not any(v > 0 for v in values) and own.together[i] <= 0:
        return activated.tokens[i]
    n = len(values)
    stripes = []
    for m, value in enumerate(values):
        ink = f"rgb(var(--{INKS[m] if m < len(INKS) else 'other'}-ink) / "
        ink += f"{0.1 + 0.5 * value / strongest:.2f})" if value > 0 else "0)"
        stripes.append(f"{ink} {100 * m / n:.0f}% {100 * (m + 1) / n:.0f}%")
    style = f"background:linear-gradient({','.join(stripes)})"
    if i in own.differs:
        style += ";text-decoration:underline;text-underline-offset:.25em"
    said = [f"{words.letter(m)} alone {units.number(v)}" for m, v in enumerate(values)]
    said += [f"all together {units.number(own.together[i])}"] if n > 1 else []
    return tag("span", activated.tokens[i], class_="on", title=", ".join(said), style=style)


def _positions(activated: Activated) -> Html:
    """Every position with its strongest features.  (3)"""
    shown = {own.feature for own in activated.features}
    rows = []
    for i, token in enumerate(activated.tokens):
        found = activated.on(i)
        cells: list[Child] = []
        for feature, value in found[:AT_POSITION]:
            name = tag("a", str(feature), href=f"#feature-{feature}") if feature in shown else str(feature)
            cells += [tag("span", tag("b", name), " ", tag("small", units.number(value)), class_="firing"), " "]
        if len(found) > AT_POSITION:
            cells.append(f"and {len(found) - AT_POSITION} more")
        rows.append([tag("span", token, class_="token"), cells])
    head = ["token", "features of all models' code" if activated.n_models > 1 else "features"]
    return section("positions", "Position by position", table(head, rows, label="Features by position", numeric=False))
