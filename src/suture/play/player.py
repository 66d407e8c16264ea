"""What the live page asks for: which features fire on a text, and what both models write, as they are and steered.

1. A model has one pass at a time, whoever asks: hooks hold for a pass, and are taken away before the next one's. So
   two readers, or a slider moved while the last answer is still being written, take turns token by token.
2. A cell is one model, as it is or steered; the steered ones come first, then all in turn, one token each, until all
   are done. Nothing is computed unless the next event is asked for: who goes away stops the work.
3. Steering adds, in every model along the feature's own decoder row in raw units, the strength times the feature's
   unit: its 99.9 % activation where a feature table says it, else 1 in the dictionary's own codes. Several features
   are added up. BOS is spared, as everywhere.
4. What a model writes as it is does not change with the sliders: it is kept for the texts asked about last.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable
from suture.interventions.activate import Activated, activate, models_of, on_text, opened
from suture.interventions.edits import check_feature, sparing_first, steer
from suture.interventions.settings import ActivateSettings
from suture.lm.generate import Step, steps
from suture.lm.hooks import edit as editing
from suture.lm.load import LanguageModel
from suture.lm.vocabulary import displayed, token_texts
from suture.naming.naming import names_of
from suture.pipeline.artifact import MANIFEST
from suture.pipeline.files import sha256_of
from suture.play.settings import PlaySettings, Scene

DEFAULT, STEERED = "default", "steered"
N_NEXT = 8
"""Likeliest next tokens shown."""
N_KEPT = 32
"""Texts, and continuations without steering, that are kept."""
Event = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Player:
    """A dictionary with its models, ready to be asked."""

    dictionary: Dictionary
    lms: tuple[LanguageModel, ...]
    table: FeatureTable | None
    settings: PlaySettings
    names: tuple[str, ...]
    """Of the features, where they were given any; else empty."""
    units: Float[Tensor, "feature"]
    """What is added at strength 1, in codes."""
    texts: tuple[list[str | None], ...]
    """Per model, its vocabulary's."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held for one pass."""
    _read: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    _plain: OrderedDict[Any, Any] = field(default_factory=OrderedDict)

    @staticmethod
    def open(
        dictionary: Dictionary | str | Path,
        lms: Sequence[LanguageModel | str] | None = None,
        settings: PlaySettings | None = None,
        *,
        table: FeatureTable | str | Path | None = None,
        names: Mapping[int, str] | str | Path | None = None,
    ) -> Player:
        """Load what is named; see `activate` for what each is, and for the errors.

        `names` are the features' by number, or what `suture label` made: see `names_of`.
        """
        loaded, known = opened(dictionary, table)
        models = models_of(loaded, lms)
        q999 = None if known is None else known.columns.get("q999")
        units = torch.ones(loaded.n_features) if q999 is None else q999.nan_to_num().float()
        named = names_of(loaded, names) if isinstance(names, str | Path) else names or {}
        return Player(
            dictionary=loaded,
            lms=models,
            table=known,
            settings=settings or PlaySettings(),
            names=tuple(named.get(i, "") for i in range(loaded.n_features)) if named else (),
            units=torch.where(units > 0, units, 1.0),
            texts=tuple(token_texts(lm) for lm in models),
        )

    @property
    def about(self) -> Event:
        """What the page knows from the start."""
        path = self.dictionary.path
        return {
            "models": [space.label for space in self.dictionary.spaces],
            "n_features": self.dictionary.n_features,
            "dictionary": str(self.dictionary),
            "identity": "" if path is None else sha256_of(path / MANIFEST)[:16],
            "names": {i: name for i, name in enumerate(self.names) if name},
            "measured": self.table is not None and "q999" in self.table.columns,
        }

    def read(self, scene: Scene) -> Event:
        """Which features fire on the text, and the values of those looked at.

        Raises:
            UserError: the text cannot be read, or the dictionary has no such feature.
        """
        for feature in scene.features:
            check_feature(self.dictionary, feature)
        found: Activated = _kept(self._read, scene.prompt, lambda: self._activated(scene.prompt))
        offered = {own.feature: own for own in found.features}
        chosen = [
            offered.get(feature) or on_text(feature, found.joint, found.alone, self.table) for feature in scene.features
        ]
        said = found.to_json()
        said["features"] = [self._said(own) for own in found.features]
        said["chosen"] = [
            {**self._said(own), "alone": [list(values) for values in own.alone], "differs": list(own.differs)}
            for own in chosen
        ]
        return said

    def play(self, scene: Scene) -> Iterator[Event]:
        """What every cell writes, event by event: `next` (its likeliest next tokens), `text` (so far), `end`.

        Raises:
            UserError: the dictionary does not have a feature; on the way, a prompt that a model cannot read.
        """
        for feature, _ in scene.strengths:
            check_feature(self.dictionary, feature)
        kinds = [STEERED, DEFAULT] if scene.strengths else [DEFAULT]
        return _in_turn([_Cell(self, scene, kind, m) for kind in kinds for m in range(len(self.lms))])

    def vector(self, strengths: Sequence[tuple[int, float]], space: int) -> Float[Tensor, "width"]:
        """What is added to a model's activations, raw units.  (3)"""
        features = torch.tensor([feature for feature, _ in strengths], dtype=torch.int64)
        amounts = torch.tensor([strength for _, strength in strengths]) * self.units[features]
        rows = self.dictionary.raw_decoder(space)[features].cpu()
        return amounts.to(rows) @ rows

    def _activated(self, prompt: str) -> Activated:
        with self.turn:  # 1
            return activate(
                self.dictionary,
                prompt,
                self.lms,
                ActivateSettings(top=self.settings.top, block=self.settings.block),
                table=self.table,
            )

    def _said(self, own: Any) -> Event:
        """A feature on one line."""
        return {
            "feature": own.feature,
            "name": self.names[own.feature] if self.names else "",
            "label": own.known.label,
            "promoted": [list(tokens) for tokens in own.known.promoted],
            "strongest": own.strongest,
            "n_differs": len(own.differs),
            "unit": float(self.units[own.feature]),
        }


