"""Which features of a dictionary fire on a text, position by position: all models' code, and each model's alone.

1. The text is cut as for a store and read by every model up to the dictionary's hookpoints; a position is one where a
   token of every model ends. What is longer than the block is left out.
2. Rows are scaled, and outlier rows drawn in, as in the dictionary's training.
3. Each position has the code of all models together and of each model alone, the missing ones imputed.
4. Models differ on a feature where the code of one model alone has it and that of another has not. Features are sorted
   by the largest value at such a position, then by their largest value anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from suture import units
from suture.activations.rows import plan_rows, rows_of
from suture.activations.windows import State, Window
from suture.dictionary.codes import Codes, union
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable, need_table_of
from suture.interventions.edits import check_feature, check_models, refuse_null
from suture.interventions.settings import ActivateSettings
from suture.lm.align import Piece, pieces
from suture.lm.load import LanguageModel
from suture.lm.models import as_models
from suture.pipeline import artifact
from suture.pipeline.table import Column, Table, Tabular

N_TOKENS = 5
"""Promoted tokens named per model; tokens named on a line of plain text."""
COLUMNS = (
    Column(name="feature", title="feature", format="integer", sentence="Number of the feature."),
    Column(name="label", title="label", format="text", sentence="Whose the feature is; empty without a feature table."),
    Column(name="position", title="position", format="integer", sentence="Number of the text position, from 0."),
    Column(name="token", title="token", format="text", sentence="The text since the position before."),
    Column(name="together", title="together", sentence="Value in the code of all models together."),
    Column(
        name="alone", title="alone", axes=("active", "space"),
        sentence="Value in the code of one model alone, the others imputed.",
    ),
    Column(
        name="differs", title="differs", format="integer",
        sentence="1 where the code of one model alone has the feature and that of another has not.",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a feature table says of a feature, to stand beside its number."""

    label: str = ""
    promoted: tuple[tuple[str, ...], ...] = ()
    """Per model the tokens it promotes; empty where the table has none."""

    @staticmethod
    def of(table: FeatureTable | None, feature: int) -> Known:
        """Nothing without a table."""
        if table is None:
            return Known()
        models = table.logits[feature] if table.logits else ()
        promoted = tuple(tuple(str(token) for token, _ in one.get("promoted", ())[:N_TOKENS]) for one in models)
        return Known(label=table.labels[feature], promoted=promoted)

    def text(self, model: int | None = None) -> str:
        """For a line, of all models or of one; empty where nothing is known."""
        tokens = [
            f"{ascii_uppercase[m]} promotes {' '.join(map(repr, own))}"
            for m, own in enumerate(self.promoted)
            if own and model in (None, m)
        ]
        return (
            ", ".join([self.label] if self.label else []) + ("; " if self.label and tokens else "") + "; ".join(tokens)
        )


