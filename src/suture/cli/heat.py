"""Heat lines: a text in the terminal, its tokens shaded by a feature's values, one line of text for each model."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from suture.interventions.activate import Activated

INKS = ((0, 105, 168), (214, 94, 0), (163, 72, 125), (106, 85, 181))
"""Of models A, B, .. in the report's colours."""
PAPER = (250, 250, 248)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def heat(activated: "Activated") -> str | None:
    """The features with their heat lines, as a terminal shows them; None where stdout shows no colours."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal or console.color_system is None or console.no_color:
        return None
    return drawn(activated, console)


def drawn(activated: "Activated", console: "Console") -> str:
    """The same on any console with colours."""
    from rich.text import Text

    with console.capture() as captured:
        for line in activated.head():
            console.print(Text(visible(line)))
        for own in activated.features:
            console.print(Text(visible(activated.title(own)), style="bold"))
            for m, values in enumerate(own.alone):
                line = Text.assemble((f"  {LETTERS[m]} ", "bold"))
                line.append_text(shaded(activated.tokens, values, own.strongest, INKS[m % len(INKS)], own.differs))
                console.print(line)
    return captured.get().rstrip("\n")


def shaded(
    tokens: Sequence[str],
    values: Sequence[float],
    strongest: float,
    ink: tuple[int, int, int],
    marked: Sequence[int] = (),
) -> "Text":
    """The text, every token on a ground as dark as its value; marked ones underlined."""
    from rich.text import Text

    line = Text()
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        underline = " underline" if i in marked else ""
        if value <= 0 or not math.isfinite(value):
            line.append(visible(token), style=underline.strip() or None)
            continue
        share = 0.15 + 0.85 * min(1.0, value / max(strongest, 1e-12))
        ground = [round(p + (c - p) * share) for p, c in zip(PAPER, ink, strict=True)]
        letters = "white" if share > 0.5 else "black"
        line.append(visible(token), style=f"{letters} on rgb({ground[0]},{ground[1]},{ground[2]}){underline}")
    return line


def visible(text: str) -> str:
    """Text without anything that a terminal would obey: line ends as signs, other control characters replaced.

    >>> visible("a\\nb\\x1b[2J")
    'a⏎b�[2J'
    """
    text = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", " ")
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
