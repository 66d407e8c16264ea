"""Laws of training: it finds what is planted, a broken run ends like an unbroken one, measuring changes nothing."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from planted_fixtures import PLANTED
from suture.activations.batches import Batch, batches, split_rows
from suture.activations.settings import View
from suture.activations.space import Copy, are_null
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity, SparsityKind
from suture.dictionary.design import Design, DesignKind
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.errors import NumericalError, UserError
from suture.pipeline import artifact
from suture.pipeline.settings import from_flat
from suture.planted import scores
from suture.planted.generator import PlantedModels
from suture.training.checkpoint import load_checkpoint
from suture.training.run import TrainProgress, available_models
from suture.training.settings import Objective, TrainSettings
from suture.training.start import start_from
from suture.training.step import StepResult, TrainingState
from suture.training.train import train


def settings_of(kind: DesignKind = "crosscoder", sparsity: SparsityKind = "topk", **changes: Any) -> TrainSettings:
    base = TrainSettings(
        design=Design(kind=kind, n_features=32, sparsity=Sparsity(kind=sparsity, k=3)),
        objective=Objective(dead_after=20_000),
        n_rows=60_000,
        batch_size=256,
        learning_rate=4e-3,
        validate_every=50,
        validation_rows=512,
        checkpoint_every=60,
        precision="float32",
    )
    return replace(base, **changes)


def test_a_crosscoder_recovers_planted_concepts_and_whose_they_are(store: Store, out: Path) -> None:
    dictionary = train(out, store, settings_of(n_rows=200_000))
    truth = PlantedModels(PLANTED)
    planted = torch.cat([truth.directions(m) * s.scale for m, s in enumerate(dictionary.spaces)], 1)
    planted = torch.nn.functional.normalize(planted, dim=1)
    cosine = planted @ dictionary.W_dec.T
    best = cosine.max(dim=1)
    assert float((best.values > 0.8).double().mean()) >= 0.9
    norms = dictionary.decoder_norms()
    share = (norms[:, 1] / norms.sum(1))[best.indices]
    for concept, label in enumerate(truth.labels()):
        if float(best.values[concept]) > 0.8:
            low, high = {"A": (0.0, 0.25), "B": (0.75, 1.0), "shared": (0.3, 0.7)}[label]
            assert low <= float(share[concept]) <= high
    assert scores.recovery(cosine, torch.ones(32, dtype=torch.bool), 0.8) >= 0.9


@pytest.mark.parametrize(
    ("kind", "sparsity", "fvu"),
    [
        ("sae", "topk", 0.2), ("pooled", "topk", 0.35), ("universal", "topk", 0.45), ("crosscoder", "batchtopk", 0.2),
        ("crosscoder", "jumprelu", 0.2), ("crosscoder", "relu+l1", 0.2),
        ("crosscoder", "gated", 0.2), ("sae", "gated", 0.2),
    ],
)  # fmt: skip
def test_every_design_and_sparsity_explains_planted_rows(
    kind: DesignKind, sparsity: SparsityKind, fvu: float, store: Store, out: Path
) -> None:
    view = View(spaces=(0,)) if kind == "sae" else View()
    n_features = 56 if kind == "pooled" else 32
    design = Design(kind=kind, n_features=n_features, sparsity=Sparsity(kind=sparsity, k=3))
    train(out, store, settings_of(design=design, view=view, n_rows=120_000))
    found = artifact.read_json(out / "evaluation.json")
    assert max(found["fvu"]) < fvu
    assert 0.5 < found["l0"] < (14 if sparsity == "gated" else 9)


def test_topk_gives_way_to_batchtopk_as_the_rate_falls(store: Store, out: Path) -> None:
    """What is kept is a batchtopk dictionary with a threshold, better than top-k per row by more than noise."""
    per_row = train(out.with_name("topk"), store, settings_of())
    both = train(out, store, settings_of(sparsity="topk+batchtopk"))
    assert per_row.sparsity.kind == "topk"
    assert both.sparsity == Sparsity(kind="batchtopk", k=3)
    assert float(both.threshold.min()) > 0
    found, before = (artifact.read_json(d / "evaluation.json") for d in (out, out.with_name("topk")))
    assert 2 < found["l0"] < 3.3  # rows hold two concepts on average, so that places stay empty
    assert max(found["fvu"]) < 0.8 * max(before["fvu"])


def test_it_gives_way_at_the_same_step_when_resumed(store: Store, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(sparsity="topk+batchtopk", n_rows=25_600, checkpoint_every=10)
    assert settings.finishing_step == 70
    unbroken = train(out.with_name("unbroken"), store, settings)
    for stop in (65, 85):  # before it gives way, and after

        def interrupted(*args: Any, stop: int = stop, **kwargs: Any) -> Iterator[Any]:
            for number, batch in enumerate(batches(*args, **kwargs), start=kwargs["start"]):
                if number == stop:
                    raise KeyboardInterrupt
                yield batch

        with monkeypatch.context() as patch:
            patch.setattr("suture.training.feed.batches", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train(out, store, settings, resume=True)
    assert _same_weights(unbroken, train(out, store, settings, resume=True))


def test_widths_may_differ_and_a_pooled_row_is_padded(unequal_store: Store, out: Path) -> None:
    design = Design(kind="pooled", n_features=48, flag=True, sparsity=Sparsity(k=3))
    dictionary = train(out, unequal_store, settings_of(design=design))
    assert dictionary.W_dec.shape == (48, 16)
    assert dictionary.W_enc.shape == (48, 18)
    assert max(artifact.read_json(out / "evaluation.json")["fvu"]) < 0.4


def test_model_dropout_makes_a_missing_model_recoverable(store: Store, out: Path) -> None:
    plain = train(out, store, settings_of())
    masked = train(out.with_name("masked"), store, settings_of(model_dropout=0.5))
    _, heldout = split_rows(store, heldout=0.1, seed=0)
    r2 = [evaluate(d, store, heldout, missing="zero").r2 for d in (plain, masked)]
    assert r2[1][0][1] > r2[0][0][1] + 0.1
    assert r2[1][1][0] > r2[0][1][0] + 0.1


def test_lock_holds_features_in_one_model_for_half_of_the_steps(
    store: Store, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    real = TrainingState.step

    def watched(self: TrainingState, batch: Batch, **options: Any) -> StepResult:
        result = real(self, batch, **options)
        quarter, first = self.dictionary.n_features // 4, self.dictionary.widths[0]
        W = torch.cat([self.dictionary.W_dec[:quarter, first:], self.dictionary.W_enc[:quarter, first:]]).detach()
        seen.append((options["locked"], bool((W == 0).all())))
        return result

    monkeypatch.setattr(TrainingState, "step", watched)
    options = {"features": 40, "k": 4, "rows": 2_560, "batch_size": 256, "lock": 0.5}
    train(out, store, from_flat(TrainSettings, options))
    assert seen == [(True, True)] * 5 + [(False, False)] * 5
    with pytest.raises(UserError, match=r"lock = 0\.5: holds features .*; leave out --lock, or --start"):
        train(out.with_name("again"), store, from_flat(TrainSettings, options), start=start_from(out))
    assert not out.with_name("again").exists()


def test_cross_needs_models_of_one_width(unequal_store: Store, out: Path) -> None:
    with pytest.raises(UserError, match=r"cross = -0\.9: needs equal widths"):
        train(out, unequal_store, from_flat(TrainSettings, {"features": 40, "k": 4, "rows": 2_560, "cross": -0.9}))
    assert not out.exists()


def test_masks_hide_each_model_as_often_as_asked_and_never_all() -> None:
    mask = available_models(settings_of(model_dropout=0.3, batch_size=20_000), 2, 5)
    assert mask is not None
    assert bool(mask.any(1).all())
    # both are drawn away with chance 0.09; then one of them, at random, stays
    assert float((~mask).double().mean()) == pytest.approx(0.3 - 0.09 / 2, abs=0.01)
    again = available_models(settings_of(model_dropout=0.3, batch_size=20_000), 2, 5)
    assert again is not None
    assert torch.equal(mask, again)
    universal = available_models(settings_of("universal", batch_size=3_000), 3, 0)
    assert universal is not None
    assert torch.equal(universal.sum(1), torch.ones(3_000, dtype=torch.int64))


def test_schedules() -> None:
    settings = settings_of(n_rows=256 * 1000, warmup=0.1, decay=0.2, k_start=4.0, k_anneal=0.5)
    rates = [settings.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(4e-3 / 100)
    assert rates[100:800] == pytest.approx([4e-3] * 700)
    assert rates[-1] == pytest.approx(4e-3 / 200)
    assert settings.k_at(0) == 12.0
    assert settings.k_at(250) == pytest.approx(7.5)
    assert settings.k_at(500) == settings.k_at(999) == 3.0


def test_evaluation_agrees_with_a_dense_computation(store: Store, out: Path) -> None:
    dictionary = train(out, store, settings_of(n_rows=20_000, model_dropout=0.3))
    rows = torch.arange(3000)
    scaled = [a * s.scale for a, s in zip(store.read(rows), store.spaces, strict=True)]
    found = evaluate(dictionary, store, rows, batch_size=700)
    x = torch.cat(scaled, 1)
    for source in range(3):
        available = torch.tensor([source in (0, 2), source in (1, 2)])
        codes = dictionary.encode(x, available=available)
        dense = codes.dense() @ dictionary.W_dec + dictionary.b_dec
        for target in range(2):
            error = (scaled[target] - dense[:, dictionary.columns(target)]).double().square().sum()
            total = (scaled[target] - scaled[target].mean(0)).double().square().sum()
            assert found.r2[source][target] == pytest.approx(1 - float(error / total), abs=1e-5)
        if source == 2:
            assert found.l0 == pytest.approx(codes.value.numel() / 3000)
            assert found.dead == pytest.approx(1 - len(codes.feature.unique()) / 32)
    assert found.fvu == pytest.approx([1 - v for v in found.r2[2]])


def test_the_same_seed_gives_the_same_weights_and_looking_changes_nothing(store: Store, tmp_path: Path) -> None:
    seen: list[TrainProgress] = []
    one = train(tmp_path / "one", store, settings_of(n_rows=20_000), on_progress=seen.append)
    two = train(tmp_path / "two", store, settings_of(n_rows=20_000, validate_every=7, checkpoint_every=11))
    three = train(tmp_path / "three", store, settings_of(n_rows=20_000, seed=1))
    assert _same_weights(one, two)
    assert not _same_weights(one, three)
    assert [p.step for p in seen] == [50, 78]
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 78]
    assert lines[-1]["loss"] == pytest.approx(sum(lines[-1]["terms"].values()))


def test_bf16_learns_what_float32_learns(store: Store, tmp_path: Path) -> None:
    losses = [
        artifact.read_json(_trained(tmp_path / p, store, settings_of(precision=p)) / "evaluation.json")["fvu"]  # pyright: ignore[reportArgumentType]
        for p in ("float32", "bfloat16")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_a_run_killed_and_resumed_ends_with_the_same_weights(store: Store, tmp_path: Path) -> None:
    """Killed three times, each a little after some line of progress: never before work began nor after it ended."""
    settings = settings_of(model_dropout=0.2, sparsity="batchtopk", n_rows=150_000)
    unbroken = train(tmp_path / "unbroken", store, settings)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        "from dataclasses import replace\n"
        f"sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        "from suture.activations.store import Store\n"
        "from suture.training.train import train\n"
        "from training.test_train import settings_of\n"
        "s = settings_of(model_dropout=0.2, sparsity='batchtopk', n_rows=150_000)\n"
        "print('ready', flush=True)\n"
        "train(sys.argv[1], Store.open(sys.argv[2]), s, resume=True, on_progress=lambda p: print(p.step, flush=True))\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "killed"), str(store.path)]
    for n_lines, delay in ((2, 0.0), (3, 0.013), (2, 0.031)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(1 + n_lines):  # "ready" and the lines of progress
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert not (tmp_path / "killed").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert _same_weights(unbroken, Dictionary.load(tmp_path / "killed"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_an_interrupted_run_keeps_its_last_step_and_goes_on(
    store: Store, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(n_rows=40_000, checkpoint_every=10_000)
    unbroken = train(out.with_name("unbroken"), store, settings)

    def interrupted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*args, **kwargs)):
            if number == 70:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr("suture.training.feed.batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(out, store, settings)
    assert not out.exists()
    found = load_checkpoint(artifact.partial_path(out))
    assert found is not None
    assert found.step == 70
    assert _same_weights(unbroken, train(out, store, settings, resume=True))


def test_resuming_with_other_settings_is_refused(store: Store, out: Path) -> None:
    partial = artifact.partial_path(out)
    with pytest.raises(KeyboardInterrupt):
        train(out, store, settings_of(n_rows=20_000), on_progress=_interrupt)
    with pytest.raises(UserError, match=r"rows = 30000: was 20000 in the unfinished run"):
        train(out, store, settings_of(n_rows=30_000), resume=True)
    assert partial.exists()
    train(out, store, settings_of(n_rows=30_000))
    assert not partial.exists()


def test_a_loss_that_is_not_finite_stops_with_a_clear_message(store: Store, out: Path) -> None:
    with pytest.raises(NumericalError, match=r"learning-rate = 1e\+30: made the loss NaN or infinite at step"):
        train(out, store, settings_of(learning_rate=1e30, sparsity="relu+l1"))
    assert not out.exists()


def test_without_held_out_rows_the_evaluation_says_so(store: Store, out: Path) -> None:
    train(out, store, settings_of(n_rows=10_000, heldout=0.0))
    found = artifact.read_json(out / "evaluation.json")
    assert found["heldout"] is False
    assert found["n_rows"] == len(store)
    train(out, store, settings_of(n_rows=10_000), overwrite=True)
    assert artifact.read_json(out / "evaluation.json")["heldout"] is True


def test_the_null_view_is_recorded(store: Store, out: Path) -> None:
    view = View(spaces=(1,), null=True, rotation_seed=3)
    dictionary = train(out, store, settings_of(n_rows=10_000, view=view))
    own = dictionary.spaces[0]
    assert dictionary.spaces[1].copy_of == Copy(original=own.label, rotated=True, seed=3)
    assert Dictionary.load(out).spaces == dictionary.spaces
    assert are_null(dictionary.spaces)
    assert View.from_json(artifact.open_artifact(out).settings["view"]) == view


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 50_000, "n_rows": 50_000}, "batch-size = 50000: exceeds the"),
        ({"n_rows": 100}, "rows = 100: is less than one batch"),
        ({"model_dropout": 1.5}, "model-dropout = 1.5: is not a share"),
        ({"warmup": 0.8, "decay": 0.5}, "decay = 0.5: with warmup 0.8 exceeds all steps"),
        ({"k_start": 0.5}, "k-start = 0.5: is below 1"),
        ({"view": View(spaces=(4,))}, "space = 4: is not in"),
        ({"view": View(null=True)}, r"null = \(0, 1\): needs one space"),
        ({"design": Design(kind="sae", n_features=8, sparsity=Sparsity(k=2))}, "is for one space, the store has 2"),
        ({"device": "cuda:9"}, "device = cuda:9: cannot be used"),
        ({"heldout": 1.0}, "heldout = 1.0: is not a share"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_nothing_is_written(
    change: dict[str, Any], message: str, store: Store, out: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(out, store, settings_of(**change))
    assert not out.exists()
    assert not artifact.partial_path(out).exists()


def test_tensorboard_gets_the_metrics_only_if_asked_for(
    store: Store, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suture.training import tracking

    sent: list[tuple[str, float, int]] = []

    class Board:
        def __init__(self, folder: str) -> None:
            assert folder.endswith("tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            sent.append((name, value, step))

        def close(self) -> None:
            sent.append(("closed", 0.0, 0))

    monkeypatch.setattr(tracking.importlib, "import_module", lambda _: type("Module", (), {"SummaryWriter": Board}))
    train(out, store, settings_of(n_rows=13_000, track=("tensorboard",)))
    assert {"loss", "fvu/0", "fvu/1", "terms/reconstruction", "closed"} <= {name for name, _, _ in sent}


def test_a_tracker_that_is_not_installed_is_named(store: Store, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed, also where it is
    with pytest.raises(UserError, match="track = wandb: is not installed"):
        train(out, store, settings_of(track=("wandb",)))


def _interrupt(_: TrainProgress) -> None:
    raise KeyboardInterrupt


def _trained(path: Path, store: Store, settings: TrainSettings) -> Path:
    train(path, store, settings)
    return path


def _same_weights(one: Dictionary, two: Dictionary) -> bool:
    return all(torch.equal(t, two.state_dict()[name]) for name, t in one.state_dict().items())


def test_a_size_that_no_machine_holds_is_refused_before_it_is_made(store: Store) -> None:
    absurd = TrainSettings(design=Design(n_features=500_000_000_000))
    with pytest.raises(UserError, match=r"features = 500000000000: need .* GB of memory"):
        train(store.path.parent / "absurd", store, absurd)
    assert not (store.path.parent / "absurd").exists()


@pytest.mark.parametrize("kind", ["crosscoder", "pooled", "universal"])
@pytest.mark.parametrize("alone", [True, False])
def test_l0_is_the_active_features_of_one_code(kind: DesignKind, store: Store, alone: bool) -> None:
    """Of a row's own code, and of no other that an evaluation makes beside it; pooled: a row of a model is one code."""
    design = Design(kind=kind, n_features=32, sparsity=Sparsity(kind="jumprelu"))
    dictionary = Dictionary(store.spaces, design)
    chance = torch.Generator().manual_seed(0)
    dictionary.W_enc.data.copy_(torch.randn(dictionary.W_enc.shape, generator=chance))
    dictionary.W_enc.data[:, : dictionary.spaces[0].width] *= 2  # each model alone makes other features fire
    dictionary.threshold.fill_(2.0)
    rows = torch.arange(1500)
    found = evaluate(dictionary, store, rows, batch_size=400, missing="zero", alone=alone).l0
    x = dictionary.scaled(store.read(rows))
    if kind == "pooled":
        codes = [dictionary.encode_alone(x, m) for m in range(2)]
    else:
        codes = [dictionary.encode(x)]
        assert any(len(dictionary.encode_alone(x, m, missing="zero").value) != len(codes[0].value) for m in range(2))
    active = sum((code.dense() > 0).sum(1).double() for code in codes) / len(codes)
    assert 0.5 < found < 20
    assert found == pytest.approx(float(active.mean()))
