"""Estimates against what then happens: bytes counted exactly, memory really measured, refusals with their way out.

Times are compared by benchmarks/estimate.py: a suite that fails on a busy machine tells nothing.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from suture.activations.collect import collect
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.dictionary import WEIGHTS
from suture.errors import UserError
from suture.estimate import estimate, sizes
from suture.estimate.estimate import Estimate, Free
from suture.estimate.fits import model_bytes
from suture.estimate.machine import STATUS, free_memory
from suture.estimate.probe import Span, StartUp
from suture.lm.corpus import open_corpus
from suture.lm.load import load_model, locate
from suture.pipeline.settings import from_flat
from suture.sweep.file import Study, read_study
from suture.training.settings import TrainSettings
from suture.training.start import data_statistics, new_dictionary
from suture.training.step import TrainingState
from suture.training.train import train

PLENTY = Free(memory=10**12, disk=10**12)
MB = 10**6
SPACES = (12, 20)
SHAPES = {
    "crosscoder": {"features": 48, "k": 4},
    "learned threshold": {"features": 32, "sparsity": "jumprelu"},
    "gated": {"features": 32, "sparsity": "gated"},
    "pooled with a flag": {"features": 40, "k": 3, "design": "pooled", "flag": True},
}

MEASURED = """
import json, sys
import torch
from suture.activations.store import Store
from suture.training.settings import TrainSettings
from suture.pipeline.settings import from_flat
from suture.training.train import train
from suture.estimate.machine import peak_bytes
store, out, options = sys.argv[1:]
before = peak_bytes()
train(out, Store.open(store), from_flat(TrainSettings, json.loads(options)))
print(peak_bytes() - before)
"""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a process is not what these tests are about."""
    start = StartUp(
        train_seconds=2.0, train_memory=300 * MB, collect_seconds=3.0, collect_memory=500 * MB
    )  # fmt: skip
    monkeypatch.setattr(estimate, "probe_start", lambda _device: start)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "stories.txt"
    stories = [f"Once there was a cat named Tom {i}. He had {i % 7} red balls and a big hat." for i in range(400)]
    file.write_text("\n<|endoftext|>\n".join(stories) + "\n", encoding="utf-8")
    return file


def study_of(folder: Path, corpus: Path, *, tokens: int = 3000, train: str = "", sweep: str = "") -> Study:
    file = folder / "study.toml"
    file.write_text(
        f'[collect]\nmodel = ["tinystories-1l", "tinystories-2l"]\nat = "mlp0.out"\ncorpus = "{corpus}"\n'
        f"tokens = {tokens}\n[train]\nfeatures = 64\nk = 4\nrows = 4000\nbatch_size = 500\ncheckpoint_every = 3\n"
        f"validate_every = 4\n{train}\n[sweep]\n{sweep}\n",
        encoding="utf-8",
    )
    return read_study(file)


def estimated(study: Study, folder: Path, free: Free = PLENTY, **options: Any) -> Estimate:
    return estimate.estimate(study, out=folder, device="cpu", offline=True, probe_seconds=0.2, free=free, **options)


