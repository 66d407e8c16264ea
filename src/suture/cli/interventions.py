"""The commands `steer`, `splice` and `causal`: what features and dictionaries do inside their models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from suture.cli.console import command_line, emit, progress
from suture.cli.options import Argument, DictionaryModels, ResumableOutput
from suture.errors import UserError
from suture.interventions.settings import CausalSettings, SpliceSettings, SteerSettings
from suture.pipeline.settings import Count, Given, Limits, Option

if TYPE_CHECKING:
    from suture.interventions.causal import Causal
    from suture.interventions.splice import Splice
    from suture.interventions.steer.effect import Effect, ModelEffect


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Steer every model along a feature's own direction.

    Measures the effect on next tokens, the side effects on neutral text and how far the models agree.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    table: Annotated[Path, Option(raised=("features",))]
    """Made by suture features: tells how strongly a feature fires."""
    feature: tuple[int, ...]
    """Number of a feature; repeat for more, they share the work."""
    out: Path
    """Folder; each feature's effect goes to feature-I below it."""
    prompt: tuple[str, ...] = ()
    """Text to continue; openings of the corpus where none is given."""
    corpus: str | None = None
    """Neutral text; the store's held-out documents where none is named."""
    neutral: Count = 32
    """Documents of neutral text."""
    prompts: Annotated[int, Limits(2)] = 32
    """Openings taken as prompts where none are given."""
    bridge: Path | None = None
    """Made by suture bridge between the dictionary's spaces: the other model's direction, carried over, is tried."""
    settings: Given[SteerSettings]
    models: DictionaryModels = field(default_factory=DictionaryModels)
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Steer, and say what each feature promotes."""
        from suture.interventions.steer.steer import steer, texts_of

        lms = self.models.of(self.dictionary)
        neutral, openings = texts_of(
            self.models.texts(self.dictionary, self.corpus),
            n_neutral=self.neutral,
            n_prompts=0 if self.prompt else self.prompts,
        )
        with progress() as advance:
            effects = steer(
                self.out,
                self.dictionary,
                self.table,
                self.feature,
                lms=lms,
                prompts=[*self.prompt, *openings],
                neutral=neutral,
                settings=self._settings(),
                bridge=self.bridge,
                on_progress=lambda p: advance("passes", p.done, p.total),
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit(
            {"out": str(self.out), "effects": [effect.to_json() for effect in effects]},
            as_json=self.output.json,
            text="\n".join(_effect_text(e) for e in effects),
        )

    def _settings(self) -> SteerSettings:
        """Given prompts are continued, up to three."""
        return steer_settings(self.settings, {"continued": min(3, len(self.prompt)) if self.prompt else 1})


def steer_settings(given: Given[SteerSettings], usual: Mapping[str, Any]) -> SteerSettings:
    """What was given over what is usual; where 1 is none of the strengths (or KL budgets), the first is the reference.

    Raises:
        UserError: strengths and KL budgets.
    """
    values = dict(given.values)
    if values.get("kl") and "strength" in values:
        written = " ".join(f"{budget:g}" for budget in values["kl"])
        raise UserError("kl", written, "cannot be given with --strength", "leave one of them out")
    together = {k: v for k, v in usual.items() if k != "strength" or not values.get("kl")} | values
    doses = values.get("kl") or together.get("strength", SteerSettings.strengths)
    return Given(SteerSettings, {"reference": 1.0 if 1.0 in doses else doses[0]} | together).over()


@dataclass(frozen=True, kw_only=True)
class SpliceCheck:
    """Put a dictionary into its models, and measure their loss.

    Its reconstruction stands in for each model's activations. Beside it: the loss as it is, with one model's code
    alone, and with the mean in place of everything.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    out: Path
    """Folder of the result, to be made."""
    corpus: str | None = None
    """Text to read; the store's held-out documents where none is named."""
    settings: SpliceSettings = field(default_factory=SpliceSettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Splice, and say every model's losses."""
        from suture.interventions.splice import splice

        lms = self.models.of(self.dictionary)
        with progress() as advance:
            result = splice(
                self.out,
                self.dictionary,
                lms,
                self.models.texts(self.dictionary, self.corpus),
                self.settings,
                on_progress=lambda done, total: advance("passes", done, total),
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit({"out": str(self.out), **result.to_json()}, as_json=self.output.json, text=_splice_text(result))


@dataclass(frozen=True, kw_only=True)
class CausalCheck:
    """Ablate features, and hold what happens against their labels.

    A shared feature should move every model's predictions at the same places, an exclusive one those of its own alone.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    table: Annotated[Path, Option(raised=("features",))]
    """Made by suture features: the labels to be checked."""
    out: Path
    """Folder of the result, to be made."""
    feature: tuple[int, ...] = ()
    """Number of a feature; repeat for more."""
    each_label: Annotated[int, Limits(0)] | None = None
    """So many of every label, those that fire most; 8 if no --feature is given."""
    corpus: str | None = None
    """Text to read; the store's held-out documents where none is named."""
    settings: CausalSettings = field(default_factory=CausalSettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Ablate, and say of each feature whether its label holds."""
        from suture.interventions.causal import causal

        lms = self.models.of(self.dictionary)
        with progress() as advance:
            causes = causal(
                self.out,
                self.dictionary,
                self.table,
                lms,
                self.models.texts(self.dictionary, self.corpus),
                chosen=self.feature,
                each_label=(0 if self.feature else 8) if self.each_label is None else self.each_label,
                settings=self.settings,
                on_progress=lambda done, total: advance("features of batches", done, total),
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit({"out": str(self.out), **causes.to_json()}, as_json=self.output.json, text=_causal_text(causes))


def _splice_text(result: "Splice") -> str:
    lines = [f"loss in nats per token, {result.n_documents} documents"]
    for one in result.models:
        recovered = "-" if one.recovered is None else f"{one.recovered:.1%}"
        alone = "".join(f", from model {chr(65 + m)} alone {loss.ce:.3f}" for m, loss in enumerate(one.alone))
        lines.append(
            f"  {one.model}: {one.clean.ce:.3f} as it is, {one.spliced.ce:.3f} spliced{alone}, "
            f"{one.mean.ce:.3f} with the mean; recovered {recovered} ({one.replaced:.1%} of the tokens replaced)"
        )
    return "\n".join(lines)


def _causal_text(causes: "Causal") -> str:
    lines = []
    for cause in causes:
        kl = " ".join(f"{value:.2g}" for value in cause.kl)
        alike = "; ".join(
            f"{chr(65 + p.models[0])}{chr(65 + p.models[1])} correlation {p.correlation:.2f} (control {p.control:.2f})"
            for p in cause.pairs
            if p.correlation is not None and p.control is not None
        )
        where = f"{cause.n_positions} positions"
        lines.append(
            f"feature {cause.feature}, {cause.label}: {cause.verdict}; KL {kl}; {alike or 'no pairs'}; {where}"
        )
    return "\n".join(lines)


def _effect_text(effect: "Effect") -> str:
    lines = [f"feature {effect.feature}"]
    for model in effect.models:
        tokens = " ".join(repr(t) for t, _ in model.top_promoted[:5])
        if effect.settings.kl:
            lines.append(f"  {model.model}: promotes {tokens}; {_budgets_text(effect.settings.kl, model)}")
        else:
            kl = ", ".join(f"{s:g}: {v:.3f}" for s, v in zip(model.strengths, model.kl_neutral, strict=True))
            lines.append(f"  {model.model}: promotes {tokens}; KL on neutral text by strength {kl}")
        if model.controls:
            lines.append(f"    at {effect.settings.equal_kl:g} nats of KL: {_at_kl_text(model)}")
        if model.collateral:
            at, what = effect.settings.reference_dose, "KL" if effect.settings.kl else "strength"
            lines.append(f"    {model.collateral[at]} other features move at {what} {effect.settings.doses[at]:g}")
    if effect.agreement is not None:
        a = effect.agreement
        lines.append(f"  agreement {a.value:.3f} beyond mismatched features ({a.mismatched or 0:.3f})")
    return "\n".join(lines)


def _budgets_text(budgets: Sequence[float], model: "ModelEffect") -> str:
    """The strength that each KL budget took, or that it was not reached."""
    parts = []
    for i, budget in enumerate(budgets):
        strength, kl = model.strengths[i], model.kl_neutral[i]
        if model.reached[i]:
            parts.append(f"{budget:g} nats of KL at strength {strength:.3g}")
        else:
            parts.append(f"{budget:g} nats of KL not reached, {kl:.3g} at strength {strength:.3g} comes nearest")
    return ", ".join(parts)


def _at_kl_text(model: "ModelEffect") -> str:
    """The feature's effect and its controls' at the same KL."""
    if model.effect_at_kl is None:
        return "not reached"
    parts = [f"effect {model.effect_at_kl:.2f} nats"]
    for control in model.controls:
        if control.effect_at_kl is None:
            parts.append(f"{control.kind} none")
            continue
        within = control.effect_at_kl_interval
        ends = f" ({within[0]:.2f} to {within[1]:.2f})" if within else ""
        as_far = f", {control.n_as_far} of {control.n_at_kl} as far" if control.n_as_far else ""
        parts.append(f"{control.kind} {control.effect_at_kl:.2f}{ends}{as_far}")
    return "; ".join(parts)
