"""The stage `responses`: features of every label are steered in both models; do they respond alike, could one know?

1. Features are chosen by a stated rule (`choose`), and each is steered in full: `OUT/effects/feature-I` (`steer`). What
   is finished there is kept.
2. Where asked for they are also taken out of both models: `OUT/causal` (`causal`).
3. What was known of them before (`scores`) is set beside what the models answered: a table with a row per feature.
4. Does a score predict agreement, and do matched pairs agree more than mismatched ones (`relate`)? `OUT/responses`.

| file                  | content                                                    |
|-----------------------|------------------------------------------------------------|
| responses.safetensors | the table                                                  |
| responses.json        | rank correlations and medians with intervals, in sentences |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from suture import units
from suture.bridges.bridge import Bridge
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable
from suture.interventions.causal import STAGE as CAUSAL
from suture.interventions.causal import Causal, causal
from suture.interventions.responses.choose import chosen_features
from suture.interventions.responses.columns import COLUMNS, SCORES
from suture.interventions.responses.relate import Group, Prediction, groups, predictions
from suture.interventions.responses.scores import scores
from suture.interventions.settings import CausalSettings, ResponseSettings, SteerSettings
from suture.interventions.steer.effect import Effect, ModelEffect
from suture.interventions.steer.progress import OnProgress
from suture.interventions.steer.steer import steer
from suture.lm.load import LanguageModel
from suture.lm.models import as_models
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.pipeline.table import Table, Tabular

STAGE, TABLE, SUMMARY = "responses", "responses.safetensors", "responses.json"
EFFECTS, ABLATED, RESULT = "effects", "causal", "responses"


@dataclass(frozen=True, kw_only=True)
class ResponseSummary:
    """What the table says."""

    models: tuple[str, ...]
    reference: float
    """The strength, or KL budget, at which the models' answers are compared."""
    dose: Literal["strength", "KL"]
    """Which of the two it is."""
    kl: float
    """KL on neutral text at which effects are, nats per token."""
    n_texts: int
    """Texts that are a vocabulary entry of both models."""
    predictions: tuple[Prediction, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Responses(Tabular):
    """What two models answered when features of every label were steered, and what was known before."""

    responses: Table
    """A row per feature."""
    summary: ResponseSummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """The features."""
        return self.responses

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answers, in words."""
        return tuple(_sentences(self.summary))

    def __repr__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        return f"Responses{where}: {len(self.responses)} features of {' x '.join(self.summary.models)}"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        said = {"sentences": list(self.sentences), "features": self.responses.records()}
        return artifact.as_json(asdict(self.summary) | said)

    @staticmethod
    def load(path: str | Path) -> Responses:
        """Read what `responses` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged, or something else.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="responses")
        summary = read_typed(path / SUMMARY, ResponseSummary, setting="responses")
        return Responses(responses=Table.load(path / TABLE), summary=summary, path=path)


