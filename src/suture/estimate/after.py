"""What the stages after training take: each is run for real on little, and the rest is reckoned from that.

1. The pass over rows of `features`, and `match`, are run on two numbers of rows: what is left of their times at no rows
   is fixed (it grows with the features), the rest goes with the rows; the pass once more with more groups of documents.
   What `features` does besides goes with its examples: a feature has so many at most, and has them all once it fires
   often enough. `report` is run on the table that this made.
2. Promoted tokens are not found for that: products of the vocabulary with the features, and the passes of features
   through the models, are counted, and divided by the rate of such a product measured here.
3. `splice`, `causal` and `steer` are passes over text: a short text is spliced, and causally checked for two features;
   seconds of a row, or of a row and a feature, are multiplied by the rows (and features) of the whole.
4. What is not known beforehand decides the range: how many labels there are to take features from, how often a feature
   fires once it is trained, how far short texts are from long ones.

The dictionary is the one that the probe of training trained for a few steps: of the real shape, and as sparse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from suture.activations.settings import View
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.activations.view import seen
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.rows import LEAST_DOCUMENTS, matching_view
from suture.estimate.machine import held_bytes, peak_bytes, reset_peak
from suture.estimate.probe import Span
from suture.features.describe import chosen_rows, features
from suture.features.logits import CHUNK_LOGITS
from suture.features.settings import FeatureSettings
from suture.features.stats import FeatureStats, describe
from suture.features.table import EXAMPLES, FeatureTable
from suture.interventions.causal import find_causes
from suture.interventions.paired import PairedText
from suture.interventions.settings import CausalSettings, SpliceSettings, SteerSettings
from suture.interventions.splice import spliced_losses
from suture.lm.downstream import CONTEXTS
from suture.lm.load import LanguageModel
from suture.matching.match import match
from suture.matching.settings import MatchSettings
from suture.pipeline import artifact
from suture.pipeline.files import bytes_in

STAGES = ("features", "match", "splice", "causal", "steer", "report")
NEED_MODELS = ("splice", "causal", "steer")
Page = Callable[[Path, Sequence[Path]], object]
"""Writes a report on folders to a file."""
TEXT_CHARACTERS = 400
"""Of the text that is spliced and checked."""
ROWS_OF_A_DOCUMENT = 8
LEAST_ROWS, MOST_ROWS = 256, 4096
"""Rows that features are described on; more, up to FAR_ROWS, as long as that takes less than LONG seconds."""
FAR_ROWS, LONG = 65_536, 3.0
FEWEST_GROUPS = 2
CAUSAL_EACH_LABEL = 8
N_LABELS = (2, 3, 6)
"""Labels that live features carry, of which `causal` takes some each: at least, usually, at most; of one model one."""
FIRE = 0.5
"""On how much of the text those features fire, of what the busiest fire on."""
STEERED_NEUTRAL, STEERED_PROMPTS, PROMPT_ROWS = 32, 32, 12
"""What `steer` reads where nothing else is said, and tokens of a prompt."""
AROUND = Span(0.6, 1.0, 1.6)
"""How far a stage measured on little is off on the whole."""
DESCRIBED = Span(0.6, 1.0, 2.0)
"""The same of describing features: how many fire once training is over."""
STEERED = Span(0.35, 0.7, 1.2)
"""The same of steering, which repeats nothing that a short text pays once."""
COUNTED = Span(0.4, 1.0, 2.0)
"""How far a time that was counted and not measured is off."""
DIRECT = 1.3
"""Time of the direct path over that of its product: the strongest of each row, and bins."""
LOGITS_BYTES = 500
"""Of a feature's promoted tokens in a model."""
SPLICE_BYTES, SPLICE_PART_BYTES = 3000, 60_000
CAUSAL_BYTES, CAUSAL_PART_BYTES = 900, 35_000
"""Of a feature: in the result, and while it runs."""
STEER_BYTES = 50_000
"""Of a feature in a model."""


