"""The stage on planted concepts: what a small dictionary lacks is found and put in; the truth stands in its rows.

No training: a dictionary's rows are the concepts' directions, turned away from them by known angles. If the small
dictionary has a row at cosine c with a concept, the best factor is about 1 - c^2, so the truth is graded at .707.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from random_dictionaries import made
from suture.activations.batches import split_rows
from suture.activations.store import Store
from suture.cli.app import run
from suture.cli.stitch import _text
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.refit_settings import RefitSettings
from suture.errors import ArtifactError, UserError
from suture.features.describe import features
from suture.matching.match import match
from suture.pipeline import artifact
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.report.page import report
from suture.report.stitching import delta_figure, path_figure
from suture.stitching.latents import LABELS
from suture.stitching.settings import StitchSettings
from suture.stitching.stitch import Stitching, path_dictionary, stitch
from suture.training.result import TrainResult

N = 40
BORDER = 0.707
EASY = PlantedSettings(widths=(64,), n_concepts=N, exclusive=0.0, mean_active=3.0, rows_per_document=20, seed=3)
HARD = replace(EASY, child_share=0.2, correlation=0.3, noise=(0.3,), seed=4)
PAIR = replace(EASY, widths=(64, 48), seed=5)
COSINES = np.linspace(0.2, 1.0, N)
"""Of the small dictionary's rows with the concepts."""
SETTINGS = StitchSettings(refit=RefitSettings(fit_rows=4000), path_rows=1500, draws=200)


def rows_at(planted: PlantedModels, cosines: Sequence[float] | np.ndarray, seed: int) -> list[torch.Tensor]:
    """Per space, rows at these cosines with the concepts', as long as is best for them."""
    found = []
    for m in range(planted.settings.n_models):
        d = planted.directions(m)
        noise = torch.randn(d.shape, generator=torch.Generator().manual_seed(seed + m))
        unit = torch.nn.functional.normalize(d, dim=1)
        across = torch.nn.functional.normalize(noise - noise @ torch.linalg.pinv(d) @ d, dim=1)  # of no concept
        c = torch.tensor(np.asarray(cosines), dtype=torch.float32)[:, None]
        found.append(c * (c * unit + (1 - c**2).sqrt() * across) * d.norm(dim=1, keepdim=True))
    return found


def saved(
    path: Path,
    store: Store,
    planted: PlantedModels,
    chosen: Sequence[int] | np.ndarray,
    *,
    cosines: Sequence[float] | np.ndarray = (1.0,) * N,
    seed: int = 0,
    kind: str = "batchtopk",
    shrunk: float = 1.0,
) -> Path:
    """A dictionary of some concepts: each reads its concept alone, and writes its row, perhaps too short."""
    spaces = [replace(space, mean=None) for space in store.spaces]
    sparsity = Sparsity(kind=kind, k=3)  # pyright: ignore[reportArgumentType]
    design = Design(kind="sae" if len(spaces) == 1 else "crosscoder", n_features=len(chosen), sparsity=sparsity)
    dictionary = Dictionary(spaces, design)
    of = torch.as_tensor(np.asarray(chosen))
    scaled = [s.scale for s in spaces]
    concepts = torch.cat([planted.directions(m) * c for m, c in enumerate(scaled)], dim=1)
    writes = torch.cat([r * c for r, c in zip(rows_at(planted, cosines, seed), scaled, strict=True)], dim=1)[of]
    dictionary.W_enc.data.copy_(torch.linalg.pinv(concepts).T[of] * len(spaces))
    dictionary.W_dec.data.copy_(writes * shrunk)
    threshold = 0.6
    if kind in ("relu+l1", "gated"):  # none of their own: the bias keeps what is weak out, and shrinks
        dictionary.b_enc.data.fill_(-threshold)
    else:
        dictionary.threshold.fill_(threshold)
    if kind == "gated":
        dictionary.own_weights["magnitude_bias"].data.fill_(0.0)
    with artifact.create(
        path, stage="dictionary", settings={"heldout": 0.5, "seed": 0}, parents=(store.path,)
    ) as draft:
        dictionary.write(draft.folder)
    return path


