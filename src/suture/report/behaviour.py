"""The report's section on behaviour: loss with a dictionary spliced in, and features ablated to check labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from suture import units
from suture.report import words
from suture.report.gather import Artifact, Gathered, parent_of, short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import badge, chip, section, table

_VERDICTS = (("confirms", "confirmed"), ("contradicts", "contradicted"), ("undecided", "undecided"))


def behaviour(gathered: Gathered) -> Html | None:
    """Both kinds of interventions; None where neither was made."""
    spliced = [a for a in gathered.artifacts if a.manifest.stage == "splice" and "splice" in a.json]
    causes = [a for a in gathered.artifacts if a.manifest.stage == "causal" and "causal" in a.json]
    if not spliced and not causes:
        return None
    return section(
        "behaviour",
        "What the models do with it",
        _splices(spliced, gathered) if spliced else None,
        [_causes(a, gathered, i) for i, a in enumerate(causes)],
    )


def _dictionary_name(a: Artifact, gathered: Gathered) -> str:
    """Of the dictionary that an intervention was made with, or its own."""
    parent = parent_of(a, "dictionary", gathered.artifacts)
    return parent.name if parent else a.name


# ---- spliced in ------------------------------------------------------------------------------------------------------


def _splices(artifacts: Sequence[Artifact], gathered: Gathered) -> Html:
    every = [
        (_dictionary_name(a, gathered), m, one) for a in artifacts for m, one in enumerate(a.json["splice"]["models"])
    ]
    n_alone = max(len(one.get("alone") or []) for _, _, one in every)
    head = ["Dictionary, model", "Clean", "Spliced in", "Mean-ablated", "Recovered"]
    head += [f"From {words.letter(m)} alone" for m in range(n_alone)]
    names = short_labels([str(one["model"]) for _, _, one in every])
    rows = [_splice_row(name, m, one, names[i], n_alone) for i, (name, m, one) in enumerate(every)]
    note = (
        "Next-token loss in nats, ± its standard error over documents: of the model as it is, with the dictionary's "
        "reconstruction in place of its activations, and with their mean in place of all. Recovered: of the loss that "
        "the mean costs, the share that the reconstruction saves; 100\u00a0% loses nothing, below 0 is worse than the "
        "mean. From A alone: the same with the code of model A's activations only."
    )
    return join(
        [
            tag("h3", "Loss with the dictionary spliced in"),
            table(head, rows, label="Loss with the dictionary spliced in"),
            tag("p", note, class_="note"),
        ]
    )


def _splice_row(dictionary: str, m: int, one: Mapping[str, Any], name: str, n_alone: int) -> list[Child]:
    replaced = f"{units.percent(one.get('replaced'), 0)} of its tokens replaced"
    first = join([badge(m), " ", name, tag("small", f"{dictionary} · {replaced}")])
    losses = [_loss(one.get(kind)) for kind in ("clean", "spliced", "mean")]
    alone = list(one.get("recovered_alone") or [])
    shares = [one.get("recovered"), *alone, *[None] * (n_alone - len(alone))]
    return [first, *losses, *[units.percent(share).replace("-", "−") for share in shares]]


def _loss(loss: Mapping[str, Any] | None) -> Html:
    spread = f"± {loss['se']:.3f}" if loss and loss.get("se") is not None else None
    return join([units.fvu(loss["ce"] if loss else None), tag("small", spread) if spread else None])


# ---- the causal check ------------------------------------------------------------------------------------------------


def _causes(a: Artifact, gathered: Gathered, number: int) -> Html:
    content = a.json["causal"]
    tally: dict[str, dict[str, int]] = content.get("verdicts") or {}
    models = short_labels([str(m) for m in content.get("models") or []])
    labels = [label for label in words.ordered_labels(dict.fromkeys(tally, 1)) if label in tally]
    rows: list[list[Child]] = [[chip(x), *[units.count(tally[x].get(key, 0)) for key, _ in _VERDICTS]] for x in labels]
    total = {key: sum(one.get(key, 0) for one in tally.values()) for key, _ in _VERDICTS}
    n = sum(total.values())
    verdicts = [join([tag("b", units.count(total[key])), f" {title}"]) for key, title in _VERDICTS]
    first = f"Of {units.count(n)} features ablated in every model, labels are "
    said = join([first, [[one, ", "] for one in verdicts[:-1]], verdicts[-1], "."])
    note = (
        "A feature is taken out of each model where it fires, and the change of the next-token predictions is measured "
        "(KL). “Shared” is confirmed where every model moves and the models' changes correlate above a control with "
        "another feature's direction; “only A” is confirmed where the other models do not move. What the intervals do "
        "not decide is undecided."
    )
    title = f"Do the labels of {_dictionary_name(a, gathered)} hold when features are ablated?"
    return join(
        [
            tag("h3", title, id=f"causal-{number}"),
            tag("p", said),
            table(["Label", *[title for _, title in _VERDICTS]], rows, label="Verdicts of the causal check"),
            tag("p", note, class_="note"),
            _features(content.get("features") or [], models),
        ]
    )


def _features(features: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Html | None:
    if not features:
        return None
    n = max(len(models), *(len(f.get("kl") or []) for f in features))
    pairs = max(len(f.get("pairs") or []) for f in features)
    head: list[Child] = ["Feature", "Label", "Verdict", "Predictions", *[join(["KL ", badge(m)]) for m in range(n)]]
    head += ["Correlation"] if pairs == 1 else ["Correlations"] if pairs else []
    titles = dict(_VERDICTS)
    rows: list[list[Child]] = [
        [
            str(f["feature"]),
            chip(str(f["label"])),
            titles.get(str(f.get("verdict")), str(f.get("verdict"))),
            units.count(f.get("n_positions")),
            *[_shift(f, m) for m in range(n)],
            *([join([_pair(pair, several=pairs > 1) for pair in f.get("pairs") or []])] if pairs else []),
        ]
        for f in features
    ]
    key = (
        "KL in nats per prediction; below it its 95\u00a0% interval as a share of the model that moves most. "
        "Correlation of two models' changes; below it the control's, and the 95\u00a0% interval of the difference."
    )
    inner = table(head, rows, label="Features of the causal check")
    return tag("details", tag("summary", "Every feature ablated"), inner, tag("p", key, class_="note"))


def _shift(feature: Mapping[str, Any], m: int) -> Html:
    kl, ratio = feature.get("kl") or [], feature.get("ratio")
    interval = f"{ratio[m][0]:.2f} – {ratio[m][1]:.2f}" if ratio and m < len(ratio) else None
    return join([units.number(kl[m] if m < len(kl) else None), tag("small", interval) if interval else None])


def _pair(pair: Mapping[str, Any], *, several: bool) -> Html:
    who = " and ".join(words.letter(int(m)) for m in pair["models"]) + ": " if several else ""
    above = pair.get("above")
    within = f"; above it by {units.correlation(above[0])} – {units.correlation(above[1])}" if above else ""
    under = f"control {units.correlation(pair.get('control'))}{within}"
    return tag("div", f"{who}{units.correlation(pair.get('correlation'))}", tag("small", under), class_="stacked")
