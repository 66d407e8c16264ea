"""The report's section on steering: per feature the effect curves, promoted tokens, continuations and agreement."""

from collections.abc import Mapping, Sequence

from suture import units
from suture.interventions.steer.effect import Agreement, Effect, Generation, ModelEffect, Weighted
from suture.report import words
from suture.report.figures import EffectMeasure, effect_curves
from suture.report.gather import short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import badge, figure, section

_MEASURES: tuple[tuple[EffectMeasure, str, str, str], ...] = (
    ("target_effect", "Effect", "nats", "change of log-probability, promoted minus suppressed tokens"),
    ("kl_neutral", "Side effect: KL", "nats per token", "on neutral text"),
    ("delta_ce", "Side effect: loss", "nats per token", "rise of the next-token loss on neutral text"),
)


def steering(effects: Sequence[Effect]) -> Html | None:
    """All steered features; None where nothing was steered."""
    cards = [_card(effect, i) for i, effect in enumerate(effects)]
    if not cards:
        return None
    note = (
        "Each model is steered along the feature's own direction in it; strength 1 adds the feature's 99.9\u00a0% "
        "activation. Solid marks: the feature. Open marks on dotted lines: random directions of the same length. "
        "A feature that means something moves its own tokens far more than a random direction does."
    )
    return section("steering", "Steering every model", tag("p", note), cards)


def _card(effect: Effect, number: int) -> Html:
    figures = []
    for measure, title, unit, meaning in _MEASURES:
        spec = effect_curves(effect, measure, y_title=unit)
        if spec is not None:
            figures.append(figure(spec, f"effect-{number}-{measure}", title=title, caption=meaning, height=240))
    names = short_labels([m.model for m in effect.models])
    go = tag("button", "show in the table", type="button", class_="quiet", data_go_feature=effect.feature)
    controls = [m.random.generations if m.random else () for m in effect.models]
    return tag(
        "article",
        tag("h3", f"Feature {effect.feature} ", go),
        tag("p", [_key(name, i) for i, name in enumerate(names)], class_="key"),
        tag("div", figures, class_="grid three"),
        _agreement(effect.agreement),
        tag("div", [_tokens(m, names[i], i) for i, m in enumerate(effect.models)], class_="sides"),
        _generations([m.generations for m in effect.models], title="Continuations, side by side", is_open=True),
        _generations(controls, title="The same with a random direction", is_open=False),
        _prompts(effect.prompts),
        class_="card",
    )


def _key(model: str, number: int) -> Html:
    letter = words.letter(number)
    line = tag("span", class_=f"line line-{letter.lower()}", aria_hidden="true")
    return tag("span", line, badge(number), " ", model, class_="key-item")


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
        f"random directions at {units.correlation(agreement.random)}. "
        f"Agreement beyond mismatched pairs: {units.correlation(agreement.value)}{within}",
        f", over {units.count(agreement.n_tokens)} shared vocabulary entries.",
    )


def _tokens(model: ModelEffect, name: str, number: int) -> Html:
    return tag(
        "div",
        tag("h4", badge(number), " ", name),
        _token_line("promoted", model.top_promoted),
        _token_line("suppressed", model.top_suppressed),
        _token_line("promoted by a random direction", model.random.top_promoted if model.random else ()),
    )


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


def _generations(per_model: Sequence[Sequence[Generation]], *, title: str, is_open: bool) -> Html | None:
    texts = [{(g.prompt, g.strength): g.text for g in own} for own in per_model]
    spots = sorted({spot for own in texts for spot in own}, key=lambda spot: (spot[0], spot[1]))
    if not spots:
        return None
    blocks: list[Child] = []
    last_prompt = ""
    for prompt, strength in spots:
        if prompt != last_prompt:
            blocks.append(tag("p", "Prompt: ", tag("q", visible(prompt)), class_="note"))
            last_prompt = prompt
        name = "without steering" if strength == 0 else f"strength {words.plain(strength)}"
        sides = [
            tag("p", badge(i), " ", tag("span", _text(own, (prompt, strength)), class_="prose"), dir="auto")
            for i, own in enumerate(texts)
        ]
        blocks.append(tag("div", tag("h5", name), tag("div", sides, class_="sides"), class_="generation"))
    return tag("details", tag("summary", title), blocks, open=is_open)


def _text(texts: Mapping[tuple[str, float], str], spot: tuple[str, float]) -> str:
    return texts.get(spot, units.DASH)


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