class Ground:
    """A store, and dictionaries of its concepts by name."""

    def __init__(self, folder: Path, settings: PlantedSettings, n_rows: int = 8_000) -> None:
        self.planted = PlantedModels(settings)
        self.store = planted_store(folder / "store", settings, n_rows)
        self.folder = folder

    def add(self, name: str, chosen: Sequence[int] | np.ndarray, **how: object) -> Path:
        path = self.folder / name
        return path if path.exists() else saved(path, self.store, self.planted, chosen, **how)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ground]:
    given = {"easy": EASY, "hard": HARD, "pair": PAIR}
    return {name: Ground(tmp_path_factory.mktemp(name), settings) for name, settings in given.items()}


def accuracy(found: Stitching, cosines: np.ndarray) -> tuple[float, int]:
    """Of the decided features (feature i of the large dictionary is concept i), those labelled as the truth is."""
    label = found.latents["label"]
    decided = np.isin(label, LABELS[:2])
    right = (label == "novel") == (cosines < BORDER)
    return float(right[decided].mean()), int(decided.sum())


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [("easy", "topk", 0.95), ("easy", "gated", 0.95), ("hard", "batchtopk", 0.94), ("pair", "jumprelu", 0.95)],
)
def test_labels_are_the_planted_truth(name: str, kind: str, least: float, grounds: dict[str, Ground]) -> None:
    ground = grounds[name]
    how = {"kind": kind}
    small = ground.add(f"{kind}-small", range(N), cosines=COSINES, seed=7, **how)
    large = ground.add(f"{kind}-large", range(N), cosines=[0.99] * N, seed=9, **how)
    settings = StitchSettings(path_rows=500, draws=200, refit=RefitSettings(fit_rows=3000))
    found = stitch(ground.folder / f"{kind}-labels", small, large, ground.store, settings)
    right, decided = accuracy(found, COSINES)
    assert decided >= 0.6 * N
    assert right >= least
    assert np.corrcoef(found.latents["beta"], 1 - COSINES**2)[0, 1] > 0.95, "beta is about 1 - c^2"
    auc = dict(zip(found.proxies.coordinates["proxy"], found.proxies["roc_auc"], strict=True))
    assert auc["decoder_cosine"] > 0.95
    assert auc["beta_elsewhere"] > 0.95


