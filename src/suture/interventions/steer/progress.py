"""How far a run of steering is: passes over a batch and continuations, done and in all."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SteerProgress:
    """How far a run is: forward passes over a batch and continuations, done and in all."""

    done: int
    total: int


OnProgress = Callable[[SteerProgress], None]


@dataclass
class Counter:
    """Tells `on_progress` of every pass."""

    total: int
    on_progress: OnProgress | None
    done: int = field(default=0, init=False)

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(SteerProgress(done=self.done, total=max(self.total, self.done)))
