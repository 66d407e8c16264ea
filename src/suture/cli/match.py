"""The command `match`: which features of two dictionaries are the same."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Argument, Output
from suture.lm.settings import LoadSettings
from suture.matching.settings import MatchSettings

if TYPE_CHECKING:
    from suture.lm.load import LanguageModel
    from suture.matching.match import Matching, Shares


@dataclass(frozen=True, kw_only=True)
class Match:
    """Pair the features of two dictionaries, and say what each is to its partner.

    The same, one split into many, parent and child, overlapping, or nothing; and whether more than the token stands
    behind it. On rows that neither dictionary was trained on: one half chooses the pairs, the other scores them.
    Several processes share the rows: torchrun --nproc-per-node N -m suture match ...
    """

    dictionary_a: Annotated[Path, Argument(metavar="DICT_A")]
    """Made by suture train."""
    dictionary_b: Annotated[Path, Argument(metavar="DICT_B")]
    """Another; or the same, with --space-b."""
    store: Path
    """Activations of both dictionaries' spaces, made by suture collect."""
    out: Path
    """Folder of the result, to be made."""
    seed_twins: tuple[Path, Path] | None = None
    """The same two dictionaries trained from another seed."""
    second_seeds: bool = False
    """Train a second seed of each first: the ceiling, beside the result."""
    random_weights: bool = False
    """Match with a model of random weights too: what the token gives."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    settings: MatchSettings = field(default_factory=MatchSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Match, and say how many features are the same."""
        from suture.parallel import grid
        from suture.pipeline.job import silent
        from suture.studies.controls import match_with_controls

        with grid() as place, progress() as advance:
            leads = place.world.leads
            found = match_with_controls(
                self.out,
                self.dictionary_a,
                self.dictionary_b,
                self.store,
                self.settings,
                twins=self.seed_twins or (None, None),
                second_seeds=self.second_seeds,
                random_weights=models_of(self.store, self.load, self.device) if self.random_weights else None,
                tell=advance if leads else silent,
                overwrite=self.output.overwrite,
                command=command_line(),
                ranks=place.world,
            )
        if not leads:
            return
        emit({"out": str(self.out), **asdict(found.summary)}, as_json=self.output.json, text=_text(found, self.out))


def models_of(store: Path, load: LoadSettings, device: str) -> "list[LanguageModel]":
    """The models behind a store's spaces."""
    from suture.activations.store import Store
    from suture.lm.models import accelerator, check_weights, load_models

    spaces = Store.open(store).spaces
    lms = load_models([space.model for space in spaces], load, device=accelerator(device))
    check_weights(lms, [space.fingerprint for space in spaces])
    return lms


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
    sure, strong, both = (percent(v) for v in (shares.beyond_token, shares.strong, shares.same_beyond_token))
    return (
        f"{shares.of} against {shares.against}: surely correlated beyond the token {sure}, r of 0.7 or more {strong}; "
        f"the same and beyond the token {both}; {kinds}"
    )
