"""Tensors and settings of foreign files, read without running anything in them and checked one by one.

1. Pickled files are opened by `torch.load(weights_only=True)` alone, which refuses, unread, all that is more than
   tensors, numbers, strings and containers of them.
2. A tensor is taken by name with the shape that its library gives it, and must hold finite numbers. Orientation is the
   library's rule, never guessed from a shape: d may equal F.
3. What is left over when a reader has taken its tensors is refused by name: it would have changed what is computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from warnings import catch_warnings
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from suture.errors import UserError

REFUSED = torch.serialization.pickle.UnpicklingError  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]
"""What `torch.load` raises for a pickle with more in it than tensors; it is not ours to import."""


class Tensors:
    """The tensors of a file by name, each to be taken once."""

    def __init__(self, found: Mapping[str, Any], file: Path) -> None:
        self.left: dict[str, Any] = dict(found)
        self.file = file

    @staticmethod
    def load(file: Path) -> Tensors:
        """Read a .safetensors, .npz or pickled file.

        Raises:
            UserError: it is damaged, or a pickle with more in it than tensors.
        """
        if file.suffix == ".safetensors":
            return Tensors(_safetensors(file), file)
        return Tensors(_npz(file) if file.suffix == ".npz" else _pickled(file), file)

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def shape(self, name: str, axes: str) -> tuple[int, ...]:
        """The shape of a tensor of so many axes (`"F d"`), which stays to be taken.

        Raises:
            UserError: it is not there, or has another number of axes.
        """
        value = self._there(name)
        if value.ndim != len(axes.split()):
            raise self._refuse(f"tensor {name} has shape {list(value.shape)}, not [{', '.join(axes.split())}]")
        return tuple(value.shape)

    def take(self, name: str, *shape: int, may_be_nan: bool = False) -> Tensor:
        """A tensor of this shape as float32.

        Raises:
            UserError: it is not there, has another shape, or holds what is no finite number.
        """
        value = self._there(name)
        if tuple(value.shape) != shape:
            raise self._refuse(f"tensor {name} has shape {list(value.shape)}, not {list(shape)}")
        del self.left[name]
        value = value.to(torch.float32)
        if not may_be_nan and not bool(value.isfinite().all()):
            raise self._refuse(f"tensor {name} holds NaN or infinite values", "fetch the file again")
        return value

    def number(self, name: str) -> float:
        """A tensor of one number; NaN where it holds that."""
        return float(self.take(name, may_be_nan=True)) if isinstance(self.left.get(name), Tensor) else self._plain(name)

    def drop(self, *names: str) -> None:
        """Leave out what changes nothing in use."""
        for name in names:
            self.left.pop(name, None)

    def word(self, name: str) -> str:
        """A string that stands among the tensors."""
        value = self.left.pop(name, None)
        if not isinstance(value, str):
            raise self._refuse(f"has no {name}")
        return value

    def done(self) -> None:
        """Refuse what was not taken (3).

        Raises:
            UserError: naming it.
        """
        if self.left:
            more = f" and {len(self.left) - 3} more" if len(self.left) > 3 else ""
            problem = f"holds {', '.join(sorted(self.left)[:3])}{more}, which this format has not"
            raise self._refuse(problem, "name the right --format")

    def _there(self, name: str) -> Tensor:
        value = self.left.get(name)
        if not isinstance(value, Tensor):
            has = ", ".join(sorted(self.left)[:6]) or "nothing more"
            raise self._refuse(f"has no tensor {name}, only {has}", "name the right --format, or fetch the file again")
        return value

    def _plain(self, name: str) -> float:
        value = self.left.pop(name, None)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._refuse(f"has no number {name}")
        return float(value)

    def _refuse(self, problem: str, fix: str = "give a file that its library wrote") -> UserError:
        return refused(self.file, problem, fix)


class Config:
    """A foreign file's settings by name; what a reader does not know may not change what is computed."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        self.values: dict[str, Any] = dict(values)
        self.file = file

    @staticmethod
    def load(file: Path) -> Config:
        """Read a JSON object.

        Raises:
            UserError: it is none.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise refused(file, f"is not JSON ({error})", "fetch it again") from None
        if not isinstance(values, dict):
            raise refused(file, "holds no settings", "fetch it again")
        return Config(values, file)

    def get(self, name: str, default: Any = None) -> Any:
        """A setting, or what its library takes where it is not there."""
        return self.values.get(name, default)

    def part(self, name: str) -> Config:
        """The settings inside one."""
        inside = self.values.get(name)
        return Config(inside if isinstance(inside, dict) else {}, self.file)

    def count(self, name: str) -> int:
        """A setting that counts something.

        Raises:
            UserError: it is not there, or is no positive whole number.
        """
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise refused(self.file, f"says {name} = {value!r}, not a positive whole number", "fetch it again")
        return value

    def positive(self, name: str) -> float:
        """A setting above zero.

        Raises:
            UserError: it is not there, or is something else.
        """
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise refused(self.file, f"says {name} = {value!r}, not a positive number", "fetch it again")
        return float(value)

    def only(self, name: str, allowed: Iterable[Any], *, default: Any, what: str = "") -> Any:
        """A setting that must have one of these values.

        Raises:
            UserError: it has another, which suture cannot hold.
        """
        value = self.values.get(name, default)
        if value not in tuple(allowed):
            problem = f"says {name} = {value!r}: {what or 'suture cannot hold that'}"
            raise refused(self.file, problem, "import another dictionary")
        return value


def refused(file: Path, problem: str, fix: str) -> UserError:
    """What is wrong with a foreign file."""
    return UserError("source", file, problem, fix)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise refused(file, f"cannot be read: it is cut off or damaged ({error})", "fetch it again") from None


def _npz(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            return {name: torch.from_numpy(found[name]) for name in found.files}
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as error:
        raise refused(file, f"cannot be read: it is cut off or damaged ({error})", "fetch it again") from None


def _pickled(file: Path) -> dict[str, Any]:
    try:
        with catch_warnings(action="ignore", category=UserWarning):  # of a pickle protocol that is read all the same
            found = torch.load(file, map_location="cpu", weights_only=True)
    except REFUSED:
        problem = "is a pickle with more in it than tensors, which can run code; it was not read"
        raise refused(file, problem, "save its state_dict alone, or take a .safetensors file") from None
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, AssertionError) as error:
        raise refused(file, f"cannot be read: it is cut off or damaged ({_line(error)})", "fetch it again") from None
    if not isinstance(found, dict):
        raise refused(file, f"holds a {type(found).__name__}, not tensors by name", "save its state_dict")
    return {str(name): value for name, value in found.items()}


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
