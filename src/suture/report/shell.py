"""The shell of every page: one HTML file with its style inside, whose own policy lets it fetch and send nothing."""

from importlib.resources import files

from suture.report.html import Html, tag

POLICY = "default-src 'none'; script-src 'unsafe-inline'{}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"  # noqa: E501
"""What the page may do: run what is inside it. It can fetch nothing and send nothing."""


def document(title: str, body: Html, *, also_from: str = "", may: str = "") -> str:
    """The whole page; `also_from` names what else it may load scripts from, `may` adds to its policy."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY.format(also_from) + may),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Html(f"<style>{asset('report.css')}</style>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def asset(name: str) -> str:
    """A file that lies beside this one."""
    return files("suture.report").joinpath(name).read_text(encoding="utf-8")
