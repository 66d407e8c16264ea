"""The report's section on steering: per feature curves, controls at equal KL, tokens, texts and agreement."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from suture import units
from suture.interventions.settings import ControlKind
from suture.interventions.steer.effect import Agreement, Effect, Generation, ModelEffect, Weighted
from suture.report import words
from suture.report.figures import EffectMeasure, effect_curves
from suture.report.gather import short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import badge, figure, section, table
from suture.uncertainty import Interval

_MEASURES: tuple[tuple[EffectMeasure, str, str, str], ...] = (
    ("target_effect", "Effect", "nats", "change of log-probability, promoted minus suppressed tokens"),
    ("kl_neutral", "Side effect: KL", "nats per token", "on neutral text"),
    ("strength", "Strength", "× {unit}", "that the KL takes"),
    ("delta_ce", "Side effect: loss", "nats per token", "rise of the next-token loss on neutral text"),
)
KINDS: dict[str, str] = {
    "covariance": "directions drawn with the covariance of its activations",
    "decoder": "decoder rows of other live features",
    "shuffled": "its own row, coordinates shuffled",
    "means": "difference of mean activations",
    "carried": "the other model's vector, carried through a bridge",
    "isotropic": "isotropic random directions",
}
"""What each kind of control is called."""


def steering(effects: Sequence[tuple[Effect, int | None]]) -> Html | None:
    """All steered features, each with the number of the table it stands in; None where nothing was steered."""
    cards = [_card(effect, i, table_number) for i, (effect, table_number) in enumerate(effects)]
    if not cards:
        return None
    notes = [tag("p", note) for note in _notes([effect for effect, _ in effects])]
    return section("steering", "Steering every model", notes, cards)


def _notes(effects: Sequence[Effect]) -> Iterator[str]:
    """What is shown, in sentences that hold for whatever controls there are."""
    added = {
        "activation": "the feature's 99.9\u00a0% activation",
        "norm": "as much as the model's activations on the neutral text are typically long",
    }
    units_used = dict.fromkeys(effect.settings.unit for effect in effects)
    yield (
        f"Each model is steered along the feature's own direction in it; strength 1 adds "
        f"{' or '.join(added[unit] for unit in units_used)}. Solid marks: the feature, with 95\u00a0% intervals."
    )
    kinds = {c.kind for e in effects for m in e.models for c in m.controls if c.n_directions}
    drawn = [words for kind, words in _LINES if kind in kinds]
    if drawn:
        yield (
            f"Open marks: {' and '.join(drawn)}, as long as the feature's own vector; means over the directions, "
            "with 95\u00a0% intervals. The same length does not cost every direction the same, so the tables compare "
            "them at equal KL on neutral text."
        )
    if any(m.random is not None and not m.controls for e in effects for m in e.models):
        yield (
            "Where an older suture steered, open marks on dotted lines are isotropic random directions of the same "
            "length, with their standard deviation: no fair control where few coordinates hold most of the variance, "
            "since they can cost far more than the feature. Steer again for controls that are."
        )
    yield (
        "Beside every continuation stands what its strength costs on neutral text: KL in nats per token, between "
        "measured strengths along a line on log axes."
    )
    if any(e.settings.kl for e in effects):
        yield (
            "Strengths found for KL budgets bring every direction in every model to the same KL on neutral text; where "
            "a budget was not reached, the point is left out and the table says so."
        )


_LINES = (
    ("covariance", "directions drawn with the covariance of the model's own activations (dotted)"),
    ("decoder", "decoder rows of other live features (dashes and dots)"),
)


def _card(effect: Effect, number: int, table_number: int | None) -> Html:
    figures = []
    skipped = "kl_neutral" if effect.settings.kl else "strength"
    for measure, title, unit, meaning in _MEASURES:
        unit = unit.format(unit=words.UNITS[effect.settings.unit])
        spec = None if measure == skipped else effect_curves(effect, measure, y_title=unit)
        if spec is not None:
            figures.append(figure(spec, f"effect-{number}-{measure}", title=title, caption=meaning, height=240))
        if measure == "target_effect" and not effect.settings.kl:
            cost = effect_curves(effect, measure, y_title=unit, over_kl=True)
            caption = "the same effect against the KL on neutral text that its strength costs: higher is better"
            if cost is not None:
                figures.append(
                    figure(cost, f"effect-{number}-by-cost", title="Effect by cost", caption=caption, height=240)
                )
    names = short_labels([m.model for m in effect.models])
    link = tag("a", "its page", class_="quiet", data_feature_link=effect.feature, data_table=table_number)
    go = link if table_number is not None else None
    return tag(
        "article",
        tag("h3", f"Feature {effect.feature} ", go),
        tag("p", [_key(name, i) for i, name in enumerate(names)], class_="key"),
        tag("div", figures, class_="grid three"),
        _compared(effect),
        _agreement(effect.agreement),
        tag("div", [_tokens(m, names[i], i) for i, m in enumerate(effect.models)], class_="sides"),
        _generations(
            [m.generations for m in effect.models],
            [_costs(m, m.strengths, m.kl_neutral, effect) for m in effect.models],
            title=f"Continuations, side by side ({_drawn(effect)})",
            is_open=True,
        ),
        [
            # of a control the mean over all its directions is known, not the KL of the one whose texts are shown
            _generations(texts, costs, title=f"The same with {title}", is_open=False, of=", mean of such directions")
            for title, texts, costs in _control_texts(effect)
        ],
        _prompts(effect.prompts),
        class_="card",
    )


def _drawn(effect: Effect) -> str:
    """How they were drawn."""
    s = effect.settings
    return "greedy" if s.temperature == 0 else f"temperature {words.plain(s.temperature)}, seed {s.seed}"


Costs = Mapping[tuple[float, float], float | None]
"""(KL budget or 0, strength or 0) -> KL on neutral text there."""


def _control_texts(effect: Effect) -> Iterator[tuple[str, Sequence[Sequence[Generation]], Sequence[Costs]]]:
    """(what the control is, its continuations in every model, what they cost)."""
    models = effect.models
    for kind, title in _ONE.items():
        controls = [m.control(kind) for m in models]
        own = [control.generations if control else () for control in controls]
        costs: list[Costs] = [
            _costs(m, c.strengths, c.kl_neutral, effect) if c else {} for m, c in zip(models, controls, strict=True)
        ]
        if kind == "isotropic" and not any(own):
            own = [m.random.generations if m.random else () for m in models]
        yield title, own, costs


def _costs(
    model: ModelEffect, strengths: Sequence[float | None], kl: Sequence[float | None], effect: Effect
) -> dict[tuple[float, float], float | None]:
    """The KL that was measured at every dose; with budgets, at what each came to."""
    budgets = effect.settings.kl
    if budgets:
        return {(budget, 0.0): cost for budget, cost in zip(budgets, kl, strict=False)}
    measured = {(0.0, float(s)): cost for s, cost in zip(strengths, kl, strict=False) if s is not None}
    between = {(0.0, g.strength): _between(g.strength, strengths, kl) for g in model.generations}
    return between | measured


def _between(strength: float, strengths: Sequence[float | None], kl: Sequence[float | None]) -> float | None:
    """The KL at a strength between two measured ones, along a line on log axes; None outside of them."""
    known = sorted((s, cost) for s, cost in zip(strengths, kl, strict=False) if s and cost is not None and cost > 0)
    for (low, a), (high, b) in pairwise(known):
        if low <= strength <= high:
            share = math.log(strength / low) / math.log(high / low)
            return math.exp((1 - share) * math.log(a) + share * math.log(b))
    return None


_ONE: dict[ControlKind, str] = {
    "covariance": "a covariance-matched direction",
    "decoder": "another feature's decoder row",
    "means": "the difference of mean activations",
    "carried": "the other model's vector, carried over",
    "isotropic": "an isotropic random direction",
}
"""Controls whose texts are shown, as one of them is called."""


def _compared(effect: Effect) -> Html | None:
    """At equal KL: the feature's effect in every model beside that of every control."""
    settings, rows = effect.settings, []
    for i, model in enumerate(effect.models):
        if not model.controls:
            continue
        moved = model.collateral[settings.reference_dose] if model.collateral else None
        own = [_named(i, "the feature"), "1", _strength(model), _at_kl(model.effect_at_kl, None), units.DASH]
        rows.append([*own, units.count(moved) if moved is not None else units.DASH])
        for control in model.controls:
            as_far = f"{control.n_as_far} of {control.n_at_kl}" if model.effect_at_kl is not None else units.DASH
            strength = control.strengths[settings.reference_dose] if settings.kl else None
            rows.append(
                [
                    _named(i, KINDS[control.kind]),
                    units.count(control.n_directions),
                    units.number(strength) if settings.kl else units.DASH,
                    _at_kl(control.effect_at_kl, control.effect_at_kl_interval),
                    as_far if control.n_at_kl else "none gets there" if control.n_directions else "never fires there",
                    units.number(control.collateral),
                ]
            )
    if not rows:
        return None
    head = ["", "directions", "strength", "effect in nats (95\u00a0%)", "as far as the feature", "other features moved"]
    note = (
        f"At equal KL, {words.plain(settings.equal_kl)} nats per token on neutral text: how far each direction moves "
        "the tokens that the feature promotes and suppresses. The difference of mean activations is no chance "
        "direction but what can be had without a dictionary. Other features moved: at "
        f"{'the budget' if settings.kl else 'strength'} {words.plain(settings.doses[settings.reference_dose])}, those "
        "whose mean activation on neutral text changes by more than three times its spread over texts."
    )
    return tag(
        "div", tag("p", note, class_="note"), table(head, rows, label="The feature and its controls at equal KL")
    )