@dataclass(frozen=True, kw_only=True)
class OnText:
    """One feature's values on a text."""

    feature: int
    together: tuple[float, ...]
    """Per position, from all models' code; a pooled dictionary's is the larger of its models'."""
    alone: tuple[tuple[float, ...], ...]
    """Per model and position, from that model's code alone."""
    known: Known

    @property
    def strongest(self) -> float:
        """The largest value of any code."""
        return max((max(own, default=0.0) for own in (self.together, *self.alone)), default=0.0)

    @property
    def differs(self) -> tuple[int, ...]:
        """Positions at which some model's code alone has it and another's has not."""
        return tuple(i for i, own in enumerate(zip(*self.alone, strict=True)) if max(own) > 0 and min(own) <= 0)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Activated(Tabular):
    """Which features fire on a text: what `activate` found."""

    models: tuple[str, ...]
    """Labels of the spaces: model A, B, .. in this order."""
    tokens: tuple[str, ...]
    """Per position the text since the one before, so that all of them and `tail` are the text that was read."""
    tail: str
    """Text after the last position."""
    features: tuple[OnText, ...]
    """Those shown, in their order."""
    joint: Codes
    """All models' code of every position."""
    alone: tuple[Codes, ...]
    """Each model's code alone."""
    n_active: int
    """Features that fire somewhere in some code."""
    n_differing: int
    """Of these, on which the models differ somewhere."""
    notes: tuple[str, ...] = ()
    """What a reader should know: text left out, rows drawn in or not."""

    def __repr__(self) -> str:
        where = " x ".join(self.models)
        differ = f", {self.n_differing:,} not in every model" if len(self.models) > 1 else ""
        return f"Activated({len(self.tokens):,} positions in {where}: {self.n_active:,} features fire{differ})"

    @property
    def n_models(self) -> int:
        """Models that read the text."""
        return len(self.models)

    @property
    def table(self) -> Table:
        """A row for every feature shown and position at which some code has it."""
        found = [
            (own, i)
            for own in self.features
            for i in range(len(self.tokens))
            if own.together[i] > 0 or any(alone[i] > 0 for alone in own.alone)
        ]
        values = {
            "feature": np.array([own.feature for own, _ in found], dtype=np.int64),
            "label": np.array([own.known.label for own, _ in found], dtype=object),
            "position": np.array([i for _, i in found], dtype=np.int64),
            "token": np.array([self.tokens[i] for _, i in found], dtype=object),
            "together": np.array([own.together[i] for own, i in found], dtype=np.float64),
            "alone": np.array([[a[i] for a in own.alone] for own, i in found]).reshape(len(found), self.n_models),
            "differs": np.array([int(i in own.differs) for own, i in found], dtype=np.int64),
        }
        letters = list(ascii_uppercase[: self.n_models])
        return Table(axes=("active",), columns=COLUMNS, values=values, coordinates={"space": letters})

    def on(self, position: int) -> list[tuple[int, float]]:
        """Every feature of the code of all models at a position with its value, the strongest first.

        Raises:
            UserError: there is no such position.
        """
        if not 0 <= position < len(self.tokens):
            raise UserError("position", position, f"the text has {len(self.tokens)} positions", "count from 0")
        here = slice(int(self.joint.crow[position]), int(self.joint.crow[position + 1]))
        pairs = zip(self.joint.feature[here].tolist(), self.joint.value[here].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        features = [
            {
                "feature": own.feature,
                "label": own.known.label or None,
                "promoted": [list(tokens) for tokens in own.known.promoted],
                "strongest": own.strongest,
                "differs": list(own.differs),
                "together": list(own.together),
                "alone": [list(values) for values in own.alone],
            }
            for own in self.features
        ]
        active = [[list(pair) for pair in self.on(i)] for i in range(len(self.tokens))]
        return {
            "models": list(self.models),
            "tokens": list(self.tokens),
            "tail": self.tail,
            "notes": list(self.notes),
            "n_active": self.n_active,
            "n_differing": self.n_differing,
            "features": features,
            "by_position": active,
        }

    def text(self) -> str:
        """For people, without colours."""
        return "\n".join([*self.head(), *(line for own in self.features for line in self._lines(own))])

    def head(self) -> list[str]:
        """The lines before the features."""
        names = [f"{ascii_uppercase[m]}: {label}" for m, label in enumerate(self.models)]
        said = f"{units.count(len(self.tokens))} positions, {units.count(self.n_active)} features fire"
        if self.n_models > 1:
            said += (
                f", {units.count(self.n_differing)} of them somewhere in one model's code alone and not in another's"
            )
        return [*names, said, *(f"note: {note}" for note in self.notes)]

    def title(self, own: OnText) -> str:
        """A feature's own line."""
        differs = f", the models differ at {len(own.differs)}" if self.n_models > 1 and own.differs else ""
        known = f": {own.known.text()}" if own.known.text() else ""
        fires = sum(value > 0 for value in map(max, zip(own.together, *own.alone, strict=True)))
        return f"feature {own.feature}{known}; fires at {fires} position{'s' * (fires != 1)}{differs}"

    def _lines(self, own: OnText) -> list[str]:
        lines = [self.title(own)]
        for m, values in enumerate(own.alone):
            best = sorted((i for i, v in enumerate(values) if v > 0), key=lambda i: -values[i])
            said = [f"{self.tokens[i]!r} {units.number(values[i])}{'*' * (i in own.differs)}" for i in best[:N_TOKENS]]
            more = f" and {len(best) - N_TOKENS} more" if len(best) > N_TOKENS else ""
            lines.append(f"  {ascii_uppercase[m]} {'  '.join(said) or units.DASH}{more}")
        return lines


def activate(
    dictionary: Dictionary | str | Path,
    text: str,
    lms: Sequence[LanguageModel | str] | None = None,
    settings: ActivateSettings | None = None,
    *,
    table: FeatureTable | str | Path | None = None,
) -> Activated:
    """Which features of a dictionary fire on a text, at which positions, in the code of each model.

    Args:
        dictionary: its folder, or what was loaded from it.
        text: as a person wrote it.
        lms: the dictionary's models in the order of its spaces; loaded by their names where they are not given.
        settings: which features are shown, and how much text is read.
        table: made by `features`: labels and promoted tokens then stand beside.

    Raises:
        UserError: an empty text, or one without a position that all models share; a feature beyond the dictionary;
            models of other weights; a dictionary of a model and its copy.
        ArtifactError: a folder cannot be read, or a table of another dictionary.
        NumericalError: a model gives NaN or infinity.
    """
    settings = settings or ActivateSettings()
    dictionary, known = opened(dictionary, table)
    for feature in settings.feature:
        check_feature(dictionary, feature)
    if not text.strip():
        raise UserError("text", text, "is empty", "give some words")
    models = models_of(dictionary, lms)
    piece, raw = _read(dictionary, models, text, settings.block)  # 1
    x = dictionary.scaled(raw)  # 2
    alone = tuple(dictionary.encode_alone(x, m).to("cpu") for m in range(dictionary.n_spaces))  # 3
    joint = dictionary.encode(x).to("cpu") if dictionary.design.joint else union(alone)
    differing, order = sorted_features(joint, alone)  # 4
    shown = list(settings.feature) or order[: settings.top]
    ends = [piece.start, *piece.ends.tolist()]
    return Activated(
        models=tuple(space.label for space in dictionary.spaces),
        tokens=tuple(text[begin:end] for begin, end in pairwise(ends)),
        tail=text[ends[-1] : piece.end],
        features=tuple(on_text(feature, joint, alone, known) for feature in shown),
        joint=joint,
        alone=alone,
        n_active=len(order),
        n_differing=differing,
        notes=tuple(
            note for note in (_left_out(piece, text), _drawn_in(int(dictionary.clipping.out(raw).sum()))) if note
        ),
    )


def opened(
    dictionary: Dictionary | str | Path, table: FeatureTable | str | Path | None
) -> tuple[Dictionary, FeatureTable | None]:
    """A dictionary that language models can be read with, and the table that describes it.

    Raises:
        UserError: a dictionary of a model and its copy.
        ArtifactError: a folder cannot be read, or a table of another dictionary.
    """
    loaded = dictionary if isinstance(dictionary, Dictionary) else Dictionary.load(dictionary)
    refuse_null(loaded, loaded.path or "(not saved)")
    if table is None:
        return loaded, None
    folder = artifact.folder_of(table, setting="table")
    known = FeatureTable.load(folder)
    need_table_of(Dictionary.folder_of(dictionary), folder, known, loaded)
    return loaded, known


def models_of(dictionary: Dictionary, lms: Sequence[LanguageModel | str] | None) -> tuple[LanguageModel, ...]:
    """The models behind a dictionary's spaces, loaded where they are not given.

    Raises:
        UserError: not one per space, one that cannot be had, or has other weights.
    """
    models = as_models([space.model for space in dictionary.spaces] if lms is None else lms)
    check_models(dictionary.spaces, models)
    return models


def sorted_features(joint: Codes, alone: Sequence[Codes]) -> tuple[int, list[int]]:
    """How many features the models differ on, and all that fire, those on which they differ most first.  (4)"""
    values = torch.stack([codes.dense() for codes in alone])  # [model, row, feature]
    largest, least = values.amax(0), values.amin(0)
    apart = torch.where(least <= 0, largest, 0.0).amax(0)
    strongest = torch.maximum(largest, joint.dense()).amax(0)
    fires = strongest.nonzero().flatten().tolist()
    order = sorted(fires, key=lambda i: (-float(apart[i]), -float(strongest[i])))
    return int((apart > 0).sum()), order


def _read(
    dictionary: Dictionary, lms: Sequence[LanguageModel], text: str, block: int
) -> tuple[Piece, list[Float[Tensor, "row _"]]]:
    """The first piece of the text that all models share positions of, and their raw activations there.  (1)"""
    block = min(block, *(lm.context - (lm.bos is not None) for lm in lms))
    sources = [(lm, space.hookpoint) for lm, space in zip(lms, dictionary.spaces, strict=True)]
    plan = plan_rows(sources, block=block, dtype="float32", batch_tokens=None)
    found = pieces(plan.models, text, block=block)
    piece = next((one for one in found if len(one.ends)), None)
    if piece is None:
        problem = f"has no position at which a token of all {len(lms)} models ends"
        raise UserError("text", text, problem, "give more text")
    start = State.beginning(len(plan.models))
    window = Window(before=start, after=start, pieces=(piece,), documents=(0,), texts={0: text})
    rows = rows_of(plan, window, torch.ones(len(piece.ends), dtype=torch.bool))
    return piece, [values.float() for values in rows.activations]


def on_text(feature: int, joint: Codes, alone: Sequence[Codes], table: FeatureTable | None) -> OnText:
    """A feature's code at every position, of all models together and of each alone, and what a table knows of it."""
    return OnText(
        feature=feature,
        together=tuple(joint.column(feature).tolist()),
        alone=tuple(tuple(codes.column(feature).tolist()) for codes in alone),
        known=Known.of(table, feature),
    )


def _left_out(piece: Piece, text: str) -> str:
    """What of the text was not read."""
    n_left = piece.start + len(text) - piece.end
    if not n_left:
        return ""
    sizes = " and ".join(map(str, dict.fromkeys(piece.n_tokens)))
    return f"the text is cut: {sizes} tokens are read, {n_left:,} of {len(text):,} characters left out (--block)"


def _drawn_in(n_rows: int) -> str:
    return f"{n_rows:,} outlier positions are drawn in, as in training" if n_rows else ""
