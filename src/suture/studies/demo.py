"""The demo: which features two shipped language models share, from text to report, on a laptop without a network.

1. Text is sampled from both models in equal parts: nobody else's words are needed, and neither model is at home.
2. `collect` MLP0's output of the 1-layer and the 2-layer model at the same text positions.
3. `train` a crosscoder and a pooled dictionary on the same rows, and the null: a crosscoder of the 2-layer model
   against its own rotated copy, where every exclusive feature found is a false one.
4. `features` of all three: labels with intervals, the null's false-positive rate and ceiling beside them.
5. `steer` both models with three features that they share.
6. `report.html` and `summary.json`.

Every step is a folder; one that is finished is not made again.
"""

import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from suture.activations.settings import CollectSettings, View
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.errors import UserError
from suture.features.settings import FeatureSettings
from suture.features.table import FeatureTable
from suture.interventions.settings import MatchedKind, SteerSettings
from suture.interventions.steer.effect import Effect
from suture.lm.generate import samples
from suture.lm.models import load_models
from suture.lm.settings import LoadSettings, ModelSettings, TextSettings
from suture.pipeline import artifact
from suture.pipeline.files import whole_file
from suture.pipeline.job import Context, Job, Tell, silent
from suture.pipeline.settings import Count, Option, Positive, Seed, check
from suture.report.page import find_artifacts, report
from suture.sweep.run import make
from suture.sweep.stages import collect_job, features_job, steer_job, train_job
from suture.training.settings import TrainSettings