def test_shrunk_values_are_scaled_again_before_anything_is_called_novel(
    grounds: dict[str, Ground], monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = grounds["easy"]
    small = ground.add("l1-small", range(N), cosines=COSINES, seed=7, kind="relu+l1", shrunk=0.5)
    large = ground.add("l1-large", range(N), cosines=[0.99] * N, seed=9, kind="relu+l1", shrunk=0.5)
    settings = StitchSettings(path_rows=500, refit=RefitSettings(fit_rows=3000))
    found = stitch(ground.folder / "l1", small, large, ground.store, settings)
    right, decided = accuracy(found, COSINES)
    assert decided >= 0.6 * N
    assert right >= 0.94
    assert any("scaled again" in line for line in found.summary.statements)
    plain = replace(Dictionary.load(small).sparsity.activation, shrinks=False)
    monkeypatch.setitem(__import__("suture.dictionary.activation").dictionary.activation.ACTIVATIONS, "relu+l1", plain)
    without = stitch(ground.folder / "l1-plain", small, large, ground.store, settings)
    assert accuracy(without, COSINES)[0] < 0.85, "which is why"


@pytest.fixture(scope="module")
def stitched(grounds: dict[str, Ground]) -> Stitching:
    """A small dictionary of half the concepts of two models, a large one of nearly all, and another of the rest."""
    ground = grounds["pair"]
    small = ground.add("half", range(0, N, 2))
    large = ground.add("most", range(N - 4), seed=1)
    more = ground.add("last", range(N - 6, N), seed=2)
    return stitch(ground.folder / "stitched", small, large, ground.store, SETTINGS, more=[more])


def test_what_lacks_is_put_in_once_all_spaces_together(stitched: Stitching, grounds: dict[str, Ground]) -> None:
    origins = stitched.origins
    taken = {(int(p), int(f)) for p, f in zip(origins["part"], origins["feature"], strict=True)}
    wanted = {(1, i) for i in range(1, N - 4, 2)} | {(2, i) for i in (3, 5)}
    assert {(0, i) for i in range(N // 2)} <= taken
    assert len(taken & wanted) >= 0.9 * len(wanted)
    assert len({t for t in taken if t[0]} - wanted) <= 1
    assert sum(stitched.summary.inserted) == len(origins) == stitched.dictionary.n_features
    d, planted = stitched.dictionary, grounds["pair"].planted
    for i in range(N // 2, d.n_features):
        if int(origins["part"][i]) == 1:
            for m in range(2):
                row, truth = d.decoder(m)[i], planted.directions(m)[int(origins["feature"][i])]
                assert float(torch.cosine_similarity(row, truth, dim=0)) > 0.9


def test_the_result_is_a_dictionary_like_any_other(
    stitched: Stitching, grounds: dict[str, Ground], tmp_path: Path
) -> None:
    ground = grounds["pair"]
    assert stitched.path is not None
    _, heldout = split_rows(ground.store, heldout=0.5, seed=0)
    found = evaluate(stitched.dictionary, ground.store, heldout, alone=False)
    fits = {fit.name: fit for fit in stitched.summary.fits}
    small, large = (fits[name] for name in stitched.summary.parts[:2])
    assert found.l0 == pytest.approx(stitched.summary.l0, abs=0.1)
    assert stitched.summary.l0 == pytest.approx(large.l0, abs=0.1), "at the large one's L0"
    assert all(a < 0.5 * b for a, b in zip(fits["stitched"].fvu, small.fvu, strict=True))
    trained = TrainResult.load(stitched.path)
    assert trained.evaluation is not None
    assert trained.evaluation.fvu == pytest.approx(found.fvu)
    table = features(tmp_path / "features", stitched.path, ground.store)
    assert table.labels.count("shared") > 0.8 * len(table.labels)
    matching = match(tmp_path / "matching", stitched.path, stitched.summary.parts[1], ground.store)
    assert matching.summary.a.same > 0.8
    assert not any("is not known" in line for line in matching.summary.statements), "both know their documents"


def test_a_stitching_is_what_was_saved(stitched: Stitching, grounds: dict[str, Ground]) -> None:
    assert stitched.path is not None
    again = Stitching.load(stitched.path)
    assert again.summary == stitched.summary
    for name in ("latents", "proxies", "steps", "moves", "origins"):
        one, two = getattr(again, name), getattr(stitched, name)
        assert one.columns == two.columns
        for column in one.values:
            np.testing.assert_array_equal(one[column], two[column])
    assert "novel" in repr(again)
    with pytest.raises(ArtifactError, match="was not stitched"):
        Stitching.load(grounds["pair"].folder / "half")


def test_the_path_can_be_entered_anywhere(stitched: Stitching, grounds: dict[str, Ground]) -> None:
    ground, steps = grounds["pair"], stitched.steps
    assert stitched.summary.end_gap < 1e-6
    assert sum(n for _, n in stitched.summary.violations.values()) == len(steps) - 1
    first, middle, last = (path_dictionary(stitched, i, ground.store) for i in (0, 8, len(steps) - 1))
    assert (first.n_features, last.n_features) == (N // 2, N - 4)
    assert middle.n_features == steps["n_features"][8]
    fits = {fit.name: fit for fit in stitched.summary.fits}
    for end, step, part in ((first, 0, 0), (last, -1, 1)):
        known = fits[stitched.summary.parts[part]]
        np.testing.assert_allclose(steps["fvu"][step], known.fvu, rtol=1e-4)
        assert end.sparsity.kind == "batchtopk"
    with pytest.raises(UserError, match="step = 999"):
        path_dictionary(stitched, 999, ground.store)


def test_size_and_novel_decide_what_is_taken(grounds: dict[str, Ground]) -> None:
    ground = grounds["pair"]
    small, large = ground.add("half", range(0, N, 2)), ground.add("most", range(N - 4), seed=1)
    few = stitch(ground.folder / "few", small, large, ground.store, replace(SETTINGS, size=25))
    assert few.dictionary.n_features == 25
    novel = stitch(ground.folder / "novel", small, large, ground.store, replace(SETTINGS, insert="novel"))
    taken = set(novel.origins["feature"][N // 2 :].astype(int).tolist())
    assert len(taken & set(range(1, N - 4, 2))) >= 15


def test_pooled_dictionaries_are_stitched_item_by_item(unequal_store: Store, tmp_path: Path) -> None:
    small, large = (made(unequal_store, "batchtopk", "pooled", n=n, seed=n) for n in (8, 14))
    large.W_dec *= 0.2
    large.save(tmp_path / "elsewhere")
    large.center.copy_(small.center)
    small.save(tmp_path / "small")
    large.save(tmp_path / "large")
    with pytest.raises(UserError, match="centred elsewhere"):
        stitch(tmp_path / "no", tmp_path / "small", tmp_path / "elsewhere", unequal_store, SETTINGS)
    found = stitch(tmp_path / "out", tmp_path / "small", tmp_path / "large", unequal_store, SETTINGS)
    assert found.summary.end_gap < 1e-6
    assert len(found.summary.statements) == 2, "whether they were trained on these rows is not known"
    fits = {fit.name: fit for fit in found.summary.fits}
    assert sum(fits["stitched"].fvu) < sum(fits[str(tmp_path / "small")].fvu)
    assert len(fits["stitched"].fvu) == 2


def test_kinds_are_mixed_where_one_can_hold_them_all(grounds: dict[str, Ground]) -> None:
    ground = grounds["easy"]
    small = ground.add("mixed-small", range(0, N, 2), kind="topk")
    large = ground.add("mixed-large", range(N), kind="jumprelu", seed=1)
    more = ground.add("mixed-more", range(N), kind="gated", seed=2)
    two = stitch(ground.folder / "mixed-two", small, large, ground.store, SETTINGS)
    assert two.dictionary.sparsity.kind == "jumprelu"
    three = stitch(ground.folder / "mixed-three", small, large, ground.store, SETTINGS, more=[more])
    assert three.dictionary.sparsity.kind == "gated"
    assert any("all written as gated" in line for line in three.summary.statements)
    for found in (two, three):
        fits = found.summary.fits
        assert fits[-1].fvu[0] < 0.5 * fits[1].fvu[0]


def test_what_cannot_be_stitched_is_said_in_one_line_and_nothing_is_left(
    grounds: dict[str, Ground], capsys: pytest.CaptureFixture[str]
) -> None:
    ground, other = grounds["pair"], grounds["easy"]
    small, large = ground.add("half", range(0, N, 2)), ground.add("most", range(N - 4), seed=1)
    alien = other.add("alien", range(N))
    unsplit = ground.add("unsplit", range(N - 1), seed=3)
    described = json.loads((unsplit / "manifest.json").read_text())
    described["settings"]["seed"] = 1
    (unsplit / "manifest.json").write_text(json.dumps(described))

    def said(one: Path, two: Path, store: Path, *more: str) -> str:
        words = ["stitch", str(one), str(two), "--store", str(store), "--out", str(ground.folder / "refused"), *more]
        assert run(words) == 2
        told = capsys.readouterr()
        assert told.out == ""
        lines = [line for line in told.err.splitlines() if " = " in line]
        assert len(lines) == 1
        return lines[0]

    store = ground.store.path
    assert "large = " in (line := said(large, small, store))
    assert "has 20 features, fewer than the 36 of the small one" in line
    assert "exchange the two" in line
    assert "is the small dictionary itself" in said(small, small, store)
    line = said(small, alien, store)
    assert "is over planted-A @ planted (64 wide), the small one over planted-A @ planted (64 wide), planted-B" in line
    assert "has no space" in (line := said(small, large, other.store.path)) or "at width" in line
    assert "data seed 1" in said(small, unsplit, store)
    assert "more = " in said(small, large, store, "--more", str(alien))
    assert "exceeds the 20 features" in said(small, large, store, "--l0", "21")
    assert "link-above = 0" in said(small, large, store, "--link-above", "0")
    assert "is what is read" in said(small, large, store, "--out", str(small), "--overwrite")
    begun, given = other.add("half", range(0, N, 2)), Dictionary.load(alien)
    moved = Dictionary([replace(given.spaces[0], hookpoint="resid9.post")], given.design)
    moved.load_state_dict(given.state_dict())
    elsewhere = other.folder / "elsewhere"
    with artifact.create(elsewhere, stage="dictionary", settings={"heldout": 0.5, "seed": 0}) as draft:
        moved.write(draft.folder)
    line = said(begun, elsewhere, other.store.path)
    assert "is over planted-A @ resid9.post (64 wide), the small one over planted-A @ planted (64 wide)" in line
    few = planted_store(ground.folder / "few-rows", PAIR, 100)
    assert "has 2 documents that no dictionary was trained on" in said(small, large, few.path)
    assert not list(ground.folder.glob("refused*"))


def test_the_command_line_says_what_came_out(grounds: dict[str, Ground], capsys: pytest.CaptureFixture[str]) -> None:
    ground = grounds["pair"]
    small, large = ground.add("half", range(0, N, 2)), ground.add("most", range(N - 4), seed=1)
    out, store = ground.folder / "by-command", str(ground.store.path)
    words = ["stitch", str(small), str(large), "--store", store, "--out", str(out), "--l0", "2", "--fit-rows", "3000"]
    assert run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["labels"]["novel"] >= 10
    compared = [fit["l0"] for fit in told["fits"] if fit["name"].endswith("as compared")]
    assert [*compared, told["fits"][-1]["l0"]] == pytest.approx([2.0, 2.0, 2.0], abs=0.1), "one L0 for all"
    assert set(told["proxies"]) >= {"activation_correlation", "decoder_cosine"}
    assert artifact.open_artifact(out).settings["stitch"]["refit"]["fit_rows"] == 3000
    assert run([*words, "--overwrite"]) == 0
    text = capsys.readouterr().out
    assert "novel" in text
    assert "that raised the error" in text
    assert "next-token loss" not in text, "no models were run"
    found = Stitching.load(out)
    loss = found.steps["loss"].copy()
    loss[[0, 2, len(loss) - 1], 0] = 3.5, 4.25, 3.25
    with_losses = replace(found, steps=replace(found.steps, values={**found.steps.values, "loss": loss}))
    said = "next-token loss spliced in 3.500 at the start of the path, 3.250 at its end, 4.250 at most (step 2 of"
    assert said in _text(with_losses, out)
    assert run(["refit", str(out), "--store", store, "--out", str(out) + "-2", "--l0", "1.5"]) == 0
    assert "L0 1.5" in capsys.readouterr().out
    assert Dictionary.load(str(out) + "-2").n_features == Dictionary.load(out).n_features


def test_the_report_draws_the_path_and_what_adding_each_feature_does(stitched: Stitching, tmp_path: Path) -> None:
    assert stitched.path is not None
    page = report(tmp_path / "r.html", [stitched.path]).read_text()
    assert 'id="stitching"' in page
    assert "stitched, before the refit" in page
    path = path_figure(stitched)
    drawn = {x: y for trace in path["data"] for x, y in zip(trace["x"], trace["y"], strict=True)}
    fvu = stitched.steps["fvu"].mean(1)
    assert sorted(drawn) == list(range(len(fvu)))
    assert all(y == pytest.approx(fvu[x], rel=1e-3) for x, y in drawn.items())
    scatter = delta_figure(stitched)
    assert scatter is not None
    *labelled, boundary = scatter["data"]
    assert set(boundary["x"]) == {0.5**0.5}
    every = [y for trace in labelled for y in trace["y"]]
    assert boundary["y"] == [min(every), max(every)]
    auc, low, high = (stitched.proxies[name][1] for name in ("roc_auc", "roc_low", "roc_high"))
    assert f"ROC-AUC {auc:.3f} (95 % interval {low:.3f} to {high:.3f})" in page
    for trace in labelled:
        for feature, change in zip(trace["text"], trace["y"], strict=True):
            assert stitched.latents["label"][int(feature)] == trace["name"]
            assert change == pytest.approx(stitched.latents["delta"][int(feature)], rel=1e-3)
            assert trace["name"] != "novel" or change < 0
