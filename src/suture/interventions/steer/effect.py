"""`Effect`: what steering one feature did in each model, with its settings, saved and loaded as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from suture.interventions.settings import ControlKind, SteerSettings
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.uncertainty import Interval

STAGE = "effect"
FILE = "effects.json"

Weighted = tuple[tuple[str, float], ...]
"""Vocabulary entries with their mean change of log-probability in nats, the largest change first."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One continuation under steering (strength 0: without); `text` begins with the prompt."""

    strength: float
    prompt: str
    text: str
    budget: float | None = None
    """The KL budget that the strength was found for."""
    repetition: float | None = None
    """Of the runs of three tokens written, the share that stood there before."""
    nats: float | None = None
    """What the model left alone makes of what was written, nats per token: the logarithm of self-perplexity."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """The same measures for directions of one kind, of the feature's own norm: the mean over them, at every dose.

    Intervals are 95 %: by Student's t with directions as the units; of a single direction, from a bootstrap over texts
    or prompts. With KL budgets only the directions that reach one count there.
    """

    kind: ControlKind
    n_directions: int
    """0 where there is none: `means` of a feature that fires nowhere, or everywhere, on the neutral text."""
    features: tuple[int, ...]
    """`decoder`: whose rows."""
    strengths: tuple[float | None, ...]
    n_reached: tuple[int, ...]
    """Directions that count at each dose."""
    kl_neutral: tuple[float | None, ...]
    kl_neutral_interval: tuple[Interval | None, ...]
    delta_ce: tuple[float | None, ...]
    delta_ce_interval: tuple[Interval | None, ...]
    target_effect: tuple[float | None, ...]
    """On the feature's target and anti-target sets."""
    target_effect_interval: tuple[Interval | None, ...]
    effect_at_kl: float | None
    """Mean of each direction's own E where KL is the one that all are compared at."""
    effect_at_kl_interval: Interval | None
    n_at_kl: int
    """Directions that get there."""
    n_as_far: int
    """Of those, how many move the feature's targets at least as far as the feature does at this KL."""
    top_promoted: Weighted
    """By the first direction, like `top_suppressed` and `generations`, at the reference dose."""
    top_suppressed: Weighted
    generations: tuple[Generation, ...]
    collateral: float | None = None
    """Mean over the directions, at the reference dose, of how many features move; None in older results."""


@dataclass(frozen=True, kw_only=True)
class RandomControl:
    """Isotropic directions of the same norm: mean and standard deviation over the directions.

    What results had before `controls`; still written, where isotropic directions are drawn.
    """

    n_directions: int
    strengths: tuple[float, ...]
    kl_neutral: tuple[float, ...]
    kl_neutral_sd: tuple[float, ...]
    delta_ce: tuple[float, ...]
    delta_ce_sd: tuple[float, ...]
    target_effect: tuple[float, ...]
    """On the feature's target and anti-target sets."""
    target_effect_sd: tuple[float, ...]
    strength_at_kl: float | None
    """Of the mean curve, like `effect_at_kl`."""
    effect_at_kl: float | None
    top_promoted: Weighted
    """By the first random direction, like `top_suppressed` and `generations`."""
    top_suppressed: Weighted
    generations: tuple[Generation, ...]


