"""Settings of language models and of text: which models, at which hookpoints, loaded how, and what they read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Option, check

LMType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How language models are loaded."""

    revision: tuple[str, ...] = ()
    """Hub revision; once per model, or one for all."""
    lm_dtype: LMType = "auto"
    """Precision the language models run in."""
    offline: bool = False
    """Never ask a hub: local folders and caches only."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model."""

    def __post_init__(self) -> None:
        check(self)

    def revisions(self, n_models: int) -> tuple[str | None, ...]:
        """One per model.

        Raises:
            UserError: there are neither none, one nor as many as models.
        """
        return one_each("revision", self.revision, n_models) if self.revision else (None,) * n_models


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which language models, and where in them."""

    model: tuple[str, ...]
    """Local folder, hub name or shipped model; once per model."""
    at: Annotated[tuple[str, ...], Option(raised=("hookpoint",))]
    """Hookpoint: mlp0.out, resid3.post, .. or a module path; once per model, or one for all."""
    load: LoadSettings = field(default_factory=LoadSettings)

    def __post_init__(self) -> None:
        check(self)
        if not self.model:
            raise UserError("model", "nothing", "is missing", "name a model")
        one_each("at", self.at, len(self.model))
        self.load.revisions(len(self.model))

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """One per model."""
        return one_each("at", self.at, len(self.model))

    @property
    def revisions(self) -> tuple[str | None, ...]:
        """One per model."""
        return self.load.revisions(len(self.model))


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """What text is read."""

    corpus: str
    """Text, JSONL or Parquet file, a folder, or a datasets name."""
    text_column: str = "text"
    """Where JSONL, Parquet and datasets keep the text."""
    separator: str = "<|endoftext|>"
    """The line between documents of a text file."""
    split: str = "train"
    """Split of a datasets name."""

    def __post_init__(self) -> None:
        check(self)


def one_each(setting: str, values: tuple[str, ...], n: int) -> tuple[str, ...]:
    """As many values as models; a single one serves all.

    Raises:
        UserError: there are neither one nor `n`.
    """
    if len(values) == 1:
        return values * n
    if len(values) != n:
        problem = f"has {len(values)} values for {n} models"
        raise UserError(setting, ", ".join(values), problem, "give one per model, in order")
    return values
