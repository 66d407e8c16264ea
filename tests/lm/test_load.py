"""Loading: what comes out is the model that transformers loads, and what cannot be right is refused in one line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from lm.tiny import CONTEXT, FAMILIES, N_LAYERS, WIDTH, save_tiny
from suture.errors import UserError
from suture.lm.load import LanguageModel, load_model, locate, shipped_models
from suture.lm.tokens import tokenize

Folder = Callable[..., Path]
Tiny = Callable[..., LanguageModel]
IDS = torch.tensor([[5, 9, 40, 2]])


@pytest.fixture
def copy_of(tiny_folder: Folder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "copy"))


def refused(name: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(name), **options)  # pyright: ignore[reportArgumentType]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_with_its_shape(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    assert (lm.n_layers, lm.d_model, lm.context) == (N_LAYERS, WIDTH, CONTEXT)
    assert lm.vocab_size == len(lm.tokenizer)
    assert lm.dtype == torch.float32
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert lm.bos == lm.tokenizer.bos_token_id


def test_what_a_test_does_to_its_model_stays_its_own(tiny: Tiny, tiny_loaded: Tiny) -> None:
    mine, kept = tiny("gpt2"), tiny_loaded("gpt2")
    assert mine is tiny("gpt2")
    before = kept.model(IDS).logits
    mine.model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: 0 * out)  # pyright: ignore
    mine.model.base_model.ln_f = torch.nn.Identity()
    mine.model.get_input_embeddings().weight.zero_()  # pyright: ignore
    mine.tokenizer.add_special_tokens({"bos_token": "<mine>"})
    assert torch.equal(kept.model(IDS).logits, before)
    assert len(kept.tokenizer) == kept.vocab_size
    assert not torch.equal(mine.model(IDS).logits, before)


def test_logits_are_those_of_transformers(tiny: Tiny, tiny_folder: Folder) -> None:
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2")).eval()
    assert torch.equal(tiny("gpt2").model(IDS).logits, reference(IDS).logits)


def test_fingerprint_names_the_weights(tiny: Tiny, tiny_folder: Folder, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(tiny_folder("gpt2"), tmp_path / "elsewhere"))
    assert load_model(str(copied)).fingerprint == tiny("gpt2").fingerprint
    assert tiny("gpt2", seed=1).fingerprint != tiny("gpt2").fingerprint
    assert tiny("gpt2", seed=1).tokenizer_fingerprint == tiny("llama").tokenizer_fingerprint
    assert tiny("llama", "sentencepiece").tokenizer_fingerprint != tiny("llama").tokenizer_fingerprint


def test_fingerprint_covers_every_shard(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    lm.model.save_pretrained(tmp_path, max_shard_size="10KB")
    lm.tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    sharded = load_model(str(tmp_path))
    assert torch.equal(sharded.model(torch.tensor([[3]])).logits, lm.model(torch.tensor([[3]])).logits)
    last = bytearray(shards[-1].read_bytes())
    last[-1] ^= 1
    shards[-1].write_bytes(bytes(last))
    assert load_model(str(tmp_path)).fingerprint != sharded.fingerprint


def test_bos_falls_back_to_eos_then_none(copy_of: Path) -> None:
    file = copy_of / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    del config["bos_token"]
    file.write_text(json.dumps(config), "utf-8")
    lm = load_model(str(copy_of))
    assert lm.tokenizer.bos_token_id is None
    assert lm.bos == lm.tokenizer.eos_token_id
    del config["eos_token"]
    file.write_text(json.dumps(config), "utf-8")
    assert load_model(str(copy_of)).bos is None


def test_truncation_in_the_tokenizer_file_is_ignored(copy_of: Path) -> None:
    file = copy_of / "tokenizer.json"
    whole = json.loads(file.read_text("utf-8"))
    whole["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(whole), "utf-8")
    lm = load_model(str(copy_of))
    assert len(lm.tokenizer.backend_tokenizer.encode("one two three four five six").ids) > 3


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), (torch.float16, torch.float16)])
def test_dtype_is_what_was_asked(tiny_folder: Folder, dtype: str | torch.dtype, expected: torch.dtype) -> None:
    lm = load_model(str(tiny_folder("gpt2")), dtype=dtype, device="cpu")
    assert lm.dtype == expected == next(lm.model.parameters()).dtype


def test_half_precision_checkpoint_is_float32_on_cpu(tiny: Tiny, tmp_path: Path) -> None:
    save_tiny(tmp_path, "gpt_neo")
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16)
    half.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").dtype == torch.float32


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent")
    assert "does not exist" in refused("./absent")
    assert "does not exist" in refused("")
    assert "config.json" in refused(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "not a folder" in refused(tmp_path / "file")
    message = refused("nobody/no-such-model", offline=True)
    assert "nobody/no-such-model" in message
    assert "local folder" in message


def test_unreachable_hub_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9"  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the hub's client waits between its tries
    message = refused("nobody/no-such-model")
    assert "nobody/no-such-model" in message
    assert "download it first" in message


def test_a_hub_name_is_read_from_the_cache_when_offline(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_folder("gpt2"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    local = load_model(str(tiny_folder("gpt2")))
    for revision in (None, "main", commit):
        lm = load_model("someone/tiny", offline=True, revision=revision)
        assert (lm.name, lm.revision, lm.fingerprint) == ("someone/tiny", revision, local.fingerprint)
    assert "not in the local hub cache" in refused("someone/tiny", offline=True, revision="v2")


def test_pickled_weights_are_refused(copy_of: Path) -> None:
    (copy_of / "model.safetensors").rename(copy_of / "pytorch_model.bin")
    message = refused(copy_of)
    assert "pytorch_model.bin" in message
    assert "safetensors" in message


def test_damaged_or_incomplete_weights_are_refused(copy_of: Path) -> None:
    weights = copy_of / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(copy_of) or "do not load" in refused(copy_of)


def test_missing_weights_are_refused(copy_of: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(copy_of)
    state = {k: v for k, v in model.state_dict().items() if "layers.1.mlp" not in k}
    model.save_pretrained(copy_of, state_dict=state)
    assert "missing" in refused(copy_of)


def test_what_is_no_causal_lm_is_refused(copy_of: Path) -> None:
    bert = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForMaskedLM(bert).save_pretrained(copy_of)
    assert "BertForMaskedLM is not a causal language model" in refused(copy_of)
    (copy_of / "config.json").write_text(json.dumps({"model_type": "no_such_family"}), "utf-8")
    assert "no_such_family" in refused(copy_of)


def test_missing_tokenizer_is_refused(copy_of: Path) -> None:
    for file in copy_of.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refused(copy_of)


def test_wrong_device_and_dtype_are_refused(tiny_folder: Folder) -> None:
    name = tiny_folder("gpt2")
    assert "device" in refused(name, device="abacus")
    assert "no such device" in refused(name, device="cuda:77")
    assert "dtype" in refused(name, dtype="int8")


def test_trusting_remote_code_warns(tiny_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="suture"):
        load_model(str(tiny_folder("gpt2")), trust_remote_code=True)
    assert "trust_remote_code" in caplog.text


def test_shipped_models_are_found_by_name_and_a_local_folder_comes_first(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "models" / "stories-tiny"
    shutil.copytree(tiny_folder("gpt2"), shipped)
    monkeypatch.setattr("suture.lm.load.resources.files", lambda _package: tmp_path)
    assert shipped_models() == {"stories-tiny": shipped}
    assert locate("stories-tiny") == str(shipped)
    assert "stories-tiny" in refused("/absent")
    monkeypatch.chdir(tmp_path)
    local = Path(shutil.copytree(tiny_folder("llama"), "stories-tiny"))
    assert locate("stories-tiny") == str(local)


def test_an_adapter_is_told_from_a_model(copy_of: Path) -> None:
    (copy_of / "config.json").rename(copy_of / "adapter_config.json")
    assert "is an adapter, not a whole model; merge it" in refused(copy_of)


def test_a_tokenizer_of_another_model_is_refused(copy_of: Path, tiny: Tiny) -> None:
    words = transformers.AutoTokenizer.from_pretrained(copy_of)
    words.add_tokens(["<new>"])
    words.save_pretrained(copy_of)
    lm = load_model(str(copy_of), device="cpu")
    assert len(tokenize(lm, "fine").ids)
    with pytest.raises(UserError, match=r"gives token 320 \(<new>\), the model knows 320"):
        tokenize(lm, "not <new> fine")
    words.bos_token = "<new>"
    words.save_pretrained(copy_of)
    assert "starts texts with token 320 (<new>), the model knows 320" in refused(copy_of)
    with pytest.raises(UserError, match="half of a surrogate pair"):
        tokenize(tiny("llama"), "a \ud800")


def test_a_model_says_what_a_person_wants(tiny_folder: Folder) -> None:
    lm = load_model(str(tiny_folder("gpt2")), device="cpu")
    said = repr(lm)
    assert said.startswith(f"LanguageModel({lm.name}: GPT2LMHeadModel, {lm.n_layers} layers of width {lm.d_model}, ")
    assert said.endswith("; float32 on cpu)")
