"""Which features carry a chosen logit after a prompt, in each model: by integrated gradient, checked by ablation.

1. What is asked: the logit of a word's token at the prompt's last position, or its difference from another word's.
2. Each model reads the prompt alone. The features are those of its code alone, the others imputed, at every token but
   the one that begins a text, which no training row was; outlier rows are drawn in before they are encoded.
3. Every feature gets its part by integrated gradient (`attribution`), on the path to the model without any of them.
4. The features of the largest parts are taken out of the model one by one, at every position, and, each with those
   above it, together. The correlation of parts and single removals says how far the parts can be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import units
from suture.dictionary.dictionary import Dictionary
from suture.errors import NumericalError, UserError
from suture.features.table import FeatureTable
from suture.interventions.activate import Known, models_of, opened
from suture.interventions.attribution import ablated, first_order, integrated
from suture.interventions.settings import AttributeSettings
from suture.lm.hooks import edit, record
from suture.lm.load import LanguageModel
from suture.lm.partial import Partial
from suture.lm.tokens import tokenize, with_bos
from suture.pipeline.table import Column, Table, Tabular

LEAST = 3
"""Features below which a correlation says nothing."""
ABLATED_TOKENS = 2048
"""Tokens of one pass in which features are taken out."""
COLUMNS = (
    Column(name="model", title="model", format="text", sentence="Letter of the model."),
    Column(name="feature", title="feature", format="integer", sentence="Number of the feature."),
    Column(name="label", title="label", format="text", sentence="Whose the feature is; empty without a feature table."),
    Column(
        name="integrated", title="integrated", unit="logits",
        sentence="Its part of the answer by integrated gradient to the model without any feature.",
    ),
    Column(
        name="ablated", title="ablated", unit="logits",
        sentence="By how much the answer falls when it alone is taken out, measured.",
    ),
    Column(
        name="together", title="with those above", unit="logits",
        sentence="By how much the answer falls when it and those above it are taken out together, measured.",
    ),
    Column(
        name="first_order", title="first order", unit="logits",
        sentence="Its part by the gradient at the unedited model: misleading where the model saturates.",
    ),
    Column(name="token", title="strongest on", format="text", sentence="The prompt's token on which it is strongest."),
    Column(name="value", title="value", sentence="Its value there."),
)  # fmt: skip
OnProgress = Callable[[str, int, int], None]
"""Gets (model, passes done, passes in all)."""


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """One feature's part of one model's answer; logits."""

    feature: int
    integrated: float
    first_order: float
    ablated: float
    together: float
    token: str
    value: float
    known: Known


@dataclass(frozen=True, kw_only=True)
class ModelAttribution:
    """What carries one model's answer."""

    model: str
    token: str
    """Whose logit is asked about, as this model cuts text."""
    against: str | None
    n_tokens: int
    """Of the prompt."""
    answer: float
    """The logit, or the difference, of the model as it is."""
    removed: float
    """By how much it falls with all features taken out, measured."""
    explained: float
    """The sum of all parts, which approximates that."""
    explained_first_order: float
    """The sum of all parts by the gradient at the unedited model, which may be far from it."""
    n_features: int
    """Features that fire on the prompt."""
    correlation: float | None
    """Of parts and single removals, over the features listed; None of fewer than three."""
    correlation_first_order: float | None
    features: tuple[Carrier, ...]
    """The largest parts, either sign, largest first."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(Tabular):
    """Which features carry a logit in each model: what `attribute` found."""

    prompt: str
    token: str
    against: str | None
    models: tuple[ModelAttribution, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = "; ".join(f"{ascii_uppercase[i]} {units.number(m.answer)}" for i, m in enumerate(self.models))
        return f"Attribution({self.asked} after {self.prompt[-40:]!r}: {said} logits)"

    @property
    def asked(self) -> str:
        """In words."""
        return repr(self.token) + (f" against {self.against!r}" if self.against else "")

    @property
    def shared(self) -> tuple[int, ...]:
        """Features listed in every model, in the first one's order."""
        every = [{own.feature for own in model.features} for model in self.models]
        return tuple(own.feature for own in self.models[0].features if all(own.feature in one for one in every))

    @property
    def table(self) -> Table:
        """A row for every model and feature listed."""
        rows = [(ascii_uppercase[m], own) for m, model in enumerate(self.models) for own in model.features]
        texts = {"model": [m for m, _ in rows], "label": [own.known.label for _, own in rows]}
        texts["token"] = [own.token for _, own in rows]
        values = {
            c.name: np.array(texts[c.name], dtype=object)
            if c.format == "text"
            else np.array([getattr(own, c.name) for _, own in rows], dtype=np.int64 if c.format == "integer" else float)
            for c in COLUMNS
        }
        return Table(axes=("entry",), columns=COLUMNS, values=values)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "prompt": self.prompt,
            "token": self.token,
            "against": self.against,
            "models": [asdict(model) for model in self.models],
            "shared": list(self.shared),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """For people."""
        lines = [f"what carries {self.asked} after {self.prompt[-60:]!r}"]
        for m, model in enumerate(self.models):
            pair = repr(model.token) + (f" against {model.against!r}" if model.against else "")
            lines.append(
                f"{ascii_uppercase[m]}: {model.model}: {pair} {model.answer:.3f} logits; {model.n_features} features "
                f"fire, all of them removed: falls by {model.removed:.3f} (their parts sum to {model.explained:.3f}, "
                f"to first order to {model.explained_first_order:.3f})"
            )
            lines.append(
                f"  {'feature':>8} {'integrated':>10} {'ablated':>8} {'together':>8} {'1st order':>9}  strongest on"
            )
            for own in model.features:
                both = " (in all)" if len(self.models) > 1 and own.feature in self.shared else ""
                known = f"; {own.known.text(m)}" if own.known.text(m) else ""
                lines.append(
                    f"  {own.feature:>8} {own.integrated:>10.3f} {own.ablated:>8.3f} {own.together:>8.3f} "
                    f"{own.first_order:>9.3f}  {own.token!r} {units.number(own.value)}{both}{known}"
                )
            if model.features:
                listed, alone, naive = (
                    sum(getattr(own, name) for own in model.features)
                    for name in ("integrated", "ablated", "first_order")
                )
                lines.append(
                    f"  {'sum':>8} {listed:>10.3f} {alone:>8.3f} {model.features[-1].together:>8.3f} {naive:>9.3f}"
                )
            lines.append(
                f"  correlation with ablation: integrated {units.correlation(model.correlation)}, "
                f"first order {units.correlation(model.correlation_first_order)}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def attribute(
    dictionary: Dictionary | str | Path,
    prompt: str,
    token: str,
    lms: Sequence[LanguageModel | str] | None = None,
    settings: AttributeSettings | None = None,
    *,
    against: str | None = None,
    table: FeatureTable | str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Attribution:
    """Which features carry a word's logit at the prompt's end, or its difference from another word's, in each model.

    Args:
        dictionary: its folder, or what was loaded from it.
        prompt: what every model reads.
        token: a word. Of the word as it is written and with a blank before it, the one that is a single token and the
            model finds likelier counts; of a word of several tokens the first one, and a note says so.
        lms: the dictionary's models in the order of its spaces; loaded by their names where they are not given.
        settings: how many features are listed and checked, how finely the path is followed.
        against: another word, whose logit is subtracted.
        table: made by `features`: labels and promoted tokens then stand beside.
        on_progress: told of every pass of a model.

    Raises:
        UserError: an empty prompt, or one that a model's context cannot hold; a word of no token, or two words that
            begin with the same one; models of other weights; a dictionary of a model and its copy.
        ArtifactError: a folder cannot be read, or a table of another dictionary.
        NumericalError: a model gives NaN or infinity.
    """
    settings = settings or AttributeSettings()
    dictionary, known = opened(dictionary, table)
    if not prompt.strip():
        raise UserError("prompt", prompt, "is empty", "give some words")
    models = models_of(dictionary, lms)
    notes: list[str] = []
    found = []
    for m, lm in enumerate(models):
        question = _Question.of(lm, prompt, token, against)
        notes += question.notes
        found.append(_model(dictionary, m, question, settings, known, on_progress or (lambda *_: None)))
    return Attribution(
        prompt=prompt, token=token, against=against, models=tuple(found), notes=tuple(dict.fromkeys(notes))
    )


@dataclass(frozen=True)
class _Question:
    """A prompt in one model, and the tokens whose logits are asked about.  (1)"""

    lm: LanguageModel
    ids: Int[Tensor, "token"]
    """BOS first."""
    n_bos: int
    words: tuple[str, ...]
    """Per token of the prompt its text; BOS is not among them."""
    wanted: tuple[int, ...]
    """The token, and the one that is subtracted."""
    notes: tuple[str, ...]

    @staticmethod
    def of(lm: LanguageModel, prompt: str, token: str, against: str | None) -> _Question:
        """Cut the prompt and choose the tokens."""
        own = tokenize(lm, prompt)
        ids = with_bos(lm, own.ids)
        if len(own.ids) == 0 or len(ids) > lm.context:
            problem = f"is {len(own.ids)} tokens of {lm.name}, whose context is {lm.context}"
            raise UserError("prompt", prompt, problem, "give a shorter prompt")
        with torch.no_grad():
            logits = lm.model(ids[None].to(lm.device), use_cache=False).logits[0, -1].float().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise NumericalError("model", lm.name, "gives NaN or infinite logits", "load the model in float32")
        asked = [("token", token), *([("against", against)] if against is not None else [])]
        chosen = [_token_of(lm, name, word, logits) for name, word in asked]
        if len({one for one, _ in chosen}) < len(chosen):
            problem = f"begins with the same token of {lm.name} as {token!r}"
            raise UserError("against", against, problem, "name another word")
        words = tuple(prompt[a:b] for a, b in zip(own.starts.tolist(), own.ends.tolist(), strict=True))
        return _Question(
            lm=lm,
            ids=ids,
            n_bos=len(ids) - len(own.ids),
            words=words,
            wanted=tuple(one for one, _ in chosen),
            notes=tuple(note for _, note in chosen if note),
        )

    def spelled(self, which: int) -> str:
        """One of the tokens asked about, as text."""
        text = self.lm.tokenizer.decode([self.wanted[which]], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def answers(self, logits: Float[Tensor, "edit vocab"]) -> Float[Tensor, "edit"]:
        """The logit, or the difference."""
        return logits[:, self.wanted[0]] - (logits[:, self.wanted[1]] if len(self.wanted) > 1 else 0.0)


def _token_of(lm: LanguageModel, name: str, word: str, logits: Float[Tensor, "vocab"]) -> tuple[int, str]:
    """The token that stands for a word after the prompt, and what a reader should know of it."""
    if not word:
        raise UserError(name, word, f"is no token of {lm.name}", "name a word")
    ways = [tokenize(lm, one).ids.tolist() for one in dict.fromkeys((word, word if word[:1].isspace() else f" {word}"))]
    whole = [ids[0] for ids in ways if len(ids) == 1]
    if whole:
        return max(whole, key=lambda one: float(logits[one])), ""
    begin = ways[-1]
    first = lm.tokenizer.decode([begin[0]], clean_up_tokenization_spaces=False)
    return begin[0], f"{word!r} is {len(begin)} tokens of {lm.name}; its first one, {first!r}, is asked about"


def _model(
    dictionary: Dictionary,
    space: int,
    question: _Question,
    settings: AttributeSettings,
    table: FeatureTable | None,
    tell: OnProgress,
) -> ModelAttribution:
    """2 to 4 for one model."""
    lm, ids, n_bos = question.lm, question.ids, question.n_bos
    hookpoint = dictionary.spaces[space].hookpoint
    (raw,) = record(lm, ids[None], [hookpoint])
    whole = raw[0].float()
    rows = whole[n_bos:]
    fires, values = _values(dictionary, space, rows)
    values = values.to(rows)
    write = dictionary.raw_decoder(space)[fires].to(rows)
    partial = Partial.of(lm, hookpoint)
    before = partial.before(ids[None])
    last = torch.zeros(1, len(ids), dtype=torch.bool)
    last[0, -1] = True
    total = settings.path_points + 4
    done = 0

    def run(edited: Tensor) -> Tensor:
        """Answers of versions [edit, row, width] of the rows."""
        nonlocal done
        n = len(edited)
        full = torch.cat([whole[None, :n_bos].expand(n, -1, -1), edited], dim=1)
        carried = None if before is None else before.expand(n, -1, -1)
        with edit(lm, hookpoint, lambda _: full):
            logits = partial.traced(ids.expand(n, -1), last.expand(n, -1), carried)
        done = min(done + 1, total)
        tell(lm.name, done, total)
        return question.answers(logits)

    def answer(rows: Tensor) -> Tensor:
        return run(rows[None])[0]

    part = integrated(answer, rows, values, write, n_points=settings.path_points)  # 3
    naive = first_order(answer, rows, values, write)
    order = part.abs().argsort(descending=True, stable=True)[: settings.top].tolist()
    sets = [[i] for i in order] + [order[: n + 1] for n in range(len(order))] + [list(range(len(fires)))]
    at_once = max(1, ABLATED_TOKENS // len(ids))
    falls = ablated(run, rows, values, write, sets, at_once=at_once)  # 4
    with torch.no_grad():
        clean = float(answer(rows))
    if not bool(torch.isfinite(torch.cat([falls, part])).all()):
        raise NumericalError("at", hookpoint, f"{lm.name} gives NaN with features removed", "load it in float32")
    tell(lm.name, total, total)
    alone, together = falls[: len(order)], falls[len(order) : 2 * len(order)]
    peak = values.argmax(0) if len(fires) else torch.zeros(0, dtype=torch.int64)
    return ModelAttribution(
        model=dictionary.spaces[space].label,
        token=question.spelled(0),
        against=question.spelled(1) if len(question.wanted) > 1 else None,
        n_tokens=len(question.words),
        answer=clean,
        removed=float(falls[-1]),
        explained=float(part.sum()),
        explained_first_order=float(naive.sum()),
        n_features=len(fires),
        correlation=_correlation(part[order], alone),
        correlation_first_order=_correlation(naive[order], alone),
        features=tuple(
            Carrier(
                feature=int(fires[i]),
                integrated=float(part[i]),
                first_order=float(naive[i]),
                ablated=float(alone[n]),
                together=float(together[n]),
                token=question.words[int(peak[i])],
                value=float(values[peak[i], i]),
                known=Known.of(table, int(fires[i])),
            )
            for n, i in enumerate(order)
        ),
    )


def _values(
    dictionary: Dictionary, space: int, rows: Float[Tensor, "row width"]
) -> tuple[Int[Tensor, "feature"], Float[Tensor, "row feature"]]:
    """The features that fire on the rows of one model alone, and their values.  (2)"""
    alone: list[Tensor | None] = [None] * dictionary.n_spaces
    alone[space] = rows.to(dictionary.W_dec.device)
    codes = dictionary.encode_raw(alone)
    fires = codes.counts.nonzero().flatten()
    return fires, codes.dense()[:, fires]


def _correlation(x: Float[Tensor, "feature"], y: Float[Tensor, "feature"]) -> float | None:
    if len(x) < LEAST or float(x.std()) == 0 or float(y.std()) == 0:
        return None
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])
