"""Two real language models from text to labels: how long each stage takes, and what it finds.

1. Pairs: a layer of SmolLM2-135M beside one of Gemma-3-270M, and two layers of SmolLM2 (built by
   `shared/tools/real_models.sh`; nothing is downloaded).
2. The whole chain with the default recipe: collect, train, the null on a rotated copy of the first space, features of
   both, known features added to the real rows (`power`), splicing.
3. The floor of a collection is the models' own blocks up to the hookpoints, on the batches that it runs, and nothing
   else; every stage's seconds stand beside it.

    python benchmarks/real_pairs.py MODELS [--rows 40000] [--train-rows 400000] [--features 2048] [--k 32] [--write]
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from collect import SHARED, record_at, resolve
from results import circumstances, table, write_section

from suture.activations.collect import collect
from suture.activations.rows import Plan, group_by_length, plan_rows
from suture.activations.settings import View
from suture.activations.windows import State, windows
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.features.describe import features
from suture.features.table import FeatureSummary
from suture.interventions.splice import splice
from suture.interventions.steer.steer import heldout_documents
from suture.labels import AMBIGUOUS, DEAD
from suture.labels import SHARED as BOTH
from suture.lm.corpus import Corpus
from suture.lm.load import LanguageModel, load_model
from suture.planted.spike_settings import SpikeSettings
from suture.studies.power import power
from suture.training.result import TrainResult
from suture.training.settings import TrainSettings
from suture.training.train import train

TEXT = SHARED / "data" / "wikitext2" / "test.txt"
PAIRS = {
    "SmolLM2 resid10 x Gemma 3 resid6": (("smollm2-135m", "resid10.post"), ("gemma3-270m", "resid6.post")),
    "SmolLM2 resid10 x resid20": (("smollm2-135m", "resid10.post"), ("smollm2-135m", "resid20.post")),
}
MODELS = ("smollm2-135m", "gemma3-270m")
FOUND = (
    "pair", "FVU", "FVU, typical rows", "L0", "dead", "R² A to B (linear map), B to A", "loss recovered", "labels",
    "ambiguous of live", "null: exclusive", "null: ceiling",
)  # fmt: skip
BLOCK = 128
N_SPLICED = 32


@dataclass
class Watch:
    """Seconds of every stage, in their order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started
        print(f"  {stage}: {self.seconds[stage]:,.0f} s", flush=True)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a pair's chain took and found."""

    seconds: dict[str, float]
    trained: TrainResult
    own: FeatureSummary
    null: FeatureSummary
    limits: str
    """What could have been found."""
    recovered: list[float | None]
    """Of the loss that replacing each model's activations by their mean costs."""
    remarks: list[str]

    def found(self) -> list[str]:
        """A line of the table."""
        own, null, fit = self.own, self.null, self.trained.evaluation
        assert fit is not None
        assert own.r2_linear is not None
        r2 = [f"{own.r2[a][b]:.2f} ({own.r2_linear[a][b]:.2f})" for a, b in ((0, 1), (1, 0))]
        return [
            " ".join(f"{v:.3f}" for v in own.fvu),
            " ".join(f"{v:.3f}" for v in own.fvu_typical or ()),
            f"{fit.l0:.1f}",
            percent(own.dead),
            ", ".join(r2),
            ", ".join(percent(v) for v in self.recovered),
            ", ".join(f"{label} {n:,}" for label, n in own.counts.items()),
            percent(own.counts.get(AMBIGUOUS, 0) / live(own)),
            percent(null.false_positive_rate),
            percent(null.counts.get(BOTH, 0) / live(null)),
        ]


def sections(file: Path) -> Corpus:
    """WikiText, a section of an article as a document."""
    parts = re.split(r"\n(?= = )", file.read_text(encoding="utf-8"))
    return Corpus(str(file), f"the {len(parts)} sections of {file.name}", lambda: iter(parts))


def live(summary: FeatureSummary) -> int:
    """Features that fire."""
    return sum(n for label, n in summary.counts.items() if label != DEAD)


def percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def forward_passes(plan: Plan, corpus: Corpus, n_rows: int) -> None:
    """3. A model whose layers are both looked at runs once, to the later one."""
    lms = plan.models
    points = [
        [resolve(lm.model, plan.spaces[space].hookpoint) for space in own]
        for lm, own in zip(lms, plan.spaces_of, strict=True)
    ]
    start = State.beginning(len(lms))
    cut = windows(corpus, list(lms), block=BLOCK, n_tokens=plan.window_tokens, n_rows=n_rows, start=start)
    for window in cut:
        for m, lm in enumerate(lms):
            n_bos = int(lm.bos is not None)
            lengths = {i: n_bos + len(piece.ids[m]) for i, piece in enumerate(window.pieces) if len(piece.ends)}
            for group in group_by_length(lengths, plan.batch_tokens):
                batch = torch.full((len(group), lengths[group[-1]]), lm.bos or 0)
                for place, piece in enumerate(group):
                    ids = window.pieces[piece].ids[m]
                    batch[place, n_bos : n_bos + len(ids)] = ids
                record_at(lm, batch, points[m])


def chain(work: Path, sources: Sequence[tuple[LanguageModel, str]], settings: TrainSettings, n_rows: int) -> Outcome:
    """2."""
    watch, corpus, lms = Watch(), sections(TEXT), [lm for lm, _ in sources]
    with watch("forward passes alone"):
        forward_passes(plan_rows(sources, block=BLOCK, dtype="bfloat16", batch_tokens=None), corpus, n_rows)
    with watch("collect"):
        store = collect(work / "store", sources=sources, corpus=corpus, n_rows=n_rows, block=BLOCK)
    tables = {}
    for name, view in {"crosscoder": View(), "null": View(spaces=(0,), null=True, rotation_seed=0)}.items():
        with watch(f"train {name}"):
            train(work / name, store, replace(settings, view=view))
        with watch(f"features {name}"):
            given = None if view.null else lms
            tables[name] = features(work / f"features-{name}", work / name, store, lms=given).found
    with watch("known features added"):
        limits = power(work / "power", store, settings, SpikeSettings()).sentence
    with watch("splice"):
        documents = islice(heldout_documents(work / "crosscoder"), N_SPLICED)
        spliced = splice(work / "splice", work / "crosscoder", lms, documents)
    return Outcome(
        seconds=watch.seconds,
        trained=TrainResult.load(work / "crosscoder"),
        own=tables["crosscoder"],
        null=tables["null"],
        limits=limits,
        recovered=[model.recovered for model in spliced.models],
        remarks=store.remarks,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder that holds smollm2-135m and gemma3-270m")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--train-rows", type=int, default=400_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep the results in this folder")
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    design = Design(n_features=options.features, sparsity=Sparsity(k=options.k))
    settings = TrainSettings(design=design, n_rows=options.train_rows)
    lms = {name: load_model(str(options.models / name), device="cpu") for name in MODELS}
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for title, places in PAIRS.items():
            print(title, flush=True)
            work = (options.keep or Path(temporary)) / title.replace(" ", "-")
            sources = [(lms[name], hookpoint) for name, hookpoint in places]
            outcomes[title] = chain(work, sources, settings, options.rows)
    size = (
        f"{options.rows:,} rows of WikiText-2 in sections, {options.features:,} features, k = {options.k}, "
        f"{options.train_rows:,} training rows, {options.threads} threads; everything else as it comes."
    )
    stages = list(next(iter(outcomes.values())).seconds)
    times = [[title, *(f"{own.seconds[stage]:,.0f}" for stage in stages)] for title, own in outcomes.items()]
    rows = [[title, *own.found()] for title, own in outcomes.items()]
    said = [f"*{title}*: {' '.join([own.limits, *own.remarks])}" for title, own in outcomes.items()]
    head = ["## Real pairs", circumstances(("torch", "transformers")), size]
    text = "\n\n".join([*head, table(["seconds", *stages], times), table(FOUND, rows), *said])
    print(text)
    if options.write:
        write_section("real_pairs", text)


if __name__ == "__main__":
    main()
