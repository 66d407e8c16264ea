"""The causal check: does a feature do in each model what its label says? It is ablated, and predictions are watched.

1. On text that all models read at the same positions (`paired`) the codes are computed once; feature i is taken out of
   model m where it fires, x - f_i d_i^m, all else left alone. Only the pieces of text in which it fires are run.
2. Its shift in m is KL(clean || ablated) of m's next-token distribution, at each prediction made where it fires.
3. The control takes out another feature's direction with the same codes, in every model as long, in units of the
   model's mean activation, as feature i is where it is longest: how much the model minds anything of that size.
4. A model moves by its mean shift over its control's, and counts as moved from `MOVES` of the most moved model on.
5. Two models answer alike if their shifts correlate over positions. Codes are strong and weak at the same positions in
   both, which alone makes shifts correlate; what counts is the correlation above that with the second model's control.
   Intervals draw documents.

Verdict on a label: `shared` is confirmed where every model moves and the correlation is above the control's for sure,
contradicted where a model for sure does not move; an exclusive label is confirmed where the models it denies for sure
do not move, contradicted where one for sure does; anything else is undecided.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable, need_table_of
from suture.interventions.edits import refuse_null
from suture.interventions.measures import Predictions
from suture.interventions.paired import PairedBatch, PairedText, Passes, checksum, codes_of
from suture.interventions.settings import CausalSettings
from suture.labels import DEAD, OPEN, SHARED
from suture.lm.load import LanguageModel
from suture.lm.models import as_models
from suture.pipeline import artifact
from suture.pipeline.parts import Part, Parts
from suture.pipeline.result import read_typed
from suture.uncertainty import Draws, Interval, by_unit, correlation, interval

STAGE = "causal"
RESULT = "causal.json"
MOVES = 0.1
"""A model that moves by less than this part of the most moved one stays still. The label's own boundary, a share of
0.15, is a ratio of strengths of 0.18, and shifts grow with the square of the strength: to 0.03."""
MIN_POSITIONS = 20
"""Firing positions below which nothing is said."""

Verdict = Literal["confirms", "contradicts", "undecided"]
OnProgress = Callable[[int, int], None]
"""Gets how many features of how many batches are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class PairShift:
    """Two models' shifts held against each other; None where too little fires."""

    models: tuple[int, int]
    correlation: float | None
    control: float | None
    """With another feature's direction in the second model."""
    above: tuple[float, float] | None
    """95 % interval of correlation less control."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One feature's shifts."""

    feature: int
    label: str
    n_positions: int
    """Predictions made where it fires."""
    kl: tuple[float, ...]
    """Mean shift per model, nats; 0 where it never fired."""
    kl_control: tuple[float, ...]
    """The same of the control."""
    ratio: tuple[tuple[float, float], ...] | None
    """95 % interval of how much each model moves over the most moved one; None where too little fires."""
    pairs: tuple[PairShift, ...]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, repr=False)
class Causal:
    """The causal check of a dictionary's features: what `causal` writes."""

    models: tuple[str, ...]
    """Labels of the spaces."""
    features: tuple[Cause, ...]
    path: Path | None = field(default=None, compare=False)
    """The folder that it was written to or read from."""

    def __repr__(self) -> str:
        said = ", ".join(f"{n} {verdict}" for verdict, n in Counter(c.verdict for c in self.features).most_common())
        return f"Causal({len(self.features)} features of {' x '.join(self.models)}: {said})"

    def __iter__(self) -> Iterator[Cause]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def verdicts(self) -> dict[str, dict[Verdict, int]]:
        """How many labels of each kind were confirmed."""
        tally: dict[str, dict[Verdict, int]] = {}
        for cause in self.features:
            verdicts = tally.setdefault(cause.label, {"confirms": 0, "contradicts": 0, "undecided": 0})
            verdicts[cause.verdict] += 1
        return tally

    def to_json(self) -> dict[str, Any]:
        """Plain values for causal.json."""
        features = [asdict(cause) for cause in self.features]
        return {"models": list(self.models), "features": features, "verdicts": self.verdicts}

    @staticmethod
    def load(path: str | Path) -> "Causal":
        """Read what `causal` wrote.

        Raises:
            ArtifactError: not a finished causal check.
        """
        artifact.open_artifact(path, stage=STAGE)
        return replace(read_typed(Path(path) / RESULT, Causal), path=Path(path))


