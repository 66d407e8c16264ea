"""The ground a study stands on: planted models or language models, their rows, and the null made of the first of them.

The null is as many models, the first one and rotated copies of it, so that every difference found is false.

| ground          | rows of a seed                                 | null                              |
|-----------------|------------------------------------------------|-----------------------------------|
| planted         | a store of its own: the seed plants new models | model A planted again, all shared |
| language models | one store, split and order drawn by the seed   | a view of the store               |

Stores that are not there are jobs to be run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from suture.activations.settings import CollectSettings, View
from suture.activations.store import Store
from suture.activations.view import seen
from suture.errors import UserError
from suture.lm.load import LanguageModel
from suture.lm.models import check_weights, load_models
from suture.lm.settings import LoadSettings
from suture.pipeline.job import Job
from suture.planted.settings import PlantedSettings
from suture.sweep.stages import collect_job, plant_job

STORES = "stores"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where a design's rows are."""

    store: Path
    view: View

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the models that the design sees."""
        return tuple(space.width for space in self.open().spaces)

    def whole(self) -> Store:
        """The store itself."""
        return Store.open(self.store)

    def open(self) -> Store:
        """The store as the design sees it."""
        return seen(self.whole(), self.view)


@dataclass(frozen=True, kw_only=True)
class PlantedGround:
    """Models whose concepts are known."""

    planted: PlantedSettings
    """Of seed 0; each further seed plants with the next seed."""
    n_stored: int = 100_000
    """Rows in a store; training goes over them again."""

    def __post_init__(self) -> None:
        if len(self.planted.widths) < 2:
            raise UserError("width", self.planted.widths, "is one model", "give two widths or more")
        if self.planted.null != "none":
            raise UserError("null", self.planted.null, "is what the study makes by itself", "plant without one")
        if self.n_stored < 4 * self.planted.rows_per_document:
            raise UserError("stored", self.n_stored, "is too few rows to split", "give some thousands")

    def of_seed(self, seed: int) -> PlantedSettings:
        """What is planted for a seed of the study."""
        return replace(self.planted, seed=self.planted.seed + seed)

    @property
    def known_widths(self) -> tuple[int, ...] | None:
        """Of the models."""
        return self.planted.widths

    def rows(self, out: Path, seed: int) -> Rows:
        """Of a seed."""
        return Rows(store=out / STORES / f"seed{seed}", view=View())

    def null(self, out: Path, seed: int) -> Rows:
        """Model A of a seed against rotated copies of itself."""
        return Rows(store=out / STORES / f"null-seed{seed}", view=View())

    def jobs(self, out: Path, seeds: Sequence[int]) -> list[Job]:
        """What plants the stores."""
        planted = {self.rows(out, seed).store: self.of_seed(seed) for seed in seeds}
        planted |= {self.null(out, seed).store: self.of_seed(seed).as_null("rotated") for seed in seeds}
        return [plant_job(f"plant {path.name}", path, settings, self.n_stored) for path, settings in planted.items()]


@dataclass(frozen=True, kw_only=True)
class LanguageGround:
    """Language models at hookpoints, on text: to be collected, or in a store already."""

    collect: CollectSettings | None = None
    store: str | None = None
    offline: bool = False
    """Never ask a hub for a model."""

    def __post_init__(self) -> None:
        if (self.collect is None) == (self.store is None):
            raise UserError("store", self.store, "is not the one source of rows", "give --store, or --model and --at")
        if self.collect is not None and len(self.collect.models.model) < 2:
            raise UserError("model", self.collect.models.model, "is one model", "give --model and --at twice or more")

    @property
    def known_widths(self) -> tuple[int, ...] | None:
        """Of the models, where their store is there already."""
        return None if self.store is None else Rows(store=Path(self.store), view=View()).widths

    def rows(self, out: Path, _: int) -> Rows:
        """The same for every seed; its split and order are the seed's."""
        return Rows(store=out / "store" if self.store is None else Path(self.store), view=View())

    def null(self, out: Path, seed: int) -> Rows:
        """The first model against rotated copies of itself, as many as there are models."""
        real = self.rows(out, seed)
        copies = len(real.widths) - 1
        # a large odd constant keeps the rotations of different seeds apart
        return replace(real, view=View(spaces=(0,), null=True, rotation_seed=seed * 1_000_003, copies=copies))

    def jobs(self, out: Path, _: Sequence[int]) -> list[Job]:
        """What collects the store."""
        return [] if self.collect is None else [collect_job("collect", self.rows(out, 0).store, self.collect)]

    def models(self, store: Store, *, device: str) -> list[LanguageModel]:
        """The very models behind a store's spaces.

        Raises:
            UserError: a model of that name has other weights now.
        """
        trust = self.collect is not None and self.collect.models.load.trust_remote_code
        revisions = () if self.collect is None else self.collect.models.load.revision
        load = LoadSettings(revision=revisions, offline=self.offline, trust_remote_code=trust)
        lms = load_models([space.model for space in store.spaces], load, device=device, keep=True)
        check_weights(lms, [space.fingerprint for space in store.spaces])
        return lms


Ground = PlantedGround | LanguageGround
