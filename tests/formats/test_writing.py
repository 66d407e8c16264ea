"""Exported dictionaries: what is read back has the codes that were written; what a format cannot hold is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from planted_fixtures import _seed, store, unequal_store
from random_dictionaries import made
from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.formats.exporting import export_dictionary
from suture.formats.importing import import_dictionary
from suture.formats.settings import ExportSettings, ImportSettings, WrittenFormat
from suture.pipeline.artifact import verify

__all__ = ["_seed", "store", "unequal_store"]
KINDS = ("topk", "batchtopk", "relu+l1", "jumprelu", "gated")
WRITTEN = {
    "saelens": ("topk", "jumprelu", "standard", "jumprelu", "gated"),
    "sparsify": ("topk", None, None, None, None),
    "dictionary-learning": (
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "AutoEncoder",
        "JumpReluAutoEncoder",
        "GatedAutoEncoder",
    ),
}
"""Format -> what a dictionary of each kind becomes; None is refused."""


def dictionary(store: Store, kind: str, design: str = "sae", *, scales: tuple[float, ...] = (0.3, 1.7)) -> Dictionary:
    """Random, with a centre that is not b_dec, a scale that is not 1, and one threshold for all where k gave it."""
    one = made(store, kind, design)
    if kind == "gated":
        one.threshold.fill_(0.2)  # as a refit to an L0 leaves it
    if kind == "batchtopk":
        one.threshold.fill_(0.4)
    if design != "pooled":  # which cannot take different scales
        one = one.with_scales(scales[: one.n_spaces]).requires_grad_(requires_grad=False)
    one.spaces = tuple(replace(s, hookpoint=f"resid{m}.post") for m, s in enumerate(one.spaces))
    return one


def raw_rows(one: Dictionary, n: int = 200) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(n, s.width, generator=draw) / s.scale + 0.5 for s in one.spaces]


def assert_same(one: Dictionary, other: Dictionary) -> None:
    x = raw_rows(one)
    codes, others = one.encode_raw(x), other.encode_raw(x)
    assert codes.value.numel() > 100
    torch.testing.assert_close(others.dense(), codes.dense(), rtol=1e-5, atol=1e-5)
    for a, b in zip(one.decode_raw(codes), other.decode_raw(others), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", WRITTEN)
def test_what_is_read_back_has_the_same_codes(format: WrittenFormat, kind: str, store: Store, tmp_path: Path) -> None:
    one = dictionary(store, kind)
    becomes = WRITTEN[format][KINDS.index(kind)]
    if becomes is None:
        with pytest.raises(UserError, match=r"format = sparsify: holds topk dictionaries alone"):
            export_dictionary(tmp_path / "out", one, ExportSettings(format=format))
        assert not (tmp_path / "out").exists()
        return
    exported = export_dictionary(tmp_path / "out", one, ExportSettings(format=format))
    assert exported.architecture == becomes
    assert sorted(exported.files) == sorted(
        f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*") if f.is_file()
    )
    (tmp_path / "usual").touch()
    modes = {file.stat().st_mode for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "usual").stat().st_mode}, "one may read what another may"
    back = import_dictionary(tmp_path / "back", tmp_path / "out", ImportSettings(format=format))
    assert [s.label for s in back.spaces] == [s.label for s in one.spaces]
    assert_same(one, back)
    verify(tmp_path / "back")


@pytest.mark.parametrize("kind", ["batchtopk", "relu+l1"])
@pytest.mark.parametrize("score", ["value", "norm"])
def test_crosscoders_keep_their_very_weights_scales_and_codes(
    kind: str, score: str, store: Store, tmp_path: Path
) -> None:
    one = dictionary(store, kind, "crosscoder")
    if kind == "batchtopk" and score == "norm":
        one.threshold.copy_(0.4 / one.decoder_norms().sum(-1))
    exported = export_dictionary(tmp_path / "out", one, ExportSettings(format="dictionary-learning"))
    assert exported.architecture == ("BatchTopKCrossCoder" if kind == "batchtopk" else "CrossCoder")
    back = import_dictionary(tmp_path / "back", exported.path)
    assert [s.label for s in back.spaces] == [s.label for s in one.spaces]
    assert [s.scale for s in back.spaces] == pytest.approx([s.scale for s in one.spaces])
    for name in ("W_enc", "W_dec", "b_enc", "center"):
        torch.testing.assert_close(back.get_buffer(name) if name == "center" else back.get_parameter(name),
                                   getattr(one, name))  # fmt: skip
    torch.testing.assert_close(back.b_dec, one.b_dec, atol=1e-6, rtol=1e-5)
    assert_same(one, back)


def test_what_subtracts_its_b_dec_is_written_without_rounding(store: Store, tmp_path: Path) -> None:
    one = dictionary(store, "jumprelu", scales=(1.0,))
    one.center.copy_(one.b_dec)
    export_dictionary(tmp_path / "out", one, ExportSettings(format="saelens"))
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["apply_b_dec_to_input"] is True
    back = import_dictionary(tmp_path / "back", tmp_path / "out")
    for name, tensor in one.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_the_hookpoint_is_told_in_the_words_of_the_library(store: Store, tmp_path: Path) -> None:
    one = dictionary(store, "topk")
    for at, lens, module in (
        ("resid3.post", "blocks.3.hook_resid_post", "layers.3"),
        ("mlp3.out", "blocks.3.hook_mlp_out", "layers.3.mlp"),
        ("model.layers.3.mlp.up_proj", None, "model.layers.3.mlp.up_proj"),
    ):
        one.spaces = (replace(one.spaces[0], model="org/model", hookpoint=at),)
        export_dictionary(tmp_path / "s", one, ExportSettings(format="saelens"), overwrite=True)
        metadata = json.loads((tmp_path / "s" / "cfg.json").read_text())["metadata"]
        assert (metadata["hook_name"], metadata["hf_hook_name"]) == (lens, module)
        sparsify = export_dictionary(tmp_path / "p", one, ExportSettings(format="sparsify"), overwrite=True)
        assert sparsify.path.name == module
        for source in (tmp_path / "s", tmp_path / "p"):
            back = import_dictionary(tmp_path / "back", source, overwrite=True)
            assert back.spaces[0].label == f"org/model @ {at}"


@pytest.mark.parametrize(
    ("design", "kind", "format", "said"),
    [
        ("crosscoder", "batchtopk", "saelens", "holds one space, the dictionary is a crosscoder over"),
        ("crosscoder", "topk", "sparsify", "holds one space"),
        ("pooled", "batchtopk", "saelens", "holds one space"),
        ("pooled", "batchtopk", "dictionary-learning", "holds no pooled dictionary"),
        ("crosscoder", "topk", "dictionary-learning", "holds no topk crosscoder"),
        ("crosscoder", "gated", "dictionary-learning", "holds no gated crosscoder"),
        ("crosscoder", "jumprelu", "dictionary-learning", "a threshold of each feature's own"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(
    design: str, kind: str, format: WrittenFormat, said: str, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        export_dictionary(tmp_path / "out", dictionary(store, kind, design), ExportSettings(format=format))
    assert not list(tmp_path.iterdir())


def test_crosscoders_of_unequal_widths_have_no_format(unequal_store: Store, tmp_path: Path) -> None:
    one = dictionary(unequal_store, "batchtopk", "crosscoder")
    with pytest.raises(UserError, match=r"over widths 16, 10"):
        export_dictionary(tmp_path / "out", one, ExportSettings(format="dictionary-learning"))


def test_only_an_export_is_ever_replaced(store: Store, tmp_path: Path) -> None:
    one, settings = dictionary(store, "topk"), ExportSettings(format="saelens")
    export_dictionary(tmp_path / "out", one, settings)
    with pytest.raises(ArtifactError, match="is there already"):
        export_dictionary(tmp_path / "out", one, settings)
    export_dictionary(tmp_path / "out", one, ExportSettings(format="sparsify"), overwrite=True)
    assert not (tmp_path / "out" / "cfg.json").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    one.save(tmp_path / "dictionary")
    for taken in (mine, tmp_path / "dictionary"):
        with pytest.raises(ArtifactError, match="was not made by an export"):
            export_dictionary(taken, one, settings, overwrite=True)
    assert (mine / "thesis.tex").read_text() == "years"
    Dictionary.load(tmp_path / "dictionary")


def test_pickles_hold_tensors_alone(store: Store, tmp_path: Path) -> None:
    made = export_dictionary(tmp_path / "out", dictionary(store, "gated"), ExportSettings(format="dictionary-learning"))
    state = torch.load(made.path / "ae.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) and value.is_contiguous() for value in state.values())