def find_causes(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel],
    documents: Iterable[str],
    chosen: Mapping[int, str],
    settings: CausalSettings | None = None,
    *,
    parts: Parts | None = None,
    on_progress: OnProgress | None = None,
) -> list[Cause]:
    """Ablate every chosen feature (number -> label) in every model, and compare what it does there.

    `lms` are the dictionary's models in the order of its spaces; tokenizers may differ. With `parts`, what
    they hold of the batches is not measured again.

    Raises:
        UserError: an unknown feature, not one model per space, documents without a shared text position.
        NumericalError: a model gives NaN.
    """
    settings, parts = settings or CausalSettings(), parts or Parts()
    for feature in chosen:
        if not 0 <= feature < dictionary.n_features:
            problem = f"the dictionary has features 0 to {dictionary.n_features - 1}"
            raise UserError("feature", feature, problem, "name one of them")
    text = PairedText(dictionary.spaces, lms, islice(documents, settings.n_documents), block=settings.block)
    others = control_features(dictionary, chosen, settings.seed)
    shifts = {feature: _Shifts() for feature in chosen}
    passes = Passes(text.n_batches * len(chosen), on_progress or (lambda *_: None))
    for number in range(text.n_batches):
        part = parts.get(f"shifts-{number}", partial(_watch, dictionary, text, number, others, passes))
        passes.reach((number + 1) * len(chosen))
        for feature, own in shifts.items():
            mine = part["feature"] == feature
            if bool(mine.any()):
                own.add(part["document"][mine], part["kl"][mine], part["control"][mine])
    draws = Draws.make(text.n_documents, settings.n_draws, settings.seed)
    return [_cause(feature, label, shifts[feature], dictionary.n_spaces, draws) for feature, label in chosen.items()]


def causal(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    table: FeatureTable | str | Path,
    lms: Sequence[LanguageModel | str],
    documents: Iterable[str],
    *,
    chosen: Sequence[int] = (),
    each_label: int = 0,
    settings: CausalSettings | None = None,
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Causal:
    """The stage `causal`: `find_causes` on disk, of the features named and of `each_label` of every label.

    A stopped run is gone on with by `resume`, after the batches that it measured.

    Raises:
        UserError: as `find_causes`; nothing chosen; a dictionary of a model and its copy.
        ArtifactError: an input cannot be read, or `out` is taken.
    """
    settings = settings or CausalSettings()
    dictionary_path, table_path = Dictionary.folder_of(dictionary), artifact.folder_of(table, setting="table")
    dictionary, table = Dictionary.load(dictionary_path), FeatureTable.load(table_path)
    refuse_null(dictionary, dictionary_path)
    need_table_of(dictionary_path, table_path, table, dictionary)
    for feature in chosen:
        if not 0 <= feature < table.n_features:
            raise UserError("feature", feature, f"the dictionary has features 0 to {table.n_features - 1}", "name one")
    wanted = dict.fromkeys([*chosen, *of_each_label(table, each_label)])
    if not wanted:
        raise UserError("feature", "none", "nothing is chosen", "name features, or ask for some of each label")
    texts, parents = list(islice(documents, settings.n_documents)), (dictionary_path, table_path)
    recorded = asdict(settings) | {"texts": checksum(texts), "features": list(wanted)}
    if resume and artifact.is_made(out, stage=STAGE, settings=recorded, parents=parents):
        return Causal.load(out)
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, parents=parents, resume=resume, resumable=True,
        overwrite=overwrite, command=command,
    ) as draft:  # fmt: skip
        labels = {feature: table.labels[feature] for feature in wanted}
        causes = find_causes(
            dictionary, as_models(lms), texts, labels, settings, parts=Parts.of(draft), on_progress=on_progress
        )
        found = Causal(models=table.models, features=tuple(causes))
        artifact.write_json(draft.folder / RESULT, found.to_json())
    return replace(found, path=Path(out))


def of_each_label(table: FeatureTable, n: int) -> list[int]:
    """Of every label except `dead` the `n` features that fire on most rows: a rule, so that nobody picks."""
    active = table.column("n_active")
    found = []
    for label in sorted(set(table.labels) - {DEAD}):
        numbers = [i for i, own in enumerate(table.labels) if own == label]
        found += sorted(numbers, key=lambda i: -float(active[i]))[:n]
    return found


