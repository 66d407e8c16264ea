"""Laws of the dictionary: saving and folding change nothing, a code comes from the models that are there."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from forged import forge
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity, SparsityKind
from suture.dictionary.design import Design, DesignKind
from suture.dictionary.dictionary import Codes, Dictionary
from suture.errors import ArtifactError, UserError
from suture.training.start import pooled_mean

F = 40


def a_dictionary(
    kind: DesignKind = "crosscoder", sparsity: SparsityKind = "topk", *, flag: bool = False,
    widths: tuple[int, ...] = (6, 4), scales: tuple[float, ...] = (2.0, 0.5),
) -> Dictionary:  # fmt: skip
    spaces = [
        Space(model=f"m{i}", hookpoint="mlp0.out", width=w, scale=s)
        for i, (w, s) in enumerate(zip(widths, scales, strict=False))
    ]
    spaces = spaces[:1] if kind == "sae" else spaces
    design = Design(kind=kind, n_features=F, flag=flag, sparsity=Sparsity(kind=sparsity, k=5))
    dictionary = Dictionary(spaces, design, flag_scale=1.5 if flag else 0.0)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*dictionary.parameters(), dictionary.center):
            tensor.copy_(torch.randn(tensor.shape, generator=draw))
        dictionary.threshold.fill_(0.4)
    return dictionary


DESIGNS: list[tuple[DesignKind, bool]] = [
    ("sae", False), ("crosscoder", False), ("universal", False), ("pooled", False), ("pooled", True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "flag"), DESIGNS)
@pytest.mark.parametrize("sparsity", get_args(SparsityKind))
def test_save_and_load_is_identity(kind: DesignKind, flag: bool, sparsity: SparsityKind, tmp_path: Path) -> None:
    dictionary = a_dictionary(kind, sparsity, flag=flag)
    dictionary.save(tmp_path / "d")
    loaded = Dictionary.load(tmp_path / "d")
    assert loaded.spaces == dictionary.spaces
    assert loaded.design == dictionary.design
    assert loaded.flag_scale == dictionary.flag_scale
    for name, tensor in dictionary.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["sae", "crosscoder", "universal", "pooled"])
@pytest.mark.parametrize("sparsity", ["topk", "jumprelu", "gated"])
def test_fold_leaves_codes_and_outputs_unchanged(kind: DesignKind, sparsity: SparsityKind) -> None:
    dictionary = a_dictionary(kind, sparsity, scales=(2.0, 2.0) if kind == "pooled" else (2.0, 0.5))
    folded = dictionary.fold()
    assert all(s.scale == 1.0 for s in folded.spaces)
    raw = [torch.randn(30, s.width) for s in dictionary.spaces]
    present = [raw[0], *[None] * (len(raw) - 1)] if kind == "pooled" else raw
    before, after = dictionary.encode_raw(present), folded.encode_raw(present)
    torch.testing.assert_close(after.dense(), before.dense())
    for a, b in zip(dictionary.decode_raw(before), folded.decode_raw(after), strict=True):
        torch.testing.assert_close(a, b)


def test_a_pooled_dictionary_over_two_scales_cannot_be_folded() -> None:
    with pytest.raises(UserError, match="one decoder for several scales"):
        a_dictionary("pooled").fold()


def test_encode_is_the_formula() -> None:
    dictionary = a_dictionary()
    x = torch.randn(25, 10)
    pre = ((x - dictionary.center) / 2) @ dictionary.W_enc.T + dictionary.b_enc
    top = pre.relu() * torch.zeros_like(pre).scatter(1, pre.topk(5).indices, 1.0)
    codes = dictionary.encode(x)
    torch.testing.assert_close(codes.dense(), top)
    torch.testing.assert_close(dictionary.decode(codes), top @ dictionary.W_dec + dictionary.b_dec)
    assert float(codes.value.min()) > 0


def test_a_missing_model_is_not_read_and_the_rest_is_averaged_not_summed() -> None:
    dictionary = a_dictionary()
    x = torch.randn(25, 10)
    other = torch.cat([x[:, :6], torch.full((25, 4), float("nan"))], 1)
    only_first = dictionary.encode(other, available=torch.tensor([True, False]))
    pre = (x[:, :6] - dictionary.center[:6]) @ dictionary.W_enc[:, :6].T + dictionary.b_enc
    expected = pre.relu() * torch.zeros_like(pre).scatter(1, pre.topk(5).indices, 1.0)
    torch.testing.assert_close(only_first.dense(), expected)
    torch.testing.assert_close(dictionary.encode_alone(x, 0).dense(), expected)
    raw = [x[:, :6] / 2.0, None]
    torch.testing.assert_close(dictionary.encode_raw(raw).dense(), expected)


def test_rows_may_differ_in_which_models_they_have() -> None:
    dictionary = a_dictionary()
    x = torch.randn(6, 10)
    available = torch.tensor([[True, True], [True, False], [False, True]] * 2)
    codes = dictionary.encode(x, available=available).dense()
    for row in range(6):
        torch.testing.assert_close(
            codes[row : row + 1], dictionary.encode(x[row : row + 1], available=available[row]).dense()
        )
    with pytest.raises(UserError, match="a row needs one model at least"):
        dictionary.encode(x, available=torch.zeros(6, 2, dtype=torch.bool))


def test_a_flag_tells_the_models_apart_and_is_asked_for() -> None:
    dictionary = a_dictionary("pooled", flag=True)
    x = torch.randn(8, 6)
    x[:, 4:] = 0
    as_first = dictionary.encode(x, model=torch.zeros(8, dtype=torch.int64)).dense()
    as_second = dictionary.encode(x, model=torch.ones(8, dtype=torch.int64)).dense()
    assert not torch.equal(as_first, as_second)
    with pytest.raises(UserError, match="is needed by a pooled dictionary with a flag"):
        dictionary.encode(x)


def test_a_narrow_pooled_row_is_read_in_its_own_columns_only() -> None:
    dictionary = a_dictionary("pooled")
    x = torch.randn(8, 6)
    second = torch.ones(8, dtype=torch.int64)
    padded = torch.cat([x[:, :4], torch.zeros(8, 2)], 1)
    assert torch.equal(dictionary.encode(x, model=second).dense(), dictionary.encode(padded, model=second).dense())


def test_where_padding_is_data_it_is_read_like_any_other_column() -> None:
    spaces = [Space(model=f"m{w}", hookpoint="x", width=w) for w in (6, 4)]
    dictionary = Dictionary(spaces, Design(kind="pooled", n_features=9, pad="zeros", sparsity=Sparsity(k=5)))
    with torch.no_grad():
        dictionary.center.fill_(0.5)
    x = torch.cat([torch.randn(8, 4), torch.zeros(8, 2)], 1)
    seen = dictionary.encoder_input(x, model=torch.ones(8, dtype=torch.int64))
    assert torch.equal(seen, x - 0.5)
    assert torch.equal(pooled_mean(torch.arange(10.0), (6, 4), padded=True)[4:], torch.tensor([2.0, 2.5]))
    assert torch.equal(pooled_mean(torch.arange(10.0), (6, 4))[4:], torch.tensor([4.0, 5.0]))


def test_decoder_slices_and_raw_units() -> None:
    dictionary = a_dictionary()
    assert torch.equal(dictionary.decoder(0), dictionary.W_dec[:, :6])
    assert torch.equal(dictionary.decoder(1), dictionary.W_dec[:, 6:])
    torch.testing.assert_close(dictionary.raw_decoder(1), dictionary.W_dec[:, 6:] / 0.5)
    norms = torch.stack([dictionary.W_dec[:, :6].norm(dim=1), dictionary.W_dec[:, 6:].norm(dim=1)], 1)
    torch.testing.assert_close(dictionary.decoder_norms(), norms)


def test_codes_from_dense_and_back() -> None:
    dense = torch.randn(7, 9).relu()
    assert torch.equal(Codes.from_dense(dense).dense(), dense)


def test_a_damaged_dictionary_is_refused_in_one_line(tmp_path: Path) -> None:
    a_dictionary().save(tmp_path / "d")
    description = tmp_path / "d" / "dictionary.json"
    forge(tmp_path / "d", "dictionary.json", description.read_bytes().replace(b'"n_features": 40', b'"n_features": 41'))
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        Dictionary.load(tmp_path / "d")
    assert "\n" not in str(caught.value)
    weights = tmp_path / "d" / "dictionary.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])  # one flipped bit
    with pytest.raises(ArtifactError, match=r"file dictionary.safetensors is damaged"):
        Dictionary.load(tmp_path / "d")
    weights.write_bytes(whole[:-10])
    with pytest.raises(ArtifactError, match="truncated or changed"):
        Dictionary.load(tmp_path / "d")


def test_a_dictionary_says_what_it_is_and_where_it_lies(tmp_path: Path) -> None:
    dictionary = a_dictionary("crosscoder", "topk")
    k, n = dictionary.sparsity.k, dictionary.n_features
    places = ", ".join(f"{space.label} ({space.width})" for space in dictionary.spaces)
    what = f"Dictionary: crosscoder of {n} features over {places}; topk with k = {k}"
    assert repr(dictionary) == f"{what}\n  not saved"
    dictionary.save(tmp_path / "d")
    assert repr(Dictionary.load(tmp_path / "d")) == f"{what}\n  {tmp_path / 'd'}"
    (tmp_path / "d" / "evaluation.json").write_text('{"fvu": [0.1754, 0.2]}', encoding="utf-8")
    assert repr(Dictionary.load(tmp_path / "d")).endswith("d; FVU 0.175, 0.200")
