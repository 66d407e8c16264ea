"""Settings of reading other libraries' dictionaries, and of writing files that those read."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.pipeline.settings import Option, Positive, check

WrittenFormat = Literal["saelens", "sparsify", "dictionary-learning"]
ReadFormat = Literal[
    "saelens",
    "sparsify",
    "dictionary-learning",
    "gemma-scope-2",
    "gemma-scope",
    "llama-scope",
    "qwen-scope",
    "kissane",
    "goodfire",
    "openai",
]


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Which dictionary is read, and what its file does not say."""

    format: ReadFormat | None = None
    """Whose layout it has; found by the names of its files where it is not given."""
    file: str | None = None
    """Which of several dictionaries: a part of its path, or a pattern such as `*layer_9_width_16k_l0_medium*`. Of a hub
    repository only that one is fetched."""
    model: tuple[str, ...] = ()
    """The model as `collect` knows it; the file's name for it where none is given. Once per space, or one for all."""
    at: Annotated[tuple[str, ...], Option(raised=("hookpoint",))] = ()
    """The hookpoint as `collect` knows it; the file's where none is given. Once per space."""
    scale: tuple[Positive, ...] = ()
    """What activations are multiplied by before they enter, for files that need it and do not say it. Once per space,
    or one for all."""
    revision: str | None = None
    """Of a hub repository: commit, branch or tag."""
    offline: bool = False
    """Never ask a hub: local folders and its cache only."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Whose files are written."""

    format: WrittenFormat
    """The library that is to read them."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)