def random_store(path: Path, widths: tuple[int, ...], n_rows: int) -> Store:
    mixed = torch.randn(n_rows, 8) @ torch.randn(8, sum(widths)) + 0.1 * torch.randn(n_rows, sum(widths))
    return write_store(path, list(mixed.split(widths, 1)), dtype="bfloat16")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_weights_and_checkpoints_are_counted_to_the_byte(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = from_flat(TrainSettings, options)
    store = random_store(tmp_path / "store", SPACES, 500)
    statistics = data_statistics(store, torch.arange(500), seed=0)
    dictionary = new_dictionary(store, settings.design, statistics, seed=0)
    state = TrainingState(dictionary, settings.objective, statistics.variance)
    shape = sizes.shape_of(settings.design, SPACES)
    dictionary.write(tmp_path)
    assert sizes.weights_bytes(shape) == sum(t.nbytes for t in load_file(tmp_path / WEIGHTS).values())
    held = [*state.per_feature().values(), *(t for t in state.common().values() if t.dim())]
    assert sizes.checkpoint_bytes(shape) == sum(t.nbytes for t in held)


@pytest.mark.skipif(not STATUS.exists(), reason="a process's own peak of memory is told by Linux only")
@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ((128, 128), {"features": 16_384, "k": 16, "rows": 2048, "batch_size": 512}),
        ((256, 256), {"features": 512, "k": 8, "rows": 8192, "batch_size": 4096}),
    ],
    ids=["large dictionary", "large batch"],
)
def test_memory_is_what_a_training_takes(tmp_path: Path, widths: tuple[int, ...], options: dict[str, Any]) -> None:
    n_rows, options = 8000, {**options, "precision": "float32"}
    random_store(tmp_path / "store", widths, n_rows)
    arguments = [str(tmp_path / "store"), str(tmp_path / "dictionary"), json.dumps(options)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True, timeout=300
    )
    parts = sizes.training_parts(from_flat(TrainSettings, options), widths, n_rows, "float32")
    said = sum(parts.values()) + sizes.mapped_bytes(widths, n_rows, "bfloat16")
    assert 0.7 < int(done.stdout) / said < 1.3


@pytest.mark.usefixtures("quick")
def test_disk_is_what_collect_and_train_leave(tmp_path: Path, corpus: Path) -> None:
    study = study_of(tmp_path, corpus)
    found = estimated(study, tmp_path)
    assert found.problems == ()
    (cell,) = study.cells()
    assert cell.collect is not None
    assert cell.train is not None
    lms = [load_model(name, device="cpu", offline=True) for name in cell.collect.models.model]
    sources = list(zip(lms, cell.collect.models.hookpoints, strict=True))
    store = collect(tmp_path / "store", sources=sources, corpus=open_corpus(corpus), n_rows=cell.collect.tokens)
    most = [0]

    def watch(_: object) -> None:
        most[0] = max(most[0], size_of(tmp_path / "dictionary.partial"))

    train(tmp_path / "dictionary", store, replace(cell.train, validate_every=1), on_progress=watch)
    collected, trained = found.steps
    assert collected.disk == pytest.approx(size_of(store.path), rel=0.03)
    assert trained.disk == pytest.approx(size_of(tmp_path / "dictionary"), rel=0.05)
    assert most[0] <= trained.disk_peak
    assert trained.disk_peak > sizes.checkpoint_bytes(sizes.shape_of(cell.train.design, (128, 128)))
    assert found.disk == collected.disk + trained.disk
    assert found.disk_peak == collected.disk + trained.disk_peak