def control_features(dictionary: Dictionary, chosen: Iterable[int], seed: int) -> dict[int, int]:
    """For every chosen feature another one, drawn among all whose decoder rows are not zero anywhere."""
    written = (dictionary.decoder_norms() > 1e-6).all(-1).nonzero()[:, 0].tolist()
    others = {}
    for feature in chosen:
        candidates = [i for i in written if i != feature] or [feature]
        others[feature] = int(seeds.numpy_generator("control features", seed, feature).choice(candidates))
    return others


class _Shifts:
    """A feature's shifts at the positions where it fires."""

    def __init__(self) -> None:
        self.document: list[Tensor] = []
        self.kl: list[Tensor] = []
        self.control: list[Tensor] = []

    def add(self, document: Tensor, kl: Tensor, control: Tensor) -> None:
        self.document.append(document)
        self.kl.append(kl)
        self.control.append(control)


def _watch(dictionary: Dictionary, text: PairedText, number: int, others: Mapping[int, int], passes: Passes) -> Part:
    """1 to 3 for a batch: of every feature, the shifts at the positions where it fires."""
    batch = text.batch(number)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    codes = codes_of(dictionary, batch)
    where = [rows_predicted(batch, m) for m in range(dictionary.n_spaces)]
    both = torch.stack([w >= 0 for w in where]).all(0)
    clean = [Predictions.of(text.logits(batch, m, None)) for m in range(dictionary.n_spaces)]
    for m, own in enumerate(clean):
        text.check(own.norm, m)
    for feature in others:
        values = [own.column(feature).cpu() for own in codes]
        passes.add(1)
        fires = torch.stack([v > 0 for v in values]).any(0) & both
        if not bool(fires.any()):
            continue
        pieces = torch.zeros(len(batch.document), dtype=torch.bool)
        pieces[batch.piece[fires]] = True
        inside = pieces[batch.piece]
        part = batch.of_pieces(pieces)
        kl, control = [], []
        for m in range(dictionary.n_spaces):
            at = fires[inside]
            where, order = _positions(part, m, at)
            before = rows_predicted(batch, m)[fires][torch.argsort(order)].to(clean[m].norm.device)
            direction = dictionary.raw_decoder(m)[feature]
            other = _as_long(dictionary, m, others[feature], like=feature)
            strength = values[m][inside][:, None]
            for vector, shift in ((direction, kl), (other, control)):
                after = text.logits(part, m, part.rows(m) - strength.to(vector) * vector, where)
                moved = clean[m].kl(after, before)
                text.check(moved, m)
                shift.append(moved.cpu()[order].clamp_min(0).double())
        document = batch.document[batch.piece[fires]]
        shifts = torch.stack(kl, dim=1), torch.stack(control, dim=1)
        found.append((torch.full_like(document, feature), document, *shifts))
    if not found:
        nothing = torch.zeros(0, dtype=torch.int64)
        unmoved = torch.zeros(0, dictionary.n_spaces, dtype=torch.float64)
        found = [(nothing, nothing, unmoved, unmoved)]
    names = ("feature", "document", "kl", "control")
    return {name: torch.cat(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def _as_long(dictionary: Dictionary, space: int, feature: int, *, like: int) -> Float[Tensor, "width"]:
    """A feature's raw direction, as long in each space's units as another feature is where it is longest."""
    units = torch.tensor(dictionary.widths).to(dictionary.W_dec).sqrt()
    length = (dictionary.decoder_norms()[like] / units).max() * units[space] / dictionary.spaces[space].scale
    direction = dictionary.raw_decoder(space)[feature]
    return direction * (length / direction.norm().clamp_min(1e-12))


def rows_predicted(batch: PairedBatch, model: int) -> Int[Tensor, "row"]:
    """Which of a model's counting predictions is made at each row; -1 where none is."""
    scored = batch.scored[model].flatten()
    number = torch.where(scored, scored.cumsum(0) - 1, torch.full_like(scored, -1, dtype=torch.int64))
    return number[batch.rows_at[model]]


def _positions(
    batch: PairedBatch, model: int, chosen: Bool[Tensor, "row"]
) -> tuple[Bool[Tensor, "piece token"], Int[Tensor, "chosen"]]:
    """Where the chosen rows lie in a model's text, and each one's place among these positions."""
    at = batch.rows_at[model][chosen]
    where = torch.zeros(batch.ids[model].numel(), dtype=torch.bool)
    where[at] = True
    return where.view_as(batch.ids[model]), (where.cumsum(0) - 1)[at]


def _cause(feature: int, label: str, shifts: _Shifts, n_models: int, draws: Draws) -> Cause:
    """3 to 5 from all positions."""
    if not shifts.kl:
        kl, control = torch.zeros(0, n_models), torch.zeros(0, n_models)
        document = torch.zeros(0, dtype=torch.int64)
    else:
        document, kl, control = (torch.cat(x) for x in (shifts.document, shifts.kl, shifts.control))
    mean, by_control = (x.mean(0) if len(x) else torch.zeros(n_models) for x in (kl, control))
    enough = len(kl) >= MIN_POSITIONS and len(document.unique()) > 1 and float(mean.max()) > 0
    ratio = _ratios(kl, control, document, draws) if enough else None
    pairs = tuple(
        _pair(m, n, kl, control, document, draws if enough else None) for m, n in combinations(range(n_models), 2)
    )
    return Cause(
        feature=feature,
        label=label,
        n_positions=len(kl),
        kl=tuple(mean.tolist()),
        kl_control=tuple(by_control.tolist()),
        ratio=ratio,
        pairs=pairs,
        verdict=verdict(label, ratio, pairs),
    )


def verdict(label: str, ratio: Sequence[tuple[float, float]] | None, pairs: Sequence[PairShift]) -> Verdict:
    """What the shifts say of a label, by the rule above.

    >>> verdict("A", [(1.0, 1.0), (0.0, 0.02)], [])
    'confirms'
    """
    if ratio is None or len(ratio) == 1 or label in (*OPEN, DEAD):
        return "undecided"
    moves, still = [low >= MOVES for low, _ in ratio], [high < MOVES for _, high in ratio]
    if label == SHARED:
        alike = all(pair.above is not None and pair.above[0] > 0 for pair in pairs)
        return "contradicts" if any(still) else "confirms" if all(moves) and alike else "undecided"
    denied = [m for m in range(len(ratio)) if ascii_uppercase[m] not in label]
    if any(moves[m] for m in denied):
        return "contradicts"
    return "confirms" if all(still[m] for m in denied) else "undecided"


def _ratios(kl: Tensor, control: Tensor, document: Tensor, draws: Draws) -> tuple[Interval, ...]:
    """4, the most moved model being the one that is so over all positions."""
    most = int((kl.sum(0) / control.sum(0).clamp_min(1e-12)).argmax())
    n_documents = draws.counts.shape[1]
    own, other = (draws.sums(by_unit(x, document, n_documents)) for x in (kl, control))
    moved = own / other.clamp_min(1e-12)
    moved = moved[moved[:, most] > 0]
    return tuple(interval(moved[:, m] / moved[:, most]) for m in range(kl.shape[1]))


def _pair(m: int, n: int, kl: Tensor, control: Tensor, document: Tensor, draws: Draws | None) -> PairShift:
    if draws is None:
        return PairShift(models=(m, n), correlation=None, control=None, above=None)
    every = Draws.whole(draws.counts.shape[1])
    own = (correlations(kl[:, m], kl[:, n], document, d) for d in (every, draws))
    other = (correlations(kl[:, m], control[:, n], document, d) for d in (every, draws))
    (point, drawn), (control_point, control_drawn) = own, other
    above = (drawn - control_drawn)[torch.isfinite(drawn - control_drawn)]
    return PairShift(
        models=(m, n),
        correlation=_number(point[0]),
        control=_number(control_point[0]),
        above=interval(above) if len(above) >= len(drawn) // 2 and len(above) else None,
    )


def correlations(
    x: Float[Tensor, "position"], y: Float[Tensor, "position"], document: Int[Tensor, "position"], draws: Draws
) -> Float[Tensor, "draw"]:
    """Pearson correlation over the positions of the documents in each draw; NaN where one of the two is constant."""
    x, y = x.double(), y.double()
    sums = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], dim=1)
    return correlation(*draws.sums(by_unit(sums, document, draws.counts.shape[1])).unbind(1))


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
