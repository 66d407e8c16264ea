"""The subcommand `match`: which features of two dictionaries are the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Device, Json, Offline, Overwrite, TrustCode

if TYPE_CHECKING:
    from suture.matching.match import Matching, Shares


def match(
    dictionary_a: Annotated[Path, typer.Argument(metavar="DICT_A", help="Made by suture train.")],
    dictionary_b: Annotated[Path, typer.Argument(metavar="DICT_B", help="Another; or the same, with --space-b.")],
    *,
    store: Annotated[Path, typer.Option(help="Activations of both dictionaries' spaces, made by suture collect.")],
    out: Annotated[Path, typer.Option(help="Folder of the result, to be made.")],
    seed_twins: Annotated[
        tuple[Path, Path] | None, typer.Option(help="The same two dictionaries trained from another seed.")
    ] = None,
    second_seeds: Annotated[
        bool, typer.Option("--second-seeds", help="Train a second seed of each first: the ceiling, beside the result.")
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Match with a model of random weights too: what the token gives.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Rows at most that neither was trained on.")] = 200_000,
    space_a: Annotated[int | None, typer.Option(help="Read the first's codes from this space alone.")] = None,
    space_b: Annotated[int | None, typer.Option(help="Read the second's codes from this space alone.")] = None,
    device: Device = "cpu",
    offline: Offline = False,
    trust_remote_code: TrustCode = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Pair the features of two dictionaries, and say what each is to its partner.

    The same, one split into many, parent and child, overlapping, or nothing; and whether more than the token stands
    behind it. On rows that neither dictionary was trained on: one half chooses the pairs, the other scores them.
    """
    from dataclasses import asdict

    from suture.activations.store import Store
    from suture.cli.models import models_of
    from suture.matching.settings import MatchSettings
    from suture.studies.controls import match_with_controls

    opened = Store.open(store)
    lms = None
    if random_weights:
        lms = models_of(opened.spaces, None, device=device, offline=offline, trust=trust_remote_code)
    with progress() as advance:
        steps = iter(range(1, 5))
        found = match_with_controls(
            out,
            dictionary_a,
            dictionary_b,
            opened,
            MatchSettings(n_rows=rows, space_a=space_a, space_b=space_b),
            twins=seed_twins or (None, None),
            second_seeds=second_seeds,
            random_weights=lms,
            tell=lambda what: advance("match", next(steps), 4, what),
            overwrite=overwrite,
            command=command_line(),
        )
    emit({"out": str(out), **asdict(found.summary)}, as_json=json, text=_text(found, out))


def _text(found: "Matching", out: Path) -> str:
    summary = found.summary
    lines = [f"{summary.n_rows:,} rows of {summary.n_documents:,} documents"]
    both = [summary.a, summary.b, *summary.ceilings, *([summary.random] if summary.random else [])]
    lines += [_line(shares) for shares in both]
    if summary.substituted is not None and summary.substituted_by_chance is not None:
        lines.append(
            f"partner's code in the feature's place: {percent(summary.substituted)} recovered (any other's "
            f"{percent(summary.substituted_by_chance)})"
        )
    return "\n".join([*lines, *summary.statements, f"matching: {out}"])


def _line(shares: "Shares") -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in shares.kinds.items() if n)
    return (
        f"{shares.of} against {shares.against}: {percent(shares.same)} the same, {percent(shares.same_beyond_token)} "
        f"beyond the token ({kinds}); r beyond the token sure in {percent(shares.beyond_token)}"
    )
