"""The ground a study stands on: planted models or language models, their rows, and the null made of the first of them.

The null is as many models, the first one and rotated copies of it, so that every difference found is false.

| ground          | rows of a seed                                 | null                              |
|-----------------|------------------------------------------------|-----------------------------------|
| planted         | a store of its own: the seed plants new models | model A planted again, all shared |
| language models | one store, split and order drawn by the seed   | a view of the store               |

A store that is finished is not made again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from suture.activations.collect import collect_with
from suture.activations.settings import CollectSettings, View
from suture.activations.store import Store
from suture.activations.view import seen
from suture.errors import UserError
from suture.lm.load import LanguageModel, load_model
from suture.pipeline import artifact
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

Tell = Callable[[str, int, int, str], None]
"""Gets (what, done, total, note)."""

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

    def rows(self, out: Path, seed: int, tell: Tell) -> Rows:
        """Of a seed."""
        return self._planted(out / STORES / f"seed{seed}", self.of_seed(seed), tell)

    def null(self, out: Path, seed: int, tell: Tell) -> Rows:
        """Model A of a seed against rotated copies of itself."""
        return self._planted(out / STORES / f"null-seed{seed}", self.of_seed(seed).as_null("rotated"), tell)

    def _planted(self, path: Path, settings: PlantedSettings, tell: Tell) -> Rows:
        if not (path / artifact.MANIFEST).exists():
            tell(f"planting {path.name}", 0, 1, "")
            planted_store(path, settings, self.n_stored)
            tell(f"planting {path.name}", 1, 1, "")
        return Rows(store=path, view=View())


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

    def rows(self, out: Path, _: int, tell: Tell) -> Rows:
        """The same for every seed; its split and order are the seed's."""
        path = self._path(out)
        if self.collect is not None and not (path / artifact.MANIFEST).exists():
            _collect(path, self.collect, tell)
        return Rows(store=path, view=View())

    def null(self, out: Path, seed: int, tell: Tell) -> Rows:
        """The first model against rotated copies of itself, as many as there are models."""
        real = self.rows(out, seed, tell)
        copies = len(real.widths) - 1
        # a large odd constant keeps the rotations of different seeds apart
        return replace(real, view=View(spaces=(0,), null=True, rotation_seed=seed * 1_000_003, copies=copies))

    def models(self, store: Store, *, device: str) -> list[LanguageModel]:
        """The very models behind a store's spaces.

        Raises:
            UserError: a model of that name has other weights now.
        """
        trust = self.collect is not None and self.collect.models.load.trust_remote_code
        revisions = (None,) * len(store.spaces) if self.collect is None else self.collect.models.revisions
        lms: list[LanguageModel] = []
        for space, revision in zip(store.spaces, revisions, strict=True):
            lm = _model(space.model, revision, device, self.offline, trust)
            if space.fingerprint and lm.fingerprint != space.fingerprint:
                problem = "has other weights than the model of this name that the activations came from"
                raise UserError("model", space.model, problem, "put the same model there, or collect again")
            lms.append(lm)
        return lms

    def _path(self, out: Path) -> Path:
        return out / "store" if self.store is None else Path(self.store)


@cache
def _model(name: str, revision: str | None, device: str, offline: bool, trust: bool) -> LanguageModel:  # noqa: FBT001
    """Loaded once in a process, however many cells it runs."""
    return load_model(name, revision=revision, device=device, offline=offline, trust_remote_code=trust)


Ground = PlantedGround | LanguageGround


def _collect(path: Path, given: CollectSettings, tell: Tell) -> None:
    collect_with(path, given, resume=True, on_progress=lambda p: tell("collecting rows", p.n_rows, p.n_rows_wanted, ""))
