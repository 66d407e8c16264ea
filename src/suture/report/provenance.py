"""The report's section on provenance: how every artifact was made, from what, and the commands that do it again."""

from collections.abc import Sequence

from suture import units
from suture.pipeline.artifact import Parent
from suture.report import words
from suture.report.gather import Artifact, Gathered
from suture.report.html import Child, Html, join, tag
from suture.report.parts import section, table

_MAX_FILES = 40
"""Files listed per artifact; a store may have thousands, its manifest lists them all."""


def provenance(gathered: Gathered, *, commands: Sequence[str], versions: Sequence[tuple[str, str]]) -> Html:
    """The chain of artifacts, their settings and checksums, versions and commands."""
    rows: list[Sequence[Child]] = []
    for a in gathered.artifacts:
        parents = [_link(gathered.artifacts, p) for p in a.manifest.parents]
        rows.append(
            [
                tag("a", a.name, href=f"#{a.anchor}"),
                a.manifest.stage,
                join([join([", " if i else "", p]) for i, p in enumerate(parents)]) if parents else units.DASH,
                units.DASH if a.manifest.seed is None else str(a.manifest.seed),
                units.seconds(a.manifest.seconds),
                a.manifest.created or units.DASH,
                a.manifest.suture or units.DASH,
                tag("code", a.manifest_sha256[:12], title=a.manifest_sha256),
            ]
        )
    head = ["Artifact", "Stage", "Made from", "Seed", "Took", "Finished (UTC)", "suture", "Manifest SHA-256"]
    every = list(dict.fromkeys([*commands, *[a.manifest.command for a in gathered.artifacts if a.manifest.command]]))
    written = ", ".join(f"{name} {version}" for name, version in versions)
    return section(
        "provenance",
        "Provenance",
        [tag("h3", "Commands"), tag("pre", "\n".join(every), tabindex=0)] if every else None,
        tag("h3", "Artifacts"),
        table(head, rows, label="Artifacts", numeric=False),
        [_artifact(a) for a in gathered.artifacts],
        tag("p", f"This page was written by {written}.", class_="note"),
    )


def _link(artifacts: Sequence[Artifact], parent: Parent) -> Html:
    name = parent.path.rstrip("/").rsplit("/", 1)[-1]
    same = [a for a in artifacts if a.manifest_sha256 == parent.manifest_sha256]
    if not same:
        return tag("span", name, title=parent.path)
    found = min(same, key=lambda a: a.folder.name != name)
    return tag("a", found.name, href=f"#{found.anchor}")


def _artifact(a: Artifact) -> Html:
    settings = [[key, words.plain(v)] for key, v in words.flatten(a.settings).items()]
    files = [
        [f.name, f"{f.n_bytes:,} bytes", tag("code", f.sha256, class_="checksum")]
        for f in a.manifest.files[:_MAX_FILES]
    ]
    left = len(a.manifest.files) - _MAX_FILES
    return tag(
        "details",
        tag("summary", tag("b", a.name), f" – {a.manifest.stage}: settings and checksums"),
        tag("p", "Manifest SHA-256 ", tag("code", a.manifest_sha256, class_="checksum")),
        table(["Setting", "Value"], settings, label=f"Settings of {a.name}", numeric=False) if settings else None,
        table(["File", "Size", "SHA-256"], files, label=f"Files of {a.name}", numeric=False) if files else None,
        tag("p", f"And {left:,} more files, listed in its manifest.json.") if left > 0 else None,
        id=a.anchor,
    )
