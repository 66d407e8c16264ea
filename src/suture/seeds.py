"""The one way to draw random numbers: a stream has a name, and its numbers follow from name, seed and step alone.

1. A stream's number is drawn from (hash of the name, seed, steps): streams of different names, seeds or steps share
   nothing, and none depends on what was drawn before, so that any step can be drawn again by itself.
2. `generator` gives torch's, `numpy_generator` numpy's; `drawing` is for libraries that know only torch's global one.
3. Streams older than this file keep the rule that they began with (`KEPT`): a seed still gives the rows, splits, masks
   and starting weights that it gave.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch


def _mixed(seed: int, step: int = 0) -> int:
    """Large odd constants keep (seed, step) pairs of different runs apart."""
    return (seed * 1_000_003 + step) * 2_654_435_761 % 2**63


def _sequence(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) % 2**63


KEPT: Mapping[str, Callable[..., int | list[int]]] = {
    "start weights": lambda seed: seed,
    "statistics rows": lambda seed: seed,
    "model masks": _mixed,
    "row order": lambda seed, epoch: [seed, epoch],
    "rotation": lambda seed: seed,
    "planted truth": lambda seed: _sequence(seed, 0, 0),
    "planted rows": lambda seed, block: _sequence(seed, 1, block),
    "language model": lambda seed: seed,
    "continuation": lambda seed: seed,
}
"""Stream -> what its generator is made from, where that is older than the rule."""


def generator(name: str, seed: int, *steps: int) -> torch.Generator:
    """Torch's generator, on the CPU, of a stream at a step (or at several numbers that together name it).

    >>> torch.rand(1, generator=generator("an example", 0)) == torch.rand(1, generator=generator("an example", 0))
    tensor([True])
    """
    if name in KEPT:
        number = KEPT[name](seed, *steps)
        assert isinstance(number, int), f"{name} is drawn with numpy"
    else:
        number = _sequence(_hashed(name), seed, *steps)
    return torch.Generator().manual_seed(number)


def numpy_generator(name: str, seed: int, *steps: int) -> np.random.Generator:
    """Numpy's generator of a stream at a step."""
    return np.random.default_rng(KEPT[name](seed, *steps) if name in KEPT else [_hashed(name), seed, *steps])


@contextmanager
def drawing(name: str, seed: int, *, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's global draws (on the CPU and this device) are of the stream; the caller's state stays as it was.

    For libraries that take no generator: a model's initial weights, dropout.
    """
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(generator(name, seed).initial_seed())
        yield


def _hashed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