def _named(model: int, what: str) -> Html:
    return tag("span", badge(model), " ", what)


def _strength(model: ModelEffect) -> str:
    """At equal KL, or why there is none."""
    if model.strength_at_kl is not None:
        return units.number(model.strength_at_kl)
    return f"not reached: KL {units.number(max(model.kl_neutral))} at most"


def _at_kl(value: float | None, within: Interval | None) -> str:
    """An effect with its interval."""
    said = units.number(value).replace("-", "−")
    if value is None or within is None:
        return said
    low, high = (units.number(end).replace("-", "−") for end in within)
    return f"{said} ({low} to {high})"


def _key(model: str, number: int) -> Html:
    letter = words.letter(number)
    line = tag("span", class_=f"line line-{letter.lower()}", aria_hidden="true")
    return tag("span", line, badge(number), " ", model, class_="key-item")


_CHANCE = {"covariance": "covariance-matched directions", "isotropic": "isotropic random directions"}


def _agreement(agreement: Agreement | None) -> Html | None:
    if agreement is None:
        return None
    interval = agreement.interval
    within = f" (95 %: {units.correlation(interval[0])} to {units.correlation(interval[1])})" if interval else ""
    return tag(
        "p",
        "The two models' next-token changes correlate at ",
        tag("b", units.correlation(agreement.correlation)),
        f"; mismatched features at {units.correlation(agreement.mismatched)}, "
        f"{_CHANCE.get(agreement.random_kind, 'control directions')} at {units.correlation(agreement.random)}. "
        f"Agreement beyond mismatched pairs: {units.correlation(agreement.value)}{within}",
        f", over {units.count(agreement.n_tokens)} shared vocabulary entries.",
    )


