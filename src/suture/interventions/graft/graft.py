"""A graft: what is done to one model at some hookpoints, kept as a folder that needs no dictionary any more.

    with Graft.load("graft").attach(lm):
        generate(lm, "Once upon a time", max_new_tokens=40)

| file              | content                                                        |
|-------------------|----------------------------------------------------------------|
| graft.json        | the model's fingerprint; hookpoints, features, schedule        |
| graft.safetensors | per part what reads and what writes (`part`), float32          |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.errors import ArtifactError, UserError
from suture.interventions.edits import Edit, scheduled
from suture.interventions.graft.part import KINDS, Part, described
from suture.interventions.graft.settings import Schedule
from suture.lm.hookpoints import width_of
from suture.lm.hooks import edit as editing
from suture.lm.load import LanguageModel
from suture.lm.positions import Positions, watched
from suture.pipeline import artifact

STAGE = "graft"
RECORD, TENSORS = "graft.json", "graft.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Graft:
    """Edits of one model, to be attached to it."""

    model: str
    """As it was named."""
    fingerprint: str
    """Of its weights; empty where it is not known."""
    parts: tuple[Part, ...]
    """In the order of the model's hookpoints, one for each."""
    schedule: Schedule = field(default_factory=Schedule)
    path: Path | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        where = ", ".join(f"{len(part.features)} features at {part.hookpoint}" for part in self.parts)
        return f"Graft(for {self.model}: {where or 'nothing'})"

    @property
    def n_features(self) -> int:
        """Over all hookpoints."""
        return sum(len(part.features) for part in self.parts)

    def check(self, lm: LanguageModel) -> None:
        """Refuse a model that it was not made for.

        Raises:
            UserError: other weights, no such hookpoint, one that never runs or is of another width.
        """
        if self.fingerprint and lm.fingerprint != self.fingerprint:
            problem = f"has other weights than {self.model}, which this graft was made for"
            raise UserError("model", lm.name, problem, "load that model, or make a graft for this one")
        for part in self.parts:
            width = width_of(lm, part.hookpoint)
            if width != part.width:
                problem = f"is {width} wide in {lm.name}, the graft {part.width}"
                raise UserError("hookpoint", part.hookpoint, problem, "load the model that the graft was made for")

    @contextmanager
    def attach(self, lm: LanguageModel, *, strength: float = 1.0) -> Iterator[None]:
        """While inside, every pass of the model runs with the graft, generation with a cache included.

        Args:
            lm: the model that it was made for.
            strength: so many times what it does; 0 changes nothing, bit for bit.

        Raises:
            UserError: another model.
        """
        self.check(lm)
        with ExitStack() as hooks:
            seen = hooks.enter_context(watched(lm))
            for part in self.parts:
                edit = part.to(lm.device).edit(strength)
                if not self.schedule.everywhere:
                    edit = scheduled(edit, _strength(self.schedule, seen))
                hooks.enter_context(editing(lm, part.hookpoint, edit))
            yield

    def write(self, folder: Path) -> None:
        """Put it into a folder (of an artifact being written)."""
        tensors = {
            f"{i}.{name}": tensor.float().cpu().contiguous()
            for i, part in enumerate(self.parts)
            for name, tensor in part.tensors().items()
        }
        save_file(tensors, folder / TENSORS)
        record: dict[str, Any] = {"model": self.model, "fingerprint": self.fingerprint}
        parts = [described(part) for part in self.parts]
        artifact.write_json(folder / RECORD, record | {"parts": parts, "schedule": asdict(self.schedule)})

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save it as an artifact of its own (the stage `graft` writes it with what was measured).

        Raises:
            ArtifactError: `path` is taken.
        """
        with artifact.create(path, stage=STAGE, settings={}, overwrite=overwrite) as draft:
            self.write(draft.folder)

    @staticmethod
    def load(path: str | Path) -> Graft:
        """Read what `save`, or the stage `graft`, wrote.

        Raises:
            ArtifactError: not a finished graft.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="graft")
        try:
            record, tensors = artifact.read_json(path / RECORD), load_file(path / TENSORS)
            parts = tuple(_part(own, i, tensors) for i, own in enumerate(record["parts"]))
            schedule = Schedule(**record["schedule"])
            made = Graft(model=record["model"], fingerprint=record["fingerprint"], parts=parts, schedule=schedule)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError("graft", path, f"cannot be read ({error})", "make it again") from None
        return replace(made, path=path)


def merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Those that have something to do."""
    return tuple(part for part in parts if len(next(iter(part.tensors().values()))))


@contextmanager
def editing_all(lm: LanguageModel, edits: Sequence[tuple[str, Edit]]) -> Iterator[None]:
    """While inside, each hookpoint has its edit."""
    with ExitStack() as hooks:
        for hookpoint, edit in edits:
            hooks.enter_context(editing(lm, hookpoint, edit))
        yield


def strengths(schedule: Schedule, seen: Positions) -> Float[Tensor, "batch token"]:
    """How strongly a schedule acts at each token of the pass under way, from 0 to 1."""
    generated = seen.generated
    factor = torch.full(generated.shape, float(schedule.on_generated), device=generated.device)
    if schedule.until is not None:
        beyond = (generated - schedule.until).clamp_min(0)
        falling = 1 - beyond / (schedule.fade + 1) if schedule.fade else (beyond == 0).float()
        factor = factor * falling.clamp(0, 1)
    factor = torch.where(generated == 0, float(schedule.on_prompt), factor)
    return factor if schedule.on_first else torch.where(seen.at == 0, 0.0, factor)


def _strength(schedule: Schedule, seen: Positions) -> Callable[[], Tensor]:
    return lambda: strengths(schedule, seen)


def _part(record: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> Part:
    own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{number}.")}
    return KINDS[record["kind"]](hookpoint=record["hookpoint"], features=tuple(record["features"]), **own)