def responses(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    table: FeatureTable | str | Path,
    *,
    lms: Sequence[LanguageModel | str],
    prompts: Sequence[str],
    neutral: Sequence[str],
    steering: SteerSettings | None = None,
    settings: ResponseSettings | None = None,
    bridge: Bridge | str | Path | None = None,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Responses:
    """Steer features of every label in both models, and relate how alike they respond to what was known before.

    Args:
        out: folder of the effects, the causal check and the result; what is finished there is kept.
        dictionary: of two models.
        table: of its features, with co-firing.
        lms: both models.
        prompts: the models' answers are taken after their last tokens.
        neutral: text on which steering ought to change little; the causal check reads it too.
        steering: strengths or KL budgets, controls, lengths.
        settings: how many features of every label.
        bridge: between the two spaces, for the gap of transfer.
        on_progress: told how far steering is.
        overwrite: replace what was made with other settings.
        command: the shell command, for the records.

    Raises:
        UserError: a dictionary of one model, models that are not its own, or too few features that fire.
        ArtifactError: an input cannot be read, or `out` holds other results.
    """
    out, settings, steering = Path(out), settings or ResponseSettings(), steering or SteerSettings()
    folder, table_path = Dictionary.folder_of(dictionary), artifact.folder_of(table, setting="table")
    described = FeatureTable.load(table_path)
    if len(described.models) < 2:
        raise UserError("dictionary", folder, "is of one model", "give one of two models")
    chosen = chosen_features(described, settings.each_label)
    parents = [folder, table_path, *([] if bridge is None else [artifact.folder_of(bridge, setting="bridge")])]
    recorded = {"steering": asdict(steering), "responses": asdict(settings), "features": chosen}
    loaded = as_models(lms)
    effects = steer(  # 1
        out / EFFECTS,
        folder,
        table_path,
        chosen,
        lms=loaded,
        prompts=prompts,
        neutral=neutral,
        settings=steering,
        bridge=bridge,
        on_progress=on_progress,
        resume=True,
        overwrite=overwrite,
        command=command,
    )
    causes = (
        _causes(out / ABLATED, folder, table_path, lms, neutral, chosen, settings) if settings.causal else None
    )  # 2
    found = _table(folder, described, effects, causes)  # 3
    agreement = effects[0].agreement
    with artifact.create(
        out / RESULT, stage=STAGE, settings=recorded, seed=steering.seed, parents=parents, overwrite=True,
        command=command,
    ) as draft:  # fmt: skip
        draws = {"n_draws": steering.n_draws, "seed": steering.seed}
        summary = ResponseSummary(
            models=described.models,
            reference=steering.doses[steering.reference_dose],
            dose="KL" if steering.kl else "strength",
            kl=steering.equal_kl,
            n_texts=agreement.n_tokens if agreement is not None else 0,
            predictions=predictions(found, tuple(c.name for c in SCORES), **draws),
            groups=groups(found, **draws),
        )  # 4
        result = Responses(responses=found, summary=summary, path=out / RESULT)
        found.save(draft.folder / TABLE)
        artifact.write_json(draft.folder / SUMMARY, artifact.as_json(asdict(summary)))
    return result


def _causes(
    out: Path,
    dictionary: Path,
    table: Path,
    lms: Sequence[LanguageModel | str],
    documents: Sequence[str],
    chosen: Sequence[int],
    settings: ResponseSettings,
) -> Causal:
    """2: made, or found as it was made."""
    wanted = CausalSettings(n_documents=len(documents), seed=settings.seed)
    with suppress(ArtifactError):
        made = Causal.load(out)
        alike = artifact.is_made(out, stage=CAUSAL, settings=asdict(wanted), parents=[dictionary, table])
        if alike and [c.feature for c in made] == list(chosen):
            return made
    return causal(out, dictionary, table, lms, documents, chosen=chosen, settings=wanted, overwrite=True)


def _table(dictionary: Path, described: FeatureTable, effects: Sequence[Effect], causes: Causal | None) -> Table:
    """3."""
    chosen = [effect.feature for effect in effects]
    values: dict[str, Any] = {c.name: np.full(len(chosen), np.nan) for c in COLUMNS if not c.axes}
    n_models = len(effects[0].models)
    values |= {c.name: np.full((len(chosen), n_models), np.nan) for c in COLUMNS if c.axes}
    values["number"] = np.array(chosen, dtype=np.float64)
    values["label"] = np.array([described.labels[i] for i in chosen], dtype=object)
    values |= scores(dictionary, described, chosen)
    shifts = {} if causes is None else {c.feature: c.pairs[0] for c in causes if c.pairs}
    for row, effect in enumerate(effects):
        found = effect.agreement
        if found is not None:
            values["correlation"][row] = found.correlation
            values["agreement"][row] = found.value
            values["mismatched"][row] = np.nan if found.mismatched is None else found.mismatched
            values["agreement_low"][row], values["agreement_high"][row] = found.interval or (np.nan, np.nan)
        shift = shifts.get(effect.feature)
        if shift is not None and shift.correlation is not None and shift.control is not None:
            values["causal"][row] = shift.correlation - shift.control
        for m, model in enumerate(effect.models):
            for name, value in _of_model(model, effect).items():
                values[name][row, m] = np.nan if value is None else value
    return Table(
        axes=("feature",),
        columns=COLUMNS,
        values={c.name: values[c.name] for c in COLUMNS},
        coordinates={"model": [m.model for m in effects[0].models]},
    )


def _of_model(model: ModelEffect, effect: Effect) -> dict[str, float | None]:
    at = effect.settings.reference_dose
    control, carried = model.control("covariance"), model.control("carried")
    transfer = None
    if carried is not None and carried.effect_at_kl is not None and model.effect_at_kl:
        transfer = carried.effect_at_kl / model.effect_at_kl
    written = [g for g in model.generations if g.strength == model.strengths[at]]
    plain = [g for g in model.generations if g.strength == 0]
    nats, before = _mean([g.nats for g in written]), _mean([g.nats for g in plain])
    return {
        "effect": model.effect_at_kl,
        "control": None if control is None else control.effect_at_kl,
        "transfer": transfer,
        "collateral": model.collateral[at] if model.collateral else None,
        "repetition": _mean([g.repetition for g in written]),
        "surprise": None if nats is None or before is None else nats - before,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _sentences(summary: ResponseSummary) -> Iterator[str]:
    for group in summary.groups:
        low, high = group.correlation_interval
        beside = ""
        if group.mismatched is not None and group.mismatched_interval is not None:
            ends = group.mismatched_interval
            beside = f", of mismatched pairs {group.mismatched:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
        yield (
            f"{group.label}: {units.count(group.n)} features, median correlation of the two models' answers "
            f"{group.correlation:.2f} ({low:.2f} to {high:.2f}){beside}; {group.n_agree} agree for sure"
        )
    titles = {column.name: column.title for column in SCORES}
    for one in summary.predictions:
        low, high = one.interval
        sure = "predicts" if low > 0 else "does not surely predict" if high > 0 else "goes against"
        yield (
            f"{titles[one.score]} {sure} agreement: Spearman {one.rho:.2f} ({low:.2f} to {high:.2f}) over "
            f"{units.count(one.n)} features"
        )
