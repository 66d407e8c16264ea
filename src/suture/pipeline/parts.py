"""Parts: what a stage has done of its work, kept beside its unfinished result; a stopped run goes on after them.

1. A part is some arrays under a name that says which piece of the work they come from; it appears whole or not at all.
2. Parts lie in the unfinished folder, which only a run of the same settings and inputs goes on with, and are removed
   with the rest of its scratch when the result is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.pipeline.files import whole_file

if TYPE_CHECKING:
    from suture.pipeline.artifact import Draft

FOLDER = "parts"
Part = Mapping[str, Tensor]


@dataclass(frozen=True)
class Parts:
    """The parts of one result."""

    folder: Path | None = None
    """None keeps nothing."""

    @staticmethod
    def of(draft: Draft) -> Parts:
        """In a folder that is being written; nothing of it stays with the result."""
        if FOLDER not in draft.scratch:
            draft.scratch.append(FOLDER)
        return Parts(draft.folder / FOLDER)

    def get(self, name: str, make: Callable[[], Part]) -> Part:
        """The part of this name, made and kept where it is not there; one that cannot be read is made again."""
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError):
            part = make()
        self.folder.mkdir(exist_ok=True)
        with whole_file(file) as aside:
            save_file({key: value.contiguous().cpu() for key, value in part.items()}, aside)
        return part
