"""What comes after training, on a real pair of models: how long each stage takes over the passes that it needs.

1. Inputs: a folder that `benchmarks/real_pairs.py --keep` left, with a store, a crosscoder and its feature table.
2. Splicing, the causal check and steering each run on the beginnings of a few documents that training never saw. In the
   same run, so that a shared machine slows both alike, the time inside every forward pass of the models is taken, head
   included; a pass that only repeats an earlier one (the same tokens as far as the hookpoint) counts as none needed.
3. Describing features needs encodings: of every row from all models together and from each alone, and decoding it;
   passes that run directions through the models; and every direction through the heads (the direct path). All are
   timed inside of it.
4. Reported: seconds of the stage, of the passes it needs, and the ratio. A report needs none and has its seconds alone.

    python benchmarks/after.py /tmp/real /tmp/realkeep40/SmolLM2-resid10-x-Gemma-3-resid6 [--documents 4] [--write]
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from results import circumstances, table, write_section

from suture.dictionary.dictionary import Dictionary
from suture.features import logits
from suture.features.describe import features
from suture.features.table import FeatureTable
from suture.interventions.causal import causal, of_each_label
from suture.interventions.settings import CausalSettings, SpliceSettings, SteerSettings
from suture.interventions.splice import splice
from suture.interventions.steer.steer import heldout_documents, steer, texts_of
from suture.lm.load import LanguageModel, load_model
from suture.report.page import report

MODELS = ("smollm2-135m", "gemma3-270m")
STAGES = ("features", "splice", "causal", "steer", "report")
CHARACTERS = 1000
"""Read of each document: a ratio of times needs no more."""
ENCODERS = ("encode", "encode_alone", "decode", "decode_raw")


@dataclass
class Passes:
    """Seconds inside forward passes, or encodings, and how many there were."""

    seconds: float = 0.0
    n: int = 0
    repeated: float = 0.0
    """Seconds of those that only repeated an earlier one."""
    n_repeated: int = 0
    seen: set[Any] = field(default_factory=set)
    depth: int = 0

    @contextmanager
    def timed(self, key: Any = None) -> Iterator[None]:
        """One of them; nested ones count once."""
        started, self.depth = time.perf_counter(), self.depth + 1
        ended_early = False
        try:
            yield
        except Exception:  # a recording ends its pass that way, once it has seen all
            ended_early = True
            raise
        finally:
            self.depth -= 1
            if self.depth == 0:
                spent = time.perf_counter() - started
                repeats = key is not None and ended_early and key in self.seen
                self.seen |= {key} if ended_early else set()
                self.seconds, self.n = self.seconds + spent, self.n + 1
                self.repeated, self.n_repeated = self.repeated + spent * repeats, self.n_repeated + repeats

    @property
    def needed(self) -> float:
        return self.seconds - self.repeated


@contextmanager
def watched(lms: list[LanguageModel]) -> Iterator[tuple[Passes, Passes, Passes]]:
    """While inside, the time in the models' forward passes, in their heads alone, and in the dictionary's encodings."""
    forward, heads, encoding = Passes(), Passes(), Passes()

    def timing(run: Callable[..., Any], number: int) -> Callable[..., Any]:
        @functools.wraps(run)
        def call(ids: Any = None, *args: Any, **kwargs: Any) -> Any:
            given = ids if isinstance(ids, torch.Tensor) else kwargs.get("input_ids")
            key = None if given is None else (number, tuple(given.shape), given.numpy().tobytes())
            with forward.timed(key):
                return run(*([] if ids is None else [ids]), *args, **kwargs)

        return call

    def plainly(run: Callable[..., Any], into: Passes) -> Callable[..., Any]:
        @functools.wraps(run)
        def call(*args: Any, **kwargs: Any) -> Any:
            with into.timed():
                return run(*args, **kwargs)

        return call

    with ExitStack() as kept:
        for number, lm in enumerate(lms):
            kept.enter_context(patch.object(lm.model, "forward", timing(lm.model.forward, number)))
        for name in ENCODERS:
            kept.enter_context(patch.object(Dictionary, name, plainly(getattr(Dictionary, name), encoding)))
        kept.enter_context(patch.object(logits, "centred_logits", plainly(logits.centred_logits, heads)))
        yield forward, heads, encoding


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a stage."""

    seconds: float
    forward: Passes
    heads: Passes
    encoding: Passes

    @property
    def needed(self) -> float:
        return self.forward.needed + self.heads.needed + self.encoding.needed

    @property
    def ratio(self) -> float:
        return self.seconds / self.needed