def _in_turn(cells: list[_Cell]) -> Iterator[Event]:
    """A token of each cell, round after round.  (2)"""
    while cells:
        for cell in list(cells):
            yield from cell.advance()
            if cell.done:
                cells.remove(cell)


class _Cell:
    """One model's answer, as it is or steered."""

    def __init__(self, player: Player, scene: Scene, kind: str, model: int) -> None:
        self.player, self.scene, self.kind, self.model = player, scene, kind, model
        self.done = False
        self.n = 0
        self.lm = player.lms[model]
        self.key = (model, scene.prompt, scene.new_tokens, scene.temperature, scene.seed)
        self.steps = steps(
            self.lm,
            scene.prompt,
            max_new_tokens=scene.new_tokens,
            temperature=scene.temperature,
            seed=scene.seed,
        )
        self.edit = None
        if kind == STEERED:
            edit = steer(player.vector(scene.strengths, model), 1.0)
            self.edit = sparing_first(edit) if self.lm.bos is not None else edit

    def advance(self) -> list[Event]:
        """One more token, and what is to be said of it."""
        kept = self.player._plain.get(self.key) if self.kind == DEFAULT else None
        if kept is not None:  # 4
            self.done = True
            return kept
        space = self.player.dictionary.spaces[self.model]
        with self.player.turn:  # 1
            with nullcontext() if self.edit is None else editing(self.lm, space.hookpoint, self.edit):
                step = next(self.steps, None)
            events = self._events(step)
        if self.done and self.kind == DEFAULT:
            _keep(self.player._plain, self.key, [{**self.first, "n": 1}, *events])
        return events

    def _events(self, step: Step | None) -> list[Event]:
        if step is None:
            self.done = True
            return [self._event("end", text=self.text, n=self.n)]
        self.n += 1
        self.text = step.written(self.lm)[0]
        events = [self._event("text", text=self.text, n=self.n)]
        if self.n == 1:
            self.first = self._event("next", tokens=self._next(step.logits[0]))
            events.insert(0, self.first)
        return events

    def _event(self, what: str, **more: Any) -> Event:
        return {"what": what, "cell": self.kind, "model": self.model, "of": self.scene.new_tokens, **more}

    def _next(self, logits: Float[Tensor, "vocab"]) -> list[list[Any]]:
        """The likeliest next tokens with their probabilities.

        Raises:
            UserError: the edit drove the model to NaN or infinity.
        """
        chances = torch.softmax(logits, dim=-1)
        if not bool(torch.isfinite(chances).all()):
            problem = f"{self.lm.name} gave NaN or infinite probabilities"
            raise UserError("strengths", self.scene.strengths, problem, "steer less")
        best = chances.topk(min(N_NEXT, len(chances)))
        texts = self.player.texts[self.model]
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[displayed(self.lm, texts, token), chance] for token, chance in pairs]


def _kept(known: OrderedDict[Any, Any], key: Any, made: Callable[[], T]) -> T:
    """What is known under a key, or is made for it."""
    found = known.get(key)
    if found is None:
        found = made()
        _keep(known, key, found)
    return found


def _keep(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Beside at most so many others, the oldest of which goes."""
    known[key] = value
    while len(known) > N_KEPT:
        known.popitem(last=False)
