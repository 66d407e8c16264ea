"""The report's section on steering: per feature the effect curves, promoted tokens, continuations and agreement."""

from collections.abc import Mapping, Sequence
from typing import Any

from suture import units
from suture.report import words
from suture.report.figures import effect_curves
from suture.report.gather import Artifact, short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import badge, figure, section

_MEASURES = (
    ("target_effect", "Effect", "nats", "change of log-probability, promoted minus suppressed tokens"),
    ("kl_neutral", "Side effect: KL", "nats per token", "on neutral text"),
    ("delta_ce", "Side effect: loss", "nats per token", "rise of the next-token loss on neutral text"),
)


def steering(effects: Sequence[Artifact]) -> Html | None:
    """All steered features; None where nothing was steered."""
    cards = [_card(a.json["effects"], i) for i, a in enumerate(effects) if "effects" in a.json]
    if not cards:
        return None
    note = (
        "Each model is steered along the feature's own direction in it; strength 1 adds the feature's 99.9\u00a0% "
        "activation. Solid marks: the feature. Open marks on dotted lines: random directions of the same length. "
        "A feature that means something moves its own tokens far more than a random direction does."
    )
    return section("steering", "Steering every model", tag("p", note), cards)


def _card(effect: Mapping[str, Any], number: int) -> Html:
    figures = []
    for measure, title, unit, meaning in _MEASURES:
        spec = effect_curves(effect, measure, y_title=unit)
        if spec is not None:
            figures.append(figure(spec, f"effect-{number}-{measure}", title=title, caption=meaning, height=240))
    names = short_labels([m["model"] for m in effect.get("models", [])])
    models = [{**m, "model": name} for m, name in zip(effect.get("models", []), names, strict=True)]
    go = tag("button", "show in the table", type="button", class_="quiet", data_go_feature=effect["feature"])
    return tag(
        "article",
        tag("h3", f"Feature {effect['feature']} ", go),
        tag("p", [_key(m["model"], i) for i, m in enumerate(models)], class_="key"),
        tag("div", figures, class_="grid three"),
        _agreement(effect.get("agreement")),
        tag("div", [_tokens(m, i) for i, m in enumerate(models)], class_="sides"),
        _generations(models, key="generations", title="Continuations, side by side", control=False),
        _generations(models, key="generations", title="The same with a random direction", control=True),
        _prompts(effect.get("prompts") or []),
        class_="card",
    )


def _key(model: str, number: int) -> Html:
    letter = words.letter(number)
    line = tag("span", class_=f"line line-{letter.lower()}", aria_hidden="true")
    return tag("span", line, badge(number), " ", model, class_="key-item")


def _agreement(agreement: Mapping[str, Any] | None) -> Html | None:
    if not agreement:
        return None
    interval = agreement.get("interval")
    within = f" (95 %: {units.correlation(interval[0])} to {units.correlation(interval[1])})" if interval else ""
    if agreement.get("correlation") is not None:
        value = join(
            [
                "The two models' next-token changes correlate at ",
                tag("b", units.correlation(agreement["correlation"])),
                f"; mismatched features at {units.correlation(agreement.get('mismatched'))}, "
                f"random directions at {units.correlation(agreement.get('random'))}. "
                f"Agreement beyond mismatched pairs: {units.correlation(agreement.get('value'))}{within}",
            ]
        )
    else:
        value = join(
            [
                "Agreement of the two models' next-token changes: ",
                tag("b", units.correlation(agreement.get("value"))),
                f"{within}; mismatched pairs: {units.correlation(agreement.get('mismatched'))}",
            ]
        )
    return tag("p", value, f", over {units.count(agreement.get('n_tokens'))} shared vocabulary entries.")


def _tokens(model: Mapping[str, Any], number: int) -> Html:
    control = model.get("random") or {}
    return tag(
        "div",
        tag("h4", badge(number), " ", model["model"]),
        _token_line("promoted", model.get("top_promoted")),
        _token_line("suppressed", model.get("top_suppressed")),
        _token_line("promoted by a random direction", control.get("top_promoted")),
    )


def _token_line(name: str, pairs: Sequence[Sequence[Any]] | None) -> Html | None:
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


def _generations(models: Sequence[Mapping[str, Any]], *, key: str, title: str, control: bool) -> Html | None:
    sources = [(m.get("random") or {}) if control else m for m in models]
    per_model = [{(g.get("prompt", ""), g["strength"]): g["text"] for g in s.get(key) or []} for s in sources]
    spots = sorted({spot for texts in per_model for spot in texts}, key=lambda spot: (spot[0], spot[1]))
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
            tag("p", badge(i), " ", tag("span", texts.get((prompt, strength), units.DASH), class_="prose"), dir="auto")
            for i, texts in enumerate(per_model)
        ]
        blocks.append(tag("div", tag("h5", name), tag("div", sides, class_="sides"), class_="generation"))
    return tag("details", tag("summary", title), blocks, open=not control)


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
