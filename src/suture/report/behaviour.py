"""The report's section on behaviour: loss with a dictionary spliced in, and features ablated to check labels."""

from collections.abc import Sequence

from suture import units
from suture.interventions.causal import Causal, Cause, PairShift, Verdict
from suture.interventions.splice import Loss, Splice, SplicedModel
from suture.report import words
from suture.report.gather import Artifact, Gathered, parent_of, short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import badge, chip, section, table

_VERDICTS: tuple[tuple[Verdict, str], ...] = (
    ("confirms", "confirmed"),
    ("contradicts", "contradicted"),
    ("undecided", "undecided"),
)


def behaviour(gathered: Gathered) -> Html | None:
    """Both kinds of interventions; None where neither was made."""
    spliced, causes = gathered.results(Splice), gathered.results(Causal)
    if not spliced and not causes:
        return None
    return section(
        "behaviour",
        "What the models do with it",
        _splices(spliced, gathered) if spliced else None,
        [_causes(a, found, gathered, i) for i, (a, found) in enumerate(causes)],
    )


def _dictionary_name(a: Artifact, gathered: Gathered) -> str:
    """Of the dictionary that an intervention was made with, or its own."""
    parent = parent_of(a, "dictionary", gathered.artifacts)
    return parent.name if parent else a.name


# ---- spliced in ------------------------------------------------------------------------------------------------------


def _splices(found: Sequence[tuple[Artifact, Splice]], gathered: Gathered) -> Html:
    every = [(_dictionary_name(a, gathered), m, one) for a, own in found for m, one in enumerate(own.models)]
    n_alone = max(len(one.alone) for _, _, one in every)
    head = ["Dictionary, model", "Clean", "Spliced in", "Mean-ablated", "Recovered"]
    head += [f"From {words.letter(m)} alone" for m in range(n_alone)]
    names = short_labels([one.model for _, _, one in every])
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


def _splice_row(dictionary: str, m: int, one: SplicedModel, name: str, n_alone: int) -> list[Child]:
    replaced = f"{units.percent(one.replaced, 0)} of its tokens replaced"
    first = join([badge(m), " ", name, tag("small", f"{dictionary} · {replaced}")])
    losses = [_loss(loss) for loss in (one.clean, one.spliced, one.mean)]
    shares = [one.recovered, *one.recovered_alone, *[None] * (n_alone - len(one.alone))]
    return [first, *losses, *[units.percent(share).replace("-", "−") for share in shares]]


def _loss(loss: Loss) -> Html:
    return join([units.fvu(loss.ce), tag("small", f"± {loss.se:.3f}") if loss.se is not None else None])


# ---- the causal check ------------------------------------------------------------------------------------------------


def _causes(a: Artifact, found: Causal, gathered: Gathered, number: int) -> Html:
    tally = found.verdicts
    labels = [label for label in words.ordered_labels(dict.fromkeys(tally, 1)) if label in tally]
    rows: list[list[Child]] = [[chip(x), *[units.count(tally[x][key]) for key, _ in _VERDICTS]] for x in labels]
    total = {key: sum(one[key] for one in tally.values()) for key, _ in _VERDICTS}
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
            _features(found.features, len(found.models)),
        ]
    )


def _features(features: Sequence[Cause], n_models: int) -> Html | None:
    if not features:
        return None
    pairs = max(len(f.pairs) for f in features)
    head: list[Child] = ["Feature", "Label", "Verdict", "Predictions"]
    head += [join(["KL ", badge(m)]) for m in range(n_models)]
    head += ["Correlation"] if pairs == 1 else ["Correlations"] if pairs else []
    titles = dict(_VERDICTS)
    rows: list[list[Child]] = [
        [
            str(f.feature),
            chip(f.label),
            titles[f.verdict],
            units.count(f.n_positions),
            *[_shift(f, m) for m in range(n_models)],
            *([join([_pair(pair, several=pairs > 1) for pair in f.pairs])] if pairs else []),
        ]
        for f in features
    ]
    key = (
        "KL in nats per prediction; below it its 95\u00a0% interval as a share of the model that moves most. "
        "Correlation of two models' changes; below it the control's, and the 95\u00a0% interval of the difference."
    )
    inner = table(head, rows, label="Features of the causal check")
    return tag("details", tag("summary", "Every feature ablated"), inner, tag("p", key, class_="note"))


def _shift(cause: Cause, m: int) -> Html:
    interval = f"{cause.ratio[m][0]:.2f} – {cause.ratio[m][1]:.2f}" if cause.ratio else None
    return join([units.number(cause.kl[m]), tag("small", interval) if interval else None])


def _pair(pair: PairShift, *, several: bool) -> Html:
    who = " and ".join(words.letter(m) for m in pair.models) + ": " if several else ""
    above = pair.above
    within = f"; above it by {units.correlation(above[0])} – {units.correlation(above[1])}" if above else ""
    under = f"control {units.correlation(pair.control)}{within}"
    return tag("div", f"{who}{units.correlation(pair.correlation)}", tag("small", under), class_="stacked")