@dataclass(frozen=True, kw_only=True)
class AfterProbe:
    """One stage after training."""

    seconds: Span
    """Of the work, without starting up and loading models."""
    rows_per_second: float | None
    memory: int
    """At the most, without libraries and models."""
    disk: int
    """Of what stays."""
    parts: int = 0
    """Bytes besides, while it runs."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the stages are tried on."""

    store: Store
    """The probe's beginning of the store, seen as the dictionary sees it."""
    dictionary: Path
    n_rows: int
    """Of the store itself."""
    lms: tuple[LanguageModel, ...] | None
    """None where the store's models are not at hand."""
    folder: Path
    heldout: float
    """The part of the documents that training leaves out, from which texts are taken."""
    features: FeatureSettings
    match: MatchSettings

    @property
    def rows_per_document(self) -> float:
        return len(self.store) / len(self.store.documents.unique())

    def rows_of_text(self, n_documents: int) -> float:
        """Rows in so many documents, or in all that training leaves out."""
        return min(n_documents * self.rows_per_document, (self.heldout or 1.0) * self.n_rows)

    def text(self) -> str:
        """The beginning of a document, long enough to hold shared positions."""
        documents = self.store.documents.unique().tolist()
        return max((self.store.text(d)[:TEXT_CHARACTERS] for d in documents[:8]), key=len)


def probe_after(stage: str, given: Material, page: Page | None = None) -> AfterProbe:
    """Try one of `STAGES`.

    Raises:
        UserError: as the stage itself.
    """
    probes: dict[str, Callable[[], AfterProbe]] = {
        "features": lambda: _features(given),
        "match": lambda: _match(given),
        "splice": lambda: _splice(given),
        "causal": lambda: _causal(given),
        "steer": lambda: _steer(given),
        "report": lambda: _report(given, page),
    }
    return probes[stage]()


