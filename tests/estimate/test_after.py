"""What comes after training is tried on little and reckoned for the whole: every stage, once for each shape."""

from pathlib import Path

import pytest
import torch

from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.activations.view import seen
from suture.estimate import after, estimate
from suture.estimate.after import STAGES, Material, _more, probe_after, promoted_seconds
from suture.estimate.estimate import Estimate, Free
from suture.estimate.probe import StartUp, TrainProbe
from suture.features.settings import FeatureSettings
from suture.lm.load import load_model
from suture.matching.settings import MatchSettings
from suture.report.page import report
from suture.sweep.file import Study, read_study
from suture.training.settings import TrainSettings

PLENTY = Free(memory=10**12, disk=10**12)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    start = StartUp(train_seconds=2.0, train_memory=1, collect_seconds=3.0, collect_memory=1)
    monkeypatch.setattr(estimate, "probe_start", lambda _device: start)


def written(folder: Path, text: str) -> Study:
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return read_study(folder / "study.toml")


def estimated(study: Study, folder: Path, stages: tuple[str, ...] = STAGES) -> Estimate:
    return estimate.estimate(
        study, out=folder, device="cpu", offline=True, probe_seconds=0.2, free=PLENTY, after=stages, page=report
    )


def test_every_stage_of_a_cell_is_estimated_and_shapes_are_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [f"Once there was a cat named Tom {i}. He had {i % 7} red balls and a big hat." for i in range(400)]
    (tmp_path / "corpus.txt").write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    tried: list[str] = []
    monkeypatch.setattr(estimate, "probe_after", lambda stage, *rest: tried.append(stage) or probe_after(stage, *rest))
    study = written(
        tmp_path,
        f'[collect]\nmodel = ["tinystories-1l", "tinystories-2l"]\nat = "mlp0.out"\ncorpus = "{tmp_path}/corpus.txt"\n'
        "tokens = 3000\n[train]\nfeatures = 64\nk = 4\nrows = 4000\nbatch_size = 500\n[sweep]\n"
        '"train.seed" = [0, 1]\n',
    )
    found = estimated(study, tmp_path)
    assert tried == list(STAGES)
    names = [step.name for step in found.steps]
    cells = [cell.name for cell in study.cells()]
    assert names == ["collect", *(f"{s} {cell}" for cell in cells for s in ("train", *STAGES))]
    for step in found.steps:
        assert step.seconds is not None
        assert 0 < step.seconds.low <= step.seconds.middle <= step.seconds.high
        assert step.disk > 0
    by_name = {step.name.split()[0]: step.seconds.middle for step in found.steps if step.seconds is not None}
    assert by_name["steer"] > by_name["splice"]  # dozens of passes over half the text
    assert found.seconds.middle == pytest.approx(sum(s.seconds.middle for s in found.steps if s.seconds is not None))
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".suture")]


def test_cells_that_match_train_each_space_once_and_are_matched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(3000, 8) @ torch.randn(8, 30)
    write_store(tmp_path / "store", list(rows.split((12, 18), 1)))
    widths: list[tuple[int, ...]] = []
    probe = estimate.probe_train

    def watched(settings: TrainSettings, store: Store, folder: Path, *, seconds: float) -> TrainProbe:
        widths.append(tuple(space.width for space in seen(store, settings.view).spaces))
        return probe(settings, store, folder, seconds=seconds)

    monkeypatch.setattr(estimate, "probe_train", watched)
    study = written(
        tmp_path,
        f'[train]\nstore = "{tmp_path}/store"\nfeatures = 32\nk = 4\nrows = 4000\nbatch_size = 500\n'
        '[match]\nrows = 2000\n[sweep]\n"match.map-seed" = [0, 1]\n',
    )
    found = estimated(study, tmp_path, ("features", "splice"))
    one, two = (cell.name for cell in study.cells())
    assert [step.name for step in found.steps] == [f"train {one} A", f"train {one} B", f"match {one}", f"match {two}"]
    assert widths == [(12,), (18,)]
    weights = [step.parts["memory"]["weights"] for step in found.steps[:2]]
    assert [w / 4 for w in weights] == [32 * (2 * width + 2) + 2 * width for width in (12, 18)]


def test_without_the_models_what_needs_them_is_left_out(tmp_path: Path) -> None:
    rows = torch.randn(3000, 8) @ torch.randn(8, 24)
    write_store(tmp_path / "store", list(rows.split((12, 12), 1)))
    study = written(
        tmp_path, f'[train]\nstore = "{tmp_path}/store"\nfeatures = 32\nk = 3\nrows = 2000\nbatch_size = 200'
    )
    found = estimated(study, tmp_path)
    assert [step.name for step in found.steps] == ["train", "features", "match", "report"]


