"""Laws of edits: what they add, what they leave alone, and that hooks are gone afterwards."""

import pytest
import torch

from suture.errors import UserError
from suture.interventions import edits
from suture.lm.generate import generate
from suture.lm.hooks import edit as editing
from suture.lm.hooks import logits, record
from suture.lm.tokens import tokenize, with_bos

from .conftest import SENTENCES, known_dictionary


def activation(models, space: int) -> torch.Tensor:
    lm = models[space]
    ids = with_bos(lm, tokenize(lm, SENTENCES[0]).ids)[None, :]
    return record(lm, ids, [f"resid{lm.n_layers - 1}.post"])[0]


def test_steering_adds_the_same_vector_everywhere():
    x, direction = torch.randn(2, 5, 8), torch.randn(8)
    torch.testing.assert_close(edits.steer(direction, 0.3)(x) - x, (0.3 * direction).expand(2, 5, 8))
    assert torch.equal(edits.steer(direction, 0.0)(x), x)


def test_each_sequence_gets_its_own_vector():
    x, vectors = torch.randn(3, 4, 8), torch.randn(3, 8)
    together = edits.steer_each(vectors)(x)
    for i in range(3):
        torch.testing.assert_close(together[i], edits.steer(vectors[i], 1.0)(x[i]))


@pytest.mark.parametrize("kind", ["crosscoder", "pooled", "universal"])
@pytest.mark.parametrize("space", [0, 1])
def test_ablating_subtracts_the_features_contribution_and_nothing_else(models, kind, space):
    dictionary = known_dictionary(models, kind)
    x = activation(models, space)
    rows = x.reshape(-1, x.shape[-1])
    alone = [None, None]
    alone[space] = rows
    codes = dictionary.encode_raw(alone).dense()
    features = codes.mean(0).topk(3).indices.tolist()
    assert codes[:, features].sum() > 0
    expected = rows - codes[:, features] @ dictionary.decoder(space)[features] / dictionary.spaces[space].scale
    ablated = edits.ablate(dictionary, space, features)(x)
    torch.testing.assert_close(ablated.reshape(rows.shape), expected)


def test_ablating_everything_leaves_the_error_term(models, dictionary):
    x = activation(models, 0)
    rows = x.reshape(-1, x.shape[-1])
    codes = dictionary.encode_raw([rows, None])
    error = rows - dictionary.decode_raw(codes)[0]
    bias = dictionary.b_dec[dictionary.columns(0)] / dictionary.spaces[0].scale
    ablated = edits.ablate(dictionary, 0, range(dictionary.n_features))(x)
    torch.testing.assert_close(ablated.reshape(rows.shape), error + bias, atol=1e-5, rtol=1e-5)


def test_clamping_to_the_features_own_value_is_the_identity(models, dictionary):
    x = activation(models, 1)
    codes = edits.solo_codes(dictionary, 1, x.reshape(-1, x.shape[-1]), torch.arange(dictionary.n_features))
    row, feature = divmod(int(codes.argmax()), dictionary.n_features)
    at = x[:, row : row + 1]
    clamped = edits.clamp(dictionary, 1, feature, float(codes[row, feature]))(at)
    torch.testing.assert_close(clamped, at)
    moved = edits.clamp(dictionary, 1, feature, float(codes[row, feature]) + 2.0)(at)
    torch.testing.assert_close((moved - at)[0, 0], 2.0 * dictionary.raw_decoder(1)[feature], atol=1e-5, rtol=1e-5)


def test_replacing_a_set_is_clamping_each_at_once(models, dictionary):
    x = activation(models, 0)
    together = edits.replace(dictionary, 0, {2: 1.5, 7: 0.0, 4: 3.0})(x)
    apart = sum(edits.clamp(dictionary, 0, f, v)(x) - x for f, v in {2: 1.5, 7: 0.0, 4: 3.0}.items())
    torch.testing.assert_close(together, x + apart, atol=1e-5, rtol=1e-5)


def test_solo_codes_are_those_columns_of_the_dictionarys_codes(models, dictionary):
    rows = activation(models, 0)[0]
    chosen = torch.tensor([5, 0, 11])
    dense = dictionary.encode_raw([rows, None]).dense()
    assert torch.equal(edits.solo_codes(dictionary, 0, rows, chosen), dense[:, chosen])


def test_the_first_position_is_spared_but_not_a_cached_step():
    x, direction = torch.randn(2, 5, 8), torch.ones(8)
    spared = edits.sparing_first(edits.steer(direction, 1.0))
    assert torch.equal(spared(x)[:, 0], x[:, 0])
    torch.testing.assert_close(spared(x)[:, 1:], x[:, 1:] + 1)
    torch.testing.assert_close(spared(x[:, :1]), x[:, :1] + 1)


def test_an_edit_limited_to_positions_changes_only_these():
    x, where = torch.randn(2, 3, 8), torch.tensor([[True, False, True], [False, False, True]])
    limited = edits.at_positions(edits.steer(torch.ones(8), 2.0), where)(x)
    assert torch.equal(limited[~where], x[~where])
    torch.testing.assert_close(limited[where], x[where] + 2)


def test_edits_keep_half_precision():
    dtype = edits.steer(torch.ones(8), 0.5)(torch.zeros(1, 2, 8, dtype=torch.bfloat16)).dtype
    assert dtype == torch.bfloat16


@pytest.mark.parametrize("space", [0, 1])
def test_generating_with_a_cache_equals_generating_without_under_an_edit(models, dictionary, space):
    lm = models[space]
    hookpoint = dictionary.spaces[space].hookpoint
    edit = edits.sparing_first(edits.clamp(dictionary, space, 1, 4.0))
    with editing(lm, hookpoint, edit):
        cached = generate(lm, "Tom saw a", max_new_tokens=12)
        whole = generate(lm, "Tom saw a", max_new_tokens=12, use_cache=False)
    assert cached == whole
    assert cached != generate(lm, "Tom saw a", max_new_tokens=12), "the edit must be felt for this to say anything"


def test_the_model_is_as_before_when_an_edit_fails(models, dictionary):
    lm = models[0]
    ids = with_bos(lm, tokenize(lm, SENTENCES[0]).ids)[None, :]
    before = logits(lm, ids)

    def broken(activation):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), editing(lm, dictionary.spaces[0].hookpoint, broken):
        logits(lm, ids)
    assert torch.equal(logits(lm, ids), before)


@pytest.mark.parametrize(("space", "feature", "named"), [(2, 0, "space"), (0, 24, "feature"), (-1, 0, "space")])
def test_an_unknown_space_or_feature_is_refused(dictionary, space, feature, named):
    with pytest.raises(UserError) as caught:
        edits.ablate(dictionary, space, [feature])
    assert caught.value.setting == named
