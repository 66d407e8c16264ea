"""The command line as a user meets it: the whole pipeline, every refusal on one line, interrupts, full disks, bugs."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from suture.cli.app import run
from suture.cli.console import emit
from suture.features.table import FeatureTable
from suture.lm.load import shipped_models
from suture.pipeline.artifact import open_artifact, package_version, partial_path, sha256_of
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.report import page

COMMANDS = ("demo", "collect", "train", "estimate", "features", "steer", "splice", "causal", "report")
SMALL = ["--features", "32", "--k", "2", "--rows", "2000", "--batch-size", "100"]


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, which must be one JSON object and nothing else."""

        def refuse(word: str) -> None:
            raise ValueError(f"{word} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Suture = Callable[..., Said]


@pytest.fixture
def suture(capsys: pytest.CaptureFixture[str]) -> Suture:
    """Runs a command in this process."""

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return command


def process(*arguments: object, python: tuple[str, ...] = ("-m", "suture"), **options: Any) -> Said:
    """Runs a command in a process of its own."""
    words = [sys.executable, *python, *(str(a) for a in arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **options)
    return Said(done.returncode, done.stdout, done.stderr)


def files_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@dataclass(frozen=True)
class Made:
    """The folders of one small pipeline, to be read only."""

    root: Path
    corpus: Path
    said: dict[str, Said]

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def dictionary(self) -> Path:
        return self.root / "dictionary"

    @property
    def table(self) -> Path:
        return self.root / "features"


def story(number: int) -> str:
    who, what = ("Lily", "Tom", "Ben", "Sue", "Max"), ("ball", "dog", "tree", "cake", "boat", "bird", "hat")
    return " ".join(
        f"{who[(number + i) % 5]} saw a big {what[(number * 3 + i) % 7]}. {who[(number * i) % 5]} was very happy."
        for i in range(6)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """collect, train and features, each with --json; what they said is kept for the tests."""
    root = tmp_path_factory.mktemp("pipeline")
    corpus = root / "stories.txt"
    corpus.write_text("\n<|endoftext|>\n".join(story(n) for n in range(30)), "utf-8")
    said = {}
    models = ["--model", "tinystories-1l", "--at", "mlp0.out", "--model", "tinystories-2l", "--at", "mlp0.out"]
    table = ["--store", root / "store", "--out", root / "features"]
    for name, words in {
        "collect": [root / "store", *models, "--corpus", corpus, "--tokens", 1500],
        "train": [root / "dictionary", "--store", root / "store", *SMALL],
        "features": [root / "dictionary", *table, "--rows", 300],
    }.items():
        # A process of its own: a module's fixture has no capsys. One start of Python is paid for all three.
        said[name] = process(name, *words, "--json")
        assert said[name].code == 0, said[name].err
    return Made(root=root, corpus=corpus, said=said)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = PlantedSettings(widths=(16, 12), n_concepts=20)
    return planted_store(tmp_path_factory.mktemp("planted") / "unequal", settings, 3000).path


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_every_step_prints_one_json_object_and_progress_on_stderr(made: Made) -> None:
    collected, trained, described = (made.said[name] for name in ("collect", "train", "features"))
    assert collected.json["rows"] == 1500
    assert [a["kept"] for a in collected.json["alignment"]] == [1.0, 1.0]
    assert "MB of disk" in collected.err
    assert "rows: 1,500/1,500" in collected.err
    assert len(trained.json["fvu"]) == 2
    assert "steps: 20/20" in trained.err
    assert "rows/s  FVU" in trained.err
    assert sum(described.json["counts"].values()) == 32
    assert "features: " in described.err
    # No terminal, so plain lines: no cursor movements, no bars.
    assert all("\x1b" not in said.err and "━" not in said.err for said in made.said.values())


def test_the_manifest_holds_the_command_as_given(made: Made) -> None:
    command = open_artifact(made.dictionary).command
    assert command is not None
    assert command.startswith(f"suture train {made.dictionary} --store {made.store} --features 32 --k 2")


def live_feature(made: Made) -> int:
    return int(FeatureTable.load(made.table).columns["q999"].nan_to_num().argmax())


def test_steer_and_report_finish_the_story(made: Made, suture: Suture, tmp_path: Path) -> None:
    feature = live_feature(made)
    few = ["--neutral", 2, "--prompts", 2, "--new-tokens", 3, "--strength", 1]
    words = ["steer", made.dictionary, "--table", made.table, "--feature", feature, "--out", tmp_path / "s", *few]
    said = suture(*words, "--json")
    assert said.code == 0, said.err
    assert [e["feature"] for e in said.json["effects"]] == [feature]
    assert "passes: " in said.err
    text = suture(*words, "--overwrite")
    assert text.out.startswith(f"feature {feature}\n  tinystories-1l @ mlp0.out: promotes ")
    taken = suture(*words)
    assert (taken.code, taken.err.count("\n")) == (2, 1)
    assert "is there already" in taken.err
    for folder in (made.store, made.dictionary, made.table):
        shutil.copytree(folder, tmp_path / folder.name)
    shown = suture("report", tmp_path, "--json")
    assert shown.json == {"report": str(tmp_path / "report.html")}
    assert "tinystories-2l" in (tmp_path / "report.html").read_text("utf-8")
    assert suture("report", tmp_path, "--out", tmp_path / "other.html").out == f"{tmp_path / 'other.html'}\n"


def test_steer_brings_both_models_to_the_same_kl(made: Made, suture: Suture, tmp_path: Path) -> None:
    few = ["--neutral", 2, "--prompts", 2, "--new-tokens", 3, "--control-draws", 2, "--random", 0]
    words = ["steer", made.dictionary, "--table", made.table, "--feature", live_feature(made), *few]
    said = suture(*words, "--kl", 0.05, "--kl", 500, "--out", tmp_path / "s", "--json")
    assert said.code == 0, said.err
    (effect,) = said.json["effects"]
    for model in effect["models"]:
        assert model["reached"] == [True, False]
        assert model["kl_neutral"][0] == pytest.approx(0.05, rel=0.02)
        assert [c["kind"] for c in model["controls"]] == ["covariance", "decoder", "shuffled", "means"]
        assert model["covariance_of"] == "training rows"
        for control in model["controls"]:
            assert control["n_reached"][1] == 0
            assert control["kl_neutral"][1] is None
    text = suture(*words, "--kl", 0.05, "--kl", 500, "--out", tmp_path / "s", "--overwrite").out
    assert "0.05 nats of KL at strength " in text
    assert "500 nats of KL not reached, " in text
    assert "    at 0.05 nats of KL: effect " in text
    assert "; covariance " in text
    for folder in (made.store, made.dictionary, made.table):
        shutil.copytree(folder, tmp_path / folder.name)
    assert suture("report", tmp_path).code == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "KL 0.05 nats per token on neutral text" in page
    assert "the same KL on neutral text; where a budget was not reached" in page


def test_without_json_a_step_prints_one_line(made: Made, suture: Suture, tmp_path: Path) -> None:
    said = suture("train", tmp_path / "d", "--store", made.store, *SMALL, "--heldout", 0)
    assert said.code == 0
    assert said.out.startswith(f"{tmp_path / 'd'}: FVU tinystories-1l @ mlp0.out 0.")
    assert said.out.endswith("(on the training rows: none were held out)\n")
    assert said.out.count("\n") == 1


def test_a_null_is_described_with_its_false_positive_rate(made: Made, suture: Suture, tmp_path: Path) -> None:
    null = ["--space", 1, "--null", "--rotation-seed", 0]
    assert suture("train", tmp_path / "null", "--store", made.store, *SMALL, *null).code == 0
    said = suture(
        "features", tmp_path / "null", "--store", made.store, "--out", tmp_path / "f", "--rows", 300, "--json"
    )
    assert said.code == 0, said.err
    assert said.json["null"] is True
    assert said.json["models"][1] == "tinystories-2l (rotated copy) @ mlp0.out"


# --- wrong inputs -----------------------------------------------------------------------------------------------------


def collect_words(**change: object) -> list[object]:
    words: dict[str, object] = {
        "model": "tinystories-1l", "at": "mlp0.out", "corpus": "stories.txt", "tokens": 100
    } | change  # fmt: skip
    return ["collect", "new", *flags(words)]


def flags(words: dict[str, object]) -> list[object]:
    out: list[object] = []
    for name, value in words.items():
        option = "--" + name.replace("_", "-")
        out += [option] if value is True else [option, value]
    return out


def refused(suture: Suture, words: list[object], folder: Path, *, progress: bool = False) -> str:
    """The one line that a command is refused with; nothing may be left behind."""
    before = files_in(folder)
    said = suture(*words)
    assert said.code == 2, said
    assert said.out == ""
    *earlier, last = said.err.splitlines()
    assert progress or not earlier, said.err
    assert last.startswith("suture: ")
    assert files_in(folder) == before
    return last.removeprefix("suture: ")


@pytest.fixture
def desk(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with bad files in it."""
    folder = tmp_path / "desk"
    folder.mkdir()
    shutil.copy(made.corpus, folder / "stories.txt")
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("Hi.")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "zeros.txt").write_bytes(b"abc\0\0")
    (folder / "body.jsonl").write_text('{"body": "hello there"}\n')
    (folder / "file").write_text("x")
    (folder / "nothing").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "./absent"}, "model = ./absent: the folder does not exist; give an existing folder"),
        ({"model": "nothing"}, "model = nothing: the folder has no config.json"),
        ({"model": "org/absent", "offline": True}, "model = org/absent: is no folder and not in the local hub cache"),
        ({"at": "mlp7.out"}, "at = mlp7.out: the model has no such place; use embed.out, resid0.pre"),
        ({"corpus": "empty.txt"}, "corpus = empty.txt: it holds no text"),
        ({"corpus": "nothing"}, "corpus = nothing: the folder holds no text"),
        ({"corpus": "./absent.txt"}, "corpus = ./absent.txt: no such file or folder"),
        ({"corpus": "binary.txt"}, "corpus = binary.txt: not"),
        ({"corpus": "zeros.txt"}, "corpus = zeros.txt: not text: a zero byte at byte 3"),
        ({"corpus": "body.jsonl"}, "text-column = text: no such column in body.jsonl, line 1; use one of body"),
        ({"tokens": 0}, "tokens = 0: is less than 1"),
        ({"tokens": "many"}, "tokens = many: is not a whole number"),
        ({"tokens": 10**14}, "GB are free; collect fewer tokens"),
        ({"block": 0}, "block = 0: is less than 1"),
        ({"block": 5000}, "the context of tinystories-1l, 256 tokens; give at most 255"),
        ({"batch_tokens": 0}, "batch-tokens = 0: is less than 1"),
        ({"dtype": "int8"}, "dtype = int8: is not one of bfloat16, float32"),
        ({"device": "tpu"}, "device = tpu: is not a device"),
        ({"revision": "a", "model": "tinystories-1l", "at": "x.y"}, "at = x.y: the model has no such place"),
    ],
)  # fmt: skip
def test_collect_refuses(change: dict[str, object], message: str, suture: Suture, desk: Path) -> None:
    assert message in refused(suture, collect_words(**change), desk)


def test_a_corpus_that_fills_no_block_is_refused_and_leaves_nothing(suture: Suture, desk: Path) -> None:
    line = refused(suture, collect_words(corpus="short.txt"), desk, progress=True)
    assert line.startswith("corpus = short.txt: holds 2 tokens in all, less than one block of 128")
    assert suture(*collect_words(corpus="short.txt", block=2)).code == 0


def test_models_and_hookpoints_come_in_pairs(suture: Suture, desk: Path) -> None:
    line = refused(suture, [*collect_words(), "--at", "mlp0.out", "--at", "mlp0.out"], desk)
    assert line.startswith("at = mlp0.out, mlp0.out, mlp0.out: has 3 values for 1 models")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("desk-store", "is finished already, with spaces"),
        ("file", "exists and was not made by suture"),
        ("file/inside", "Not a directory"),
        (".", "does not name a new folder"),
    ],
)
def test_a_taken_output_is_refused(out: str, message: str, suture: Suture, desk: Path, made: Made) -> None:
    shutil.copytree(made.store, "desk-store")
    assert message in refused(suture, ["collect", out, *collect_words()[2:]], desk)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 33}, "k = 33: exceeds the 32 features; lower --k or raise --features"),
        ({"k": 0}, "k = 0: is less than 1"),
        ({"features": 0}, "features = 0: is less than 1"),
        ({"rows": 0}, "rows = 0: is less than 1"),
        ({"rows": 50}, "rows = 50: is less than one batch of 100"),
        ({"batch_size": 10**6}, "batch-size = 1000000: exceeds the"),
        ({"space": 7}, "space = 7: is not in"),
        ({"null": True}, "null = (0, 1): needs one space; name it with --space"),
        ({"rotation_seed": 1}, "rotation-seed = 1: rotates the copy of a null; add --null"),
        ({"tied": 2}, "tied = 2.0: is not a share"),
        ({"tied": "nan"}, "tied = nan: is not a share"),
        ({"dedicated": 0.5}, "dedicated = (0.5,): has not one share for each of 2 spaces"),
        ({"l1": "nan"}, "l1 = nan: is not 0 or above"),
        ({"seed": -1}, "seed = -1: is not a seed"),
        ({"seed": 2**70}, "is not a seed"),
        ({"learning_rate": "inf"}, "learning-rate = inf: is not positive"),
        ({"heldout": 1}, "heldout = 1.0: is not a share"),
        ({"model_dropout": 0.5, "design": "pooled"}, "means nothing for the design pooled"),
        ({"design": "sae"}, "design = sae: is for one space, the store has 2"),
        ({"design": "big"}, "design = big: is not one of sae, crosscoder"),
        ({"sparsity": "some"}, "sparsity = some: is not one of"),
        ({"loss": "some"}, "loss = some: is not one of"),
        ({"device": "tpu"}, "device = tpu: cannot be used"),
        ({"store": "absent"}, "store = absent: does not exist"),
        ({"store": "file"}, "store = file: has no manifest.json"),
        ({"store": "desk-dictionary"}, "store = desk-dictionary: is a dictionary, not a store"),
        ({"store": "other-version"}, "was written in format version 99, this suture reads"),
        ({"store": "truncated"}, "space0.bin has"),
    ],
)  # fmt: skip
def test_train_refuses(change: dict[str, object], message: str, suture: Suture, desk: Path, made: Made) -> None:
    shutil.copytree(made.dictionary, "desk-dictionary")
    for name in ("other-version", "truncated"):
        shutil.copytree(made.store, name)
    manifest = json.loads(Path("other-version/manifest.json").read_text())
    Path("other-version/manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    os.truncate("truncated/shard-00000/space0.bin", 100)
    words = {"store": made.store, "features": 32, "k": 2, "rows": 2000, "batch_size": 100} | change
    assert message in refused(suture, ["train", "new", *flags(words)], desk)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fill-rows", 5], "fill-rows = 5: is for --stream, a store has its own"),
        (["--dtype", "float32"], "dtype = float32: is for --stream, a store has its own"),
        (["--stream"], "and --stream exclude each other"),
    ],
)
def test_a_store_takes_no_options_of_a_stream(
    words: list[object], message: str, suture: Suture, desk: Path, made: Made
) -> None:
    assert message in refused(suture, ["train", "new", "--store", made.store, *SMALL, *words], desk)


def test_a_dictionary_is_trained_without_a_store(suture: Suture, tmp_path: Path) -> None:
    stories = [f"Once upon a time there was a girl called {n}. {n} had a dog." for n in ("Sue", "Ann", "Eve", "Mia")]
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(stories * 5))
    models = ["--model", "tinystories-1l", "--model", "tinystories-2l", "--at", "mlp0.out", "--offline"]
    stream = ["--stream", *models, "--corpus", tmp_path / "text.txt", "--fill-rows", 200, "--device", "cpu"]
    words = [*stream, "--features", 32, "--k", 2, "--rows", 400, "--batch-size", 50, "--json"]
    said = suture("train", tmp_path / "d", *words)
    assert said.code == 0, said
    assert said.json["fvu"][0] > 0
    assert "store" not in json.loads((tmp_path / "d" / "manifest.json").read_text())["settings"]
    said = suture("train", tmp_path / "e", *words[:-1], "--fill-rows", 10)
    assert said.code == 2
    assert "fill-rows = 10" in said.err


def test_a_table_of_many_is_named_where_it_is_wrong(suture: Suture, desk: Path, made: Made) -> None:
    words = ["train", "new", "--store", made.store, *SMALL, "--each", "each.toml"]
    for text, message in (
        ("[a]\nk = 999", "[a] k = 999: exceeds"),
        ("[a]\nbatch-size = 9\nbatch_size = 10", "[a] batch-size = 10: is given twice"),
        ('[""]\nk = 2', "each = []: is no name for a folder"),
        ('["../b"]\nk = 2', "each = [../b]: is no name for a folder"),
        ("[a]\nheight = 2", "[a] height = 2: is no setting of train"),
        ("k = 2", "does not hold one [table] per dictionary"),
        ("[a", "is not TOML"),
    ):
        Path("each.toml").write_text(text)
        assert message in refused(suture, words, desk), text


def test_training_that_diverges_leaves_nothing(suture: Suture, desk: Path, made: Made) -> None:
    words = ["train", "new", "--store", made.store, *SMALL, "--lr", "1e30", "--sparsity", "relu+l1"]
    line = refused(suture, words, desk, progress=True)
    assert line.startswith("learning-rate = 1e+30: made the loss")


def test_unequal_widths_cannot_be_tied(suture: Suture, desk: Path, planted: Path) -> None:
    line = refused(suture, ["train", "new", "--store", planted, *SMALL, "--tied", 0.5], desk)
    assert line.startswith("tied = 0.5: needs equal widths, found [16, 12]")


def test_a_store_is_never_replaced_by_its_own_dictionary(suture: Suture, desk: Path, made: Made) -> None:
    shutil.copytree(made.store, "kept")
    line = refused(suture, ["train", "kept", "--store", "kept", *SMALL, "--overwrite"], desk)
    assert line == "dictionary = kept: is a store, which a dictionary does not replace; name another folder"


def test_features_refuses(suture: Suture, desk: Path, made: Made, planted: Path) -> None:
    def words(dictionary: Path | str = made.dictionary, **change: object) -> list[object]:
        return ["features", dictionary, *flags({"store": made.store, "out": "new", "no_tokens": True} | change)]

    assert "is a store, not a dictionary" in refused(suture, words(made.store), desk)
    assert "is a dictionary, not a store" in refused(suture, words(store=made.dictionary), desk)
    assert "has no space tinystories-1l @ mlp0.out, only planted-A" in refused(suture, words(store=planted), desk)
    assert "rows = 0: is less than 1" in refused(suture, words(rows=0), desk)
    assert "top = 0: is less than 1" in refused(suture, words(top=0), desk)
    assert f"out = {made.table}: is finished already" in refused(suture, words(out=made.table), desk)
    assert "dictionary = absent: does not exist" in refused(suture, words("absent"), desk)


def test_splicing_and_ablating_from_the_command_line(made: Made, suture: Suture, tmp_path: Path) -> None:
    spliced = suture("splice", made.dictionary, "--out", tmp_path / "spliced", "--json")
    assert spliced.code == 0, spliced.err
    assert len(spliced.json["models"]) == 2
    assert spliced.json["models"][0]["replaced"] == 1.0
    assert "passes: " in spliced.err
    words = ["causal", made.dictionary, "--table", made.table, "--out", tmp_path / "causal"]
    said = suture(*words, "--each-label", 1)
    assert said.code == 0, said.err
    assert said.out.count("feature ") == said.out.count("positions") >= 1
    assert (tmp_path / "causal" / "causal.json").exists()
    assert suture(*words).code == 2  # taken
    again = suture(*words, "--overwrite", "--feature", 99)
    assert (again.code, again.out) == (2, "")
    assert "feature = 99: the dictionary has features 0 to 31" in again.err
    assert (tmp_path / "causal" / "causal.json").exists()  # what was there stays
    missing = suture("splice", tmp_path / "nowhere", "--out", tmp_path / "x")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


def test_steer_refuses(suture: Suture, desk: Path, made: Made) -> None:
    def words(dictionary: Path | str = made.dictionary, **change: object) -> list[object]:
        few: dict[str, object] = {"neutral": 2, "prompts": 2, "new_tokens": 2}
        given = {"table": made.table, "feature": live_feature(made), "out": "new"} | few | change
        return ["steer", dictionary, *flags(given)]

    assert "feature = 32: the dictionary does not have it; take one from 0 to 31" in refused(
        suture, words(feature=32), desk
    )
    assert "feature = -1: the dictionary does not have it" in refused(suture, words(feature=-1), desk)
    assert "names one twice" in refused(suture, [*words(feature=1), "--feature", 1], desk)
    assert "is a store, not a dictionary" in refused(suture, words(made.store), desk)
    assert f"table = {made.store}: is a store, not a feature table" in refused(suture, words(table=made.store), desk)
    assert "strength = 0.0: is no steering at all" in refused(suture, words(strength=0), desk)
    assert "kl = (0.0,): is not positive and finite" in refused(suture, words(kl=0), desk)
    assert "kl = 0.1: cannot be given with --strength; leave one of them out" in refused(
        suture, words(kl=0.1, strength=1), desk
    )
    assert "reference = 2.0: is none of the KL budgets 0.1" in refused(suture, words(kl=0.1, reference=2), desk)
    assert "control-draws = -1" in refused(suture, words(control_draws=-1), desk)
    assert "new-tokens = 0" in refused(suture, words(new_tokens=0), desk)
    assert "neutral = 0: is less than 1" in refused(suture, words(neutral=0), desk)
    assert "too few" in refused(suture, words(corpus="short.txt"), desk)


def test_a_dead_feature_is_not_steered(suture: Suture, desk: Path, made: Made) -> None:
    shutil.copytree(made.table, "table")
    manifest = json.loads(Path("table/manifest.json").read_text())
    for entry in manifest["files"]:
        file = Path("table") / entry["name"]
        columns = load_file(file) if file.suffix == ".safetensors" else {}
        if "q999" in columns:
            columns["q999"][5] = 0
            save_file(columns, file)
            entry |= {"n_bytes": file.stat().st_size, "sha256": sha256_of(file)}
    Path("table/manifest.json").write_text(json.dumps(manifest))
    words = ["steer", made.dictionary, "--table", "table", "--feature", 5, "--out", "new", "--neutral", 2]
    assert refused(suture, words, desk).startswith("feature = 5: never fires")


def test_other_weights_under_the_same_name_are_refused(suture: Suture, desk: Path, made: Made) -> None:
    shutil.copytree(shipped_models()["tinystories-2l"], "tinystories-1l")  # a local folder comes before a shipped model
    words = ["features", made.dictionary, "--store", made.store, "--out", "new"]
    assert refused(suture, words, desk).startswith("model = tinystories-1l: has other weights")


def test_report_refuses(suture: Suture, desk: Path, made: Made) -> None:
    assert "folder = nothing: holds no finished artifact" in refused(suture, ["report", "nothing"], desk)
    assert "folder = absent: is not a folder" in refused(suture, ["report", "absent"], desk)
    assert "out = nothing: is a folder" in refused(suture, ["report", made.root, "--out", "nothing"], desk)
    assert "cannot be written" in refused(suture, ["report", made.root, "--out", "file/x.html"], desk)


def test_demo_refuses(suture: Suture, desk: Path) -> None:
    assert "out = file: is a file" in refused(suture, ["demo", "--out", "file"], desk)
    assert "was not made by the demo" in refused(suture, ["demo", "--out", str(desk)], desk)
    assert "seed = -1: is not a seed" in refused(suture, ["demo", "--out", "new", "--seed", -1], desk)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colect"], "No such command colect. Did you mean collect?; see suture --help"),
        (["collect"], "Missing argument STORE; see suture collect --help"),
        (["train", "d"], "store = None: is missing; name one with --store, or do without by --stream"),
        (["train", "d", "--store", "s", "--sise", "3"], "Unrecognized options: --sise"),
        (["train", "d", "--store", "s", "--k=few"], "k = few: is not a whole number"),
        (["report", "a", "b"], "Unrecognized options: b; see suture report --help"),
    ],
)
def test_a_command_that_cannot_be_read_says_where_to_look(
    words: list[object], message: str, suture: Suture, desk: Path
) -> None:
    assert message in refused(suture, words, desk)


def test_verify_reads_everything_and_names_what_is_damaged(made: Made, suture: Suture, tmp_path: Path) -> None:
    for name in ("store", "dictionary"):
        shutil.copytree(made.root / name, tmp_path / name)
    assert suture("verify", tmp_path).out == "2 of 2 results are as written\n"
    weights = tmp_path / "dictionary" / "dictionary.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    said = suture("verify", tmp_path, "--json")
    assert (said.code, said.json["results"], said.json["damaged"]) == (2, 2, 1)
    assert "dictionary" in said.err.splitlines()[-1]


# --- help, version, streams -------------------------------------------------------------------------------------------


def test_help_and_version(suture: Suture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plain = suture()
    assert (plain.code, plain.err) == (0, "")
    assert plain.out == suture("--help").out == suture("-h").out
    assert all(f"\n  {command} " in plain.out for command in COMMANDS)
    assert "..." not in plain.out.partition("Commands:")[2]  # every command's line is whole
    assert suture("--version") == Said(0, f"suture {package_version()}\n", "")
    for command in COMMANDS:
        said = suture(command, "--help")
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"usage: suture {command} [-h] [")
        assert max(len(line) for line in said.out.splitlines()[1:]) <= 80  # tyro does not break the usage line
        assert "--json" in said.out


def test_python_m_suture_is_the_same_program() -> None:
    assert process("--version") == Said(0, f"suture {package_version()}\n", "")
    said = process("train")
    assert (said.code, said.out) == (2, "")
    assert said.err == "suture: Missing argument DICT; see suture train --help\n"


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": "é"}}, as_json=True, text="")
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": "é"}}


def test_a_terminal_without_the_letters_gets_escapes(made: Made) -> None:
    said = process("report", made.root / "möglich", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert said.code == 2
    assert "m\\xf6glich: is not a folder" in said.err


def test_a_reader_that_stops_early_is_no_error(made: Made, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "suture", "report", str(made.root), "--out", str(tmp_path / "x.html")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0


# --- what goes wrong while a step runs --------------------------------------------------------------------------------


def test_a_disk_that_fills_up_is_one_line(
    made: Made, suture: Suture, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "new.partial/columns")

    monkeypatch.setattr(FeatureTable, "write", full)
    words = ["features", made.dictionary, "--store", made.store, "--out", "new", "--rows", 300, "--no-tokens"]
    line = refused(suture, words, desk, progress=True)
    assert line == "new.partial/columns: No space left on device; free some space, or choose another disk"


def test_a_disk_too_small_is_found_out_before_the_start(
    suture: Suture, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suture.pipeline.artifact.free_bytes", lambda _path: 1000)
    assert "store = new: needs" in refused(suture, collect_words(), desk)


def test_a_missing_file_of_ours_is_our_bug(made: Made, suture: Suture, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "report.css")

    monkeypatch.setattr(page, "report", lost)
    with pytest.raises(FileNotFoundError):
        suture("report", made.root)


def test_a_bug_gives_a_traceback_and_exit_code_1(made: Made) -> None:
    bug = (
        "from suture.report import page\n"
        "def report(*_, **__): raise AssertionError('ours')\n"
        "page.report = report\n"
        "from suture.__main__ import main\nmain()"
    )
    said = process("report", made.root, python=("-c", bug))
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("Traceback (most recent call last)")
    assert said.err.endswith("AssertionError: ours\n")


def test_ctrl_c_leaves_what_was_reached_and_resume_goes_on(planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "d"
    words = ["train", out, "--store", planted, "--features", 32, "--k", 2, "--rows", 60_000, "--batch-size", 100]
    words += ["--validate-every", 20]
    with subprocess.Popen(
        [sys.executable, "-m", "suture", *(str(w) for w in words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        assert running.stderr.readline().startswith("steps: 20/600")
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
        assert running.stdout.read() == ""
    assert running.returncode == 130
    assert rest.endswith("\ninterrupted; what was finished is kept, --resume goes on from there\n")
    assert "Traceback" not in rest
    assert not out.exists()
    assert partial_path(out).exists()
    resumed = process(*words, "--resume")
    assert resumed.code == 0, resumed.err
    first = int(resumed.err.partition("steps: ")[2].partition("/")[0].replace(",", ""))
    assert first > 20
    assert not partial_path(out).exists()
    n_lines = len((out / "metrics.jsonl").read_text().splitlines())
    assert n_lines == 600 // 20


def test_quiet_leaves_out_progress_and_nothing_else(suture: Suture, tmp_path: Path) -> None:
    store = tmp_path / "store"
    planted_store(store, PlantedSettings(), 2_000)
    words = ["--store", store, *SMALL]
    loud = suture("train", tmp_path / "loud", *words)
    assert (loud.code, "steps: " in loud.err) == (0, True)
    for said, name in (
        (suture("train", tmp_path / "one", *words, "--quiet"), "one"),
        (suture("--quiet", "train", tmp_path / "two", *words), "two"),
    ):
        assert (said.code, said.err) == (0, "")
        assert said.out.replace(str(tmp_path / name), str(tmp_path / "loud")) == loud.out
    wrong = suture("train", tmp_path / "one", *words, "--quiet")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert suture("train", tmp_path / "three", *words).err  # it was quiet for those commands alone
