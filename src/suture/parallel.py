"""The processes of a run: which rows and which features are this one's, and how their results come together.

`torchrun --nproc-per-node N -m suture train ..` starts N processes, here called ranks. They form a grid: along `data`
each rank computes other rows of a batch, along `features` each rank holds other features of the dictionary. Code is
written for one process; what differs is a sum or a concatenation over `Ranks`, which costs nothing where there is one.

1. `grid` joins the processes that torchrun started; without torchrun it is a grid of one.
2. The ranks of one line of the grid hold the same replica of what is not split, bit for bit: every sum reaches all of
   them in one order.
3. Whichever rank fails first says why; the others end with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from suture.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for one another: the slowest thing between two meetings is tokenizing a part of a corpus."""


class LostRankError(UserError):
    """Another process of the run ended, so that nothing can be computed together any more."""


@dataclass(frozen=True)
class Ranks:
    """The processes along one line of the grid, this one among them; by default it is alone."""

    rank: int = 0
    size: int = 1
    group: Any = field(default=None, repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes what all would write alike."""
        return self.rank == 0

    @property
    def _device(self) -> str:
        """Where tensors have to lie to travel."""
        return "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"

    def share(self, n: int) -> slice:
        """This rank's contiguous part of n things; parts differ by one at most.

        >>> [Ranks(rank, 3).share(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add_up(self, x: Tensor) -> Tensor:
        """The sum of every rank's tensor, in place. Not differentiable: see `sum`."""
        if self.size > 1:
            travelling = x.to(self._device)
            with _meeting(self.size):
                dist.all_reduce(travelling, group=self.group)
            if travelling is not x:
                x.copy_(travelling)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's tensor; backwards, each rank's part has the gradient of the sum.

        That is right where every rank goes on with the same sum to the same loss.
        """
        if self.size == 1:
            return x
        result = _Sum.apply(x, self)
        assert isinstance(result, Tensor)
        return result

    def any(self, x: Tensor) -> Tensor:
        """Where the boolean is true on any rank."""
        if self.size == 1:
            return x
        counts = x.to(torch.int32)
        return self.add_up(counts) > 0

    def concatenate(self, x: Tensor) -> Tensor:
        """Every rank's tensor one after the other along the first axis."""
        return x if self.size == 1 else torch.cat(self.gather(x))

    def gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's tensor, in their order; the first axis may have another length in each."""
        if self.size == 1:
            return [x]
        lengths = torch.zeros(self.size, dtype=torch.int64, device=x.device)
        lengths[self.rank] = x.shape[0]
        self.add_up(lengths)
        counts = lengths.tolist()
        padded = x.new_zeros(max(counts), *x.shape[1:], device=self._device)
        padded[: x.shape[0]] = x
        parts = [torch.empty_like(padded) for _ in counts]
        with _meeting(self.size):
            dist.all_gather(parts, padded, group=self.group)
        return [part[:n].to(x.device) for part, n in zip(parts, counts, strict=True)]

    def agree(self, value: Any) -> Any:
        """The leader's value, on every rank; it travels as JSON."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.leads else b""
        own = torch.tensor(list(text), dtype=torch.uint8, device=self._device)
        return json.loads(bytes(self.concatenate(own).tolist()))

    def wait(self) -> None:
        """Go on once every rank is here."""
        if self.size > 1:
            with _meeting(self.size):
                dist.barrier(group=self.group)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:  # noqa: ARG004  (the signature is torch's)
        return ranks.add_up(x.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grads[0], None


@dataclass(frozen=True)
class Grid:
    """Every rank's place: along `data` the rows of a batch are split, along `features` the dictionary."""

    data: Ranks = field(default_factory=Ranks)
    features: Ranks = field(default_factory=Ranks)
    world: Ranks = field(default_factory=Ranks)
    """All of them."""


ALONE = Grid()
"""One process, the grid of everyone who has not started torchrun."""


def started_by_torchrun() -> bool:
    """Whether this process is one of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device(device: str) -> str:
    """The device of this rank: `cuda` is the GPU with its number on this machine.

    >>> local_device("cpu")
    'cpu'
    """
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and started_by_torchrun() else device


@contextmanager
def grid(*, feature_ranks: int = 1, device: str = "cpu") -> Iterator[Grid]:
    """Join the processes that torchrun started, for the length of the block; a grid of one without torchrun.

    Args:
        feature_ranks: over how many ranks the dictionary's features are split; the others split the rows.
        device: where tensors lie, which decides how they travel.

    Raises:
        UserError: the ranks do not divide that way.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if feature_ranks < 1 or size % feature_ranks:
        fix = "start as many processes with torchrun --nproc-per-node, or lower it"
        raise UserError("feature-ranks", feature_ranks, f"does not divide the {size} processes of this run", fix)
    if size == 1:
        yield ALONE
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    # made here, not by init_process_group, because it outlives the group: torchrun's agent keeps it
    store, rank, _ = next(rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
    )
    try:
        yield _grid(rank, size, feature_ranks)
    except BaseException as error:
        if store.add("suture/failed", 1) > 1 and isinstance(error, UserError):
            raise SystemExit(2) from None  # the first has said why
        raise
    dist.destroy_process_group()


def _grid(rank: int, size: int, feature_ranks: int) -> Grid:
    """Neighbours split the features: they speak most, and are most likely on one machine."""
    rows = [list(range(first, first + feature_ranks)) for first in range(0, size, feature_ranks)]
    columns = [list(range(first, size, feature_ranks)) for first in range(feature_ranks)]
    # every process has to take part in making every group
    features = [dist.new_group(members) for members in rows][rank // feature_ranks]
    data = [dist.new_group(members) for members in columns][rank % feature_ranks]
    return Grid(
        data=Ranks(rank // feature_ranks, size // feature_ranks, data),
        features=Ranks(rank % feature_ranks, feature_ranks, features),
        world=Ranks(rank, size, dist.group.WORLD),
    )


@contextmanager
def _meeting(size: int) -> Iterator[None]:
    """A collective operation fails when another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        problem = f"another process of this run ended ({str(error).splitlines()[0][:120]})"
        raise LostRankError("ranks", size, problem, "see its message; go on with --resume") from None
