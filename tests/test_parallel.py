"""Laws of ranks: shares cover everything once, what three processes hold comes together, a mistake is told once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from suture.errors import UserError
from suture.parallel import ALONE, Ranks, grid


def work(out: str, fails: str) -> None:
    """What each of three processes does: every collective, and then perhaps one of them errs."""
    with grid() as place:
        ranks = place.world
        rank = ranks.rank
        assert (ranks.size, place.data.size, place.features.size) == (3, 3, 1)
        total = ranks.add_up(torch.tensor([1.0, float(rank)]))
        assert total.tolist() == [3.0, 3.0]
        here = torch.arange(3) == rank
        assert ranks.any(here & (torch.arange(3) > 0)).tolist() == [False, True, True]
        assert not bool(ranks.any(torch.tensor(False)))
        parts = ranks.gather(torch.full((rank, 2), rank))  # the first has none
        assert [p.tolist() for p in parts] == [[], [[1, 1]], [[2, 2], [2, 2]]]
        assert ranks.concatenate(torch.arange(7)[ranks.share(7)]).tolist() == list(range(7))
        for value in (None, "a name", {"precision": "float32", "n": [1, 2]}):
            assert ranks.agree(value if ranks.leads else "mine") == value
        x = torch.tensor(2.0 + rank, requires_grad=True)
        ranks.sum(x * x).backward()
        assert x.grad is not None
        assert float(x.grad) == 2 * (2.0 + rank)
        ranks.wait()
        (Path(out) / str(rank)).write_text("all together")
        if fails and rank == 1:
            raise UserError("k", 9, "is planted", "lower it")
        ranks.wait()


def three(out: Path, fails: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "RANK", "WORLD_"))}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", __file__]
    return subprocess.run(
        [*words, str(out), fails], capture_output=True, text=True, check=False, timeout=120,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_three_processes_come_together_and_a_mistake_is_told_once(tmp_path: Path) -> None:
    done = three(tmp_path, "yes")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["0", "1", "2"], done.stderr
    assert done.returncode != 0
    assert done.stderr.count("suture.errors.UserError: k = 9: is planted; lower it") == 1
    assert "LostRankError" not in done.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 8, 100])
def test_shares_cover_everything_once_and_are_even(n: int, size: int) -> None:
    shares = [Ranks(rank, size).share(n) for rank in range(size)]
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(n))
    lengths = [s.stop - s.start for s in shares]
    assert max(lengths) - min(lengths) <= 1


def test_alone_nothing_is_changed() -> None:
    x = torch.tensor([1.0, 2.0])
    ranks = ALONE.world
    assert ranks.leads
    assert ranks.add_up(x) is ranks.sum(x) is ranks.concatenate(x) is x
    assert ranks.gather(x)[0] is x
    assert ranks.agree({"any": x})["any"] is x
    ranks.wait()
    with grid() as place:
        assert place is ALONE


@pytest.mark.parametrize("feature_ranks", [0, -1, 2, 3])
def test_features_that_do_not_divide_the_processes_are_refused(
    feature_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1" if feature_ranks == 2 else "4")
    message = f"feature-ranks = {feature_ranks}: does not divide the"
    with pytest.raises(UserError, match=message), grid(feature_ranks=feature_ranks):
        pytest.fail("it was let in")


if __name__ == "__main__":
    work(*sys.argv[1:])
