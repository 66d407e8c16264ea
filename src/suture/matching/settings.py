"""Settings of matching and of comparing layers; the bars of the rule of matching stand with it, in `kinds`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Seed, check

MeasureName = Literal["cka", "mutual_knn", "rsa", "svcca"]
MapKind = Literal["pca", "umap", "none"]


@dataclass(frozen=True, kw_only=True)
class MatchSettings:
    """How the features of two dictionaries are paired and judged."""

    n_rows: Annotated[Count, Option("rows")] = 200_000
    """Rows at most, of whole documents that neither dictionary was trained on; half of them pair, half score."""
    space_a: Annotated[int | None, Limits(0)] = None
    """The space that the first dictionary's codes are read from, by number; all of its spaces by default."""
    space_b: Annotated[int | None, Limits(0)] = None
    """The second's."""
    keep: Count = 16
    """Candidates kept of every feature, on either side."""
    min_together: Count = 5
    """Pairs that fire together on fewer rows are no candidates."""
    min_rows: Count = 10
    """A feature that fires on fewer pairing rows is `silent`."""
    false_discoveries: Annotated[float, Limits(above=0, below=1)] = 0.05
    """Share of false ones among the pairs declared correlated (Benjamini-Hochberg)."""
    beyond_token: Annotated[float, Limits(above=0, below=1)] = 0.1
    """A pair is `token only` unless its correlation beyond the token surely reaches this."""
    memory_mib: Count = 64
    """Memory for blocks of products, in MiB."""
    maps: MapKind = "pca"
    """How both dictionaries' decoder rows are laid out for the report's maps; umap shows more, and needs umap-learn."""
    map_seed: Seed = 0
    """Of the maps, and of draws of features."""
    examples: Annotated[int, Limits(0)] = 4
    """Rows kept of each pair for a reader, half of them the feature's strongest and half its partner's."""
    groups: Path | None = None
    """TOML file of keyword groups, name = ["word", ..]; without one time, people, emotions, nature, places, food."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class FamilySettings:
    """How families of features are found among several dictionaries."""

    n_rows: Annotated[Count, Option("rows")] = 200_000
    """Rows at most, of whole documents that no dictionary was trained on; half of them pair, half score."""
    space: tuple[int, ...] = ()
    """Number of the space that codes are read from, one for each dictionary, -1 for all of its spaces."""
    bar: Annotated[float, Limits(above=0, below=1)] = 0.3
    """Correlation that every two members of a family reach."""
    beyond_token: Annotated[float, Limits(above=0, below=1)] = 0.1
    """And what their correlation beyond the token surely reaches."""
    keep: Count = 16
    """Candidates kept of every feature in every other dictionary."""
    min_together: Count = 5
    """Pairs that fire together on fewer rows are no candidates."""
    min_rows: Count = 10
    """A feature that fires on fewer pairing rows is not asked about."""
    memory_mib: Count = 64
    """Memory for blocks of products, in MiB."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """How the layers of two models are compared."""

    measures: Annotated[tuple[MeasureName, ...], Option("measure")] = ("cka", "mutual_knn", "rsa")
    """Measure of likeness: cka, mutual_knn, rsa, svcca (slow, and never to rank by)."""
    space: tuple[int, ...] = ()
    """Number of a space of the store to compare; all of them where none is named."""
    n_rows: Annotated[Count, Option("rows")] = 2_000
    """Rows compared; time and memory grow with their square."""
    per_document: Annotated[int, Limits(2)] = 8
    """Rows of each document, its first ones; documents are evenly spaced over the store."""
    n_draws: Annotated[Count, Option("draws")] = 30
    """Shuffles of documents, for the chance bar, and as many within tokens."""
    n_halves: Annotated[int, Option("halves"), Limits(2)] = 24
    """Halves of the documents, for the error of a difference."""
    seed: Seed = 0
    """Of shuffles and halves."""

    def __post_init__(self) -> None:
        check(self)
        if not self.measures or len(set(self.measures)) < len(self.measures):
            raise UserError("measure", self.measures, "names none, or one twice", "name each once")
