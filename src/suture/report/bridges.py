"""The report's section on bridges: what every map explains, and what became of the dictionaries carried over one."""

from suture import units
from suture.bridges.bridge import Bridge
from suture.bridges.columns import SCORES
from suture.bridges.crossing import SUMMARY, Carried, CarriedFit
from suture.report.gather import Gathered
from suture.report.html import Html, tag
from suture.report.parts import section, table

SHOWN = ("r2", "control", "r2_texts", "loss", "loss_clean", "recovered")
"""Of a bridge's columns; the interval stands with R²."""
COLUMNS = {column.name: column for column in SCORES}
NOTE = (
    "R² on documents kept back, with its 95 % interval over documents. The control is the same fit on rows that do not "
    "belong together: what no relation would score."
)
CARRIED_NOTE = (
    "Fraction of the other model's variance unexplained: by the dictionary as the maps alone carry it, after one "
    "common threshold brought it to its L0, after its decoder was fitted; and by one trained there, at the same L0."
)


def bridges(gathered: Gathered) -> Html | None:
    """Both tables; None where there is neither."""
    found = gathered.results(Bridge)
    carried = [
        (a, Carried.load(a.folder))
        for a in gathered.artifacts
        if a.manifest.stage == "dictionary" and (a.folder / SUMMARY).is_file()
    ]
    if not found and not carried:
        return None
    parts = [_bridge(own, artifact.name) for artifact, own in found]
    if found:
        parts.insert(0, tag("p", NOTE))
    if carried:
        parts += [tag("h3", "Dictionaries carried over"), tag("p", CARRIED_NOTE)]
        parts.append(table(CARRIED_HEAD, [_carried(own, a.name) for a, own in carried], label="Carried dictionaries"))
    return section("bridges", "Bridges", parts)


def _bridge(own: Bridge, name: str) -> Html:
    head = ["map", "way", *(tag("span", COLUMNS[c].title, title=COLUMNS[c].sentence) for c in SHOWN)]
    rows = []
    for i, kind in enumerate(own.maps):
        for w, way in enumerate(own.scores.coordinates["way"]):
            low, high = (COLUMNS["r2"].write(own.scores[c][i, w]) for c in ("r2_low", "r2_high"))
            cells = [COLUMNS[c].write(own.scores[c][i, w]) for c in SHOWN]
            rows.append([kind, way, f"{cells[0]} ({low} to {high})", *cells[1:]])
    places = f"A: {own.spaces[0].label}; B: {own.spaces[1].label}"
    return tag("div", tag("h3", name), tag("p", places), table(head, rows, label=f"Maps of {name}"))


CARRIED_HEAD = (
    "dictionary", "way", "at home", "zero-shot", "at its L0", "refitted", "native, same L0", "gap closed", "L0",
    "features that survive",
)  # fmt: skip


def _carried(own: Carried, name: str) -> list[str]:
    s = own.summary
    n_live = sum(s.survival.values()) - s.survival.get("dead", 0)
    survive = f"{units.count(s.survival.get('survives', 0))} of {units.count(n_live)}"
    fits = [_fvu(fit) for fit in (s.at_home, s.zero_shot, s.threshold, s.refitted, s.native_at_l0)]
    closed = units.DASH if s.gap_closed is None else units.percent(s.gap_closed)
    return [name, f"{s.source} to {s.target}", *fits, closed, units.number(s.refitted.l0), survive]


def _fvu(fit: CarriedFit | None) -> str:
    return units.DASH if fit is None else units.fvu(fit.fvu)