@dataclass(frozen=True, kw_only=True)
class ModelEffect:
    """What steering did in one model. One entry per dose (strength or KL budget), 95 % intervals from a bootstrap."""

    model: str
    """The space's label, `model @ hookpoint`."""
    direction_norm: float
    """Norm of the vector added at strength 1, in the model's raw units."""
    n_tokens: int
    """Neutral positions scored: those steered whose next token is known."""
    n_texts: int
    """Neutral texts, the units of the bootstrap of KL and CE."""
    plain_ce: float
    """Loss of the model left alone on the neutral text, nats per token."""
    strengths: tuple[float, ...]
    """As given, or found for the KL budgets."""
    kl_neutral: tuple[float, ...]
    """KL(plain || steered) on neutral text, nats per token."""
    kl_neutral_interval: tuple[Interval | None, ...]
    delta_ce: tuple[float, ...]
    """Rise of the next-token loss on neutral text, nats per token."""
    delta_ce_interval: tuple[Interval | None, ...]
    target_effect: tuple[float, ...]
    """E in nats: change of log P(target set) minus that of the anti-target set after the evaluation prompts."""
    target_effect_interval: tuple[Interval | None, ...]
    """From a bootstrap over the evaluation prompts."""
    strength_at_kl: float | None
    """Where KL on neutral text is the one that all are compared at; None if no measured strength gets there."""
    effect_at_kl: float | None
    """Efficiency: E at that strength."""
    targets: tuple[str, ...]
    anti_targets: tuple[str, ...]
    targets_from: str
    """`given` or `discovery prompts` (targets and anti-targets if they differ), the latter being the tokens most
    promoted (suppressed) on the prompts that E is not measured on."""
    top_promoted: Weighted
    """At the reference strength, mean over the last positions of all prompts; like `top_suppressed`."""
    top_suppressed: Weighted
    generations: tuple[Generation, ...]
    random: RandomControl | None
    controls: tuple[Control, ...] = ()
    """Every kind of control; results of before have none."""
    reached: tuple[bool, ...] = ()
    """With KL budgets, whether each was reached: otherwise the numbers are those at the strength that came nearest."""
    collateral: tuple[int, ...] = ()
    """At every dose, how many OTHER features' mean activation on neutral text moves by more than three times its spread
    over texts; empty of a single text, and in older results."""
    covariance_of: str = ""
    """What the `covariance` directions were drawn with: `training rows` or `neutral text`."""

    def control(self, kind: ControlKind) -> Control | None:
        """The controls of one kind."""
        return next((c for c in self.controls if c.kind == kind), None)

    @property
    def unreached(self) -> tuple[int, ...]:
        """Numbers of the KL budgets that were not reached."""
        return tuple(i for i, reached in enumerate(self.reached) if not reached)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether two models answer the same feature alike: correlation of their log-probability changes on one prompt."""

    models: tuple[str, str]
    correlation: float
    """Pearson over prompts x shared vocabulary, each prompt centred, at the reference strength."""
    mismatched: float | None
    """The mean correlation when one model is steered with this feature and the other with a different one."""
    random: float | None
    """The same with a control direction in one of the models."""
    value: float
    """`correlation` minus `mismatched` (minus nothing where there was no other feature)."""
    interval: Interval | None
    """95 % of `value` over a bootstrap of the prompts."""
    value_over_random: float | None
    """`correlation` minus `random`."""
    interval_over_random: Interval | None
    n_tokens: int
    """Texts that are a vocabulary entry of both models."""
    n_prompts: int
    mismatched_features: tuple[int, ...]
    random_kind: str = "isotropic"
    """Which kind of control direction."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Effect:
    """Steering of one feature, in every model with the feature's own direction there."""

    feature: int
    scale: float
    """The feature's 99.9 % activation in code units; strength 1 adds this times the decoder row, unless its unit is the
    norm of activations."""
    models: tuple[ModelEffect, ...]
    agreements: tuple[Agreement, ...]
    """One per pair of models, in order; none with a single model or no shared vocabulary."""
    prompts: tuple[str, ...]
    evaluation_prompts: tuple[int, ...]
    """Numbers of the prompts that E is measured on; the others chose the targets."""
    settings: SteerSettings
    kl: str = "KL(plain || steered), nats per token"
    texts: str = ""
    """Checksum of the prompts and the neutral text."""
    compared: tuple[int, ...] = ()
    """Features that agreement is compared with."""
    path: Path | None = field(default=None, compare=False)
    """The folder that it was written to or read from."""

    def __repr__(self) -> str:
        moved = ", ".join(f"{m.model}: {max(m.target_effect, default=0.0, key=abs):+.2f} nats" for m in self.models)
        alike = f"; agreement {self.agreement.value:.2f}" if self.agreement else ""
        return f"Effect(feature {self.feature}; {moved}{alike})"

    @property
    def agreement(self) -> Agreement | None:
        """That of the first two models."""
        return self.agreements[0] if self.agreements else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for effects.json."""
        numbers = {name: value for name, value in asdict(self).items() if name != "path"}
        return numbers | {"agreement": asdict(self.agreement) if self.agreement else None}

    def save(
        self,
        path: str | Path,
        *,
        parents: tuple[Path, ...] = (),
        overwrite: bool = False,
        command: str | None = None,
    ) -> None:
        """Write it as an artifact of the stage `effect`: `effects.json` holds every number.

        Raises:
            ArtifactError: `path` is finished already and `overwrite` is off, or is something else.
        """
        settings = recorded(
            self.feature, self.scale, self.settings, self.texts, self.compared, [m.model for m in self.models]
        )
        seed = self.settings.seed
        with artifact.create(
            Path(path), stage=STAGE, settings=settings, seed=seed, parents=parents, overwrite=overwrite, command=command
        ) as draft:
            artifact.write_json(draft.folder / FILE, self.to_json())

    @staticmethod
    def load(path: str | Path) -> Effect:
        """Read it back; saving and loading is the identity.

        Raises:
            ArtifactError: not a finished effect.
        """
        artifact.open_artifact(path, stage=STAGE)
        return replace(read_typed(Path(path) / FILE, Effect), path=Path(path))


def recorded(
    feature: int, scale: float, settings: SteerSettings, texts: str, compared: Sequence[int], models: Sequence[str]
) -> dict[str, Any]:
    """What decides an effect, beside the artifacts that it is made from."""
    # What strength 1 is; where that is the activation, as it was recorded before there was another unit.
    unit = scale if settings.unit == "activation" else settings.unit
    own = {"feature": feature, "scale": unit, "texts": texts, "compared": list(compared), "models": list(models)}
    return own | {name: value for name, value in asdict(settings).items() if name != "unit"}
