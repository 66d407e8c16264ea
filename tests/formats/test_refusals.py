"""What is wrong with a foreign file is said on one line, and nothing is written; every known misreading is refused."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.errors import UserError
from suture.formats.found import candidates
from suture.formats.importing import import_dictionary
from suture.formats.settings import ImportSettings

DATA = Path(__file__).parent / "data"
CROSSCODER = "gemma/gemma-scope-2-270m-pt/crosscoder/layer_5_9_12_15_width_16_l0_medium"
Copied = Callable[[str], Path]


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    """A fixture's folder, to be spoilt."""

    def made(name: str) -> Path:
        where = tmp_path / "source" / name
        shutil.copytree(DATA / name, where)
        return where

    return made


def refused(tmp_path: Path, source: Path | str, said: str, **settings: object) -> str:
    """The message, on one line; nothing is left behind."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=said) as caught:
        import_dictionary(tmp_path / "out", source, ImportSettings(**settings))  # pyright: ignore[reportArgumentType]
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(file: Path, **values: object) -> None:
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | values))


def edit_trainer(file: Path, **values: object) -> None:
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "trainer": config["trainer"] | values}))


def edit_tensors(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    safe = file.suffix == ".safetensors"
    tensors = load_file(file) if safe else torch.load(file, weights_only=True)
    change(tensors)
    if safe:
        save_file({n: t.contiguous() for n, t in tensors.items()}, file)
    else:
        torch.save(tensors, file)


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["saelens/standard", "dictionary_learning/AutoEncoder", "gemma"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_files_that_are_cut_off(name: str, share: float, copied: Copied, tmp_path: Path) -> None:
    where = copied("gemma/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71" if name == "gemma" else name)
    kinds = ("sae_weights.safetensors", "ae.pt", "params.npz")
    file = next(where / kind for kind in kinds if (where / kind).exists())
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(tmp_path, where, "cut off or damaged|more in it than tensors")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_more_than_tensors_is_not_read(zipped: bool, copied: Copied, tmp_path: Path) -> None:
    where, mark = copied("dictionary_learning/AutoEncoder"), tmp_path / "source" / "owned"
    state = torch.load(where / "ae.pt", weights_only=True) | {"extra": Evil(mark)}
    if zipped:
        torch.save(state, where / "ae.pt")
    else:
        (where / "ae.pt").write_bytes(pickle.dumps(state))
    refused(tmp_path, where, "a pickle with more in it than tensors, which can run code; it was not read")
    assert not mark.exists()
    torch.save([torch.ones(2)], where / "ae.pt")
    refused(tmp_path, where, "holds a list, not tensors by name")


def test_an_npz_with_pickled_objects_is_not_read(copied: Copied, tmp_path: Path) -> None:
    where, mark = copied("gemma/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"), tmp_path / "source" / "owned"
    np.savez(where / "params.npz", W_enc=np.array([Evil(mark)], dtype=object))
    refused(tmp_path, where, "cannot be read")
    assert not mark.exists()


def test_configurations_that_are_no_json_or_lack_something(copied: Copied, tmp_path: Path) -> None:
    where = copied("saelens/topk")
    edit(where / "cfg.json", k="three")
    refused(tmp_path, where, "says k = 'three'")
    edit(where / "cfg.json", k=17)
    refused(tmp_path, where, "says k = 17 of 16 features")
    edit(where / "cfg.json", k=3, d_in=None)
    refused(tmp_path, where, "says d_in = None, not a positive whole number")
    (where / "cfg.json").write_text("[1, 2]")
    refused(tmp_path, where, "holds no settings")
    (where / "cfg.json").write_text('{"d_in": 8,')
    refused(tmp_path, where, "is not JSON")


@pytest.mark.parametrize("name", ["standard", "standard-square"])
def test_tensors_of_another_shape(name: str, copied: Copied, tmp_path: Path) -> None:
    where = copied(f"saelens/{name}")
    file, width = where / "sae_weights.safetensors", 8 if "square" in name else 16
    edit_tensors(file, lambda t: t.update(b_dec=torch.zeros(9)))
    refused(tmp_path, where, r"tensor b_dec has shape \[9\], not \[8\]")
    edit_tensors(file, lambda t: t.update(b_dec=torch.zeros(8), W_dec=torch.zeros(width, 8, 1)))
    refused(tmp_path, where, rf"tensor W_dec has shape \[{width}, 8, 1\], not \[{width}, 8\]")
    edit_tensors(file, lambda t: t.update(W_dec=torch.full((width, 8), torch.nan)))
    refused(tmp_path, where, "tensor W_dec holds NaN")
    edit_tensors(file, lambda t: t.pop("W_dec"))
    refused(tmp_path, where, "has no tensor W_dec, only")


def test_a_transposed_file_of_unequal_sizes_is_refused_and_a_square_one_is_read_by_the_rule(
    copied: Copied, tmp_path: Path
) -> None:
    where = copied("saelens/standard")
    edit_tensors(where / "sae_weights.safetensors", lambda t: t.update(W_enc=t["W_enc"].T))
    refused(tmp_path, where, r"tensor W_enc has shape \[16, 8\], not \[8, 16\]")
    square = DATA / "saelens" / "standard-square"  # where no shape tells: W_enc is [d, F] because SAELens says so
    dictionary = import_dictionary(tmp_path / "square", square)
    assert torch.equal(dictionary.W_enc, load_file(square / "sae_weights.safetensors")["W_enc"].T)
    square = DATA / "dictionary_learning" / "AutoEncoder-square"
    dictionary = import_dictionary(tmp_path / "linear", square)
    state = torch.load(square / "ae.pt", weights_only=True)
    assert torch.equal(dictionary.W_enc, state["encoder.weight"])
    assert torch.equal(dictionary.W_dec, state["decoder.weight"].T)


def test_a_tensor_that_is_not_known_is_refused(copied: Copied, tmp_path: Path) -> None:
    where = copied("saelens/standard")
    edit_tensors(where / "sae_weights.safetensors", lambda t: t.update(W_gate=torch.ones(3)))
    refused(tmp_path, where, "holds W_gate, which this format has not")


# --- what one shared code of suture cannot hold, by name --------------------------------------------------------------


def test_saelens_refusals(copied: Copied, tmp_path: Path) -> None:
    refused(tmp_path, DATA / "saelens" / "layer-norm", "normalize_activations = 'layer_norm': normalises every row")
    where = copied("saelens/standard")
    cfg = where / "cfg.json"
    for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "temporal", "matching_pursuit", "os.system"):
        edit(cfg, architecture=name)
        refused(tmp_path, where, f"architecture = '{name}': is no dictionary that suture can hold")
    edit(cfg, architecture="standard", normalize_activations="constant_norm_rescale")
    refused(tmp_path, where, "normalises every row")
    edit(cfg, normalize_activations="none", reshape_activations="hook_q")
    refused(tmp_path, where, "reshape_activations = 'hook_q'")
    edit(cfg, reshape_activations="none", hook_head_index=3)
    refused(tmp_path, where, "one attention head alone")
    edit(cfg, hook_head_index=None)
    edit_tensors(where / "sae_weights.safetensors", lambda t: t.update(scaling_factor=torch.full((16,), 2.0)))
    refused(tmp_path, where, "fine-tuned with factors")
    edit_tensors(where / "sae_weights.safetensors", lambda t: t.update(scaling_factor=torch.ones(16)))
    import_dictionary(tmp_path / "ones", where)
    old = copied("saelens/legacy-topk")
    edit(old / "cfg.json", activation_fn_str="tanh-relu")
    refused(tmp_path, old, "activation_fn = 'tanh-relu'")
    checkpoint = copied("saelens/batchtopk-checkpoint")
    edit_tensors(
        checkpoint / "sae_weights.safetensors",
        lambda t: t.update(topk_threshold=torch.zeros((), dtype=torch.float64)),
    )
    refused(tmp_path, checkpoint, "topk_threshold of 0.0: it was never set")


def test_an_unfolded_scale_is_asked_for_and_used(copied: Copied, tmp_path: Path) -> None:
    where = copied("saelens/standard")
    edit(where / "cfg.json", normalize_activations="expected_average_only_in")
    refused(
        tmp_path, where, "says normalize_activations = 'expected_average_only_in' and not by which factor; say with"
    )
    dictionary = import_dictionary(tmp_path / "scaled", where, ImportSettings(scale=(0.5,)))
    wanted = load_file(where / "expected.safetensors")
    codes = dictionary.encode_raw([wanted["x"] * 2])  # the library's own rows are in scaled units
    torch.testing.assert_close(codes.dense(), wanted["codes"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dictionary.decode_raw(codes)[0], wanted["decoded"] * 2, rtol=1e-5, atol=1e-5)
    edit(where / "cfg.json", normalize_activations="none")
    refused(tmp_path, where, "scale = .*means nothing here", scale=(0.5,))


def test_sparsify_refusals(copied: Copied, tmp_path: Path) -> None:
    refused(tmp_path, DATA / "sparsify" / "layers.5", "transcode = True: a transcoder reads one place")
    refused(tmp_path, DATA / "sparsify" / "layers.6", "skip_connection = True: a linear path")
    refused(tmp_path, DATA / "sparsify" / "layers.7", "activation = 'groupmax'")
    where = copied("sparsify/layers.3")
    edit(where / "cfg.json", signed=True)
    refused(tmp_path, where, "signed = True: codes below zero")
    skip = copied("sparsify/layers.6")
    edit(skip / "cfg.json", skip_connection=False)  # mislabelled: the weights still have it
    refused(tmp_path, skip, "has a W_skip")


def test_sparsify_without_a_number_of_features_has_the_expansion_factor(copied: Copied, tmp_path: Path) -> None:
    where = copied("sparsify/layers.3")
    config = json.loads((where / "cfg.json").read_text())
    del config["num_latents"]
    (where / "cfg.json").write_text(json.dumps(config | {"expansion_factor": 2}))
    assert import_dictionary(tmp_path / "out", where, ImportSettings(model=("m",))).n_features == 16


def test_dictionary_learning_refusals(copied: Copied, tmp_path: Path) -> None:
    where = copied("dictionary_learning/BatchTopKSAE")
    edit_tensors(where / "ae.pt", lambda t: t.update(threshold=torch.tensor(-1.0)))
    refused(tmp_path, where, "threshold of -1: it was never set")
    edit_tensors(where / "ae.pt", lambda t: t.update(threshold=torch.tensor(torch.nan)))
    refused(tmp_path, where, "threshold of nan: it was never set")
    edit_tensors(where / "ae.pt", lambda t: t.update(threshold=torch.tensor(1.25)))
    edit_trainer(where / "config.json", k=4)
    refused(tmp_path, where, "has k = 3, its configuration 4")
    for name in ("IdentityDict", "__import__('os').system('true')", None):
        edit_trainer(where / "config.json", dict_class=name)
        refused(tmp_path, where, "is no class that suture can hold")
    edit_trainer(where / "config.json", dict_class="JumpReluAutoEncoder")  # mislabelled
    refused(tmp_path, where, "has no tensor W_enc")


def test_a_backup_is_unwrapped_and_a_compiled_state_is_renamed(copied: Copied, tmp_path: Path) -> None:
    where = copied("dictionary_learning/AutoEncoder")
    state = torch.load(where / "ae.pt", weights_only=True)
    wrapped = {"ae": {f"_orig_mod.{n}": t for n, t in state.items()}, "step": 3, "config": {"lr": 1e-4}}
    torch.save(wrapped, where / "ae.pt")
    dictionary = import_dictionary(tmp_path / "out", where)
    assert torch.equal(dictionary.W_enc, state["encoder.weight"])


def test_crosscoder_refusals(copied: Copied, tmp_path: Path) -> None:
    two = {"model": ("a", "b"), "at": ("resid3.post",)}
    refused(tmp_path, DATA / "crosscoders" / "decoupled", "DECOUPLED, a code for each model", **two)
    refused(tmp_path, DATA / "crosscoders" / "mixed", "MIXED and not its factors", **two)
    refused(tmp_path, DATA / "crosscoders" / "unset", "threshold of -1: it was never set", **two)
    where = copied("crosscoders/crosscoder")
    edit_trainer(where / "config.json", decoder_type="mlp")
    refused(tmp_path, where, "decoder_type = 'mlp': is no linear decoder", **two)
    edit_trainer(where / "config.json", decoder_type="linear", encoder_layers=[0])
    refused(tmp_path, where, "encoder_layers", **two)
    edit_trainer(where / "config.json", encoder_layers=None, num_layers=3)
    refused(tmp_path, where, "says num_layers = 3, its weights have 2", **two)
    edit_trainer(where / "config.json", num_layers=2)
    edit_tensors(where / "ae.pt", lambda t: t.update({"encoder.bias": torch.zeros(2, 16)}))
    refused(tmp_path, where, r"tensor encoder.bias has shape \[2, 16\], not \[16\]", **two)
    mixed = copied("crosscoders/mixed")
    edit_trainer(mixed / "config.json", code_normalization_alpha_sae=1.0, code_normalization_alpha_cc=0.1)
    dictionary = import_dictionary(tmp_path / "mixed", mixed, ImportSettings(**two))  # pyright: ignore[reportArgumentType]
    wanted = load_file(mixed / "expected.safetensors")
    codes = dictionary.encode_raw(list(wanted["x"].split(8, dim=1)))
    torch.testing.assert_close(codes.dense(), wanted["codes"], rtol=1e-5, atol=1e-5)


def test_a_crosscoder_in_the_hubs_own_layout(tmp_path: Path) -> None:
    where = tmp_path / "source"
    where.mkdir()
    fixture = DATA / "crosscoders" / "crosscoder"
    state = torch.load(fixture / "ae.pt", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, where / "model.safetensors")
    made_with = {"activation_dim": 8, "dict_size": 16, "num_layers": 2, "k": 3, "code_normalization": "CROSSCODER"}
    (where / "config.json").write_text(json.dumps(made_with))
    dictionary = import_dictionary(tmp_path / "out", where, ImportSettings(model=("a", "b"), at=("resid3.post",)))
    wanted = load_file(fixture / "expected.safetensors")
    codes = dictionary.encode_raw(list(wanted["x"].split(8, dim=1)))
    torch.testing.assert_close(codes.dense(), wanted["codes"], rtol=1e-5, atol=1e-5)


def test_scales_of_a_kissane_crosscoder_are_asked_for(tmp_path: Path) -> None:
    where = DATA / "kissane" / "blocks.14.hook_resid_pre"
    refused(tmp_path, where, "scaled to a norm of sqrt", model=("a", "b"))
    refused(tmp_path, where, "has 3 values for 2 spaces", model=("a", "b"), scale=(1.0, 1.0, 1.0))
    refused(tmp_path, where, "model = None", scale=(1.0,))
    refused(tmp_path, where, "name a @ resid14.pre for more than one space", model=("a",), scale=(1.0,))


def test_openai_and_other_single_files(copied: Copied, tmp_path: Path) -> None:
    at = {"model": ("gpt2",), "at": ("resid3.post",)}
    refused(tmp_path, DATA / "openai" / "topk.pt", "activation = 'TopK': such files normalise every row", **at)
    odd = tmp_path / "source" / "odd.pt"
    odd.parent.mkdir()
    torch.save({"weight": torch.ones(3)}, odd)
    refused(tmp_path, odd, r"is of no format that is known by its tensors \(weight\)", **at)
    refused(tmp_path, DATA / "goodfire" / "Llama-3.3-70B-Instruct-SAE-l50.pt", "model = None: is not said by the file")
    refused(
        tmp_path,
        DATA / "goodfire" / "Llama-3.3-70B-Instruct-SAE-l50.pt",
        "at = None: the file does not say it",
        model=("m",),
    )


def test_llama_scope_and_its_successor(copied: Copied, tmp_path: Path) -> None:
    where = copied("llama_scope/Llama3_1-8B-Base-L15R-8x")
    edit(where / "hyperparams.json", hook_point_out="blocks.15.hook_mlp_out")
    refused(tmp_path, where, "a transcoder")
    edit(where / "hyperparams.json", hook_point_out="blocks.15.hook_resid_post", norm_activation="token-wise")
    refused(tmp_path, where, "every row is scaled by itself")
    edit(where / "hyperparams.json", norm_activation="dataset-wise", use_glu_encoder=True)
    refused(tmp_path, where, "a gate in the encoder")
    edit(where / "hyperparams.json", use_glu_encoder=False, dataset_average_activation_norm={"in": 6.25, "out": 3.0})
    refused(tmp_path, where, "scales what it reads and what it writes otherwise")
    new = tmp_path / "source" / "new"
    new.mkdir()
    (new / "config.json").write_text(json.dumps({"sae_type": "crosscoder", "hook_points": ["a", "b"]}))
    save_file({"W_E": torch.ones(2, 8, 16)}, new / "sae_weights.safetensors")
    refused(tmp_path, new, "Llamascopium crosscoder: its heads can disagree on what is active")


def test_qwen_scope_without_its_k(copied: Copied, tmp_path: Path) -> None:
    where = copied("qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50")
    (where / "config.json").unlink()
    refused(tmp_path, where, "says k = 50 of 16 features")  # which its name says
    bare = where.rename(tmp_path / "source" / "bare")
    refused(tmp_path, bare, "does not say its k")


# --- Gemma Scope 2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer_5_width_16k_l0_small", "layer_5_width_16k_l0_small_affine"])
def test_gemma_transcoders_are_refused_by_name(name: str, tmp_path: Path) -> None:
    source = DATA / "gemma" / "gemma-scope-2-270m-pt" / "transcoder" / name
    refused(tmp_path, source, "is a transcoder, which reads one place and writes another")


def test_gemma_transcoders_that_only_their_configuration_or_tensors_name(copied: Copied, tmp_path: Path) -> None:
    where = copied("gemma/gemma-scope-2-270m-pt/resid_post/layer_5_width_16k_l0_small")
    edit(where / "config.json", type="clt")
    refused(tmp_path, where, "a cross-layer transcoder")
    edit(where / "config.json", type=None, hf_hook_point_in="model.layers.5.pre_feedforward_layernorm.output")
    refused(tmp_path, where, "reads model.layers.5.pre_feedforward_layernorm.output and writes model.layers.5.output")
    edit(where / "config.json", hf_hook_point_in="model.layers.5.output", affine_connection=True)
    refused(tmp_path, where, "a linear path beside the features")
    edit(where / "config.json", affine_connection=False)
    edit_tensors(where / "params.safetensors", lambda t: t.update(affine_skip_connection=torch.ones(8, 8)))
    refused(tmp_path, where, "a linear path beside the features")
    edit_tensors(where / "params.safetensors", lambda t: t.pop("affine_skip_connection"))
    (where / "config.json").write_text(json.dumps({"architecture": "topk"}))
    refused(tmp_path, where, "architecture = 'topk'")


def test_only_the_folder_above_says_what_a_gemma_is(copied: Copied, tmp_path: Path) -> None:
    where = copied(CROSSCODER)
    clt = tmp_path / "source" / "clt" / "width_16_l0_medium_affine"
    clt.parent.mkdir()
    where.rename(clt)
    (clt / "config.json").unlink()
    refused(tmp_path, clt, "a cross-layer transcoder")
    mine = tmp_path / "source" / "transcoder" / "gemma-scope-2-1b-it" / "mlp_out_all" / "layer_7_width_16_l0_big"
    shutil.copytree(DATA / "gemma/gemma-scope-2-270m-pt/attn_out/layer_7_width_16k_l0_small", mine)
    (space,) = import_dictionary(tmp_path / "out", mine).spaces
    assert space.label == "google/gemma-3-1b-it @ model.layers.7.post_feedforward_layernorm"


def test_gemma_names(tmp_path: Path) -> None:
    spaces = import_dictionary(tmp_path / "crosscoder", DATA / CROSSCODER).spaces
    assert [s.label for s in spaces] == [f"google/gemma-3-270m @ resid{n}.post" for n in (5, 9, 12, 15)]
    heads = DATA / "gemma/gemma-scope-2-270m-pt/attn_out/layer_7_width_16k_l0_small"
    (space,) = import_dictionary(tmp_path / "heads", heads).spaces
    assert space.label == "google/gemma-3-270m @ model.layers.7.self_attn.o_proj.input"
    first = DATA / "gemma/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    (space,) = import_dictionary(tmp_path / "first", first).spaces
    assert space.label == "google/gemma-2-2b @ resid20.post"


def test_a_crosscoder_of_gemma_is_four_spaces_and_none_of_its_misreadings(tmp_path: Path) -> None:
    where = DATA / CROSSCODER
    dictionary = import_dictionary(tmp_path / "out", where)
    files = [load_file(where / f"params_layer_{layer}.safetensors") for layer in range(4)]
    sizes = [file["w_enc"].shape[1] for file in files]
    assert (dictionary.n_spaces, dictionary.n_features, dictionary.width) == (4, sum(sizes), 4 * 8)
    encoder, decoder = dictionary.W_enc.reshape(-1, 4, 8), dictionary.W_dec.reshape(-1, 4, 8)
    start = 0
    for layer, (file, size) in enumerate(zip(files, sizes, strict=True)):
        own = slice(start, start + size)
        start += size
        # not files on top of one another, [4d, F]: a feature reads its own layer alone
        assert (encoder[own, layer] != 0).all()
        assert (encoder[own, [m for m in range(4) if m != layer]] == 0).all()
        # not the decoder of the first file alone, nor decoders summed over layers, and the last layer is there
        assert torch.equal(decoder[own], file["w_dec"])
        assert (decoder[own, layer:] != 0).all()
        assert (decoder[own, :layer] == 0).all()
        assert torch.equal(dictionary.b_dec[dictionary.columns(layer)], file["b_dec"])


def test_files_of_a_gemma_crosscoder_that_are_missing_or_mixed_up(copied: Copied, tmp_path: Path) -> None:
    where = copied(CROSSCODER)
    (where / "params_layer_1.safetensors").unlink()
    refused(tmp_path, where, "has the files of layers 0, 2, 3: some are missing")
    where = copied(f"{CROSSCODER}") if not where.exists() else _again(where)
    (where / "params_layer_3.safetensors").unlink()
    refused(tmp_path, where, "has 3 files, its name 4 layers")
    where = _again(where)
    one, two = where / "params_layer_0.safetensors", where / "params_layer_1.safetensors"
    whole = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(whole)  # now the second file writes before its own layer
    refused(tmp_path, where, "before its own layer, where a feature of this set writes nothing")
    where = _again(where)
    edit_tensors(where / "params_layer_2.safetensors", lambda t: t.update(w_dec=t["w_dec"].sum(1)))
    refused(tmp_path, where, r"tensor w_dec has shape \[4, 8\], not \[4, 4, 8\]")
    named = _again(where).rename(where.with_name("layer_5_9_12_15_width_262k_l0_medium"))
    refused(tmp_path, named, "has 16 features in all, its name says width_262k")


def _again(where: Path) -> Path:
    shutil.rmtree(where)
    shutil.copytree(DATA / CROSSCODER, where)
    return where


# --- which one --------------------------------------------------------------------------------------------------------


def test_one_dictionary_of_many(tmp_path: Path) -> None:
    said = refused(tmp_path, DATA / "saelens", r"holds 12 dictionaries: .* and 8 more; name one of them with --file")
    assert "sae_weights.safetensors" in said
    refused(tmp_path, DATA / "saelens", "file = nothing: is no dictionary of .*, which has", file="nothing")
    refused(tmp_path, DATA / "saelens", "means 2 dictionaries", file="legacy-")
    refused(tmp_path, DATA / "saelens", "means 2 dictionaries", file="*legacy*")
    for pattern in ("gated", "*gated*", "gated/sae_weights.safetensors"):
        one = import_dictionary(tmp_path / "one", DATA / "saelens", ImportSettings(file=pattern), overwrite=True)
        assert one.sparsity.kind == "gated"
    exact = import_dictionary(tmp_path / "exact", DATA / "saelens", ImportSettings(file="topk"))
    assert exact.sparsity.kind == "topk"


def test_sources_that_are_nothing(tmp_path: Path) -> None:
    for source in ("./nowhere", "/nowhere/at/all", "a/b/c", "nowhere", ""):
        refused(tmp_path, source, "is no folder, no file and no hub name")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(tmp_path, empty, "holds no dictionary of a format that is read")
    (empty / "notes.txt").write_text("hello")
    refused(tmp_path, empty / "notes.txt", r"is no .pt, .pth, .safetensors or .npz file")
    refused(tmp_path, DATA / "saelens" / "topk", "has other files than these, which are saelens's", format="sparsify")


def test_what_is_told_from_names_alone() -> None:
    saes = [f"resid_post/layer_{n}_width_16k_l0_small" for n in (5, 9)]
    hub = [
        *(f"{folder}/{file}" for folder in saes for file in ("config.json", "params.safetensors")),
        *(f"crosscoder/layer_5_9_width_65k_l0_medium/params_layer_{n}.safetensors" for n in (0, 1)),
        "README.md",
    ]  # fmt: skip
    found = candidates(hub)
    assert [c.path for c in found] == [
        "crosscoder/layer_5_9_width_65k_l0_medium",
        "resid_post/layer_5_width_16k_l0_small/params.safetensors",
        "resid_post/layer_9_width_16k_l0_small/params.safetensors",
    ]
    assert len(found[0].files) == 2
    qwen = candidates(["config.json", "layer0.sae.pt", "layer1.sae.pt"])
    assert [(c.path, "config" in c.files) for c in qwen] == [("layer0.sae.pt", True), ("layer1.sae.pt", True)]
    training = candidates(["trainer_0/ae.pt", "trainer_0/config.json", "trainer_0/checkpoints/ae_10.pt", "x/y.pt"])
    assert [(c.format, c.path) for c in training] == [("dictionary-learning", "trainer_0/ae.pt"), ("single", "x/y.pt")]