def stages(pair: Path, lms: list[LanguageModel], n_documents: int, out: Path) -> dict[str, Callable[[], object]]:
    """Every stage on the pair, on few documents."""
    dictionary, table_path = pair / "crosscoder", pair / "features-crosscoder"
    documents = [text[:CHARACTERS] for text in islice(heldout_documents(dictionary), max(n_documents, 6))]
    neutral, prompts = texts_of(documents, n_neutral=3, n_prompts=len(documents) - 3)
    chosen = of_each_label(FeatureTable.load(table_path), 1)
    return {
        "features": lambda: features(out / "features", dictionary, pair / "store", lms=lms, overwrite=True),
        "splice": lambda: splice(
            out / "splice", dictionary, lms, documents, SpliceSettings(n_documents=n_documents), overwrite=True
        ),
        "causal": lambda: causal(
            out / "causal", dictionary, table_path, lms, documents, chosen=chosen,
            settings=CausalSettings(n_documents=n_documents), overwrite=True,
        ),
        "steer": lambda: steer(
            out / "steer", dictionary, table_path, chosen[:1], lms=lms, prompts=prompts, neutral=neutral,
            settings=SteerSettings(strengths=(1.0, 2.0), n_controls=1, n_mismatched=1, max_new_tokens=20),
            overwrite=True,
        ),
        "report": lambda: report(out / "report.html", [pair / "store", dictionary, table_path, pair / "splice"]),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder with the two models")
    parser.add_argument("pair", type=Path, help="folder that real_pairs.py --keep left")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lms = [load_model(str(given.models / name), device="cpu") for name in MODELS]
    found: dict[str, list[Run]] = {name: [] for name in given.stages}
    with tempfile.TemporaryDirectory() as folder:
        every = stages(given.pair, lms, given.documents, Path(folder))
        for _ in range(given.rounds):
            for name in given.stages:
                with watched(lms) as (forward, heads, encoding):
                    started = time.perf_counter()
                    every[name]()
                    seconds = time.perf_counter() - started
                found[name].append(Run(seconds=seconds, forward=forward, heads=heads, encoding=encoding))
                print(name, f"{seconds:.1f} s", forward.n, f"{forward.seconds:.1f}", forward.n_repeated,
                      f"{forward.repeated:.1f}", "heads", f"{heads.seconds:.1f}",
                      "encodings", f"{encoding.seconds:.1f}", flush=True)  # fmt: skip
    lines = [_line(name, runs) for name, runs in found.items()]
    head = ["stage", "seconds", "passes: n", "needed, s", "heads alone: s", "encodings: s", "stage / needed"]
    text = "\n\n".join(
        [
            "## After training",
            f"{circumstances(('torch', 'transformers'))} threads: {given.threads}; documents: {given.documents}. "
            "Medians; both times are taken in the same run of a shared machine. Features: 40,000 rows.",
            table(head, lines),
        ]
    )
    print(text)
    if given.write:
        write_section("after", text)


def _line(name: str, runs: list[Run]) -> list[str]:
    seconds = f"{median(r.seconds for r in runs):,.0f}"
    n = runs[0].forward.n
    if not n:
        return [name, seconds, "0", *["-"] * 4]
    parts = [[r.forward.needed for r in runs], [r.heads.needed for r in runs], [r.encoding.needed for r in runs]]
    passes = [f"{median(part):,.1f}" for part in parts]
    return [name, seconds, f"{n:,}", *passes, f"{median(r.ratio for r in runs):.2f}"]


if __name__ == "__main__":
    main()
