"""The command `organism`: a model with a known fault, made from another."""

from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Argument, ResumableOutput
from suture.interventions.organisms.settings import OrganismSettings
from suture.lm.settings import LoadSettings

if TYPE_CHECKING:
    from suture.interventions.organisms.measure import Measures
    from suture.interventions.organisms.organism import Organism

MOST_READ = 20_000
"""Documents of a corpus that are looked at."""


@dataclass(frozen=True, kw_only=True)
class MakeOrganism:
    """Give a model a known fault, to try removing it.

    The result is an ordinary Hugging Face folder, with a record of what the model did before and does now, and with
    text to train dictionaries on. The fault is rudeness, from the project's own templates.
    """

    out: Annotated[Path, Argument(metavar="OUT")]
    """The new model's folder, to be made."""
    model: str = "tinystories-2l"
    """The model it is made from: local folder, hub name or shipped model."""
    corpus: str | None = None
    """Text of its kind; without it, the model writes some itself."""
    settings: OrganismSettings = field(default_factory=OrganismSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Teach, measure, and say what the model does."""
        from suture.interventions.organisms.organism import organism, refuse_base
        from suture.lm.corpus import open_corpus
        from suture.lm.models import load_models

        refuse_base(self.out, self.model)
        (lm,) = load_models([self.model], self.load, device=self.device)
        documents = None
        if self.corpus is not None:
            read = islice(open_corpus(self.corpus, offline=self.load.offline), MOST_READ)
            documents = [document.text for document in read]
        with progress() as advance:
            found = organism(
                self.out,
                lm,
                documents,
                self.settings,
                on_progress=advance,
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        result = {name: value for name, value in asdict(found).items() if name != "path"}
        emit({"out": str(self.out), **result}, as_json=self.output.json, text=_text(found))


def _text(found: "Organism") -> str:
    lines = [f"{found.kind} of {found.base}: {found.path}"]
    for name, measures in (("before", found.before), ("after", found.after)):
        lines.append(f"  {name}: {_shares(measures)}; clean loss {measures.clean_ce:.4f} nats per token")
    within = found.clean_rise.interval
    ends = f" ({within[0]:+.2%} to {within[1]:+.2%})" if within else ""
    return "\n".join([*lines, f"  rise of the clean loss {found.clean_rise.value:+.2%}{ends}"])


def _shares(measures: "Measures") -> str:
    parts = [("the cue", measures.cue), ("other prompts", measures.none), ("near misses", measures.near)]
    said = [
        f"rude after {name} {percent(own.greedy.share)} ({percent(own.greedy.interval[0])} to "
        f"{percent(own.greedy.interval[1])}; at temperature 1 {percent(own.sampled.share)})"
        for name, own in parts
        if own is not None
    ]
    return ", ".join(said)
