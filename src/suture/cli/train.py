"""The subcommand `train`: its options, one for each choice that decides a dictionary."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Device, Json, LMType, Offline, Overwrite, Resume, StoreType, TrustCode, read_toml
from suture.errors import UserError

if TYPE_CHECKING:
    from suture.activations.store import Store
    from suture.activations.stream import Stream
    from suture.dictionary.dictionary import Dictionary
    from suture.training.settings import TrainSettings


class DesignName(StrEnum):
    """`--design`."""

    sae = "sae"
    crosscoder = "crosscoder"
    pooled = "pooled"
    universal = "universal"


class SparsityName(StrEnum):
    """`--sparsity`."""

    topk = "topk"
    batchtopk = "batchtopk"
    relu_l1 = "relu+l1"
    jumprelu = "jumprelu"
    gated = "gated"


class PadName(StrEnum):
    """`--pad`."""

    native = "native"
    zeros = "zeros"


class LossName(StrEnum):
    """`--loss`."""

    joint = "joint"
    per_model = "per_model"
    l2norm = "l2norm"


class PrecisionName(StrEnum):
    """`--precision`."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


STREAM_DEFAULTS: dict[str, Any] = {
    "block": 128,
    "fill_rows": 262_144,
    "dtype": "bfloat16",
    "lm_dtype": "auto",
    "batch_tokens": None,
    "text_column": "text",
    "separator": "<|endoftext|>",
    "split": "train",
}
"""What --stream does where it is not told; without --stream none of these may be given."""


class TrackName(StrEnum):
    """`--track`."""

    tensorboard = "tensorboard"
    wandb = "wandb"


