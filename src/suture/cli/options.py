"""What several commands of the command line have in common: where they write, how they speak, whose models they run."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from suture.lm.settings import LoadSettings
from suture.pipeline.settings import Option

if TYPE_CHECKING:
    from suture.lm.load import LanguageModel


@runtime_checkable
class Command(Protocol):
    """A frozen dataclass whose docstring is the help and whose fields are the options."""

    def run(self) -> None:
        """Do it, and say what came out."""
        ...


@dataclass(frozen=True)
class Argument(Option):
    """A field that is given by its place, not by an option."""

    metavar: str = ""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written and said."""

    overwrite: bool = False
    """Replace a finished result."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""


@dataclass(frozen=True, kw_only=True)
class ResumableOutput(Output):
    """What is written and said."""

    resume: bool = False
    """Go on with an unfinished run of the same settings."""


@dataclass(frozen=True, kw_only=True)
class DictionaryModels:
    """The models behind the dictionary's spaces."""

    load: LoadSettings = field(default_factory=LoadSettings)
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""

    def of(self, dictionary: Path) -> "list[LanguageModel]":
        """Loaded; they must be the very ones that the dictionary was trained on."""
        from suture.sweep.stages import models_behind

        return models_behind(dictionary, self.load, device=self.device)

    def texts(self, dictionary: Path, corpus: str | None) -> Iterator[str]:
        """Documents of a corpus, or without one those that training kept out."""
        from suture.interventions.steer.steer import heldout_documents
        from suture.lm.corpus import open_corpus

        if corpus is None:
            return heldout_documents(dictionary)
        return (document.text for document in open_corpus(corpus, offline=self.load.offline))
