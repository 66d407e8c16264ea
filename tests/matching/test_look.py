"""Maps, words, rows and subjects: what a reader sees, held against what is known of it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import suture
from suture.errors import UserError
from suture.lm.corpus import Corpus
from suture.matching.columns import COLUMNS
from suture.matching.examples import Reader, examples, named, strongest, words
from suture.matching.groups import DEFAULTS, Scored, group_of, group_table, read_groups
from suture.matching.maps import places, turned
from suture.pipeline.table import Table


def clusters(n: int = 120, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(0)
    group = np.arange(n) % 4
    return r.normal(size=(4, width))[group] + 0.1 * r.normal(size=(n, width)), group


@pytest.mark.parametrize("how", ["pca", "umap"])
def test_like_directions_lie_together_and_the_same_rows_give_the_same_map(how) -> None:
    if how == "umap":
        pytest.importorskip("umap")
    rows, group = clusters()
    flat = places(rows, how)
    assert flat is not None
    far = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    same = group[:, None] == group[None]
    assert far[same].mean() < 0.4 * far[~same].mean()
    assert np.median(np.linalg.norm(flat, axis=1)) == pytest.approx(1)
    again = places(3 * rows, how)  # a row's length says nothing
    assert again is not None
    np.testing.assert_allclose(flat, again, atol=1e-5)


def test_too_few_features_have_no_map_and_nobody_is_asked_for_one() -> None:
    assert places(np.ones((3, 4)), "pca") is None
    assert places(clusters()[0], "none") is None


def test_without_umap_learn_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UserError, match=r"maps = umap: needs umap-learn.*pip install 'suture\[maps\]'"):
        places(clusters()[0], "umap")


def test_a_map_is_turned_and_mirrored_onto_the_other() -> None:
    flat = np.random.default_rng(1).normal(size=(40, 2))
    mirrored = flat @ np.array([[0.0, 1.0], [1.0, 0.0]])
    order = np.random.default_rng(2).permutation(40)
    pairs = np.arange(40), np.argsort(order)
    back = turned(mirrored[order], flat, pairs)
    np.testing.assert_allclose(back[np.argsort(order)], flat, atol=1e-9)


def test_the_strongest_rows_are_of_different_documents() -> None:
    dense = np.array([[5, 0], [9, 1], [3, 0], [4, 2], [8, 0]], dtype=float)
    rows = strongest(csr_matrix(dense), np.array([0, 0, 1, 1, 2]), 3)
    assert rows.tolist() == [[1, 4, 3], [3, 1, -1]]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    lm = suture.load_model("tinystories-1l", device="cpu")
    texts = [f"Tim's unbelievably big dog ran home. Story {i} was about a cat." for i in range(12)]
    corpus = Corpus(source="s", description="s", texts=lambda: iter(texts))
    store = suture.collect(tmp_path_factory.mktemp("text") / "s", sources=[(lm, "mlp0.out")], corpus=corpus, n_rows=150)
    return Reader(store=store, rows=np.arange(len(store)))


def test_words_are_whole_and_passages_spell_the_text(reader: Reader) -> None:
    assert reader.has_text
    seen = {reader.word(i) for i in range(len(reader.rows))}
    assert {"tim's", "unbelievably", "big", "dog", "ran", "home", "cat", "."} <= seen
    assert "un" not in seen, "a token inside of a word stands for the word"
    for i in (0, 5, 20):
        before, token, after = reader.passage(i)
        text = reader.store.text(int(reader.store.documents[i]))
        assert before + token + after in text
        end = int(reader.store.ends[i])
        assert text[:end].endswith(token)


def test_rows_of_a_pair_are_read_by_both(reader: Reader) -> None:
    r = np.random.default_rng(3)
    n = len(reader.rows)
    a, b = (csr_matrix((r.random((n, 5)) < 0.3) * r.random((n, 5))) for _ in range(2))
    documents = reader.store.documents.numpy()[reader.rows]
    tops = strongest(a, documents, 10), strongest(b, documents, 10)
    pairs = (np.array([0, 2]), np.array([4, 1])), (np.array([1, 4]), np.array([2, 0]))
    found = examples(reader, (a, b), tops, pairs, 4)
    dense = a.toarray(), b.toarray()
    place = {reader.passage(i): i for i in range(n)}
    for feature, partner in ((0, 4), (2, 1)):
        assert 2 <= len(found.a[feature]) <= 4
        for number, f, g in found.a[feature]:
            row = place.get(found.passages[number])
            candidates = [i for i in range(n) if reader.passage(i) == found.passages[number]]
            assert row is not None
            assert any(
                f == pytest.approx(dense[0][i, feature], rel=6e-3)
                and g == pytest.approx(dense[1][i, partner], rel=6e-3)
                for i in candidates
            )
        assert found.a[feature][0][1] == pytest.approx(dense[0][:, feature].max(), rel=6e-3), "the strongest first"
    assert all(g == 0 for _, _, g in found.a[1]), "one without a partner is read alone"


def test_a_subject_needs_half_of_the_words_whole(tmp_path: Path) -> None:
    assert group_of(["dog", "cat", "the", "of"], DEFAULTS) == "nature"
    assert group_of(["dog", "the", "of", "a"], DEFAULTS) == ""
    assert group_of(["category", "dogma", "catalogue"], DEFAULTS) == ""
    assert group_of(["dog", "dog"], DEFAULTS) == "", "two rows are too few"
    assert named(["b", "a", "b", ""]) == "b, a"
    file = tmp_path / "g.toml"
    file.write_text('pets = ["Dog", "cat"]\n')
    own = read_groups(file)
    assert group_of(["dog", "cat", "x"], own) == "pets"
    assert read_groups(None) is DEFAULTS
    for text, said in (("", "names no group"), ("pets = 3", "is no list of words"), ("pets = [", "is not TOML")):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            read_groups(file)


def scored(n: int = 300) -> Scored:
    """The first 40 features have partners whose decoder rows lie as theirs, and high r; the others nothing."""
    r = np.random.default_rng(4)
    values = {c.name: np.full(n, np.nan) for c in COLUMNS}
    strength = np.where(np.arange(n) < 40, 0.8, 0.2) + 0.05 * r.random(n)
    kind = np.where(np.arange(n) < 40, "same", "none").astype(object)
    kind[-20:], strength[-20:] = "silent", 0.95
    values |= {
        "kind": kind, "partner": np.arange(n) * 1.0, "one_to_one": np.arange(n) * 1.0, "r": strength,
        "token_only": (strength < 0.5) * 1.0, "words": np.full(n, "", dtype=object),
        "subject": np.full(n, "", dtype=object),
    }  # fmt: skip
    table = Table(axes=("feature",), columns=COLUMNS, values={c.name: values[c.name] for c in COLUMNS})
    one, two = r.normal(size=(n, 12)), r.normal(size=(n, 16))
    two[:40, :12] = one[:40]
    return Scored(table=table, rows=(one, two))


def test_a_group_that_matches_stands_out_and_one_drawn_at_random_does_not() -> None:
    r = np.random.default_rng(5)
    groups = np.full(300, "", dtype=object)
    groups[:30] = "food"
    groups[40 + r.permutation(200)[:30]] = "time"
    groups[285] = "places"  # silent: nobody is asked
    found = group_table(scored(), list(groups), ["time", "food", "places"])
    assert found.coordinates["group"] == ["time", "food"]
    food = found.coordinates["group"].index("food")
    assert found["n_features"].tolist() == [30, 30]
    assert found["strong"][food] == 1
    assert found["same_beyond_token"][food] == 1
    for score in ("mean_r", "correlated", "beyond_token", "strong", "same_beyond_token", "cka", "rsa"):
        assert found[f"{score}_p"][food] < 0.03
        assert found[score][food] > found[f"{score}_random_high"][food]
    assert found["strong"][1 - food] == 0
    assert found["strong_p"][1 - food] == 1
    low, high = found["mean_r_random_low"], found["mean_r_random_high"]
    assert (low < found["mean_r_random"]).all()
    assert (found["mean_r_random"] < high).all()
    table = scored().table
    fires = table["kind"] != "silent"
    assert found["mean_r_random"] == pytest.approx(table["r"][fires].mean(), abs=0.015), "of all that fire"


def test_words_of_every_feature(reader: Reader) -> None:
    rows = np.array([[0, -1], [3, 4]])
    assert words(reader, rows) == [[reader.word(0)], [reader.word(3), reader.word(4)]]
