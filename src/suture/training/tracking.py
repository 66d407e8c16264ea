"""Metrics to metrics.jsonl, one line a measurement; to TensorBoard or Weights & Biases only if asked for."""

import importlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from suture.errors import UserError
from suture.pipeline.files import whole_file
from suture.training.settings import TrackerKind

METRICS = "metrics.jsonl"
Write = Callable[[int, dict[str, float]], None]


class Tracker:
    """Writes every measurement everywhere it was asked to go. A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        first_step: int,
        kinds: Sequence[TrackerKind],
        settings: dict[str, Any],
        leads: bool = True,
    ) -> None:
        """On resuming, lines of steps that will be taken again are dropped. Only the process that `leads` writes.

        Raises:
            UserError: a kind that is unknown or not installed.
        """
        self.file: Path = folder / METRICS
        self.leads = leads
        self.stack: ExitStack = ExitStack()
        self.writers: list[Write] = []
        if not leads:
            return
        kept = []
        if first_step > 0 and self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
        with whole_file(self.file) as aside:  # killed while it writes, it leaves the old file or the new one
            aside.write_text("".join(kept), encoding="utf-8")
        self.writers = [self._writer(kind, folder, settings) for kind in kinds]

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def log(self, measurement: Any) -> None:
        """Record a dataclass that has a `step`."""
        assert is_dataclass(measurement)
        if not self.leads:
            return
        values = asdict(measurement)  # pyright: ignore[reportArgumentType]
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
        for write in self.writers:
            write(values["step"], flat(values))

    def _writer(self, kind: TrackerKind, folder: Path, settings: dict[str, Any]) -> Write:
        if kind == "tensorboard":
            board = _load("torch.utils.tensorboard", kind).SummaryWriter(str(folder / "tensorboard"))
            self.stack.callback(board.close)

            def write(step: int, values: dict[str, float]) -> None:
                for name, value in values.items():
                    board.add_scalar(name, value, step)

            return write
        if kind == "wandb":
            run = _load("wandb", kind).init(project="suture", dir=str(folder), config=settings)
            self.stack.callback(run.finish)
            return lambda step, values: run.log(values, step=step)
        raise UserError("track", kind, "is unknown", "use tensorboard or wandb")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers under names joined by slashes, as dashboards group them.

    >>> flat({"loss": 1.0, "fvu": [0.5, 0.25]})
    {'loss': 1.0, 'fvu/0': 0.5, 'fvu/1': 0.25}
    """
    out: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            out |= flat({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}/")
        else:
            out[prefix + name] = float(value)
    return out


def _load(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError("track", kind, "is not installed", f"pip install 'suture[{kind}]'") from None
