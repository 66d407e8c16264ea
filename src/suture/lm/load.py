"""Load a causal language model and its tokenizer from a local folder, the hub, or the models shipped with suture.

1. A name is a local folder if one exists, else a shipped model, else a hub name, written as `from_pretrained` takes it.
2. The configuration is read first: it says at no cost whether this is a causal language model at all.
3. Weights come from safetensors only, and none may be missing, since a missing one would silently be random.
4. The fingerprint is the SHA-256 of the configuration and weight files, so that a result names the exact model.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging
from transformers.utils.hub import cached_file

from suture.errors import UserError
from suture.lm.hub import hub_answers
from suture.pipeline.artifact import sha256_of

_logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNLIMITED = 2**31 - 1
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, repr=False)
class LanguageModel:
    """A causal language model ready to be read and edited, with the tokenizer that feeds it."""

    model: PreTrainedModel
    """In evaluation mode, no parameter wanting a gradient."""
    tokenizer: PreTrainedTokenizerFast
    """A fast tokenizer: character offsets are needed to align two models."""
    name: str
    """As the caller wrote it."""
    revision: str | None
    """The hub commit, branch or tag asked for; None for a local model or the hub's default."""
    device: torch.device
    """Where the weights are."""
    dtype: torch.dtype
    """Of the weights and the forward pass."""
    n_layers: int
    """Transformer blocks."""
    d_model: int
    """Width of the residual stream."""
    vocab_size: int
    """Rows of the unembedding; at least the tokenizer's vocabulary, sometimes padded beyond it."""
    context: int
    """Most tokens the model can see, the starting token included."""
    fingerprint: str
    """SHA-256 over the configuration and the weight files."""
    tokenizer_fingerprint: str
    """SHA-256 over what decides a text's token ids; equal in two models means one shared tokenizer."""
    bos: int | None
    """The token id every sequence starts with: the tokenizer's BOS, else its EOS, else none."""

    def __repr__(self) -> str:
        revision = f" at {self.revision}" if self.revision else ""
        kind = str(self.dtype).removeprefix("torch.")
        sizes = f"{self.n_layers} layers of width {self.d_model}, {self.vocab_size:,} tokens"
        return f"LanguageModel({self.name}{revision}: {type(self.model).__name__}, {sizes}; {kind} on {self.device})"


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    offline: bool = False,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load the language model called `name`: a local folder, a shipped model or a hub name.

    `dtype` "auto" is float32 on CPU and the checkpoint's own on an accelerator; `device` "auto" is CUDA where there is
    one. `offline` forbids the network, so that a hub name must be in the local cache.
    Raises UserError when there is no such model, it is not a causal LM, its weights are not whole safetensors, or it
    has no fast tokenizer.
    """
    chosen_device = _device(device)
    chosen_dtype = _dtype(dtype, chosen_device)
    if trust_remote_code:
        _logger.warning("trust_remote_code: Python code that comes with the model %r will run on this machine", name)
    source = locate(name)  # 1
    # Without a network the local cache is all there is.
    cached_only = offline or (not Path(source).is_dir() and not hub_answers())
    hub = {"revision": revision, "local_files_only": cached_only, "trust_remote_code": trust_remote_code}
    with quiet():
        config = _config(name, source, hub)  # 2
        _check_causal(name, config)
        model = _weights(name, source, config, hub, chosen_dtype)  # 3
        tokenizer = _tokenizer(name, source, hub)
    model.to(chosen_device)  # pyright: ignore[reportArgumentType]  (transformers hides nn.Module.to's overloads)
    model.eval().requires_grad_(requires_grad=False)
    text_config = config.get_text_config()
    bos: Any = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if bos is not None and bos >= n_embeddings(model):
        token = tokenizer.convert_ids_to_tokens(bos)
        problem = f"its tokenizer starts texts with token {bos} ({token}), the model knows {n_embeddings(model)}"
        raise UserError("model", name, problem, "put the tokenizer that it was trained with beside its weights")
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=revision,
        device=chosen_device,
        dtype=model.dtype,
        n_layers=text_config.num_hidden_layers,
        d_model=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        # ALiBi models state no limit; the block size then limits them.
        context=getattr(text_config, "max_position_embeddings", None) or UNLIMITED,
        fingerprint=_fingerprint(source, revision),  # 4
        tokenizer_fingerprint=_tokenizer_fingerprint(tokenizer),
        bos=bos,
    )


def n_embeddings(model: PreTrainedModel) -> int:
    """How many tokens a model has an embedding of."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return weight.shape[0] if isinstance(weight, torch.Tensor) else model.config.get_text_config().vocab_size


def layers_of(name: str, *, revision: str | None = None, offline: bool = False, trust_remote_code: bool = False) -> int:
    """How many blocks a model has, by its configuration alone.

    Raises:
        UserError: there is no such model.
    """
    source = locate(name)
    cached_only = offline or (not Path(source).is_dir() and not hub_answers())
    hub = {"revision": revision, "local_files_only": cached_only, "trust_remote_code": trust_remote_code}
    return int(_config(name, source, hub).get_text_config().num_hidden_layers)


def fingerprint_of(name: str) -> str | None:
    """The fingerprint that a local or shipped model would have, were it loaded; None of a hub name."""
    source = locate(name)
    return _fingerprint(source, None) if (Path(source) / "config.json").is_file() else None