def _two_points(run: Callable[[int], object], n_available: int, least: int = LEAST_ROWS) -> tuple[float, float, int]:
    """(seconds at no rows, seconds of a row, the most rows tried)."""
    most = min(n_available, MOST_ROWS)
    few = max(most // 4, min(least, most))
    run(few)  # what is loaded at first use is no part of it
    first, last = (_seconds(lambda n=n: run(n)) for n in (few, most))
    while most < min(n_available, FAR_ROWS) and last < LONG:
        few, most = most, min(4 * most, n_available, FAR_ROWS)
        first, last = last, _seconds(lambda n=most: run(n))
    per_row = max(last - first, 0.0) / max(most - few, 1)
    return max(last - per_row * most, 0.0), per_row, most


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@contextmanager
def _held() -> Iterator[list[int]]:
    """Holds, once left, the bytes that were held at the most inside, beyond those held before."""
    found: list[int] = []
    reset_peak()
    before = held_bytes()
    yield found
    found.append(max(peak_bytes() - before, 0))


def _features(given: Material) -> AfterProbe:
    """1 and 2."""
    settings, out = given.features, given.folder / "features"
    dictionary = Dictionary.load(given.dictionary, precision="auto")
    training = artifact.open_artifact(given.dictionary).settings
    view = matching_view(dictionary, seen(given.store, View.from_json(training.get("view"))))

    def walk(n_rows: int, n_groups: int) -> FeatureStats:
        rows, discovery = chosen_rows(view, training, n_rows, crossed=settings.crossed)
        own = replace(settings.stats, n_groups=n_groups)
        return describe(dictionary, view, rows, discovery_rows=discovery, settings=own)

    fixed, per_row, most = _two_points(lambda n: walk(n, FEWEST_GROUPS), len(view))
    found: list[FeatureStats] = []
    with_groups = _seconds(lambda: found.append(walk(most, settings.stats.n_groups)))
    n_groups = found[0].shares.weight.shape[0]
    per_group = max(with_groups - fixed - per_row * most, 0.0) / max(n_groups - FEWEST_GROUPS, 1)
    with _held() as held:
        own = replace(settings, n_rows=most, choice=replace(settings.choice, n_searched=most))
        made: list[FeatureTable] = []
        whole = _seconds(lambda: made.append(features(out, given.dictionary, given.store, own, overwrite=True)))
    described = min(settings.n_rows, given.n_rows)
    searched = max(min(settings.choice.n_searched, given.n_rows) - described, 0)
    more = _more(made[0].examples, described / most)
    measured = (
        fixed
        + per_row * (described + searched / 3)  # a row described is encoded three times
        + per_group * (settings.stats.n_groups - FEWEST_GROUPS)
        + max(whole - with_groups, 0.0) * more
    )
    counted = sum((promoted_seconds(lm, dictionary.n_features, settings.n_run) for lm in given.lms or ()), 0.0)
    seconds = DESCRIBED * measured + COUNTED * counted
    disk = sum(f.stat().st_size * (more if f.name == EXAMPLES else 1) for f in out.rglob("*") if f.is_file())
    disk += LOGITS_BYTES * dictionary.n_features * len(given.lms or ())
    return AfterProbe(
        seconds=seconds,
        rows_per_second=(described + searched) / seconds.middle,
        memory=round(held[0] * more) + max((promoted_bytes(lm) for lm in given.lms or ()), default=0),
        disk=round(disk),
    )


def _more(examples: Sequence[Sequence[object]], times: float) -> float:
    """How many times as many examples there would be on so many times the rows, once training is over.

    No feature has more than any has; one that has none yet will have as many as the others.
    """
    each = [len(own) for own in examples]
    live = [n for n in each if n]
    if not live:
        return 1.0
    usual, most = sum(live) / len(live), max(live)
    return max(sum(min(most, (n or usual) * times) for n in each) / sum(live), 1.0)


def promoted_seconds(lm: LanguageModel, n_features: int, n_run: int) -> float:
    """2: finding what the directions of one model promote."""
    V, d = lm.vocab_size, lm.d_model
    n_blocks = sum(p.numel() for p in lm.model.parameters()) - V * d
    flop = DIRECT * 2.0 * V * d * n_features
    flop += 2.0 * n_run * CONTEXTS * (V * d + max(n_blocks, 0))
    some = list(range(min(1000, V, len(lm.tokenizer))))
    decode = lm.tokenizer.backend_tokenizer.decode_batch
    spelling = _seconds(lambda: decode([[i, i] for i in some], skip_special_tokens=False)) / len(some)
    return flop / product_rate(d) + 2 * spelling * V


def promoted_bytes(lm: LanguageModel) -> int:
    """Its own copy of the head, and the logits of some directions, their order and bins."""
    return 4 * lm.vocab_size * lm.d_model + 16 * CHUNK_LOGITS


def product_rate(width: int) -> float:
    """Operations per second of a product of so many columns, as the head of a model is."""
    one, other = torch.randn(256, width), torch.randn(8192, width)
    _ = one @ other.T
    return 2.0 * one.shape[0] * other.shape[0] * width / _seconds(lambda: one @ other.T)


def _match(given: Material) -> AfterProbe:
    """1, with a copy of the dictionary as the other one, on rows dealt into as many documents as a matching needs."""
    rows = torch.arange(min(len(given.store), MOST_ROWS))
    store = write_store(
        given.folder / "rows",
        given.store.read(rows),
        names=[(space.model, space.hookpoint) for space in given.store.spaces],
        documents=rows // ROWS_OF_A_DOCUMENT,
    )
    dictionary = Dictionary.load(given.dictionary)
    sides = (given.folder / "one", given.folder / "other")
    labels = [space.label for space in dictionary.spaces]
    for side in sides:
        same = Dictionary(tuple(space for space in store.spaces if space.label in labels), dictionary.design)
        same.load_state_dict(dictionary.state_dict())
        same.save(side)
    out, space = given.folder / "matching", None if dictionary.design.joint else 0

    def run(n_rows: int) -> None:
        own = replace(given.match, n_rows=n_rows, space_a=space, space_b=space)
        match(out, *sides, store, own, overwrite=True)

    with _held() as held:
        fixed, per_row, _ = _two_points(run, len(store), least=ROWS_OF_A_DOCUMENT * 2 * LEAST_DOCUMENTS)
    n_rows = min(given.match.n_rows, given.n_rows)
    seconds = AROUND * (fixed + per_row * n_rows)
    disk = bytes_in(out)
    return AfterProbe(seconds=seconds, rows_per_second=n_rows / seconds.middle, memory=held[0], disk=disk)


def _row_of_text(given: Material) -> tuple[float, int]:
    """3: seconds to splice a row into all models, every stand-in; bytes held meanwhile."""
    assert given.lms is not None
    dictionary = Dictionary.load(given.dictionary, precision="auto")
    found = []

    def run() -> None:
        found.append(spliced_losses(dictionary, given.lms or (), [given.text()], SpliceSettings(n_documents=1)))

    with _held() as held:
        run()
    return max(_seconds(run) - _beginning(given, dictionary), 0.0) / found[0].n_rows, held[0]


def _beginning(given: Material, dictionary: Dictionary) -> float:
    """Seconds that any text takes once, however long: models are tried on how far their passes can be cut short."""
    return _seconds(lambda: PairedText(dictionary.spaces, given.lms or (), [given.text()], block=128))


def _splice(given: Material) -> AfterProbe:
    settings = SpliceSettings()
    n_rows = given.rows_of_text(settings.n_documents)
    row, held = _row_of_text(given)
    seconds = AROUND * (row * n_rows)
    return AfterProbe(
        seconds=seconds,
        rows_per_second=n_rows / seconds.middle,
        memory=held,
        disk=SPLICE_BYTES,
        parts=SPLICE_PART_BYTES,
    )


def _causal(given: Material) -> AfterProbe:
    """3, for the features that fire most: those that `causal` takes."""
    assert given.lms is not None
    settings, dictionary = CausalSettings(), Dictionary.load(given.dictionary, precision="auto")
    rows = torch.arange(min(len(given.store), LEAST_ROWS))
    x = dictionary.scaled(given.store.read(rows))
    codes = dictionary.encode(x) if dictionary.design.joint else dictionary.encode_alone(x, 0)
    busiest = codes.counts.argsort(descending=True)[:2].tolist()
    text = given.text()

    def run(chosen: Sequence[int]) -> None:
        find_causes(dictionary, given.lms or (), [text], dict.fromkeys(chosen, "shared"), settings)

    with _held() as held:
        run(busiest)
    beginning = _beginning(given, dictionary)
    once, with_features = (max(_seconds(lambda n=n: run(busiest[:n])) - beginning, 0.0) for n in (1, 2))
    n_text = max(
        1.0, given.rows_per_document * len(text) / max(len(given.store.text(int(given.store.documents[0]))), 1)
    )
    per_feature = max(with_features - once, with_features / 4)
    whole = given.rows_of_text(settings.n_documents) / n_text
    n_features = [CAUSAL_EACH_LABEL * n for n in (N_LABELS if dictionary.n_spaces > 1 else (1, 1, 1))]
    few, usual, most = (per_feature * n * whole for n in n_features)
    clean = max(once - per_feature, 0.0) * whole
    seconds = Span(FIRE**2 * (few + clean), FIRE * usual + clean, 1.5 * (most + clean))
    return AfterProbe(
        seconds=seconds,
        rows_per_second=None,
        memory=held[0],
        disk=CAUSAL_BYTES * n_features[1],
        parts=CAUSAL_PART_BYTES * n_features[1],
    )


def _steer(given: Material) -> AfterProbe:
    """3, for one feature: passes like those of a splice, as many as directions and doses, and continuations."""
    settings = SteerSettings()
    n_directions = 1 + settings.n_controls * (len(settings.controls) - 1) + 1 + settings.n_random
    n_edits = n_directions * len(settings.doses)
    n_stand_ins = 3 + len(given.store.spaces)
    row, held = _row_of_text(given)
    row /= n_stand_ins
    text = given.rows_of_text(STEERED_NEUTRAL + STEERED_PROMPTS) / 2
    neutral = text * (n_edits + 1)
    prompts = STEERED_PROMPTS * PROMPT_ROWS * (n_edits + settings.n_mismatched) / 2
    kinds = len(settings.controls) + 2
    written = settings.n_generation_prompts * settings.max_new_tokens * kinds * (len(settings.doses) + 1) * 2
    seconds = STEERED * (row * (neutral + prompts + written))
    disk = STEER_BYTES * len(given.store.spaces)
    return AfterProbe(seconds=seconds, rows_per_second=None, memory=held, disk=disk)


def _report(given: Material, page: Page | None) -> AfterProbe:
    """1; a page is written of the table that features made, which is made first where it is not there."""
    assert page is not None, "the caller knows how pages are written"
    table, out = given.folder / "features", given.folder / "report.html"
    if not table.exists():
        _features(replace(given, lms=None))
    written = FeatureTable.load(table)
    wanted = min(given.features.n_rows, given.n_rows)
    more = _more(written.examples, wanted / int(written.summary["n_rows"]))
    with _held() as held:
        seconds = _seconds(lambda: page(out, [given.dictionary, table])) * more
    pieces = bytes_in(out.with_name(f"{out.stem}-pieces"))
    return AfterProbe(
        seconds=AROUND * seconds,
        rows_per_second=None,
        memory=round(held[0] * more),
        disk=round((out.stat().st_size + pieces) * more),
    )
