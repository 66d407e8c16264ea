"""Stream: rows that never touch the disk, computed a fill at a time while a dictionary is trained on them.

1. The corpus is gone over again and again, in the same windows as a collection's. Fill n has the rows n x fill_rows and
   following of that endless sequence. Where it reaches from the end of the corpus into its beginning, the rows of the
   beginning come first, so that documents ascend. A corpus with fewer rows than a fill is every fill.
2. A position says in which window a fill begins. Going to a fill whose position is unknown tokenizes what lies between
   but runs no model.
3. Scales and means are those of fill 0 for all fills: units never change. Positions carry them. So is what counts as
   an outlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from suture.activations.outliers import Extremes, measure
from suture.activations.rows import Plan, plan_rows, rows_of
from suture.activations.settings import StreamSettings
from suture.activations.shards import Rows, scale_and_mean, stored_bytes, sums_of
from suture.activations.space import Space
from suture.activations.store import STAGE, STORAGE, Alignment, Held, Store
from suture.activations.windows import State, Window, check_enough, windows
from suture.errors import UserError
from suture.lm.corpus import Corpus, as_corpus, corpus_of
from suture.lm.load import LanguageModel
from suture.lm.models import accelerator, load_models
from suture.pipeline import artifact

ENDLESS = 2**62


class Stream:
    """Fills of rows, each an ordinary `Store` in memory; the same fill is the same rows whenever it is asked for.

    Args:
        sources: (model, hookpoint name) per space, as for `collect`.
        corpus: the text, gone over again when it ends.
        block: most tokens of text, per model, that are run together.
        fill_rows: rows of a fill.
        dtype: precision in memory, "bfloat16" or "float32".
        batch_tokens: most tokens per forward pass, as for `collect`.
        positions: what `position` gave in an earlier run, by the fill's number, also as the string that JSON makes it.
        prefetch: compute the next fill while this one is used; by default where a model is not on the CPU, which the
            training would have to share.

    Raises:
        UserError: a setting that does not fit the models, or positions of a stream of other settings.
    """

    def __init__(
        self,
        *,
        sources: Sequence[tuple[LanguageModel | str, str]],
        corpus: Corpus | str | Path,
        block: int = 128,
        fill_rows: int = 262_144,
        dtype: str = "bfloat16",
        batch_tokens: int | None = None,
        positions: Mapping[Any, Mapping[str, Any]] | None = None,
        prefetch: bool | None = None,
    ) -> None:
        if fill_rows < 1:
            raise UserError("fill-rows", fill_rows, "is not a number of rows", "give at least 1")
        self.plan: Plan = plan_rows(sources, block=block, dtype=dtype, batch_tokens=batch_tokens)
        self.corpus: Corpus = as_corpus(corpus)
        self.fill_rows = fill_rows
        self._checksum = self.corpus.checksum
        on_cpu = all(lm.device.type == "cpu" for lm in self.plan.models)
        self._prefetch = not on_cpu if prefetch is None else prefetch
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="suture-stream")
        self._ahead: tuple[int, Future[Store]] | None = None
        self._spaces: tuple[Space, ...] | None = None
        self._extremes: tuple[Extremes, ...] | None = None
        beginning = asdict(State.beginning(len(self.plan.models)))
        self._positions: dict[int, dict[str, Any]] = {0: {"row": 0, "passed": 0, "state": beginning}}
        self.go_on_from(positions or {})

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being computed ahead, and let go of it."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead = None

    def fill(self, number: int) -> Store:
        """The rows of a fill as a store; `text` has none of its documents.

        Raises:
            NumericalError: an activation is NaN or infinite; the document is named.
            UserError: the corpus has no rows, or less than one block.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == number:
            store = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].cancel()  # where it has begun, the pool's only thread comes to this one after it
            store = self._pool.submit(self._compute, number).result()
        if self._prefetch:
            self._ahead = number + 1, self._pool.submit(self._compute, number + 1)
        return store

    def position(self, number: int) -> dict[str, Any]:
        """Where a fill begins and in which units, as JSON values: the `positions` of a stream that goes on there."""
        return artifact.as_json(self._pool.submit(self._whole_position, number).result())

    def go_on_from(self, positions: Mapping[Any, Mapping[str, Any]]) -> None:
        """Know where these fills begin, as `position` told in an earlier run.

        Raises:
            UserError: positions of a stream of other settings.
        """
        for number, position in positions.items():
            self._remember(int(number), position)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the fills, as JSON values."""
        plan = self.plan
        return artifact.as_json(
            {
                "spaces": plan.sources,
                "corpus": str(self.corpus.source),
                "corpus_checksum": self._checksum,
                "block": plan.block,
                "dtype": plan.dtype,
                "batch_tokens": plan.batch_tokens,
                "fill_rows": self.fill_rows,
            }
        )

    def _remember(self, number: int, position: Mapping[str, Any]) -> None:
        """Take a position from an earlier run, and its units."""
        for name, value in self.settings.items():
            if position["settings"].get(name) != value:
                problem = f"differs from {position['settings'].get(name)!r} of the stream to go on with"
                raise UserError(name, value, problem, "give the same setting, or start anew")
        self._positions[number] = {key: position[key] for key in ("row", "passed", "state")}
        self._spaces = tuple(
            replace(space, scale=units["scale"], mean=torch.tensor(units["mean"], dtype=torch.float32))
            for space, units in zip(self.plan.spaces, position["units"], strict=True)
        )
        known = [(units.get("extremes"), units.get("centre")) for units in position["units"]]
        if all(extremes is not None for extremes, _ in known):  # those of a corpus of the hub may be older
            self._extremes = tuple(
                Extremes.from_json(extremes, torch.tensor(centre, dtype=torch.float32)) for extremes, centre in known
            )

    def _whole_position(self, number: int) -> dict[str, Any]:
        if self._spaces is None:
            self._compute(0)
        assert self._spaces is not None
        units = [{"scale": space.scale, "mean": space.known_mean.tolist()} for space in self._spaces]
        for own, extremes in zip(units, self._extremes or (), strict=False):
            own |= {"extremes": extremes.to_json(), "centre": extremes.centre.tolist()}
        return {**self._find(number), "units": units, "settings": self.settings}

    def _windows(self, position: Mapping[str, Any]) -> Iterator[tuple[int, Window]]:
        """Windows without end from a position on, each with the rows of all earlier passes over the corpus."""
        passed, state = position["passed"], State.from_json(position["state"])
        while True:
            for window in windows(
                self.corpus,
                self.plan.models,
                block=self.plan.block,
                n_tokens=self.plan.window_tokens,
                n_rows=ENDLESS,
                start=state,
            ):
                yield passed, window
                state = window.after
            check_enough(self.corpus, state, block=self.plan.block)
            passed += state.n_rows
            state = State.beginning(len(self.plan.models))

    def _find(self, number: int) -> dict[str, Any]:
        """Where a fill begins.  (2)"""
        known = max(n for n in self._positions if n <= number)
        if known == number:
            return self._positions[number]
        for passed, window in self._windows(self._positions[known]):
            if self._is_short(passed):
                self._positions[number] = self._positions[0]
            else:
                self._note(passed, window)
            if number in self._positions:
                break
        return self._positions[number]

    def _is_short(self, passed: int) -> bool:
        """Whether the whole corpus turned out to be less than a fill."""
        return 0 < passed < self.fill_rows

    def _note(self, passed: int, window: Window) -> None:
        """Remember the position of every fill that begins in this window."""
        first, end = passed + window.before.n_rows, passed + window.after.n_rows
        for number in range(-(-first // self.fill_rows), -(-end // self.fill_rows)):
            row = number * self.fill_rows
            self._positions.setdefault(number, {"row": row, "passed": passed, "state": asdict(window.before)})

    def _compute(self, number: int) -> Store:
        """Run the models over a fill's windows.  (1)"""
        if number > 0 and self._spaces is None:
            self._compute(0)
        position = self._find(number)
        first = position["row"]
        end = first + self.fill_rows
        filling = _Filling(self.plan, self.fill_rows)
        for passed, window in self._windows(position):
            if self._is_short(passed):
                break
            self._note(passed, window)  # the next fill's among them: this goes on to the window of the row after
            here = passed + window.before.n_rows
            if here >= end:
                break
            rows = torch.arange(here, min(passed + window.after.n_rows, end))
            if len(rows) and int(rows[-1]) >= first:
                begin = max(first - here, 0)
                filling.add(rows_of(self.plan, window, rows >= first), begin, window, passed)
            if passed + window.after.n_rows > end:
                break
        held, alignment = filling.finish()
        self._spaces = self._spaces or _spaces(self.plan, held)  # 3
        settings = {**self.settings, "fill": number}
        store = Store(
            path=Path(f"{self.corpus.source} (fill {number}, in memory)"),
            manifest=artifact.Manifest(stage=STAGE, settings=settings, suture=artifact.package_version()),
            spaces=self._spaces,
            alignment=alignment,
            dtype=self.plan.dtype,
            shards=(len(held.documents),),
            columns=tuple(range(len(self._spaces))),
            maps=(None,) * len(self._spaces),
            held=held,
        )
        if number == 0:
            self._extremes = measure(store)
        return replace(store, extremes=self._extremes)