def _tokens(model: ModelEffect, name: str, number: int) -> Html:
    return tag(
        "div",
        tag("h4", badge(number), " ", name),
        _token_line("promoted", model.top_promoted),
        _token_line("suppressed", model.top_suppressed),
        [_token_line(f"promoted by {what}", pairs) for what, pairs in _control_tokens(model)],
    )


def _control_tokens(model: ModelEffect) -> Iterator[tuple[str, Weighted]]:
    """(what the control is, what its first direction promotes); an old result has isotropic ones alone."""
    for kind in ("covariance", "decoder", "means"):
        control = model.control(kind)
        if control is not None:
            yield _ONE[kind], control.top_promoted
    if not model.controls and model.random is not None:
        yield _ONE["isotropic"], model.random.top_promoted


def _token_line(name: str, pairs: Weighted) -> Html | None:
    if not pairs:
        return None
    chips = [
        join(
            [
                tag(
                    "span",
                    visible(str(token)),
                    tag("small", f"{value:+.2f}".replace("-", "−")),
                    class_="token",
                    dir="auto",
                ),
                " ",
            ]
        )
        for token, value in pairs[:10]
    ]
    return tag("p", tag("span", name, class_="name"), " ", chips, class_="tokens")


def _generations(
    per_model: Sequence[Sequence[Generation]], costs: Sequence[Costs], *, title: str, is_open: bool, of: str = ""
) -> Html | None:
    texts = [{_spot(g): g for g in own} for own in per_model]
    spots = sorted({spot for own in texts for spot in own})
    if not spots:
        return None
    blocks: list[Child] = []
    last_prompt = ""
    for prompt, budget, strength in spots:
        if prompt != last_prompt:
            blocks.append(tag("p", "Prompt: ", tag("q", visible(prompt)), class_="note"))
            last_prompt = prompt
        name = "without steering" if strength == budget == 0 else f"strength {words.plain(strength)}"
        if budget:
            name = f"KL {words.plain(budget)} nats per token on neutral text"
        sides = [
            tag(
                "p",
                badge(i),
                " ",
                tag("span", _text(own, (prompt, budget, strength)), class_="prose"),
                _cost(costs[i].get((budget, strength)), of),
                _reading(own.get((prompt, budget, strength))),
                dir="auto",
            )
            for i, own in enumerate(texts)
        ]
        blocks.append(tag("div", tag("h5", name), tag("div", sides, class_="sides"), class_="generation"))
    return tag("details", tag("summary", title), blocks, open=is_open)


