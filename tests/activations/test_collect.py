"""Laws of collecting: rows are what transformers itself computes, however batched; mistakes leave nothing behind."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from suture.activations.collect import CollectProgress, collect, store_bytes
from suture.activations.rows import group_by_length
from suture.activations.store import Store
from suture.errors import ArtifactError, DiskSpaceError, NumericalError, UserError
from suture.lm.corpus import Corpus, open_corpus
from suture.lm.load import LanguageModel, load_model
from suture.pipeline import artifact

Models = dict[str, LanguageModel]
SMALL: dict[str, Any] = {"block": 20, "batch_tokens": 200, "shard_rows": 500}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, lms_loaded: Models, corpus: Corpus) -> Store:
    """Two models with one tokenizer, three hookpoints, every row of the corpus."""
    sources = [(lms_loaded["one"], "resid0.pre"), (lms_loaded["two"], "resid0.post"), (lms_loaded["two"], "mlp1.out")]
    path = tmp_path_factory.mktemp("pair") / "s"
    return collect(path, sources=sources, corpus=corpus, n_rows=10**6, dtype="float32", **SMALL)


def test_rows_are_transformers_own_hidden_states(pair: Store, lms: Models, corpus: Corpus) -> None:
    lm = lms["two"]
    expected, tokens = [], []
    for document in corpus:
        ids = lm.tokenizer(document.text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        for piece in ids.split(20):
            fed = torch.cat([torch.tensor([lm.bos]), piece])
            states = lm.model(fed[None], output_hidden_states=True).hidden_states
            expected.append(states[1][0, 1:])
            tokens.append(piece)
    assert len(pair) == sum(map(len, expected))
    assert torch.allclose(pair.read(torch.arange(len(pair)))[1], torch.cat(expected), atol=1e-5)
    assert torch.equal(pair.token_ids.long(), torch.cat(tokens)[:, None].expand(-1, 3))


def test_rows_spell_their_documents(pair: Store, corpus: Corpus) -> None:
    documents = list(corpus)
    assert pair.documents.unique().tolist() == [d.number for d in documents]
    for document in documents[:7]:
        rows = torch.nonzero(pair.documents == document.number).flatten()
        assert pair.text(document.number) == document.text
        middle = int(rows[len(rows) // 2])
        context = pair.row_context(middle, before=10**6, after=10**6)
        assert "".join(text for text, _ in context) == document.text
        assert [r for _, r in context] == rows.tolist()


def test_batching_changes_no_row_and_sharding_no_bit(tmp_path: Path, pair: Store, lms: Models, corpus: Corpus) -> None:
    sources = [(lms["one"], "resid0.pre"), (lms["two"], "resid0.post"), (lms["two"], "mlp1.out")]
    settings = {"sources": sources, "corpus": corpus, "n_rows": 1000, "dtype": "float32", "block": 20}
    everything = torch.arange(1000)
    single = collect(tmp_path / "a", **settings, batch_tokens=21, shard_rows=10**5)
    resharded = collect(tmp_path / "b", **settings, batch_tokens=200, shard_rows=77)
    usual = collect(tmp_path / "c", **settings, batch_tokens=200, shard_rows=500)
    stores = (usual, pair, single, resharded)
    for x, y, one_by_one, same in zip(*(store.read(everything) for store in stores), strict=True):
        assert torch.allclose(x, y, atol=1e-5)
        assert torch.allclose(x, one_by_one, atol=1e-5)
        assert torch.equal(x, same)
    assert all(torch.equal(store.ends[:1000], usual.ends) for store in stores)


def test_different_tokenizers_meet_where_both_end(tmp_path: Path, lms: Models, corpus: Corpus) -> None:
    names = ("one", "other")
    store = collect(
        tmp_path / "s", sources=[(lms[n], "resid0.post") for n in names], corpus=corpus, n_rows=10**6, **SMALL
    )
    texts = {d.number: d.text for d in corpus}
    for m, name in enumerate(names):
        at, row = lms[name].tokenizer, 0
        ends_of = {
            d: [e for _, e in at(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]]
            for d, text in texts.items()
        }
        for row in range(0, len(store), 11):
            document, end = int(store.documents[row]), int(store.ends[row])
            assert end in ends_of[document]
            piece = at.decode([int(store.token_ids[row, m])])
            assert texts[document][:end].endswith(piece) or "\ufffd" in piece
        tokens = sum(map(len, ends_of.values()))
        assert store.alignment[m].n_tokens == tokens
        assert store.alignment[m].n_kept == len(store)
        assert store.manifest.settings["alignment"][m]["kept_share"] == pytest.approx(len(store) / tokens)
    assert store.alignment[0].kept_share > store.alignment[1].kept_share > 0.2


def test_the_rows_asked_for_are_a_beginning(tmp_path: Path, pair: Store, lms: Models, corpus: Corpus) -> None:
    sources = [(lms["one"], "resid0.pre"), (lms["two"], "resid0.post")]
    store = collect(tmp_path / "s", sources=sources, corpus=corpus, n_rows=333, dtype="float32", **SMALL)
    assert len(store) == 333
    beginning = torch.arange(333)
    for x, y in zip(store.read(beginning), pair.read(beginning), strict=False):
        assert torch.allclose(x, y, atol=1e-5)
    assert torch.equal(store.ends, pair.ends[:333])


def test_special_tokens_are_counted_and_left_out(tmp_path: Path, lms: Models) -> None:
    text = "the cat sat <|endoftext|> on a mat and saw one red bird fly over its house"
    (tmp_path / "t.txt").write_text(text)
    lm = lms["one"]
    store = collect(
        tmp_path / "s",
        sources=[(lm, "mlp0.out")],
        corpus=open_corpus(tmp_path / "t.txt", separator="=" * 9),
        n_rows=99,
        block=5,
    )
    assert lm.bos not in store.token_ids
    n_pieces = -(-store.alignment[0].n_tokens // 5)
    assert store.alignment[0].n_special == 1 + n_pieces
    assert len(store) == store.alignment[0].n_kept == store.alignment[0].n_tokens - 1


def test_progress_tells_the_disk_first_and_ends_with_all_rows(tmp_path: Path, lms: Models, corpus: Corpus) -> None:
    seen: list[CollectProgress] = []
    collect(
        tmp_path / "s", sources=[(lms["one"], "mlp0.out")], corpus=corpus, n_rows=3000, on_progress=seen.append, **SMALL
    )
    assert seen[0].n_rows == 0
    assert seen[0].n_bytes_expected == store_bytes([16], 3000, "bfloat16")
    assert [p.n_rows for p in seen] == sorted(p.n_rows for p in seen)
    assert seen[-1].n_rows == 3000
    assert seen[-1].rows_per_second > 0
    on_disk = sum(f.stat().st_size for f in (tmp_path / "s").rglob("shard-*/*.bin"))
    assert on_disk == pytest.approx(seen[0].n_bytes_expected, rel=0.15)


def test_an_activation_that_is_no_number_stops_with_the_document_named(
    tmp_path: Path, model_folders: dict[str, Path], corpus: Corpus
) -> None:
    lm = load_model(str(model_folders["one"]), device="cpu")
    rare = lm.tokenizer("Z", add_special_tokens=False)["input_ids"][0]
    lm.model.get_input_embeddings().weight.data[rare] = float("inf")
    file = tmp_path / "t.txt"
    file.write_text("\n<|endoftext|>\n".join([*("the cat sat on a mat" for _ in range(30)), "a Z bird", "the end"]))
    with pytest.raises(NumericalError, match="document 30") as caught:
        collect(tmp_path / "s", sources=[(lm, "mlp0.out")], corpus=open_corpus(file), n_rows=10**4, **SMALL)
    assert "mlp0.out" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.txt"]


def test_one_bad_document_late_costs_nothing_that_was_finished(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    lm = load_model(str(model_folders["one"]), device="cpu")
    rare = lm.tokenizer("Z", add_special_tokens=False)["input_ids"][0]
    good = lm.model.get_input_embeddings().weight.data[rare].clone()
    lm.model.get_input_embeddings().weight.data[rare] = float("nan")
    file = tmp_path / "t.txt"
    text = ["the cat sat on a mat and saw one red bird fly"] * 300
    file.write_text("\n<|endoftext|>\n".join([*text, "a Z bird", *text]))
    settings: dict[str, Any] = {"sources": [(lm, "mlp0.out")], "n_rows": 10**6, **SMALL}
    with pytest.raises(NumericalError, match=r"document 300.*finished shards are kept, --resume goes on"):
        collect(tmp_path / "s", corpus=open_corpus(file), **settings)
    kept = sorted(artifact.partial_path(tmp_path / "s").glob("*/shard.json"))
    assert len(kept) >= 4
    times = [f.stat().st_mtime_ns for f in kept]
    lm.model.get_input_embeddings().weight.data[rare] = good
    store = collect(tmp_path / "s", corpus=open_corpus(file), resume=True, **settings)
    assert [(tmp_path / "s" / f.parent.name / f.name).stat().st_mtime_ns for f in kept] == times
    whole = collect(tmp_path / "whole", corpus=open_corpus(file), **settings)
    assert store.manifest.files == whole.manifest.files


def test_a_store_that_does_not_fit_is_refused_before_the_start(tmp_path: Path, lms: Models, corpus: Corpus) -> None:
    settings: dict[str, Any] = {"sources": [(lms["one"], "mlp0.out")], "corpus": corpus, "n_rows": 10**6, **SMALL}
    with pytest.raises(DiskSpaceError, match=r"needs [\d.]+ MB of disk, 1\.0 MB are free; collect fewer tokens"):
        collect(tmp_path / "s", **settings, free_bytes=lambda _: 10**6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hookpoint": "mlp7.out"}, "mlp7.out"),
        ({"block": 64}, "give at most 63"),
        ({"block": 0}, "block"),
        ({"n_rows": 0}, "tokens = 0"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"dtype": "float16"}, "choose bfloat16 or float32"),
        ({"text": "the cat"}, "less than one block of 20"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, lms: Models, corpus: Corpus, change: dict[str, Any], said: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    settings: dict[str, Any] = {"n_rows": 100, **SMALL} | change
    hookpoint, text = settings.pop("hookpoint", "mlp0.out"), settings.pop("text", None)
    if text:
        (tmp_path / "in" / "t.txt").write_text(text)
        corpus = open_corpus(tmp_path / "in" / "t.txt")
    with pytest.raises(UserError, match=said) as caught:
        collect(tmp_path / "out" / "s", sources=[(lms["one"], hookpoint)], corpus=corpus, **settings)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def interrupt_at(n_rows: int) -> Callable[[CollectProgress], None]:
    def on_progress(progress: CollectProgress) -> None:
        if progress.n_rows >= n_rows:
            raise KeyboardInterrupt

    return on_progress


def test_an_interrupted_run_resumes_with_its_own_settings_only(
    tmp_path: Path, lms: Models, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"sources": [(lms["one"], "mlp0.out")], "corpus": corpus, "n_rows": 4000, **SMALL}
    whole = collect(tmp_path / "whole", **settings)
    path = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        collect(path, **settings, on_progress=interrupt_at(2500))
    with pytest.raises(ArtifactError, match="unfinished"):
        Store.open(path)
    for other in ({"block": 19}, {"n_rows": 4001}, {"sources": [(lms["one"], "resid0.post")]}):
        with pytest.raises(UserError, match=r"in the unfinished run"):
            collect(path, **settings | other, resume=True)
    first: list[CollectProgress] = []
    again = collect(path, **settings, resume=True, on_progress=first.append)
    assert first[0].n_rows == 3000, "the shards of 500 rows that were full"
    assert first[0].n_bytes_expected < store_bytes([16], 4000, "bfloat16") / 2
    assert again.manifest.files == whole.manifest.files
    assert again.manifest.settings == whole.manifest.settings

    def never(*_: object) -> None:
        raise AssertionError("a finished store is opened, not made again")

    monkeypatch.setattr("suture.activations.collect._run", never)
    assert len(collect(path, **settings, resume=True)) == 4000
    with pytest.raises(ArtifactError, match="finished already"):
        collect(path, **settings | {"n_rows": 10}, resume=True)


def test_a_run_without_resume_starts_anew_and_overwrite_replaces(tmp_path: Path, lms: Models, corpus: Corpus) -> None:
    settings: dict[str, Any] = {"sources": [(lms["one"], "mlp0.out")], "corpus": corpus, **SMALL}
    path = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        collect(path, **settings, n_rows=3000, on_progress=interrupt_at(1500))
    assert len(collect(path, **settings, n_rows=600)) == 600
    with pytest.raises(ArtifactError, match="finished already"):
        collect(path, **settings, n_rows=700)
    assert len(collect(path, **settings, n_rows=700, overwrite=True)) == 700


@pytest.mark.parametrize("budget", [1, 64, 10**6])
def test_groups_hold_every_sequence_once_within_the_budget(budget: int) -> None:
    lengths = {i: 1 + i * 7919 % 60 for i in range(0, 300, 2)}
    groups = group_by_length(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(lengths)
    for group in groups:
        assert lengths[group[-1]] == max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * lengths[group[-1]] <= budget


def test_real_text_through_a_real_model(tmp_path: Path) -> None:
    shared = Path(os.environ.get("SUTURE_SHARED", Path(__file__).parents[2].parent / "shared"))
    folder, text = shared / "models" / "stories260K", shared / "data" / "tinystories" / "valid.txt"
    if not folder.is_dir() or not text.is_file():
        pytest.skip(f"the shared model and text are not in {shared}")
    lm = load_model(str(folder), device="cpu")
    sources = [(lm, "mlp0.out"), (replace(lm, name="itself"), "mlp0.out")]
    store = collect(tmp_path / "s", sources=sources, corpus=open_corpus(text), n_rows=4000)
    one, same = store.read(torch.arange(4000))
    assert torch.equal(one, same)
    scaled = (one - store.spaces[0].mean) * store.spaces[0].scale
    assert scaled.square().sum(dim=1).mean().sqrt().item() == pytest.approx(8.0, rel=1e-4)
    words = "".join(t for t, _ in store.row_context(500, before=12, after=12))
    assert words in store.text(int(store.documents[500]))
