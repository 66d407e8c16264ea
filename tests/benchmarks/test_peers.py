"""Workers: asked in lines, they answer in lines; what cannot be had is said with its reason."""

import json
import sys
from pathlib import Path

import numpy
import peers
import pytest
from peers import Job, Unavailable, Worker


@pytest.fixture
def job(tmp_path: Path) -> Job:
    file = tmp_path / "rows.npy"
    numpy.save(file, numpy.random.default_rng(0).standard_normal((128, 12), dtype=numpy.float32))
    return Job(data=str(file), widths=(8, 4), n_features=32, k=4, batch_size=32, dead=0.25)


def test_a_worker_of_suture_answers_with_as_many_steps_as_it_was_asked_for(job: Job) -> None:
    with peers.start("suture", job) as worker:  # its AuxK was at work, or it would not have started
        for n in (1, 3):
            measured = worker.steps(n)
            assert len(measured.wall_ms) == len(measured.cpu_ms) == n
            assert min(measured.wall_ms) > 0
        assert "product" in worker.about["note"]


def test_the_floor_is_timed_as_a_worker_of_its_own(job: Job) -> None:
    with peers.start("floor float32", job) as worker:
        assert min(worker.steps(2).wall_ms) > 0


def test_a_worker_that_ends_says_why(job: Job, tmp_path: Path) -> None:
    missing = Job(**vars(job) | {"data": str(tmp_path / "no-such-file.npy")})
    with pytest.raises(Unavailable, match=r"suture ended: .*no-such-file"):
        peers.start("suture", missing)


def test_a_peer_that_is_not_installed_is_reported(job: Job) -> None:
    with pytest.raises(Unavailable, match=r"sae-lens ended: .*sae_lens"):
        Worker("sae-lens", Path(sys.executable), job)


def test_an_environment_that_holds_what_is_wanted_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "some-peer"
    folder.mkdir()
    (folder / "requirements.json").write_text(json.dumps(["some-peer", "other<2"]))
    assert peers.environment("some-peer", ("some-peer", "other<2"), root=tmp_path) == folder / "bin" / "python"


def test_every_peer_has_requirements_and_a_builder() -> None:
    assert set(peers.MODELS) == set(peers.PEERS) | set(peers.OWN)


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ("ERROR: no such thing\nWARNING: old pip\n", "ERROR: no such thing"),
        ("a\n\nb\n", "b"),
        ("", "no reason given"),
    ],
)
def test_last_words_prefer_errors(said: str, last: str) -> None:
    assert peers.last_words(said) == last
