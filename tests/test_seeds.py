"""Streams repeat, differ, and the old ones are what they were; nothing else in suture draws random numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from suture import seeds

SOURCE = Path(seeds.__file__).parent


def numbers(*words: str | int) -> list[float]:
    name, *rest = words
    return torch.rand(4, generator=seeds.generator(str(name), *map(int, rest))).tolist()


def test_a_stream_follows_from_name_seed_and_steps_alone() -> None:
    assert numbers("a", 3, 7) == numbers("a", 3, 7)
    streams = [("a", 3), ("b", 3), ("a", 4), ("a", 3, 7), ("a", 3, 8), ("a", 7, 3), ("a", 3, 7, 1), ("a", 2**62)]
    assert len({tuple(numbers(*s)) for s in streams}) == len(streams)
    by_numpy = {tuple(seeds.numpy_generator(str(n), *map(int, s)).random(4)) for n, *s in streams}
    assert len(by_numpy) == len(streams)


def test_streams_of_neighbouring_seeds_do_not_correlate() -> None:
    drawn = torch.stack([torch.randn(2000, generator=seeds.generator("x", s, t)) for s in range(6) for t in range(6)])
    r = torch.corrcoef(drawn) - torch.eye(36)
    assert float(r.abs().max()) < 0.1


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("start weights", 5), 5),
        (("model masks", 5, 9), (5 * 1_000_003 + 9) * 2_654_435_761 % 2**63),
        (("planted rows", 5, 9), int(np.random.SeedSequence([5, 1, 9]).generate_state(1, np.uint64)[0]) % 2**63),
    ],
)
def test_old_streams_are_what_they_were(words: tuple[str, int], number: int) -> None:
    assert numbers(*words) == torch.rand(4, generator=torch.Generator().manual_seed(number)).tolist()
    order = seeds.numpy_generator("row order", 5, 2).permutation(9)
    assert order.tolist() == np.random.default_rng([5, 2]).permutation(9).tolist()


def test_a_library_that_draws_globally_is_held_and_the_callers_state_stays() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeds.drawing("x", 4):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeds.drawing("x", 4):
        assert torch.equal(torch.rand(3), first)


def test_nothing_else_makes_a_generator() -> None:
    own = re.compile(r"manual_seed|default_rng|\bGenerator\(|SeedSequence|RandomState|^import random|np\.random\.[a-z]")
    for file in SOURCE.rglob("*.py"):
        if file.name != "seeds.py":
            found = own.search(file.read_text(encoding="utf-8"))
            assert not found, f"{file} draws by {found}"