MODELS = ("tinystories-1l", "tinystories-2l")
CONTROLS: tuple[MatchedKind, ...] = ("covariance", "decoder", "means")
N_CONTROLS = 3
"""Of steering: few, for the demo's minutes."""
HOOKPOINT = "mlp0.out"
SEPARATOR = "<|endoftext|>"
MARK = "demo.json"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Sizes of the demo."""

    n_stories: Annotated[Count, Option("stories")] = 1000
    """Sampled in all, half from each model."""
    story_tokens: Count = 220
    """Length of a story at most."""
    n_rows: Annotated[Count, Option("rows")] = 220_000
    """Text positions at most."""
    n_features: Annotated[Count, Option("features")] = 1024
    """Of every dictionary."""
    k: Count = 16
    """Active features of a code."""
    n_training_rows: Annotated[Count, Option("training-rows")] = 1_500_000
    """Of the crosscoder and the pooled dictionary."""
    null_rows: Count = 1_500_000
    """Of the null's training; the same as above, so that the two can be compared."""
    n_steered: Annotated[Count, Option("steered")] = 3
    """Shared features that both models are steered with."""
    strengths: Annotated[tuple[Positive, ...], Option("strength")] = SteerSettings.strengths
    """How strongly, in units of the feature's 99.9 % activation."""
    n_neutral: Annotated[Count, Option("neutral")] = 16
    """Texts that side effects are measured on."""
    n_prompts: Annotated[Count, Option("prompts")] = 24
    """Texts that they are steered on."""
    seed: Seed = 0
    """Of text, weights and order."""

    def __post_init__(self) -> None:
        check(self)

    @staticmethod
    def quick(seed: int) -> "DemoSettings":
        """Less of everything."""
        return DemoSettings(
            n_stories=200,
            story_tokens=128,
            n_rows=24_000,
            n_features=384,
            n_training_rows=200_000,
            null_rows=200_000,
            strengths=(0.5, 1.0, 2.0),
            n_neutral=6,
            n_prompts=8,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Where the demo's results are, and what they say."""

    out: Path
    report: Path
    summary: dict[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"out": str(self.out), "report": str(self.report), **self.summary}

    def text(self) -> str:
        """What the demo found, in a few lines."""
        lines = []
        for name in ("crosscoder", "pooled"):
            part = self.summary["dictionaries"][name]
            counts = ", ".join(f"{n} {label}" for label, n in part["counts"].items())
            fvu = " and ".join(f"{v:.3f}" for v in part["fvu"])
            lines.append(f"{name}: FVU {fvu}, L0 {part['l0']:.1f}; features: {counts}")
        null = self.summary["dictionaries"]["null"]
        rate, live = null["false_positive_rate"], sum(n for label, n in null["counts"].items() if label != "dead")
        ceiling = null["counts"].get("shared", 0) / max(live, 1)
        lines.append(f"null (a model against itself): {rate:.1%} falsely exclusive; {ceiling:.1%} shared, the ceiling")
        for effect in self.summary["steering"]:
            lines.append(
                f"feature {effect['feature']} steers both models: agreement {effect['agreement']:.2f} beyond "
                f"mismatched features ({effect['mismatched']:.2f})"
            )
        return "\n".join([*lines, f"report: {self.report.resolve()}"])


def demo(
    out: str | Path,
    *,
    quick: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    on_step: Tell | None = None,
    settings: DemoSettings | None = None,
) -> DemoResult:
    """Run the demo into the folder `out`; finished steps of the same demo are kept unless `overwrite`.

    Raises:
        UserError: `out` holds something else, or a demo of other settings.
    """
    out, tell = Path(out), on_step or silent
    if not 0 <= seed < 2**31:
        raise UserError("seed", seed, "is not a seed", "give a number from 0 to 2147483647")
    settings = settings or (DemoSettings.quick(seed) if quick else DemoSettings(seed=seed))
    _prepare(out, settings, overwrite=overwrite)
    started = time.monotonic()
    _sample_corpus(out / "corpus.txt", settings, tell)  # 1
    context = Context(tell=tell)
    jobs = _jobs(out, settings)
    make(jobs.values(), context)  # 2 to 4
    chosen = features_to_steer(FeatureTable.load(out / "features-crosscoder"), settings.n_steered)
    steering = steer_job(  # 5
        "steering",
        out / "steering",
        jobs["crosscoder"],
        jobs["features-crosscoder"],
        chosen,
        SteerSettings(
            strengths=settings.strengths,
            controls=CONTROLS,
            n_controls=N_CONTROLS,
            n_random=0,
            seed=settings.seed,
            n_draws=500,
        ),
        n_neutral=settings.n_neutral,
        n_prompts=settings.n_prompts,
        load=LoadSettings(),
    )
    make([steering], context)
    summary = _summary(out, Store.open(out / "store"), [Effect.load(folder) for folder in steering.folders])
    summary["seconds"] = round(time.monotonic() - started, 1)
    artifact.write_json(out / "summary.json", summary)
    command = "suture demo" + (" --quick" if quick else "") + (f" --seed {seed}" if seed else "")
    page = report(  # 6
        out / "report.html",
        find_artifacts(out),
        title="MLP0 of a 1-layer and a 2-layer TinyStories model",
        commands=[command, *reproduce(settings)],
    )
    return DemoResult(out=out, report=page, summary=summary)


def dictionaries(settings: DemoSettings) -> dict[str, TrainSettings]:
    """What is trained: the same size, rows and sparsity for every design."""

    def train_settings(kind: str, n_rows: int, view: View) -> TrainSettings:
        sparsity = Sparsity(k=settings.k)
        return TrainSettings(
            design=Design(kind=kind, n_features=settings.n_features, sparsity=sparsity),  # pyright: ignore[reportArgumentType]
            view=view,
            n_rows=n_rows,
            validate_every=max(20, n_rows // 1024 // 10),
            seed=settings.seed,
            precision="float32",  # not the measured choice: the demo is to find the same twice
        )

    return {
        "crosscoder": train_settings("crosscoder", settings.n_training_rows, View()),
        "pooled": train_settings("pooled", settings.n_training_rows, View()),
        "null": train_settings("crosscoder", settings.null_rows, View(spaces=(1,), null=True, rotation_seed=0)),
    }


def reproduce(settings: DemoSettings) -> list[str]:
    """The same steps, as commands, for use on other models and text."""
    pair = " ".join(f"--model {name} --at {HOOKPOINT}" for name in MODELS)
    commands = [f"suture collect store {pair} --corpus corpus.txt --tokens {settings.n_rows}"]
    for name, chosen in dictionaries(settings).items():
        null = " --space 1 --null --rotation-seed 0" if name == "null" else ""
        commands.append(
            f"suture train {name} --store store --design {chosen.design.kind} --features {settings.n_features} "
            f"--k {settings.k} --rows {chosen.n_rows} --precision {chosen.precision}{null}"
        )
        commands.append(f"suture features {name} --store store --out features-{name}")
    strengths = " ".join(f"--strength {s:g}" for s in settings.strengths)
    controls = " ".join(f"--control {name}" for name in CONTROLS)
    steering = (
        f"--prompts {settings.n_prompts} --neutral {settings.n_neutral} {strengths} {controls} "
        f"--control-draws {N_CONTROLS} --random 0"
    )
    commands.append(f"suture steer crosscoder --table features-crosscoder --feature I --out steering {steering}")
    return [*commands, "suture report ."]


def _prepare(out: Path, settings: DemoSettings, *, overwrite: bool) -> None:
    mark = out / MARK
    if out.is_file():
        raise UserError("out", out, "is a file", "name a folder")
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise UserError("out", out, "is not empty and was not made by the demo", "name another folder")
    if mark.exists() and overwrite:
        shutil.rmtree(out)
    if mark.exists() and artifact.read_json(mark) != artifact.as_json(asdict(settings)):
        raise UserError("out", out, "holds a demo of other settings", "name another folder, or pass --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    artifact.write_json(mark, asdict(settings))


def _sample_corpus(file: Path, settings: DemoSettings, tell: Tell) -> None:
    if file.exists():
        return
    lms = load_models(MODELS, LoadSettings(), device="cpu", keep=True)
    n_each, at_once = settings.n_stories // len(lms), 200
    stories: list[list[str]] = [[] for _ in lms]
    for m, lm in enumerate(lms):
        for first in range(0, n_each, at_once):
            batch = samples(
                lm,
                "",
                n_samples=min(at_once, n_each - first),
                max_new_tokens=settings.story_tokens,
                temperature=0.9,
                seed=settings.seed * 7919 + m * 104_729 + first,
            )
            stories[m] += [s.strip() for s in batch]
            tell("sampling stories", sum(map(len, stories)), settings.n_stories, "")
    # alternating, so that any beginning of the corpus holds as much of one model as of the other
    text = f"\n{SEPARATOR}\n".join(story for pair in zip(*stories, strict=True) for story in pair)
    with whole_file(file) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _jobs(out: Path, settings: DemoSettings) -> dict[str, Job]:
    """2 to 4, by the names of their folders."""
    models = ModelSettings(model=MODELS, at=(HOOKPOINT,))
    text = TextSettings(corpus=str(out / "corpus.txt"), separator=SEPARATOR)
    collected = CollectSettings(models=models, text=text, tokens=settings.n_rows, device="cpu")
    store = collect_job("collecting", out / "store", collected, keep=True)
    jobs = {"store": store}
    for name, chosen in dictionaries(settings).items():
        jobs[name] = train_job(f"training {name}", out / name, store, chosen)
        jobs[f"features-{name}"] = features_job(
            f"describing {name}", out / f"features-{name}", jobs[name], store, FeatureSettings(), load=LoadSettings()
        )
    return jobs


def features_to_steer(table: FeatureTable, n: int) -> list[int]:
    """Shared features that both models show alike: of those that fire neither rarely nor all over, the ones whose
    codes from each model alone agree best. A stated rule, so that nobody picks the pretty ones.
    """
    rate, agree = table.column("rate"), table.column("cofire_correlation").nan_to_num(-1.0)
    shared = torch.tensor([label == "shared" for label in table.labels])
    fit = shared & (rate > 0.001) & (rate < 0.05)
    candidates = fit if bool(fit.any()) else shared
    order = agree.masked_fill(~candidates, -2.0).argsort(descending=True)
    return order[: min(n, int(candidates.sum()))].tolist()


def _summary(out: Path, store: Store, effects: list[Effect]) -> dict[str, Any]:
    tables = {name: FeatureTable.load(out / f"features-{name}").summary for name in ("crosscoder", "pooled", "null")}
    return {
        "models": list(MODELS),
        "hookpoint": HOOKPOINT,
        "rows": len(store),
        "kept": [a.kept_share for a in store.alignment],
        "dictionaries": {name: dict(summary) for name, summary in tables.items()},
        "steering": [
            {
                "feature": e.feature,
                "agreement": e.agreement.value if e.agreement else None,
                "mismatched": e.agreement.mismatched if e.agreement else None,
                "effect_at_kl": {m.model: m.effect_at_kl for m in e.models},
            }
            for e in effects
        ],
    }
