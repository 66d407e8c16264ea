"""The subcommands `splice` and `causal`: what a dictionary costs its models, and whether its labels hold in action."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suture.cli.console import command_line, emit, progress
from suture.cli.options import Device, Json, Offline, Overwrite, TrustCode

if TYPE_CHECKING:
    from suture.interventions.causal import Causal
    from suture.interventions.splice import Splice
    from suture.lm.load import LanguageModel

Documents = Annotated[int, typer.Option(min=1, help="Documents of text at most.")]
Block = Annotated[int, typer.Option(min=1, help="Longest piece of text, in tokens, that a model sees at once.")]
OwnCorpus = Annotated[str | None, typer.Option(help="Text to read; default the store's held-out documents.")]
Revision = Annotated[list[str] | None, typer.Option(help="Hub revision, as in collect; once per model.")]
DictionaryFolder = Annotated[Path, typer.Argument(metavar="DICT", help="Made by suture train.")]


def splice(
    dictionary: DictionaryFolder,
    *,
    out: Annotated[Path, typer.Option(help="Folder of the result, to be made.")],
    corpus: OwnCorpus = None,
    documents: Documents = 64,
    block: Block = 128,
    revision: Revision = None,
    device: Device = "auto",
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Put a dictionary into its models, and measure their loss.

    Its reconstruction stands in for each model's activations. Beside it: the loss as it is, with one model's code
    alone, and with the mean in place of everything.
    """
    from suture.interventions.settings import SpliceSettings
    from suture.interventions.splice import splice as run_splice

    lms = _models(dictionary, revision, device=device, offline=offline, trust=trust_remote_code)
    with progress() as advance:
        result = run_splice(
            out,
            dictionary,
            lms,
            _texts(dictionary, corpus, offline=offline),
            SpliceSettings(n_documents=documents, block=block),
            on_progress=lambda done, total: advance("batches", done, total),
            overwrite=overwrite,
            command=command_line(),
        )
    emit({"out": str(out), **result.to_json()}, as_json=json, text=_splice_text(result))


def causal(
    dictionary: DictionaryFolder,
    *,
    table: Annotated[Path, typer.Option(help="Made by suture features: the labels to be checked.")],
    out: Annotated[Path, typer.Option(help="Folder of the result, to be made.")],
    feature: Annotated[list[int] | None, typer.Option(help="Number of a feature; repeat for more.")] = None,
    each_label: Annotated[
        int | None,
        typer.Option(min=0, help="So many of every label, those that fire most; 8 if no --feature is given."),
    ] = None,
    corpus: OwnCorpus = None,
    documents: Documents = 128,
    block: Block = 128,
    seed: Annotated[int, typer.Option(help="Seed of controls and draws.")] = 0,
    revision: Revision = None,
    device: Device = "auto",
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Ablate features, and hold what happens against their labels.

    A shared feature should move every model's predictions at the same places, an exclusive one those of its own alone.
    """
    from suture.interventions.causal import causal as run_causal
    from suture.interventions.settings import CausalSettings

    lms = _models(dictionary, revision, device=device, offline=offline, trust=trust_remote_code)
    with progress() as advance:
        causes = run_causal(
            out,
            dictionary,
            table,
            lms,
            _texts(dictionary, corpus, offline=offline),
            chosen=feature or (),
            each_label=(0 if feature else 8) if each_label is None else each_label,
            settings=CausalSettings(n_documents=documents, block=block, seed=seed),
            on_progress=lambda done, total: advance("batches", done, total),
            overwrite=overwrite,
            command=command_line(),
        )
    emit({"out": str(out), **causes.to_json()}, as_json=json, text=_causal_text(causes))


def _models(
    dictionary: Path, revision: list[str] | None, *, device: str, offline: bool, trust: bool
) -> "list[LanguageModel]":
    from suture.cli.models import models_of
    from suture.dictionary.dictionary import Dictionary

    return models_of(Dictionary.load(dictionary).spaces, revision, device=device, offline=offline, trust=trust)


def _texts(dictionary: Path, corpus: str | None, *, offline: bool) -> Iterator[str]:
    from suture.interventions.steer.steer import heldout_documents
    from suture.lm.corpus import open_corpus

    return (d.text for d in open_corpus(corpus, offline=offline)) if corpus else heldout_documents(dictionary)


def _splice_text(result: "Splice") -> str:
    lines = [f"loss in nats per token, {result.n_documents} documents"]
    for one in result.models:
        recovered = "-" if one.recovered is None else f"{one.recovered:.1%}"
        alone = "".join(f", from model {chr(65 + m)} alone {loss.ce:.3f}" for m, loss in enumerate(one.alone))
        lines.append(
            f"  {one.model}: {one.clean.ce:.3f} as it is, {one.spliced.ce:.3f} spliced{alone}, "
            f"{one.mean.ce:.3f} with the mean; recovered {recovered} ({one.replaced:.1%} of the tokens replaced)"
        )
    return "\n".join(lines)


def _causal_text(causes: "Causal") -> str:
    lines = []
    for cause in causes:
        kl = " ".join(f"{value:.2g}" for value in cause.kl)
        alike = "; ".join(
            f"{chr(65 + p.models[0])}{chr(65 + p.models[1])} correlation {p.correlation:.2f} (control {p.control:.2f})"
            for p in cause.pairs
            if p.correlation is not None and p.control is not None
        )
        where = f"{cause.n_positions} positions"
        lines.append(
            f"feature {cause.feature}, {cause.label}: {cause.verdict}; KL {kl}; {alike or 'no pairs'}; {where}"
        )
    return "\n".join(lines)
