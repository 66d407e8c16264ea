"""The subcommands of `study`: whole experiments whose result is one table and one page."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suture.cli.console import command_line, emit, progress
from suture.cli.options import Json, LMType, Offline, Overwrite, TrustCode
from suture.errors import UserError

if TYPE_CHECKING:
    from suture.studies.compare import DesignStudy
    from suture.studies.grounds import Ground

study = typer.Typer(
    help="Run an experiment and say what came out.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


class EmbeddingName(StrEnum):
    """`--embedding`."""

    rotation = "rotation"
    affine = "affine"
    independent = "independent"


PLANTED = {
    "width": "widths", "concepts": "n_concepts", "embedding": "embedding", "exclusive": "exclusive",
    "pairwise": "pairwise", "mean_active": "mean_active", "noise": "noise",
}  # fmt: skip
"""Options of planted models, and what the settings call them."""
TEXT = ("at", "corpus", "tokens", "revision", "block", "lm_dtype")
"""Options that go with --model."""
RECIPE = {
    "features": "n_features", "k": "k", "rows": "n_rows", "batch_size": "batch_size", "learning_rate": "learning_rate",
    "k_start": "k_start", "k_anneal": "k_anneal", "heldout": "heldout", "model_dropout": "model_dropout",
    "dedicated": "dedicated", "tied": "tied", "described": "described_rows", "device": "device",
}  # fmt: skip


@study.command()
def designs(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the study; what is finished there is kept.")],
    *,
    planted: Annotated[bool, typer.Option("--planted", help="Models whose concepts are known (the default).")] = False,
    width: Annotated[list[int] | None, typer.Option(help="Planted: a model's width; once per model [64 64].")] = None,
    concepts: Annotated[int | None, typer.Option(help="Planted: ground-truth concepts [200].")] = None,
    embedding: Annotated[
        EmbeddingName | None, typer.Option(help="Planted: how directions in two models relate [rotation].")
    ] = None,
    exclusive: Annotated[
        float | None, typer.Option(help="Planted: share of the concepts that one model has, for each model [0.1].")
    ] = None,
    pairwise: Annotated[
        float | None, typer.Option(help="Planted: share that two of more models have, for each pair [0].")
    ] = None,
    mean_active: Annotated[
        float | None, typer.Option(help="Planted: concepts that fire on the average row [5].")
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Planted: length of the noise; a concept's is 1 [0.1].")] = None,
    stored: Annotated[int | None, typer.Option(help="Planted: rows in a store, gone over again [100000].")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Language models, as in collect; once per model.")] = None,
    at: Annotated[list[str] | None, typer.Option(help="--model: hookpoint, as in collect; once per model.")] = None,
    corpus: Annotated[str | None, typer.Option(help="--model: text, as in collect.")] = None,
    tokens: Annotated[int | None, typer.Option(help="--model: rows wanted [100000].")] = None,
    revision: Annotated[list[str] | None, typer.Option(help="--model: hub revision; once per model.")] = None,
    block: Annotated[int | None, typer.Option(help="--model: longest piece of text, in tokens [128].")] = None,
    lm_dtype: Annotated[LMType | None, typer.Option(help="--model: precision the models run in [auto].")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Activations, made by suture collect, in place of --model.")
    ] = None,
    features: Annotated[
        int | None, typer.Option(help="Of the crosscoder; other designs have as many as make weights equal [384].")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Active features of a code [8].")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows every design is trained on [400000].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step [1024].")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Adam's at its highest [0.01].")
    ] = None,
    k_start: Annotated[float | None, typer.Option(help="Begin with so many times k active features [4].")] = None,
    k_anneal: Annotated[float | None, typer.Option(help="Share of the steps to come down to k [0.7].")] = None,
    heldout: Annotated[float | None, typer.Option(help="Share of the documents kept out of training [0.2].")] = None,
    described: Annotated[
        int | None, typer.Option(help="Held-out rows that features are described on, at most [20000].")
    ] = None,
    model_dropout: Annotated[float | None, typer.Option(help="Of the design that has it [0.2].")] = None,
    dedicated: Annotated[float | None, typer.Option(help="Share per model, of the design that has it [0.1].")] = None,
    tied: Annotated[
        float | None, typer.Option(help="Share designated shared, of the design that has it [0.5].")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Name of a design; repeatable; default all.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0, 1, .., for the intervals [3; --quick: 1].")] = None,
    workers: Annotated[int, typer.Option(help="Processes that cells are run in.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything: under a minute.")] = False,
    device: Annotated[str | None, typer.Option(help="Where dictionaries are trained: cpu, cuda, .. [cpu].")] = None,
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare every way to train one dictionary for several models.

    Separate dictionaries, pooled, crosscoder and their variants, on the same rows, with as many weights and as many
    active features, over seeds, each with its null; on planted models whose concepts are known, or on language models
    (--model or --store). The same command goes on where it was interrupted.
    """
    options = {name: value.value if isinstance(value, StrEnum) else value for name, value in locals().items()}
    from suture.studies.compare import study_designs

    wanted = _study(options)
    with progress() as advance:
        result = study_designs(
            out,
            wanted,
            only=only or (),
            n_seeds=seeds if seeds is not None else 1 if quick else 3,
            workers=workers,
            overwrite=overwrite,
            on_step=advance,
            command=command_line(),
        )
    emit(result.to_json(), as_json=json, text=result.text())


