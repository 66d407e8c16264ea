"""Training from a stream: what a store of the same text would have given, and the same again after an interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch

from suture.activations.collect import collect
from suture.activations.stream import Stream
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.lm.corpus import Corpus, open_corpus
from suture.lm.load import LanguageModel, load_model
from suture.pipeline import artifact
from suture.pipeline.settings import from_flat
from suture.training.feed import POSITIONS, StreamFeed
from suture.training.run import TrainProgress
from suture.training.settings import TrainSettings
from suture.training.train import train, train_many

SHIPPED = ("tinystories-1l", "tinystories-2l")


@pytest.fixture(scope="module")
def models() -> list[LanguageModel]:
    return [load_model(name, offline=True) for name in SHIPPED]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 2,000 tokens in 40 documents."""
    names = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Sue")
    stories = [
        f"Once upon a time there was a child called {name}. {name} had a {thing} and played with it every day. "
        f"One day the {thing} was gone. {name} looked in the garden and in the house, and then found it under the bed."
        for name in names
        for thing in ("ball", "dog", "little red car", "hat", "big yellow kite")
    ]
    file = tmp_path_factory.mktemp("corpus") / "stories.txt"
    file.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return open_corpus(str(file))


def settings_of(**changes: Any) -> TrainSettings:
    given = {"features": 64, "k": 4, "rows": 4000, "batch_size": 50, "validate_every": 10, "checkpoint_every": 8}
    return from_flat(TrainSettings, given | {"precision": "float32", "heldout": 0.2} | changes)


def a_stream(models: list[LanguageModel], corpus: Corpus, **changes: Any) -> Stream:
    given = {"fill_rows": 700, "block": 64, "batch_tokens": 256} | changes
    return Stream(sources=[(lm, "mlp0.out") for lm in models], corpus=corpus, **given)


def same(a: Dictionary, b: Dictionary) -> bool:
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_one_fill_that_holds_the_corpus_is_a_store(models: list[LanguageModel], corpus: Corpus, tmp_path: Path) -> None:
    """With one fill, as many rows as it has, and no second epoch, batches and weights are those of the store."""
    store = collect(
        tmp_path / "store", sources=[(lm, "mlp0.out") for lm in models], corpus=corpus, n_rows=10**6, block=64,
        batch_tokens=256,
    )  # fmt: skip
    settings = settings_of(rows=1000)
    with a_stream(models, corpus, fill_rows=len(store)) as stream:
        assert same(train(tmp_path / "a", stream, settings), train(tmp_path / "b", store, settings))


@pytest.mark.parametrize("design", ["crosscoder", "pooled"])
def test_a_stream_goes_on_from_a_checkpoint_as_if_never_interrupted(
    design: str, models: list[LanguageModel], corpus: Corpus, tmp_path: Path
) -> None:
    settings = settings_of(design=design)
    with a_stream(models, corpus) as stream:
        unbroken = train(tmp_path / "unbroken", stream, settings)

    def stop(progress: TrainProgress) -> None:
        if progress.step >= 50:
            raise KeyboardInterrupt

    out = tmp_path / "broken"
    with a_stream(models, corpus) as stream, pytest.raises(KeyboardInterrupt):
        train(out, stream, settings, on_progress=stop)
    noted = artifact.read_json(artifact.partial_path(out) / POSITIONS)
    assert len(noted["first_steps"]) > 2  # it was stopped some fills on
    with a_stream(models, corpus) as stream:
        assert same(unbroken, train(out, stream, settings, resume=True))
    assert not (out / POSITIONS).exists()
    assert artifact.verify(out).settings["stream"]["fill_rows"] == 700


def test_every_training_row_of_a_fill_is_seen_once_and_held_out_documents_never(
    models: list[LanguageModel], corpus: Corpus
) -> None:
    settings = settings_of(batch_size=20)
    with a_stream(models, corpus) as stream:
        feed = StreamFeed(stream, settings)
        training, heldout = feed.split
        assert set(feed.reference.documents[training].tolist()).isdisjoint(feed.reference.documents[heldout].tolist())
        n_batches = len(training) // 20
        seen = torch.cat([batch.activations for batch in feed.batches(0, n_batches)])
        rows = torch.cat(
            [x * s.scale for x, s in zip(feed.reference.read(training), feed.reference.spaces, strict=True)], 1
        )
        # many rows are equal, as texts begin alike: count them
        _, which = torch.unique(torch.cat([rows, seen]), dim=0, return_inverse=True)
        there = torch.bincount(which[: len(rows)], minlength=int(which.max()) + 1)
        came = torch.bincount(which[len(rows) :], minlength=len(there))
        assert bool((came <= there).all())
        assert int((there - came).sum()) == len(rows) - len(seen) < 20
        later = next(feed.batches(n_batches + 3, 1))  # the next fill, without the batches before
        again = list(StreamFeed(stream, settings).batches(n_batches, 4))[3]
        assert torch.equal(later.activations, again.activations)


def test_several_dictionaries_share_a_stream_if_they_see_the_same_batches(
    models: list[LanguageModel], corpus: Corpus, tmp_path: Path
) -> None:
    wanted = {tmp_path / "small": settings_of(features=32, rows=2000), tmp_path / "large": settings_of(rows=3000)}
    with a_stream(models, corpus) as stream:
        trained = train_many(wanted, stream)
    with a_stream(models, corpus) as stream:
        assert same(trained[tmp_path / "small"], train(tmp_path / "alone", stream, wanted[tmp_path / "small"]))
    mixed = {tmp_path / "x": settings_of(), tmp_path / "y": settings_of(batch_size=40)}
    with a_stream(models, corpus) as stream, pytest.raises(UserError, match="kinds of batches cannot share a stream"):
        train_many(mixed, stream)


def test_a_batch_larger_than_a_fill_is_refused(models: list[LanguageModel], corpus: Corpus, tmp_path: Path) -> None:
    with a_stream(models, corpus) as stream, pytest.raises(UserError, match=r"batch-size = 900: exceeds"):
        train(tmp_path / "d", stream, settings_of(batch_size=900))
    assert list(tmp_path.iterdir()) == []
