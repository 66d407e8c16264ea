"""The command line: one subcommand per step, each a thin call of the function of the same name.

Every command: `--json` prints one JSON object on stdout and nothing else there; progress goes to stderr; exit code 0
done, 2 the user can fix it (one line that names the setting, its value and the way out), 1 our bug, 130 interrupted.
Imports inside functions, in the command line's files alone, keep `suture --help` instant.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from suture.cli.console import command_line, emit, percent, progress, say
from suture.cli.estimate import estimate
from suture.cli.interventions import causal, splice
from suture.cli.match import match
from suture.cli.options import Device, Json, LMType, Offline, Overwrite, Resume, StoreType, TrustCode
from suture.cli.study import study
from suture.cli.train import train

app = typer.Typer(
    name="suture",
    help="Find, compare, stitch and move sparse features across language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes cut words at 80 columns
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(wanted: bool) -> bool:  # noqa: FBT001  (typer's callback)
    if wanted:
        from suture.pipeline.artifact import package_version

        emit({}, as_json=False, text=f"suture {package_version()}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_show_version)
    ] = False,
) -> None: ...


@app.command()
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Less data: under 30 seconds.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the corpus and the dictionaries.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare two shipped tiny models, and write the report.

    Which features they share, on text of their own, without a network; ends with a page to open.
    """
    from suture.studies.demo import demo as run_demo

    with progress() as advance:
        result = run_demo(out, quick=quick, seed=seed, overwrite=overwrite, on_step=advance)
    emit(result.to_json(), as_json=json, text=result.text())


@app.command()
def collect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="The store's folder, to be made.")],
    *,
    model: Annotated[list[str], typer.Option(help="Local folder, hub name or shipped model; once per model.")],
    at: Annotated[
        list[str], typer.Option(help="Hookpoint: mlp0.out, resid3.post, .. or a module path; once per model.")
    ],
    corpus: Annotated[str, typer.Option(help="Text, JSONL or Parquet file, a folder, or a datasets name.")],
    tokens: Annotated[int, typer.Option(help="Rows wanted: text positions that all models share.")],
    revision: Annotated[list[str] | None, typer.Option(help="Hub revision; once per model.")] = None,
    block: Annotated[int, typer.Option(help="Longest piece of text, in tokens, that a model sees at once.")] = 128,
    dtype: Annotated[StoreType, typer.Option(help="Precision of the activations on disk.")] = StoreType.bfloat16,
    lm_dtype: Annotated[LMType, typer.Option(help="Precision the language models run in.")] = LMType.auto,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per forward pass; default by the device.")] = None,
    shard_rows: Annotated[
        int, typer.Option(help="Rows per file: what a killed run loses, and what a process computes at a time.")
    ] = 65536,
    text_column: Annotated[str, typer.Option(help="Where JSONL, Parquet and datasets keep the text.")] = "text",
    separator: Annotated[str, typer.Option(help="The line between documents of a text file.")] = "<|endoftext|>",
    split: Annotated[str, typer.Option(help="Split of a datasets name.")] = "train",
    device: Device = "auto",
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Keep models' activations on text side by side in a store.

    A row is a text position where a token of every model ends; give --model and --at once per model. Several processes
    share the work: torchrun --nproc-per-node N -m suture collect ...
    """
    from suture.activations.collect import CollectProgress
    from suture.activations.collect import collect as run_collect
    from suture.cli.models import accelerator, load_models, one_each
    from suture.lm.corpus import open_corpus
    from suture.parallel import grid, local_device

    text = open_corpus(corpus, text_column=text_column, separator=separator, split=split, offline=offline)
    device = local_device(accelerator() if device == "auto" else device)
    announced = False
    with grid(device=device) as place:
        lms = load_models(
            model, revision, device=device, dtype=lm_dtype.value, offline=offline, trust=trust_remote_code
        )
        with progress() as advance:

            def show(state: CollectProgress) -> None:
                nonlocal announced
                if not announced:
                    announced = True
                    mb, free = state.n_bytes_expected / 1e6, state.n_bytes_free / 1e9
                    say(f"the store will take about {mb:,.1f} MB of disk ({free:,.1f} GB are free)")
                advance("rows", state.n_rows, state.n_rows_wanted, f"{state.rows_per_second:,.0f} rows/s")

            made = run_collect(
                store,
                sources=list(zip(lms, one_each("at", at, len(model)), strict=True)),
                corpus=text,
                n_rows=tokens,
                block=block,
                dtype=dtype.value,
                batch_tokens=batch_tokens,
                shard_rows=shard_rows,
                resume=resume,
                overwrite=overwrite,
                on_progress=show if place.world.leads else None,
                command=command_line(),
                ranks=place.world,
            )
    if not place.world.leads:
        return
    kept = [
        {"space": s.label, "tokens": a.n_tokens, "kept": a.kept_share}
        for s, a in zip(made.spaces, made.alignment, strict=True)
    ]
    shares = ", ".join(f"{k['space']} {percent(k['kept'])} of {k['tokens']:,} tokens" for k in kept)
    short = "" if len(made) >= tokens else f" (the corpus ended before {tokens:,})"
    emit(
        {"store": str(store), "rows": len(made), "alignment": kept, "settings": made.manifest.settings},
        as_json=json,
        text=f"{store}: {len(made):,} rows{short}; kept {shares}",
    )


app.command()(train)
app.command()(estimate)
app.add_typer(study, name="study")
app.command()(splice)
app.command()(causal)
app.command()(match)


@app.command()
def features(
    dictionary: Annotated[Path, typer.Argument(metavar="DICT", help="Made by suture train.")],
    *,
    store: Annotated[Path, typer.Option(help="The store it was trained on, or another of the same spaces.")],
    out: Annotated[Path, typer.Option(help="Folder of the feature table.")],
    rows: Annotated[int, typer.Option(help="Held-out rows to describe them on, at most.")] = 200_000,
    top: Annotated[int, typer.Option(help="Top examples per feature.")] = 10,
    tokens: Annotated[bool, typer.Option(help="Promoted tokens too: loads the models' unembeddings.")] = True,
    revision: Annotated[list[str] | None, typer.Option(help="Hub revision, as in collect; once per model.")] = None,
    device: Device = "auto",
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Describe every feature, and say whose it is.

    A, B, shared, ambiguous or dead, with the numbers, their intervals and the strongest examples.
    """
    from suture.activations.store import Store
    from suture.cli.models import models_of
    from suture.dictionary.dictionary import Dictionary
    from suture.features.describe import features as run_features
    from suture.features.settings import FeatureSettings, StatsSettings

    settings = FeatureSettings(n_rows=rows, stats=StatsSettings(n_top=top))
    opened = Store.open(store)
    lms = None
    if tokens:
        spaces = Dictionary.load(dictionary).spaces
        lms = models_of(spaces, revision, device=device, offline=offline, trust=trust_remote_code)
    with progress() as advance:
        table = run_features(
            out,
            dictionary,
            opened,
            settings,
            lms=lms,
            on_progress=advance,
            overwrite=overwrite,
            command=command_line(),
        )
    counts = ", ".join(f"{n} {label}" for label, n in table.counts.items())
    null = table.summary.get("false_positive_rate")
    note = "" if null is None else f"; a null: {percent(null)} of the live features are falsely exclusive"
    found = {"features": str(out), **table.summary, "columns": table.table.summary()}
    emit(found, as_json=json, text=f"{out}: {counts}{note}")