@study.command()
def proxies(
    dictionary_a: Annotated[Path, typer.Argument(metavar="DICT_A", help="A dictionary of one space.")],
    dictionary_b: Annotated[Path, typer.Argument(metavar="DICT_B", help="Another, of the same space or another.")],
    *,
    store: Annotated[Path, typer.Option(help="Activations of both spaces, made by suture collect.")],
    out: Annotated[Path, typer.Option(help="Folder of the result, to be made.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows at most that neither was trained on.")] = 100_000,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Can a cosine stand in for activation correlation?

    Cosines of directions (raw, padded, rotated, mapped either way, of encoders) and correlations of pre-activations,
    each judged by how well it finds the partners that held-out correlation finds.
    """
    from suture.studies.proxies import proxies as run_proxies

    table = run_proxies(
        out, dictionary_a, dictionary_b, store, n_rows=rows, overwrite=overwrite, command=command_line()
    )
    names = table.coordinates["proxy"]
    found = {name: {c.name: float(table[c.name][i]) for c in table.columns} for i, name in enumerate(names)}
    lines = [
        f"{name}: " + ", ".join(f"{c.title} {c.write(found[name][c.name])}" for c in table.columns) for name in names
    ]
    emit({"out": str(out), "proxies": found}, as_json=json, text="\n".join([*lines, f"proxies: {out}"]))


def _study(options: dict[str, Any]) -> "DesignStudy":
    """The study of these options; those that go with another ground are refused."""
    from dataclasses import replace

    from suture.studies.compare import DesignStudy, planted_study, text_recipe

    given = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items() if v is not None}
    on_text = "model" in given or "store" in given
    if on_text and options["planted"]:
        raise UserError("planted", True, "and language models exclude each other", "choose one ground")
    for name in (*PLANTED, "stored") if on_text else TEXT:
        if name in given:
            problem = "is for planted models" if on_text else "goes with --model"
            raise UserError(name, given[name], problem, "leave it out")
    quick = options["quick"]
    base = planted_study(quick=quick)
    recipe = text_recipe(quick=quick) if on_text else base.recipe
    recipe = replace(recipe, **{RECIPE[name]: given[name] for name in RECIPE if name in given})
    ground = _text(options, given) if on_text else _planted(given, base.ground)
    return DesignStudy(ground=ground, recipe=recipe)


def _planted(given: dict[str, Any], base: "Ground") -> "Ground":
    from dataclasses import replace

    from suture.studies.grounds import PlantedGround

    assert isinstance(base, PlantedGround)
    named = {PLANTED[name]: given[name] for name in PLANTED if name in given}
    if "noise" in named:
        named["noise"] = (named["noise"],)
    planted = replace(base.planted, **named)
    return replace(base, planted=planted, n_stored=given.get("stored", base.n_stored))


def _text(options: dict[str, Any], given: dict[str, Any]) -> "Ground":
    from suture.activations.settings import CollectSettings
    from suture.pipeline.settings import from_flat
    from suture.studies.compare import text_rows
    from suture.studies.grounds import LanguageGround

    if "store" in given:
        for name in ("model", *TEXT):
            if name in given:
                raise UserError(name, given[name], "is for collecting, a store has its own", "leave it out")
        return LanguageGround(store=str(given["store"]), offline=options["offline"])
    for name in ("at", "corpus"):
        if name not in given:
            raise UserError(name, None, "is missing, --model needs it", f"give --{name} as in suture collect")
    named: dict[str, Any] = {"tokens": text_rows(quick=options["quick"])}
    named |= {name: given[name] for name in TEXT if name in given}
    named |= {"model": given["model"], "offline": options["offline"], "device": options["device"] or "auto"}
    collect = from_flat(CollectSettings, named | {"trust_remote_code": options["trust_remote_code"]})
    return LanguageGround(collect=collect, offline=options["offline"])
