"""The causal check: copies answer alike, a feature without a direction moves nothing, shifts are those of a hook."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions.conftest import SENTENCES, known_dictionary
from own_copy import own_copy
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable
from suture.interventions.causal import (
    CausalSettings,
    PairShift,
    causal,
    control_features,
    correlations,
    find_causes,
    of_each_label,
    verdict,
)
from suture.interventions.paired import PairedText
from suture.lm.hooks import edit
from suture.lm.load import LanguageModel
from suture.pipeline import artifact
from suture.uncertainty import Draws

SHORT = CausalSettings(block=24, n_draws=200)


@pytest.fixture
def twins(models: list[LanguageModel]) -> list[LanguageModel]:
    return [models[0], replace(models[0], name="twin")]


@pytest.fixture
def twin_dictionary(twins: list[LanguageModel]) -> Dictionary:
    dictionary = known_dictionary(twins)
    second = dictionary.columns(1)
    dictionary.W_dec[:, second] = dictionary.W_dec[:, dictionary.columns(0)] / 4  # scales 2 and 0.5: equal raw rows
    dictionary.W_dec[5, second] = 0.0
    return dictionary


def test_a_model_and_its_twin_answer_alike(twins: list[LanguageModel], twin_dictionary: Dictionary) -> None:
    shared, exclusive = find_causes(twin_dictionary, twins, SENTENCES, {0: "shared", 5: "A"}, SHORT)
    assert shared.n_positions >= 20
    assert shared.kl[0] == pytest.approx(shared.kl[1])
    assert shared.pairs[0].correlation == pytest.approx(1.0)
    assert shared.pairs[0].control is not None
    assert shared.pairs[0].control < 1.0
    assert shared.verdict == "confirms"
    assert exclusive.kl[0] > 0
    assert exclusive.kl[1] == 0.0
    assert exclusive.ratio is not None
    assert exclusive.ratio[1] == (0.0, 0.0)
    assert exclusive.verdict == "confirms"
    # the same shifts under the wrong labels
    swapped = find_causes(twin_dictionary, twins, SENTENCES, {0: "B", 5: "shared"}, SHORT)
    assert [cause.verdict for cause in swapped] == ["contradicts", "contradicts"]


def test_shifts_are_those_of_a_plain_hook(models: list[LanguageModel], dictionary: Dictionary) -> None:
    """Independently, a sentence at a time: the joint code, the edit written out, KL by torch."""
    feature = 7
    (cause,) = find_causes(dictionary, models, SENTENCES, {feature: "shared"}, CausalSettings(block=60))
    shifts: list[list[float]] = [[], []]
    for sentence in SENTENCES:
        ids = torch.tensor([[models[0].bos, *models[0].tokenizer.encode(sentence, add_special_tokens=False)]])
        raw = []
        for m, lm in enumerate(models):
            seen: list[torch.Tensor] = []
            with edit(lm, dictionary.spaces[m].hookpoint, lambda a, seen=seen: (seen.append(a), a)[1]):
                lm.model(ids)
            raw.append(seen[0][0, 1:])
        value = dictionary.encode_raw(raw).dense()[:, feature]
        for m, lm in enumerate(models):
            taken = torch.zeros(1, len(value) + 1, lm.d_model)
            taken[0, 1:] = value[:, None] * dictionary.raw_decoder(m)[feature]
            clean = lm.model(ids).logits[0].log_softmax(-1)
            with edit(lm, dictionary.spaces[m].hookpoint, lambda a, taken=taken: a - taken):
                after = lm.model(ids).logits[0].log_softmax(-1)
            kl = torch.nn.functional.kl_div(after, clean, log_target=True, reduction="none").sum(-1)
            fires = torch.nonzero(value > 0)[:, 0]
            shifts[m] += kl[fires[fires < len(value) - 1] + 1].tolist()
    assert cause.n_positions == len(shifts[0])
    for m in range(2):
        assert cause.kl[m] == pytest.approx(float(np.mean(shifts[m])), rel=1e-3)
    assert cause.pairs[0].correlation == pytest.approx(float(np.corrcoef(shifts)[0, 1]), abs=1e-3)


def test_weighted_correlations_are_numpys() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 40))
    counts = generator.integers(0, 4, size=(3, 40))
    own = torch.arange(40)
    draws = Draws(torch.from_numpy(counts).double())
    found = correlations(torch.from_numpy(x), torch.from_numpy(y), own, draws)
    for i, count in enumerate(counts):
        assert float(found[i]) == pytest.approx(np.corrcoef(np.repeat(x, count), np.repeat(y, count))[0, 1])
    assert bool(correlations(torch.ones(4), torch.rand(4), torch.arange(4), Draws.whole(4)).isnan().all())


def test_verdicts_follow_the_rule() -> None:
    alike = PairShift(models=(0, 1), correlation=0.9, control=0.2, above=(0.3, 0.8))
    unlike = PairShift(models=(0, 1), correlation=0.3, control=0.2, above=(-0.1, 0.3))
    moving, still, unsure = (0.5, 0.9), (0.0, 0.05), (0.05, 0.3)
    one = (1.0, 1.0)
    assert verdict("shared", [one, moving], [alike]) == "confirms"
    assert verdict("shared", [one, moving], [unlike]) == "undecided"
    assert verdict("shared", [one, still], [alike]) == "contradicts"
    assert verdict("A", [one, still], [unlike]) == "confirms"
    assert verdict("A", [one, moving], [alike]) == "contradicts"
    assert verdict("B", [unsure, one], [alike]) == "undecided"
    assert verdict("AC", [one, still, moving], [alike]) == "confirms"
    assert verdict("A", [one, moving, still], [alike]) == "contradicts"
    assert verdict("ambiguous", [one, moving], [alike]) == "undecided"
    assert verdict("A", None, []) == "undecided"
    assert verdict("A", [one], []) == "undecided"


def _table(labels: list[str]) -> FeatureTable:
    return FeatureTable(
        models=("one", "two"), labels=tuple(labels), reasons=("",) * len(labels), examples=[], logits=[], summary={},
        columns={"n_active": torch.arange(len(labels)).double()},
    )  # fmt: skip


def test_the_step(twins: list[LanguageModel], twin_dictionary: Dictionary, tmp_path: Path) -> None:
    labels = ["shared"] * 5 + ["A"] + ["dead"] * 18
    assert of_each_label(_table(labels), 2) == [5, 4, 3]
    twin_dictionary.save(tmp_path / "dictionary")
    _table(labels).save(tmp_path / "table")
    places = (tmp_path / "dictionary", tmp_path / "table", twins, SENTENCES)
    causes = causal(tmp_path / "out", *places, chosen=[0], each_label=1, settings=SHORT)
    written = artifact.read_json(tmp_path / "out" / "causal.json")
    assert [f["feature"] for f in written["features"]] == [c.feature for c in causes] == [0, 5, 4]
    assert written["verdicts"]["A"] == {"confirms": 1, "contradicts": 0, "undecided": 0}
    with pytest.raises(UserError, match="nothing is chosen"):
        causal(tmp_path / "none", *places)
    with pytest.raises(UserError, match="feature = 99"):
        causal(tmp_path / "none", *places, chosen=[99])
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="feature = -1"):
        find_causes(twin_dictionary, twins, SENTENCES, {-1: "A"})


def test_a_stopped_check_goes_on_after_its_batches(
    twins: list[LanguageModel], twin_dictionary: Dictionary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin_dictionary.save(tmp_path / "dictionary")
    _table(["shared"] * 5 + ["A"] + ["dead"] * 18).save(tmp_path / "table")
    places = (tmp_path / "dictionary", tmp_path / "table", twins, SENTENCES)
    monkeypatch.setattr("suture.interventions.paired.group_by_length", lambda lengths, _: [[i] for i in lengths])
    told: list[tuple[int, int]] = []
    whole = causal(tmp_path / "whole", *places, chosen=[0, 5], settings=SHORT, on_progress=lambda *p: told.append(p))
    total = told[-1][1]
    assert told[-1] == (total, total)
    assert total > 5
    watched: list[int] = []
    real = PairedText.batch
    monkeypatch.setattr(PairedText, "batch", lambda self, number: watched.append(number) or real(self, number))

    def stop(done: int, _: int) -> None:
        if done == total // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        causal(tmp_path / "out", *places, chosen=[0, 5], settings=SHORT, on_progress=stop)
    assert causal(tmp_path / "out", *places, chosen=[0, 5], settings=SHORT, resume=True) == whole
    assert sorted(set(watched)) == list(range(total // 2))
    assert len(watched) <= total // 2 + 1
    with pytest.raises(ArtifactError, match="features"):
        causal(tmp_path / "out", *places, chosen=[0, 4], settings=SHORT, resume=True)


# ---- the controls: each of these fails where a control is left out, or taken elsewhere -------------------------------


def deafened(lm: LanguageModel, part: float) -> LanguageModel:
    """The same model, whose logits move by this part of what they did, and KL by about its square."""
    deaf = own_copy(lm)
    norm = deaf.model.transformer.ln_f
    norm.weight.data.mul_(part)
    norm.bias.data.mul_(part)
    return replace(deaf, name="deaf")


def test_a_model_that_minds_everything_less_is_measured_by_what_it_minds(models: list[LanguageModel]) -> None:
    """The second model is the first, but its predictions move 25 times less whatever is done to it."""
    lms = [models[0], deafened(models[0], 0.2)]
    dictionary = known_dictionary(lms)
    dictionary.spaces = tuple(replace(space, scale=2.0) for space in dictionary.spaces)
    first, second = dictionary.columns(0), dictionary.columns(1)
    dictionary.W_dec[:, first] *= 0.02  # small beside the activations, so that KL grows with the square
    dictionary.W_dec[:, second] = dictionary.W_dec[:, first]
    dictionary.W_dec[6, first] *= 0.4
    alike, more = find_causes(dictionary, lms, SENTENCES, {0: "shared", 6: "B"}, SHORT)
    assert alike.kl[1] < 0.1 * alike.kl[0]
    assert alike.kl_control[1] < 0.1 * alike.kl_control[0]
    assert alike.ratio is not None
    for low, high in alike.ratio:
        assert 0.5 < low <= high < 2
    assert alike.verdict != "contradicts"
    # written more strongly in the deaf model, which is the most moved one although its shift is the smaller
    assert more.kl[1] < more.kl[0]
    assert more.ratio is not None
    assert more.ratio[1] == (1.0, 1.0)
    assert more.ratio[0][1] < 0.5


@pytest.mark.parametrize("feature", [7, 11])
def test_the_control_is_another_direction_as_long_in_the_second_model(
    models: list[LanguageModel], dictionary: Dictionary, feature: int
) -> None:
    """Independently, by plain hooks: which vector is taken out, how long it is, and what it is correlated with."""
    dictionary.W_dec[feature, dictionary.columns(0)] *= 0.2  # longest in the second model
    settings = CausalSettings(block=60, n_draws=200)
    (cause,) = find_causes(dictionary, models, SENTENCES, {feature: "shared"}, settings)
    other = control_features(dictionary, [feature], settings.seed)[feature]
    assert other != feature
    rms = [lm.d_model**0.5 / space.scale for lm, space in zip(models, dictionary.spaces, strict=True)]
    rows = [dictionary.raw_decoder(m)[feature] for m in range(2)]
    longest = max(float(row.norm()) / r for row, r in zip(rows, rms, strict=True))
    shifts: list[list[float]] = [[], []]
    own: list[float] = []
    for sentence in SENTENCES:
        ids = torch.tensor([[models[0].bos, *models[0].tokenizer.encode(sentence, add_special_tokens=False)]])
        raw = []
        for m, lm in enumerate(models):
            seen: list[torch.Tensor] = []
            with edit(lm, dictionary.spaces[m].hookpoint, lambda a, seen=seen: (seen.append(a), a)[1]):
                lm.model(ids)
            raw.append(seen[0][0, 1:])
        value = dictionary.encode_raw(raw).dense()[:, feature]
        fires = torch.nonzero(value > 0)[:, 0]
        fires = fires[fires < len(value) - 1] + 1
        for m, lm in enumerate(models):
            row = dictionary.raw_decoder(m)[other]
            vectors = [row / row.norm() * longest * rms[m], *([rows[0]] if m == 0 else [])]
            for vector, into in zip(vectors, [shifts[m], own], strict=False):
                taken = torch.zeros(1, len(value) + 1, lm.d_model)
                taken[0, 1:] = value[:, None] * vector
                clean = lm.model(ids).logits[0].log_softmax(-1)
                with edit(lm, dictionary.spaces[m].hookpoint, lambda a, taken=taken: a - taken):
                    after = lm.model(ids).logits[0].log_softmax(-1)
                kl = torch.nn.functional.kl_div(after, clean, log_target=True, reduction="none").sum(-1)
                into += kl[fires].tolist()
    for m in range(2):
        assert cause.kl_control[m] == pytest.approx(float(np.mean(shifts[m])), rel=1e-3)
    assert cause.pairs[0].control == pytest.approx(float(np.corrcoef(own, shifts[1])[0, 1]), abs=1e-3)
    assert cause.pairs[0].control != pytest.approx(float(np.corrcoef(own, shifts[0])[0, 1]), abs=1e-2)


def test_what_counts_is_the_correlation_above_the_controls(models: list[LanguageModel], dictionary: Dictionary) -> None:
    """Codes are strong and weak at the same positions, so that shifts under another direction correlate as well."""
    for cause in find_causes(dictionary, models, SENTENCES, {0: "shared", 1: "shared"}, SHORT):
        (pair,) = cause.pairs
        assert pair.correlation is not None
        assert pair.control is not None
        assert pair.control > 0.25
        assert pair.above is not None
        assert pair.above[0] < pair.correlation - pair.control < pair.above[1] < pair.correlation


def test_a_control_is_another_feature_that_writes_in_every_model(dictionary: Dictionary) -> None:
    dictionary.W_dec[4:20, dictionary.columns(1)] = 0.0
    others = control_features(dictionary, range(24), seed=0)
    assert all(other != feature for feature, other in others.items())
    assert not set(others.values()) & set(range(4, 20))
    assert len(set(others.values())) > 3