def _cost(kl: float | None, of: str) -> Html | None:
    """What the strength of a continuation does to neutral text."""
    return None if kl is None else tag("small", f"KL {units.number(kl)}{of}", class_="cost")


def _reading(text: Generation | None) -> Html | None:
    """How what was written reads, where that is known."""
    if text is None or text.nats is None:
        return None
    repeated = "" if text.repetition is None else f", {units.percent(text.repetition)} of it repeats"
    return tag("small", f"{units.number(text.nats)} nats per token to the model left alone{repeated}", class_="cost")


def _spot(text: Generation) -> tuple[str, float, float]:
    """(prompt, KL budget or 0, strength): what stands side by side, which with budgets is not the same strength."""
    return (text.prompt, 0.0, text.strength) if text.budget is None else (text.prompt, text.budget, 0.0)


def _text(texts: Mapping[tuple[str, float, float], Generation], spot: tuple[str, float, float]) -> str:
    return texts[spot].text if spot in texts else units.DASH


def _prompts(prompts: Sequence[str]) -> Html | None:
    if not prompts:
        return None
    items = [tag("li", visible(p), dir="auto") for p in prompts]
    return tag("details", tag("summary", f"The {len(prompts)} prompts"), tag("ol", items, class_="prose"))


def visible(text: str) -> str:
    """Text with line ends, tabs and a leading or trailing space made visible."""
    body = text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")
    if body.startswith(" "):
        body = "·" + body[1:]
    return body[:-1] + "·" if body.endswith(" ") and len(body) > 1 else body
