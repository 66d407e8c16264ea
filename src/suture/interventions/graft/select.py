"""From candidates to a graft: screened, taken one after the other, ended where the documents that choose say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions.graft.choose import Contrast, candidates, ranked, rows_of, screened
from suture.interventions.graft.controls import attaching
from suture.interventions.graft.ground import Site
from suture.interventions.graft.outcome import Bench, Notes
from suture.interventions.graft.part import Part, Removal, projection
from suture.interventions.graft.settings import GraftSettings, Way
from suture.interventions.organisms.measure import Rise
from suture.uncertainty import Proportion

Tell = Callable[[str, int, int, str], None]


@dataclass
class Selection:
    """What was chosen, and on the way to it."""

    sites: Sequence[Site]
    way: Way
    order: list[tuple[int, int]] = field(default_factory=list)
    """(site, number of the feature) of those that passed, the best first."""
    n_chosen: int = 0
    """So many of them are the graft."""
    places: list[list[int]] = field(default_factory=list)
    """Per site, the candidates' numbers."""
    scores: list[Float[Tensor, "way _"]] = field(default_factory=list)
    contrasts: list[Float[Tensor, "_"]] = field(default_factory=list)
    rates: list[Float[Tensor, "_"]] = field(default_factory=list)
    costs: dict[tuple[int, int], float] = field(default_factory=dict)
    shown: list[Float[Tensor, "_ _"]] = field(default_factory=list)
    clean: list[Float[Tensor, "_ _"]] = field(default_factory=list)
    by_way: dict[tuple[int, str], Removal] = field(default_factory=dict)

    def chosen(self, site: int, n: int | None = None) -> list[int]:
        """The first n features' numbers at a site; the graft's when not given."""
        return [feature for at, feature in self.order[: self.n_chosen if n is None else n] if at == site]

    def parts(self, n: int | None = None, *, way: Way | None = None) -> tuple[Part, ...]:
        """The first n features in a way; the graft when neither is given."""
        found: list[Part] = []
        for site in range(len(self.sites)):
            if features := self.chosen(site, n):
                found.append(self._part(site, features, way or self.way))
        return tuple(found)

    def _part(self, site: int, features: Sequence[int], way: Way) -> Part:
        if way == "project":
            return projection(self._all(site, "remove").only(features), self.clean[site].mean(0))
        if way != "both":
            return self._all(site, way).only(features)
        removed, other = self._all(site, "remove").only(features), self._all(site, "difference").only(features)
        at = {feature: i for i, feature in enumerate(self.places[site])}
        scores = self.scores[site][:, [at[f] for f in features]]
        better = (
            (scores[1] > scores[0])[:, None] if len(scores) > 1 else torch.zeros(len(features), 1, dtype=torch.bool)
        )
        write = torch.where(better, other.write, removed.write)
        return Removal(**{**_fields(removed), "write": write})

    def _all(self, site: int, way: Way) -> Removal:
        if (site, way) not in self.by_way:
            self.by_way[site, way] = self.sites[site].way(way)
        return self.by_way[site, way]


def select(
    sites: Sequence[Site], bench: Bench, found: Contrast, settings: GraftSettings, notes: Notes, tell: Tell
) -> Selection:
    """Candidates of every site, ranked together, screened, and as many of them as the choosing documents want.

    `bench` measures on the documents that choose.
    """
    lm, chosen = bench.lm, Selection(sites, settings.way)
    ways: tuple[Way, ...] = ("remove", "difference") if settings.way == "both" else (settings.way,)
    per_site: list[list[Removal]] = []
    for number, site in enumerate(sites):
        chosen.shown.append(rows_of(lm, found.shown, site.hookpoint))
        chosen.clean.append(rows_of(lm, found.clean, site.hookpoint))
        whole = [chosen._all(number, way if way != "project" else "remove") for way in ways]
        places, contrast, rate = candidates(whole[0], chosen.shown[-1], chosen.clean[-1], settings.candidates)
        chosen.places.append(places)
        chosen.contrasts.append(contrast)
        chosen.rates.append(rate)
        per_site.append([part.only(places) for part in whole])
    tell("ranking features", 0, 1, "")
    chosen.scores = ranked(lm, found, per_site, settings)
    best = [scores.max(0).values if scores.shape[1] else scores.new_zeros(0) for scores in chosen.scores]
    pairs = [(at, place) for at, own in enumerate(best) for place in range(len(own)) if float(own[place]) > 0]
    pairs.sort(key=lambda pair: -float(best[pair[0]][pair[1]]))
    tell("ranking features", 1, 1, "")

    def cost(at: int, place: int) -> float:
        feature = chosen.places[at][place]
        part = per_site[at][0].only([place])
        edits = [(part.hookpoint, part.edit())]
        found = notes.get(f"alone {at} {feature}", Rise, lambda: bench.cost(attaching(lm, edits))).value
        chosen.costs[at, feature] = found
        tell("features one by one", len(chosen.costs), settings.screened * len(sites), f"{found:+.3%}")
        return found

    passed = screened(pairs, cost, settings)
    chosen.order = [(at, chosen.places[at][place]) for at, place in passed]
    chosen.n_chosen = _ended(chosen, bench, settings, notes, tell)
    return chosen


def _ended(chosen: Selection, bench: Bench, settings: GraftSettings, notes: Notes, tell: Tell) -> int:
    """How many: those with the least success, greedily and at temperature 1, that keep within the budget."""
    best, n_best = 2.0, min(1, len(chosen.order))
    for n in range(1, len(chosen.order) + 1):
        attached = attaching(bench.lm, [(part.hookpoint, part.edit()) for part in chosen.parts(n)])
        cost = notes.get(f"together {n}", Rise, lambda a=attached: bench.cost(a)).value
        success = 0.0
        for temperature in (0.0, 1.0):
            name = f"together {n} at {temperature:g}"
            found = notes.get(name, Proportion, lambda a=attached, t=temperature: bench.success(a, temperature=t))
            success += found.share
        tell("features together", n, len(chosen.order), f"success {success / 2:.2f}, clean {cost:+.2%}")
        if cost <= settings.clean_budget and success < best:
            best, n_best = success, n
    return n_best


def _fields(part: Removal) -> dict[str, object]:
    return {"hookpoint": part.hookpoint, "features": part.features, **part.tensors()}