def test_times_grow_with_rows_as_far_as_rows_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes by the rows alone: a row that is only searched costs a third, one beyond that nothing."""
    monkeypatch.setattr(after, "_two_points", lambda *_args, **_kwargs: (10.0, 0.5, 600))
    monkeypatch.setattr(after, "_seconds", lambda run: run() or 10.0 + 0.5 * 600)
    (tmp_path / "features").mkdir()
    store = write_store(tmp_path / "store", list(torch.randn(600, 24).split((12, 12), 1)))
    from suture.dictionary.activation import Sparsity
    from suture.dictionary.design import Design
    from suture.dictionary.dictionary import Dictionary

    Dictionary(store.spaces, Design(kind="crosscoder", n_features=8, sparsity=Sparsity(k=2))).save(tmp_path / "d")

    def middle(n_rows: int) -> float:
        given = Material(
            store=store, dictionary=tmp_path / "d", n_rows=n_rows, lms=None, folder=tmp_path, heldout=0.1,
            features=FeatureSettings(n_rows=1000), match=MatchSettings(n_rows=1000),
        )  # fmt: skip
        return probe_after("features", given).seconds.middle

    assert middle(400) == pytest.approx(10 + 0.5 * 400)
    assert middle(1000) == pytest.approx(10 + 0.5 * 1000)
    assert middle(5000) == pytest.approx(10 + 0.5 * (1000 + 4000 / 3))
    assert middle(10**8) == pytest.approx(10 + 0.5 * (1000 + (2_000_000 - 1000) / 3))


def test_groups_and_examples_cost_what_they_cost_among_few_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass takes 12 s more with 6 groups than with 2, all besides it 40 s: of 50 groups, and of more examples."""
    monkeypatch.setattr(after, "_two_points", lambda *_args, **_kwargs: (10.0, 0.0, 600))
    times = iter([22.0, 62.0])
    monkeypatch.setattr(after, "_seconds", lambda run: run() or next(times))
    monkeypatch.setattr(after, "_more", lambda _table, times: times)
    (tmp_path / "features").mkdir()
    store = write_store(
        tmp_path / "store", list(torch.randn(600, 24).split((12, 12), 1)), documents=torch.arange(600) // 100
    )
    from suture.dictionary.activation import Sparsity
    from suture.dictionary.design import Design
    from suture.dictionary.dictionary import Dictionary

    Dictionary(store.spaces, Design(kind="crosscoder", n_features=8, sparsity=Sparsity(k=2))).save(tmp_path / "d")
    given = Material(
        store=store, dictionary=tmp_path / "d", n_rows=1800, lms=None, folder=tmp_path, heldout=0.1,
        features=FeatureSettings(n_rows=1800), match=MatchSettings(n_rows=1000),
    )  # fmt: skip
    found = probe_after("features", given)
    assert found.seconds.middle == pytest.approx(10 + 12 / 4 * 48 + 40 * 3)
    assert found.memory >= 0


def test_a_feature_has_so_many_examples_at_most() -> None:
    examples = [[1] * 10, [1] * 4, [1], []]
    assert _more(examples, 1.0) == pytest.approx((10 + 4 + 1 + 5) / 15), "one that is silent yet is as the others"
    assert _more(examples, 2.0) == pytest.approx((10 + 8 + 2 + 10) / 15)
    assert _more(examples, 1e9) == pytest.approx(40 / 15)
    assert _more(examples[:1], 3.0) == 1.0
    assert _more([[], []], 3.0) == 1.0


def test_a_line_through_two_points(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 5.0, 25.0])  # the first run is not counted
    asked: list[int] = []
    monkeypatch.setattr(after, "_seconds", lambda run: run() or next(times))
    next(times)
    fixed, per_row, most = after._two_points(asked.append, 4096)
    assert most == 4096
    assert asked == [1024, 1024, 4096]
    assert per_row == pytest.approx(20 / 3072)
    assert fixed == pytest.approx(5 - 1024 * 20 / 3072, abs=1e-9) or fixed == 0.0


def test_the_two_points_lie_as_far_out_as_time_and_rows_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(seconds: list[float], n_available: int) -> tuple[list[int], tuple[float, float, int]]:
        times, asked = iter(seconds), list[int]()
        monkeypatch.setattr(after, "_seconds", lambda run: run() or next(times))
        return asked, after._two_points(asked.append, n_available)

    asked, (fixed, per_row, most) = line([1.0, 1.1, 1.2, 1.3], 40_000)
    assert most == 40_000
    assert asked == [1024, 1024, 4096, 16384, 40_000]
    assert per_row == pytest.approx(0.1 / (40_000 - 16384))
    assert fixed == pytest.approx(1.3 - 40_000 * per_row)
    assert line([1.0, 2.0, 13.0], 10**6)[0] == [1024, 1024, 4096, 16384], "one that takes long is the last"
    assert line([1.0, 2.0, 2.1, 2.2], 10**9)[0][-1] == 65_536


def test_promoted_tokens_cost_more_with_more_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(after, "product_rate", lambda _width: 1e9)
    lm = load_model("tinystories-1l", device="cpu")
    few, many = (promoted_seconds(lm, n, 0) for n in (100, 100_000))
    assert many - few == pytest.approx(after.DIRECT * 2 * lm.vocab_size * lm.d_model * 99_900 / 1e9, rel=0.2)
