"""The list of designs: each can be trained, all have as many free weights, and what does not apply says why."""

from typing import Any

import pytest
import torch

from suture.activations.space import Space
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.studies.designs import Recipe, chosen_designs, designs_for, n_weights

RECIPE = Recipe(n_features=400, k=8)
WIDTHS = [(64, 64), (64, 48), (32, 32, 32), (64, 48, 32)]


def counted(options: dict[str, Any], widths: tuple[int, ...], dictionaries: list[Dictionary]) -> float:
    """Free weights, from the matrices that training would make."""
    total = 0.0
    for dictionary in dictionaries:
        owned = dictionary.owned_columns
        free = torch.ones_like(dictionary.W_dec) if owned is None else owned.float()
        decoder = free.clone()
        n_tied = round(dictionary.design.tied * dictionary.n_features)
        if n_tied:
            decoder[-n_tied:, widths[0] :] = 0  # one model's rows are every model's
        flags = dictionary.W_enc.shape[1] - dictionary.width
        total += float(free.sum() + decoder.sum()) + flags * dictionary.n_features
    return total


@pytest.mark.parametrize("widths", WIDTHS)
def test_all_designs_have_as_many_free_weights(widths: tuple[int, ...]) -> None:
    wanted = 2 * RECIPE.n_features * sum(widths)
    spaces = [Space(model=f"m{i}", hookpoint="x", width=w) for i, w in enumerate(widths)]
    for design in designs_for(len(widths)):
        if design.skipped(widths):
            continue
        options = design.options(RECIPE, widths, 0)
        settings = design.settings(RECIPE, widths, 0)
        each = [[s] for s in spaces] if settings.design.kind == "sae" else [spaces]
        found = counted(options, widths, [Dictionary(part, settings.design) for part in each])
        assert found == pytest.approx(wanted, rel=0.01), design.name
        assert n_weights(options, widths) == pytest.approx(found, rel=0.002), design.name


def test_every_design_is_given_the_same_rows_and_schedule() -> None:
    settings = [d.settings(RECIPE, (64, 64), 3) for d in designs_for(2) if d.skipped((64, 64)) is None]
    shared = {(s.n_rows, s.batch_size, s.learning_rate, s.k_start, s.k_anneal, s.heldout, s.seed) for s in settings}
    assert shared == {(400_000, 1024, 1e-2, 4.0, 0.7, 0.2, 3)}


def test_a_code_has_k_features_but_where_the_name_says_otherwise() -> None:
    widths = (32, 32, 32)
    applying = [d for d in designs_for(3) if d.skipped(widths) is None]
    k = {d.name: d.settings(RECIPE, widths, 0).design.sparsity.k for d in applying}
    others = {"separate-split": 3, "separate-3k": 24, "crosscoder-3k": 24}
    assert k == {name: others.get(name, 8) for name in k}


def test_what_does_not_apply_says_why() -> None:
    padded, tied = (next(d for d in designs_for(2) if d.name == name) for name in ("pooled-padded", "tied"))
    assert padded.skipped((64, 48)) is None
    assert padded.skipped((64, 64)) == (
        "pooled-padded needs models of different widths: nothing is padded where all are 64 wide"
    )
    assert tied.skipped((64, 64)) is None
    assert tied.skipped((64, 48)) == "tied needs models of one width, these have 64 and 48"
    for design in designs_for(3):
        assert design.says
        assert design.says[0].islower()


def test_designs_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert [d.name for d in chosen_designs(2, ["universal", "pooled"])] == ["pooled", "universal"]
    assert len(chosen_designs(2, [])) == len({d.name for d in designs_for(2)}) == 16
    with pytest.raises(UserError, match="only = transcoder: is no design; choose from separate, separate-split"):
        chosen_designs(2, ["transcoder"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_features": 0}, "features = 0: is less than 1"),
        ({"n_rows": 0}, "rows = 0: is less than 1"),
        ({"k": 0}, "k = 0: is less than 1"),
        ({"heldout": 0.0}, "heldout = 0.0: leaves no rows"),
        ({"model_dropout": 0.0}, "model-dropout = 0.0: is not between 0 and 1"),
        ({"tied": 1.5}, "tied = 1.5: is not between 0 and 1"),
        ({"dedicated": 0.5}, "dedicated = 0.5: is not between 0 and 0.5"),
    ],
)
def test_a_recipe_without_meaning_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**change)


def test_more_active_features_than_there_are_is_refused_by_the_design_that_cannot() -> None:
    design = next(d for d in designs_for(2) if d.name == "crosscoder-2k")
    with pytest.raises(UserError, match="k = 16: exceeds the 12 features"):
        design.settings(Recipe(n_features=12, k=8), (8, 8), 0)