def shipped_models() -> dict[str, Path]:
    """The language models that come inside the package: name to folder."""
    root = Path(str(resources.files("suture"))) / "models"
    return {config.parent.name: config.parent for config in sorted(root.glob("*/config.json"))}


def locate(name: str) -> str:
    """The folder of a local or shipped model, or the hub name itself; UserError if it can only be a missing folder."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():  # an empty name would be the working directory
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            fix = "merge it into its model (peft's merge_and_unload), save that and give its folder"
            raise UserError("model", name, "is an adapter, not a whole model", fix)
        if not (folder / "config.json").is_file():
            raise UserError("model", name, "the folder has no config.json", "give the folder that save_pretrained made")
        return str(folder)
    if name and folder.exists():
        raise UserError("model", name, "is a file, not a folder", "give the folder that save_pretrained made")
    if name in (shipped := shipped_models()):
        return str(shipped[name])
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name
    if looks_local:
        known = f" or a shipped model ({', '.join(shipped)})" if shipped else ""
        raise UserError("model", name, "the folder does not exist", f"give an existing folder, a hub name{known}")
    return name


def _config(name: str, source: str, hub: dict) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(source, **hub)
    except OSError as error:
        shipped = ", ".join(shipped_models())
        where = "is no folder, and the hub gave none"
        if hub["local_files_only"]:
            where = "is no folder and not in the local hub cache, all there is without a network"
        fix = "download it first (hf download NAME) or give a local folder"
        fix += f" or a shipped model ({shipped})" if shipped else ""
        raise UserError("model", name, where, fix) from error
    except (ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            fix = "pass --trust-remote-code if you trust its authors"
            raise UserError("model", name, "needs Python code from its repository", fix) from error
        raise UserError("model", name, _first_line(error), "use a model that transformers knows") from error


def _check_causal(name: str, config: PreTrainedConfig) -> None:
    named = list(config.architectures or [])
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    # An encoder such as BERT, or a body without its head, is in the mapping too; its unembedding would be random.
    if not remote and (not known or (named and not any(n.endswith(_CAUSAL_ENDINGS) for n in named))):
        kind = ", ".join(named) or type(config).__name__
        raise UserError("model", name, f"{kind} is not a causal language model", "give one, e.g. a GPT, Llama or Qwen")


def _weights(name: str, source: str, config: PreTrainedConfig, hub: dict, dtype: torch.dtype | str) -> PreTrainedModel:
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        found = sorted(f.name for f in folder.glob("*.bin")) or ["no weight file"]
        raise UserError(
            "model",
            name,
            f"no .safetensors in the folder (found {found[0]}; pickled weights can run code and are never opened)",
            "convert them with save_pretrained, which writes safetensors",
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **hub
        )
        model, report = loaded
    except SafetensorError as error:
        problem = f"a weight file is damaged: {_first_line(error)}"
        raise UserError("model", name, problem, "fetch the model again") from error
    except (OSError, ValueError, RuntimeError) as error:
        fix = "fetch it whole (hf download NAME); only safetensors are read"
        raise UserError("model", name, f"its weights do not load: {_first_line(error)}", fix) from error
    if missing := sorted(report["missing_keys"]):
        problem = f"{len(missing)} weights are missing, e.g. {missing[0]}"
        raise UserError("model", name, problem, "fetch the model again, or give the checkpoint with its LM head")
    return model


def _tokenizer(name: str, source: str, hub: dict) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **hub)
    except (OSError, ValueError, KeyError, ImportError) as error:
        fix = "put its tokenizer.json beside the weights"
        raise UserError("model", name, f"its tokenizer does not load: {_first_line(error)}", fix) from error
    # where there is no tokenizer file, some versions of transformers make one that knows its special tokens alone
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or set(tokenizer.get_vocab()) <= set(
        tokenizer.all_special_tokens
    ):
        raise UserError(
            "model", name, "it has no fast tokenizer, hence no character offsets", "put its tokenizer.json beside it"
        )
    # A tokenizer.json may carry truncation or padding from its training; both would change a document's tokens.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError("device", device, "is not a device", "use auto, cpu, cuda, cuda:N or mps") from error
    n_devices = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (chosen.index or 0) >= n_devices.get(chosen.type, 0):
        raise UserError("device", str(device), "this machine has no such device", "use auto or cpu")
    return chosen


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError("dtype", dtype, "is not a dtype for a language model", f"use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _fingerprint(source: str, revision: str | None) -> str:
    """SHA-256 over the names and digests of config.json and of the weight files that were loaded."""
    config = cached_file(source, "config.json", revision=revision, local_files_only=True)
    assert config is not None, "the configuration was read a moment ago"
    folder = Path(config).parent  # of a hub model: its snapshot in the cache, holding what was downloaded
    index = folder / _INDEX
    shards = json.loads(index.read_text("utf-8"))["weight_map"].values() if index.is_file() else ["model.safetensors"]
    names = sorted(set(shards)) if all((folder / s).is_file() for s in shards) else []
    names = names or sorted(f.name for f in folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in ["config.json", *names]:
        digest.update(f"{name} {sha256_of(folder / name)}\n".encode())
    return digest.hexdigest()


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over the parts of a tokenizer that turn text into ids (how it decodes or decorates does not matter)."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {key: whole[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars: a library shows its own progress, or none."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