@app.command()
def steer(
    dictionary: Annotated[Path, typer.Argument(metavar="DICT", help="Made by suture train.")],
    *,
    table: Annotated[Path, typer.Option(help="Made by suture features: tells how strongly a feature fires.")],
    feature: Annotated[list[int], typer.Option(help="Number of a feature; repeat for more, they share the work.")],
    out: Annotated[Path, typer.Option(help="Folder; each feature's effect goes to feature-I below it.")],
    strength: Annotated[list[float] | None, typer.Option(help="Multiple of the 99.9 % activation; repeatable.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to continue; repeat for more; default openings of the corpus.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Neutral text; default the store's held-out documents.")] = None,
    neutral: Annotated[int, typer.Option(min=1, help="Documents of neutral text.")] = 32,
    prompts: Annotated[int, typer.Option(min=2, help="Openings taken as prompts where none are given.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Length of the continuations.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of controls, halves and sampling.")] = 0,
    revision: Annotated[list[str] | None, typer.Option(help="Hub revision, as in collect; once per model.")] = None,
    device: Device = "auto",
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Steer every model along a feature's own direction.

    Measures the effect on next tokens, the side effects on neutral text and how far the models agree.
    """
    from dataclasses import asdict

    from suture.cli.models import models_of
    from suture.dictionary.dictionary import Dictionary
    from suture.interventions.settings import SteerSettings
    from suture.interventions.steer.steer import heldout_documents, texts_of
    from suture.interventions.steer.steer import steer as run_steer
    from suture.lm.corpus import open_corpus

    spaces = Dictionary.load(dictionary).spaces
    lms = models_of(spaces, revision, device=device, offline=offline, trust=trust_remote_code)
    texts = (d.text for d in open_corpus(corpus, offline=offline)) if corpus else heldout_documents(dictionary)
    documents, openings = texts_of(texts, n_neutral=neutral, n_prompts=0 if prompt else prompts)
    given = tuple(strength or SteerSettings.strengths)
    settings = SteerSettings(
        strengths=given,
        reference=1.0 if 1.0 in given else given[0],
        max_new_tokens=new_tokens,
        n_generation_prompts=min(3, len(prompt)) if prompt else 1,
        seed=seed,
    )
    with progress() as advance:
        effects = run_steer(
            out,
            dictionary,
            table,
            feature,
            lms=lms,
            prompts=[*(prompt or []), *openings],
            neutral=documents,
            settings=settings,
            on_progress=lambda p: advance("passes", p.done, p.total),
            overwrite=overwrite,
            command=command_line(),
        )
    emit(
        {"out": str(out), "effects": [asdict(e) for e in effects]},
        as_json=json,
        text="\n".join(_effect_text(e) for e in effects),
    )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Everything below it that a step made is shown.")],
    *,
    out: Annotated[Path | None, typer.Option(help="The HTML file; default report.html in the folder.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    json: Json = False,
) -> None:
    """Write one self-contained HTML page from a folder of results.

    It reads what the other steps made and computes nothing; the page opens without a network.
    """
    from suture.report.page import find_artifacts
    from suture.report.page import report as run_report

    made = run_report(out or folder / "report.html", find_artifacts(folder), title=title)
    emit({"report": str(made)}, as_json=json, text=str(made))


def _effect_text(effect: Any) -> str:
    lines = [f"feature {effect.feature}"]
    for model in effect.models:
        kl = ", ".join(f"{s:g}: {v:.3f}" for s, v in zip(model.strengths, model.kl_neutral, strict=True))
        tokens = " ".join(repr(t) for t, _ in model.top_promoted[:5])
        lines.append(f"  {model.model}: promotes {tokens}; KL on neutral text by strength {kl}")
    if effect.agreement is not None:
        a = effect.agreement
        lines.append(f"  agreement {a.value:.3f} (mismatched features {a.mismatched:.3f})")
    return "\n".join(lines)