@pytest.mark.usefixtures("quick")
def test_cells_share_stores_and_probes_and_leave_no_folder(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = counted(monkeypatch, "probe_train")
    study = study_of(tmp_path, corpus, sweep='"train.k" = [2, 4]\n"train.seed" = [0, 1]')
    found = estimated(study, tmp_path)
    assert [s.name for s in found.steps] == ["collect", *(f"train {c.name}" for c in study.cells())]
    assert len(probed) == 2, "one for each k, none for a seed"
    assert found.steps[1].seconds == found.steps[2].seconds
    spans = [s.seconds for s in found.steps if s.seconds is not None]
    assert all(0 < span.low <= span.middle <= span.high for span in spans)
    assert found.seconds.middle == pytest.approx(sum(span.middle for span in spans))
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Calls of a function of the step from now on."""
    calls: list[object] = []
    own: Callable[..., Any] = getattr(estimate, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return own(*arguments, **named)

    monkeypatch.setattr(estimate, name, counting)
    return calls


@pytest.mark.usefixtures("quick")
def test_too_many_features_are_refused_before_they_are_made_and_the_number_named_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = random_store(tmp_path / "store", SPACES, 4000)
    text = f'[train]\nstore = "{store.path}"\nfeatures = %d\nk = 4\nrows = 4000\nbatch_size = 500\n'
    probed, free = counted(monkeypatch, "probe_train"), replace(PLENTY, memory=600 * MB)
    (tmp_path / "large.toml").write_text(text % 10**9)
    found = estimated(read_study(tmp_path / "large.toml"), tmp_path, free)
    (problem,) = found.problems
    assert not probed
    assert found.steps[0].seconds is None
    assert (problem.setting, problem.value) == ("train.features", 10**9)
    assert "600.0 MB are free" in problem.problem
    assert "--feature-ranks" in problem.fix
    fits = int(problem.fix.split("lower it to ")[1].split()[0])
    (tmp_path / "fitting.toml").write_text(text % fits)
    assert estimated(read_study(tmp_path / "fitting.toml"), tmp_path, free).problems == ()
    assert probed


@pytest.mark.usefixtures("quick")
def test_a_batch_too_large_for_any_dictionary_is_named_instead(tmp_path: Path) -> None:
    store = random_store(tmp_path / "store", SPACES, 4000)
    text = f'[train]\nstore = "{store.path}"\nfeatures = 64\nk = 4\nrows = 4000000\nbatch_size = 3000000\n'
    (tmp_path / "study.toml").write_text(text)
    found = estimated(read_study(tmp_path / "study.toml"), tmp_path, replace(PLENTY, memory=400 * MB))
    assert {p.setting for p in found.problems} == {"train.batch-size"}
    messages = " ".join(map(str, found.problems))
    assert "exceeds the 3600 rows to train on" in messages
    assert "of memory, 400.0 MB are free; lower it to " in messages


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("tokens", "disk", "says"),
    [
        (3000, MB, "collect.tokens = 3000: needs 1.6 MB of disk, 1.0 MB are free; lower it to 1"),
        (3000, round(1.75 * MB), "study = 2 steps: together take "),
        (3_000_000, 10**12, "collect.tokens = 3000000: the corpus"),
    ],
)
def test_what_the_disk_or_the_corpus_cannot_give_is_refused(
    tmp_path: Path, corpus: Path, tokens: int, disk: int, says: str
) -> None:
    found = estimated(study_of(tmp_path, corpus, tokens=tokens), tmp_path, replace(PLENTY, disk=disk))
    assert any(str(problem).startswith(says) for problem in found.problems), found.problems


@pytest.mark.usefixtures("quick")
def test_a_dictionary_too_large_for_the_disk_names_its_features(tmp_path: Path) -> None:
    store = random_store(tmp_path / "store", SPACES, 4000)
    text = f'[train]\nstore = "{store.path}"\nfeatures = %d\nk = 4\nrows = 4000\nbatch_size = 500\n'
    free = replace(PLENTY, disk=MB)
    (tmp_path / "study.toml").write_text(text % 10_000)
    (problem,) = estimated(read_study(tmp_path / "study.toml"), tmp_path, free).problems
    assert problem.setting == "train.features"
    fits = int(problem.fix.split("lower it to ")[1].split()[0])
    (tmp_path / "study.toml").write_text(text % fits)
    assert estimated(read_study(tmp_path / "study.toml"), tmp_path, free).problems == ()


def test_models_too_large_are_refused_before_they_are_loaded(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = counted(monkeypatch, "load_all")
    found = estimated(study_of(tmp_path, corpus), tmp_path, replace(PLENTY, memory=MB))
    (problem,) = found.problems
    assert not loaded
    assert (problem.setting, problem.value) == ("collect.model", "tinystories-1l")
    assert "bfloat16" in problem.fix


def test_the_weights_of_a_model_are_counted_from_its_files() -> None:
    lm = load_model("tinystories-2l", device="cpu", offline=True)
    tensors = load_file(Path(locate("tinystories-2l")) / "model.safetensors")
    assert model_bytes("tinystories-2l", "auto", "cpu") == 4 * sum(t.numel() for t in tensors.values())
    assert model_bytes("tinystories-2l", "bfloat16", "cpu") * 2 == model_bytes("tinystories-2l", "auto", "cpu")
    assert lm.dtype == torch.float32


@pytest.mark.usefixtures("quick")
def test_an_unknown_hookpoint_is_refused_as_by_collect(tmp_path: Path, corpus: Path) -> None:
    study = study_of(tmp_path, corpus, sweep='"collect.at" = ["mlp7.out"]')
    with pytest.raises(UserError, match=r"mlp7\.out"):
        estimated(study, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]


@pytest.mark.usefixtures("quick")
def test_an_interrupt_leaves_no_folder(tmp_path: Path, corpus: Path) -> None:
    def interrupt(what: str, _done: int, _total: int) -> None:
        if what == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimated(study_of(tmp_path, corpus), tmp_path, on_progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]


@pytest.mark.usefixtures("quick")
def test_the_command_prints_one_object_or_a_table(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_of(tmp_path, corpus)
    command = ["estimate", str(tmp_path / "study.toml"), "--out", str(tmp_path), "--offline", "--seconds", "0.5"]
    assert run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in said["steps"]] == ["collect", "train", "features"]
    assert said["total"]["seconds"]["low"] <= said["total"]["seconds"]["middle"] <= said["total"]["seconds"]["high"]
    study_of(tmp_path, corpus, tokens=3_000_000, train="heldout = 0.9999")
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()][1:6] == ["collect", "train", "features", "in", "free"]
    refusals = [line for line in err.splitlines() if line.startswith("suture: ")]
    assert [line.split(" = ")[0] for line in refusals] == ["suture: collect.tokens", "suture: train.batch-size"]


def test_a_span_is_never_surer_than_the_noise() -> None:
    assert Span.of([2.0]).low < 2.0 < Span.of([2.0]).high
    wide = Span.of([1.0, 2.0, 2.0, 2.0, 9.0])
    assert wide.low <= 1.7
    assert wide.middle == 2.0
    assert wide.high > 2.3


def test_the_free_memory_is_some_of_the_machine() -> None:
    assert 0 < free_memory() < 10**15


@pytest.mark.parametrize(
    ("widths", "features", "every", "largest"),
    [((24, 40), 512, 2, "three"), ((160, 160), 16, 2, "two and the result"), ((24, 40), 512, 6, "one and it")],
    ids=["a third checkpoint beside two", "the result beside two", "the result beside one"],
)
def test_peak_disk_is_what_a_training_takes_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: tuple[int, int], features: int, every: int, largest: str
) -> None:
    """The folder is weighed before anything in it is removed, which is when it is largest."""
    options = {"features": features, "k": 4, "rows": 10 * 256, "batch_size": 256, "checkpoint_every": every}
    settings = from_flat(TrainSettings, options)
    store, most, remove = random_store(tmp_path / "store", widths, 2000), [0], shutil.rmtree

    def weigh_and_remove(path: str | Path, *arguments: Any, **named: Any) -> None:
        folders = (tmp_path / "dictionary.partial", tmp_path / "dictionary")
        most[0] = max(most[0], *map(size_of, folders))
        remove(path, *arguments, **named)

    monkeypatch.setattr(shutil, "rmtree", weigh_and_remove)
    train(tmp_path / "dictionary", store, settings)
    shape = sizes.shape_of(settings.design, widths)
    assert sizes.peak_disk(settings, shape) == pytest.approx(most[0], rel=0.05)
    checkpoint, kept = sizes.checkpoint_bytes(shape), sizes.kept_disk(settings, shape)
    at_once = {"three": 3 * checkpoint, "two and the result": 2 * checkpoint + kept, "one and it": checkpoint + kept}
    assert most[0] == pytest.approx(at_once[largest], rel=0.05)
