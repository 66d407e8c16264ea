"""Study files: what they mean, and every mistake in one refused with its name, its value and the way out."""

from pathlib import Path

import pytest

from suture.errors import UserError
from suture.sweep.file import Study, read_study

COLLECT = '[collect]\nmodel = ["a", "b"]\nat = "mlp0.out"\ncorpus = "text.txt"\ntokens = 1000\n'
TRAIN = "[train]\nfeatures = 64\nk = 4\n"


def read(folder: Path, text: str) -> Study:
    file = folder / "study.toml"
    file.write_text(text, encoding="utf-8")
    return read_study(file)


def test_a_study_without_a_sweep_is_one_cell(tmp_path: Path) -> None:
    (cell,) = read(tmp_path, COLLECT + TRAIN).cells()
    assert cell.name == ""
    assert cell.collect is not None
    assert cell.train is not None
    assert cell.store is None
    assert cell.collect.models.hookpoints == ("mlp0.out", "mlp0.out")
    assert cell.collect.models.revisions == (None, None)
    assert (cell.train.design.n_features, cell.train.design.sparsity.k) == (64, 4)


def test_every_combination_is_a_cell_and_the_last_setting_varies_fastest(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        COLLECT + TRAIN + '[sweep]\n"train.k" = [2, 3]\n"collect.at" = [["mlp0.out", "mlp1.out"], ["mlp0.out"]]\n',
    )
    cells = study.cells()
    assert [c.name for c in cells] == [
        f"train.k={k} at={at}" for k in (2, 3) for at in ("mlp0.out,mlp1.out", "mlp0.out,mlp0.out")
    ]
    assert [c.train.design.sparsity.k for c in cells if c.train] == [2, 2, 3, 3]
    assert len({c.collect for c in cells}) == 1, "cells that differ in their hookpoints share one collection"


def test_quotes_dashes_and_tables_mean_the_same(tmp_path: Path) -> None:
    ways = ('"train.batch_size" = [8, 16]', '"train.batch-size" = [8, 16]', "train.batch_size = [8, 16]")
    sizes = [
        [
            c.train.batch_size
            for c in read(tmp_path, f"{COLLECT}{TRAIN}batch-size = 4\n[sweep]\n{way}\n").cells()
            if c.train
        ]
        for way in ways
    ]
    assert sizes == [[8, 16]] * 3


def test_a_store_stands_in_for_collect(tmp_path: Path) -> None:
    (cell,) = read(tmp_path, TRAIN + 'store = "here"\n').cells()
    assert (cell.collect, cell.store) == (None, Path("here"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "asks for nothing"),
        ("[trian]\nk = 3\n", "trian = {'k': 3}: is no table of a study"),
        ("train = 3\n", "train = 3: is no table"),
        (COLLECT + "rows = 3\n", "collect.rows = 3: is no setting of collect; use at, batch-tokens"),
        (COLLECT + TRAIN + "rank = 3\n", "rank = 3: is no setting of train; use "),
        (COLLECT.replace("1000", '"1000"'), "collect.tokens = 1000: is not a whole number"),
        (COLLECT.replace("1000", "true"), "collect.tokens = True: is not a whole number"),
        (COLLECT.replace("1000", "0"), "collect.tokens = 0: is less than 1"),
        (COLLECT.replace('"mlp0.out"', "[]"), "collect.at = : has 0 values for 2 models"),
        (COLLECT.replace('"mlp0.out"', '["x", "y", "z"]'), "collect.at = x, y, z: has 3 values for 2 models"),
        (COLLECT.replace("tokens = 1000\n", ""), "collect.tokens = nothing: is missing; add tokens"),
        (COLLECT + 'dtype = "int8"\n', "collect.dtype = int8: is not one of bfloat16, float32"),
        (COLLECT + "offline = 1\n", "collect.offline = 1: is not true or false"),
        (TRAIN, "train.store = nothing: is missing, and so is [collect]"),
        (TRAIN + "store = 3\n", "train.store = 3: is no path"),
        (COLLECT + TRAIN + 'store = "s"\n', "train.store = s: and [collect] are both given"),
        (COLLECT + "[sweep]\nk = [3]\n", "sweep.k = [3]: names no setting"),
        (COLLECT + '[sweep]\n"collect.block" = 3\n', "sweep.collect.block = 3: is no list of values"),
        (COLLECT + '[sweep]\n"train.k" = [3]\n', "sweep = train: has no table to vary"),
        (COLLECT + TRAIN + '[sweep]\n"train.k" = [3, 65]\n', "k = 65: exceeds the 64 features"),
        ("[collect\n", "is not TOML"),
    ],
)
def test_a_mistake_is_refused_with_the_way_out(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "none.toml")


PAIR = '[collect]\nmodel = ["tinystories-1l", "tinystories-2l"]\ncorpus = "text.txt"\ntokens = 1000\n'


def test_patterns_become_every_pair_of_hookpoints_in_one_store(tmp_path: Path) -> None:
    cells = read(tmp_path, PAIR + 'at = ["mlp*.out", ["mlp[0-1].out", "resid1.post"]]\n' + TRAIN).cells()
    assert [c.at for c in cells] == [("mlp0.out", at) for at in ("mlp0.out", "mlp1.out", "resid1.post")]
    assert [c.name for c in cells] == [f"at=mlp0.out,{at}" for at in ("mlp0.out", "mlp1.out", "resid1.post")]
    (store,) = {c.collect for c in cells}
    assert store is not None
    spaces = list(zip(store.models.model, store.models.hookpoints, strict=True))
    assert spaces == [
        ("tinystories-1l", "mlp0.out"), ("tinystories-2l", "mlp0.out"),
        ("tinystories-2l", "mlp1.out"), ("tinystories-2l", "resid1.post"),
    ]  # fmt: skip
    assert [c.train.view.spaces for c in cells if c.train] == [(0, 1), (0, 2), (0, 3)]


def test_pairs_of_one_name_and_exclusions(tmp_path: Path) -> None:
    sweep = '[sweep]\npairs = "same"\n"train.k" = [2, 4]\n"train.seed" = [0, 1]\n'
    sweep += 'exclude = [{at = "mlp0.out", "train.k" = 4}, {"train.seed" = 1, "train.k" = [2, 4]}]\n'
    cells = read(tmp_path, PAIR.replace("1l", "2l") + 'at = ["mlp*.out"]\n' + TRAIN + sweep).cells()
    assert [c.name for c in cells] == [
        "train.k=2 train.seed=0 at=mlp0.out,mlp0.out",
        "train.k=2 train.seed=0 at=mlp1.out,mlp1.out",
        "train.k=4 train.seed=0 at=mlp1.out,mlp1.out",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PAIR + 'at = "mlp[0-9].out"\n' + TRAIN, r"at = mlp\[0-9\].out: the model has blocks 0 to 0"),
        (PAIR + 'at = "mlp*.out"\n' + TRAIN + "space = [0, 1]\n", "each cell has its own spaces"),
        (PAIR + 'at = "mlp*.out"\n' + TRAIN + '[sweep]\npairs = "some"\n', 'write "all" or "same"'),
        (PAIR + 'at = "mlp*.out"\n' + TRAIN + "[sweep]\nexclude = [{k = 3}]\n", "is not varied"),
        (PAIR + 'at = "mlp*.out"\n' + TRAIN + '[sweep]\nexclude = [{at = "*"}]\n', "leaves no cell"),
    ],
)
def test_mistakes_in_patterns_and_exclusions(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, text)