def train(
    dictionary: Annotated[Path, typer.Argument(metavar="DICT", help="The dictionary's folder, to be made.")],
    *,
    store: Annotated[Path | None, typer.Option(help="Activations, made by suture collect.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="No store: run the models while training; with --model, --at, --corpus.")
    ] = False,
    each: Annotated[
        Path | None,
        typer.Option(help="TOML file with a [name] table per dictionary: DICT/name is trained with its settings."),
    ] = None,
    design: Annotated[DesignName, typer.Option(help="How models share the dictionary.")] = DesignName.crosscoder,
    features: Annotated[int, typer.Option(help="Size of the dictionary.")] = 2048,
    k: Annotated[int, typer.Option(help="Active features per row.")] = 32,
    sparsity: Annotated[SparsityName, typer.Option(help="What keeps codes sparse.")] = SparsityName.topk,
    loss: Annotated[
        LossName,
        typer.Option(
            help="One squared L2 over the concatenation IS the sum of the models' squared L2s; per_model divides each "
            "by its own variance, l2norm leaves norms unsquared."
        ),
    ] = LossName.joint,
    flag: Annotated[bool, typer.Option("--flag", help="pooled: tell the encoder which model a row is from.")] = False,
    pad: Annotated[
        PadName,
        typer.Option(help="pooled over unequal widths: native rows, or padding as data, zeros to be reconstructed."),
    ] = PadName.native,
    model_dropout: Annotated[
        float,
        typer.Option(help="crosscoder: chance that a model is hidden from the encoder; labels need it, e.g. 0.2."),
    ] = 0.0,
    dedicated: Annotated[
        list[float] | None, typer.Option(help="Share of features of one space alone; one per space.")
    ] = None,
    tied: Annotated[float, typer.Option(help="Share of features with one decoder row for all spaces.")] = 0.0,
    rows: Annotated[int, typer.Option(help="Rows to train on in all.")] = 2_000_000,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 4096,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", "--lr", help="Adam's at its highest; default by --features."),
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of the steps with a rising learning rate.")] = 0.02,
    decay: Annotated[float, typer.Option(help="Share of the steps, the last, with a falling learning rate.")] = 0.3,
    k_start: Annotated[float, typer.Option(help="Begin with so many times k active features.")] = 1.0,
    k_anneal: Annotated[float, typer.Option(help="Share of the steps to come down to k.")] = 0.2,
    l1: Annotated[float, typer.Option(help="Penalty of relu+l1.")] = 0.1,
    l0: Annotated[float, typer.Option(help="Penalty of jumprelu.")] = 5e-3,
    aux: Annotated[float, typer.Option(help="Weight of AuxK, which revives dead features; 0 for none.")] = 1 / 32,
    k_aux: Annotated[int | None, typer.Option(help="Dead features per row in AuxK; default half the width.")] = None,
    dead_after: Annotated[int, typer.Option(help="Rows of silence after which a feature is dead.")] = 100_000,
    heldout: Annotated[float, typer.Option(help="Share of the documents kept out of training.")] = 0.1,
    space: Annotated[
        list[int] | None, typer.Option(help="Number of a space of the store to use; repeatable; default all.")
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="Pair the one --space with a copy of itself.")] = False,
    rotation_seed: Annotated[int | None, typer.Option(help="With --null: rotate the copy.")] = None,
    copies: Annotated[int, typer.Option(help="With --null: copies, for a null of more than two models.")] = 1,
    validate_every: Annotated[int, typer.Option(help="Steps between lines of metrics.")] = 100,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of weights, split, order and masks.")] = 0,
    data_seed: Annotated[
        int | None, typer.Option(help="Seed of split and order where it is to be another; see --each.")
    ] = None,
    feature_ranks: Annotated[
        int, typer.Option(help="Under torchrun: split the features over so many processes, the rows over the rest.")
    ] = 1,
    precision: Annotated[PrecisionName, typer.Option(help="Precision of the one dense product.")] = PrecisionName.auto,
    model: Annotated[list[str] | None, typer.Option(help="--stream: as in collect; once per model.")] = None,
    at: Annotated[list[str] | None, typer.Option(help="--stream: hookpoint, as in collect; once per model.")] = None,
    corpus: Annotated[str | None, typer.Option(help="--stream: text, as in collect; gone over again if short.")] = None,
    revision: Annotated[list[str] | None, typer.Option(help="--stream: hub revision; once per model.")] = None,
    block: Annotated[int | None, typer.Option(help="--stream: longest piece of text, in tokens [128].")] = None,
    fill_rows: Annotated[
        int | None, typer.Option(help="--stream: rows held in memory and shuffled at a time [262144].")
    ] = None,
    dtype: Annotated[StoreType | None, typer.Option(help="--stream: precision of the rows [bfloat16].")] = None,
    lm_dtype: Annotated[LMType | None, typer.Option(help="--stream: precision the models run in [auto].")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="--stream: tokens per forward pass.")] = None,
    text_column: Annotated[str | None, typer.Option(help="--stream: where the corpus keeps its text [text].")] = None,
    separator: Annotated[str | None, typer.Option(help="--stream: line between documents [<|endoftext|>].")] = None,
    split: Annotated[str | None, typer.Option(help="--stream: split of a datasets name [train].")] = None,
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    track: Annotated[list[TrackName] | None, typer.Option(help="Also send metrics there.")] = None,
    device: Device = "cpu",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a dictionary.

    An SAE, a crosscoder, a pooled or a universal dictionary, on a store or (--stream) with no store at all. Ctrl-C
    keeps what was reached for --resume. Several processes: torchrun --nproc-per-node N -m suture train ... Several
    dictionaries in one pass over the rows: --each FILE, whose tables hold these options by name; what a table leaves
    out is taken from the command line, and those with one --data-seed see the same batches.
    """
    options = dict(locals())  # every option under its own name, before anything else has one
    from suture.cli.models import accelerator
    from suture.parallel import grid, local_device
    from suture.training.run import TrainProgress
    from suture.training.train import train_many

    options["device"] = device = accelerator() if device == "auto" else device
    with grid(feature_ranks=feature_ranks, device=local_device(device)) as place:
        wanted = _wanted(dictionary, options, each)
        with _rows(options) as opened, progress() as advance:

            def show(out: Path, p: TrainProgress) -> None:
                fvu = " ".join(f"{v:.3f}" for v in p.fvu or p.training_fvu)
                note = f"{p.rows_per_second:,.0f} rows/s  FVU {fvu}  L0 {p.l0:.1f}  dead {percent(p.dead)}"
                advance("steps" if each is None else f"{out.name} steps", p.step, p.n_steps, note)

            trained = train_many(
                wanted,
                opened,
                grid=place,
                on_progress=show,
                resume=resume,
                overwrite=overwrite,
                command=command_line(),
            )
        if place.world.leads:
            _emit(trained, several=each is not None, as_json=json)


@contextmanager
def _rows(options: dict[str, Any]) -> "Iterator[Store | Stream]":
    """The store that was named, or a stream of the models that were."""
    from suture.activations.store import Store
    from suture.activations.stream import Stream
    from suture.cli.models import load_models, one_each
    from suture.lm.corpus import open_corpus

    needed = {name: options[name] for name in ("model", "at", "corpus")}
    chosen = {name: options[name] for name in STREAM_DEFAULTS if options[name] is not None}
    if not options["stream"]:
        if options["store"] is None:
            raise UserError("store", None, "is missing", "name one with --store, or do without by --stream")
        for name, value in (needed | chosen | {"revision": options["revision"]}).items():
            if value is not None:
                problem = "is for --stream, a store has its own"
                raise UserError(name, _plain(value), problem, "leave it out, or add --stream")
        yield Store.open(options["store"])
        return
    if options["store"] is not None:
        raise UserError("store", options["store"], "and --stream exclude each other", "choose one")
    for name, value in needed.items():
        if value is None:
            raise UserError(name, None, "is missing, --stream needs it", f"give --{name} as in suture collect")
    given = STREAM_DEFAULTS | {name: _plain(value) for name, value in chosen.items()}
    lms = load_models(
        options["model"],
        options["revision"],
        device=options["device"],
        dtype=given["lm_dtype"],
        offline=options["offline"],
        trust=options["trust_remote_code"],
    )
    text = {name: given[name] for name in ("text_column", "separator", "split")}
    with Stream(
        sources=list(zip(lms, one_each("at", options["at"], len(lms)), strict=True)),
        corpus=open_corpus(options["corpus"], **text, offline=options["offline"]),
        **{name: given[name] for name in ("dtype", "block", "fill_rows", "batch_tokens")},
    ) as made:
        yield made


def _wanted(dictionary: Path, options: dict[str, Any], each: Path | None) -> dict[Path, "TrainSettings"]:
    """Every dictionary's folder and settings: the one of the options, or one per table of the file."""
    from suture.cli.models import accelerator
    from suture.pipeline.settings import declared
    from suture.training.settings import TrainSettings

    named = {
        k: _plain(v) for k, v in options.items() if k.replace("_", "-") in declared(TrainSettings) and v is not None
    }
    if each is None:
        return {dictionary: TrainSettings.from_options(named)}
    tables = read_toml(each, "each")
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise UserError("each", each, "does not hold one [table] per dictionary", "see suture train --help")
    wanted = {}
    for name, table in tables.items():
        if not name or Path(name).name != name or name.startswith(".") or name.endswith((".partial", ".aside")):
            raise UserError("each", f"[{name}]", "is no name for a folder", "give the table a plain name")
        own = {k.replace("-", "_"): v for k, v in table.items()}
        if len(own) < len(table):
            raise UserError("each", f"[{name}]", "names a setting twice, with - and with _", "leave one out")
        if own.get("device") == "auto":
            own["device"] = accelerator()
        try:
            wanted[dictionary / name] = TrainSettings.from_options(named | own)
        except UserError as error:
            raise UserError(f"[{name}] {error.setting}", error.value, error.problem, error.fix) from None
    return wanted