class _Filling:
    """The rows of a fill as they come."""

    def __init__(self, plan: Plan, n_rows: int) -> None:
        self._plan = plan
        self._n = 0
        self._wraps_at = 0
        self._passed: int | None = None
        self._activations = [np.empty((n_rows, space.width), dtype=STORAGE[plan.dtype]) for space in plan.spaces]
        self._sides: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._n_tokens = np.zeros((2, len(plan.models)), dtype=np.int64)
        self._n_kept = 0

    def add(self, rows: Rows, begin: int, window: Window, passed: int) -> None:
        """Take a window's rows from number `begin` on; `passed` tells one pass over the corpus from the next."""
        if self._passed is not None and passed != self._passed:
            self._wraps_at = self._n
        self._passed = passed
        end = self._n + len(rows.documents) - begin
        for own, values in zip(self._activations, rows.activations, strict=True):
            own[self._n : end] = stored_bytes(values[begin:], self._plan.dtype)
        self._sides.append((rows.documents[begin:], rows.ends[begin:], rows.token_ids[begin:]))
        self._n = end
        before, after = window.before, window.after
        self._n_tokens += np.array([after.n_tokens, after.n_special]) - np.array([before.n_tokens, before.n_special])
        self._n_kept += after.n_rows - before.n_rows

    def finish(self) -> tuple[Held, tuple[Alignment, ...]]:
        """The rows, in the order of their documents, and what became of the tokens of the windows they are from."""
        n, at = self._n, self._wraps_at
        documents, ends, token_ids = (
            torch.cat([part[at:], part[:at]]) for part in map(torch.cat, zip(*self._sides, strict=True))
        )
        held = Held(
            activations=tuple(np.concatenate([x[at:n], x[:at]]) if at else x[:n] for x in self._activations),
            documents=documents,
            ends=ends,
            token_ids=token_ids,
        )
        n_tokens, n_special = self._n_tokens.tolist()
        return held, tuple(
            Alignment(n_tokens=n_tokens[m], n_kept=self._n_kept, n_special=n_special[m]) for m in self._plan.model_of
        )


def _spaces(plan: Plan, held: Held) -> tuple[Space, ...]:
    """The spaces in the units of these rows."""
    spaces = []
    for space, values in zip(plan.spaces, held.activations, strict=True):
        scale, mean = scale_and_mean(space, sums_of(values))
        spaces.append(replace(space, scale=scale, mean=mean))
    return tuple(spaces)


def open_stream(settings: StreamSettings, *, device: str) -> Stream:
    """The stream of the models and the text that settings name.

    Raises:
        UserError: a model, hookpoint or corpus that cannot be had, and as `Stream`.
    """
    models, load = settings.models, settings.models.load
    lms = load_models(models.model, load, device=accelerator(device))
    return Stream(
        sources=list(zip(lms, models.hookpoints, strict=True)),
        corpus=corpus_of(settings.text, offline=load.offline),
        block=settings.block,
        fill_rows=settings.fill_rows,
        dtype=settings.dtype,
        batch_tokens=settings.batch_tokens,
    )
