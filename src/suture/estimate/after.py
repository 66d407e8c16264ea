"""What the stages after training take: each is run for real on little, and the rest is reckoned from that.

1. `features` and `match` are run on two numbers of rows: what is left of their times at no rows is fixed (it grows
   with the features), the rest goes with the rows. `report` is run on the table that this made.
2. Promoted tokens are not found for that: their products of the vocabulary with itself and with the features, and the
   passes of features through the models, are counted, and divided by the rate of such a product measured here.
3. `splice`, `causal` and `steer` are passes over text: a short text is spliced, and causally checked for two features;
   seconds of a row, or of a row and a feature, are multiplied by the rows (and features) of the whole.
4. What is not known beforehand decides the range: how many labels there are to take features from, how often a feature
   fires once it is trained, how far short texts are from long ones.

The dictionary is the probe's: of the real shape, hardly trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.rows import LEAST_DOCUMENTS
from suture.estimate.probe import Span
from suture.features.describe import features
from suture.features.settings import FeatureSettings
from suture.interventions.causal import find_causes
from suture.interventions.paired import PairedText
from suture.interventions.settings import CausalSettings, SpliceSettings, SteerSettings
from suture.interventions.splice import spliced_losses
from suture.lm.downstream import CONTEXTS
from suture.lm.load import LanguageModel
from suture.matching.match import match
from suture.matching.settings import MatchSettings

STAGES = ("features", "match", "splice", "causal", "steer", "report")
NEED_MODELS = ("splice", "causal", "steer")
Page = Callable[[Path, Sequence[Path]], object]
"""Writes a report on folders to a file."""
TEXT_CHARACTERS = 400
"""Of the text that is spliced and checked."""
ROWS_OF_A_DOCUMENT = 8
LEAST_ROWS, MOST_ROWS = 256, 4096
"""Rows that features are described on; more, up to FAR_ROWS, as long as that takes less than LONG seconds."""
FAR_ROWS, LONG = 65_536, 12.0
CAUSAL_EACH_LABEL = 8
N_LABELS = (2, 3, 6)
"""Labels that live features carry, of which `causal` takes some each: at least, usually, at most."""
STEERED_NEUTRAL, STEERED_PROMPTS, PROMPT_ROWS = 32, 32, 12
"""What `steer` reads where nothing else is said, and tokens of a prompt."""
AROUND = Span(0.6, 1.0, 1.6)
"""How far a stage measured on little is off on the whole."""
COUNTED = Span(0.4, 1.0, 2.0)
"""How far a time that was counted and not measured is off."""
DIRECT = 1.8
"""Time of the direct path over that of its product: the strongest of each row, and bins."""
SPLICE_FILE_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class AfterProbe:
    """One stage after training."""

    seconds: Span
    """Of the work, without starting up and loading models."""
    rows_per_second: float | None
    disk: int


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


def _two_points(run: Callable[[int], object], n_available: int, least: int = LEAST_ROWS) -> tuple[float, float]:
    """(seconds at no rows, seconds of a row).

    The further out the better: on few rows each one more brings new examples and new pairs of features, and costs six
    times what it costs among 100,000.
    """
    most = min(n_available, MOST_ROWS)
    few = max(most // 4, min(least, most))
    run(few)  # what is loaded at first use is no part of it
    first, last = (_seconds(lambda n=n: run(n)) for n in (few, most))
    while most < min(n_available, FAR_ROWS) and last < LONG:
        few, most = most, min(4 * most, n_available, FAR_ROWS)
        first, last = last, _seconds(lambda n=most: run(n))
    per_row = max(last - first, 0.0) / max(most - few, 1)
    return max(last - per_row * most, 0.0), per_row


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _features(given: Material) -> AfterProbe:
    """1 and 2."""
    settings, out = given.features, given.folder / "features"

    def run(n_rows: int) -> None:
        own = replace(settings, n_rows=n_rows, choice=replace(settings.choice, n_searched=n_rows))
        features(out, given.dictionary, given.store, own, overwrite=True)

    fixed, per_row = _two_points(run, len(given.store))
    described = min(settings.n_rows, given.n_rows)
    searched = max(min(settings.choice.n_searched, given.n_rows) - described, 0)
    measured = fixed + per_row * (described + searched / 4)  # a row described is encoded four times, or more
    dictionary = Dictionary.load(given.dictionary)
    counted = sum((promoted_seconds(lm, dictionary.n_features, settings.n_run) for lm in given.lms or ()), 0.0)
    seconds = AROUND * measured + COUNTED * counted
    disk = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return AfterProbe(seconds=seconds, rows_per_second=(described + searched) / seconds.middle, disk=disk)


def promoted_seconds(lm: LanguageModel, n_features: int, n_run: int) -> float:
    """2: finding what the directions of one model promote."""
    V, d = lm.vocab_size, lm.d_model
    n_blocks = sum(p.numel() for p in lm.model.parameters()) - V * d
    flop = 2.0 * V * d * d + DIRECT * 2.0 * V * d * n_features
    flop += 2.0 * n_run * CONTEXTS * (V * d + max(n_blocks, 0))
    some = list(range(min(1000, V, len(lm.tokenizer))))
    decode = lm.tokenizer.backend_tokenizer.decode_batch
    spelling = _seconds(lambda: decode([[i, i] for i in some], skip_special_tokens=False)) / len(some)
    return flop / product_rate(d) + 2 * spelling * V


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

    fixed, per_row = _two_points(run, len(store), least=ROWS_OF_A_DOCUMENT * 2 * LEAST_DOCUMENTS)
    n_rows = min(given.match.n_rows, given.n_rows)
    seconds = AROUND * (fixed + per_row * n_rows)
    disk = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return AfterProbe(seconds=seconds, rows_per_second=n_rows / seconds.middle, disk=disk)


def _row_of_text(given: Material) -> float:
    """3: seconds to splice a row into all models, every stand-in."""
    assert given.lms is not None
    dictionary = Dictionary.load(given.dictionary, precision="auto")
    found = []

    def run() -> None:
        found.append(spliced_losses(dictionary, given.lms or (), [given.text()], SpliceSettings(n_documents=1)))

    run()
    return max(_seconds(run) - _beginning(given, dictionary), 0.0) / found[0].n_rows


def _beginning(given: Material, dictionary: Dictionary) -> float:
    """Seconds that any text takes once, however long: models are tried on how far their passes can be cut short."""
    return _seconds(lambda: PairedText(dictionary.spaces, given.lms or (), [given.text()], block=128))


def _splice(given: Material) -> AfterProbe:
    settings = SpliceSettings()
    n_rows = given.rows_of_text(settings.n_documents)
    seconds = AROUND * (_row_of_text(given) * n_rows)
    return AfterProbe(seconds=seconds, rows_per_second=n_rows / seconds.middle, disk=SPLICE_FILE_BYTES)


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

    run(busiest)
    beginning = _beginning(given, dictionary)
    once, with_features = (max(_seconds(lambda n=n: run(busiest[:n])) - beginning, 0.0) for n in (1, 2))
    n_text = max(
        1.0, given.rows_per_document * len(text) / max(len(given.store.text(int(given.store.documents[0]))), 1)
    )
    per_feature = max(with_features - once, with_features / 4)
    whole = given.rows_of_text(settings.n_documents) / n_text
    few, usual, most = (per_feature * CAUSAL_EACH_LABEL * n * whole for n in N_LABELS)
    clean = max(once - per_feature, 0.0) * whole
    seconds = Span(0.25 * (few + clean), usual + clean, 1.5 * (most + clean))
    return AfterProbe(seconds=seconds, rows_per_second=None, disk=SPLICE_FILE_BYTES)


def _steer(given: Material) -> AfterProbe:
    """3, for one feature: passes like those of a splice, as many as directions and doses, and continuations."""
    settings = SteerSettings()
    n_directions = 1 + settings.n_controls * (len(settings.controls) - 1) + 1 + settings.n_random
    n_edits = n_directions * len(settings.doses)
    n_stand_ins = 3 + len(given.store.spaces)
    row = _row_of_text(given) / n_stand_ins
    text = given.rows_of_text(STEERED_NEUTRAL + STEERED_PROMPTS) / 2
    neutral = text * (n_edits + 1)
    prompts = STEERED_PROMPTS * PROMPT_ROWS * (n_edits + settings.n_mismatched) / 2
    kinds = len(settings.controls) + 2
    written = settings.n_generation_prompts * settings.max_new_tokens * kinds * (len(settings.doses) + 1) * 2
    seconds = AROUND * (row * (neutral + prompts + written))
    return AfterProbe(seconds=seconds, rows_per_second=None, disk=SPLICE_FILE_BYTES)


def _report(given: Material, page: Page | None) -> AfterProbe:
    """1; a page is written of the table that features made, which is made first where it is not there."""
    assert page is not None, "the caller knows how pages are written"
    table, out = given.folder / "features", given.folder / "report.html"
    if not table.exists():
        _features(replace(given, lms=None))
    seconds = _seconds(lambda: page(out, [given.dictionary, table]))
    return AfterProbe(seconds=AROUND * seconds, rows_per_second=None, disk=out.stat().st_size)