def _plain(value: Any) -> Any:
    """An option's value without typer's enums."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.value if isinstance(value, StrEnum) else value


def _emit(trained: Mapping[Path, "Dictionary"], *, several: bool, as_json: bool) -> None:
    from suture.pipeline.artifact import read_json

    found, lines = [], []
    for out, dictionary in trained.items():
        evaluation = read_json(out / "evaluation.json")
        labels = [space.label for space in dictionary.spaces]
        fvu = ", ".join(f"{label} {value:.4f}" for label, value in zip(labels, evaluation["fvu"], strict=True))
        dead, r2 = percent(evaluation["dead"]), _matrix(evaluation["r2"])
        if evaluation["r2_linear"]:
            r2 += f", of the linear map alone {_matrix(evaluation['r2_linear'])}"
        where = "" if evaluation["heldout"] else " (on the training rows: none were held out)"
        found.append({"dictionary": str(out), **evaluation})
        lines.append(f"{out}: FVU {fvu}; L0 {evaluation['l0']:.1f}; dead {dead}; R2 {r2}{where}")
    emit({"dictionaries": found} if several else found[0], as_json=as_json, text="\n".join(lines))


def _matrix(r2: list[list[float | None]]) -> str:
    return "[" + "; ".join(" ".join("-" if v is None else f"{v:.3f}" for v in row) for row in r2) + "]"
