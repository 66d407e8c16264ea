"""One tiny random causal language model of every family, made from its configuration."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lm.tiny import byte_level_tokenizer
from suture.lm.load import LanguageModel

WIDTH, VOCABULARY, CONTEXT = 16, 300, 64
N_LAYERS = 2
_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), N_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim"), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 2),
    "vocab_size": VOCABULARY, "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 1,
    "moe_intermediate_size": 8, "word_embed_proj_dim": 8, "rotary_dim": 4, "pad_token_id": None, "bos_token_id": 0,
    "eos_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
"""What families call their sizes; each takes the names that its configuration has."""

_MORE = {
    "codegen": {"n_head": 4, "num_attention_heads": 4, "rotary_dim": 4},  # older versions deal its heads out to four
    "ctrl": {"dff": 24},
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.3},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 8},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2,
                     "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
}  # fmt: skip

FAMILIES = (
    "apertus", "arcee", "bart", "biogpt", "bitnet", "blenderbot", "bloom", "codegen", "cohere", "cohere2", "ctrl",
    "cwm", "diffllama", "doge", "ernie4_5", "exaone4", "falcon", "falcon_mamba", "flex_olmo", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite",
    "granitemoe", "helium", "hunyuan_v1_dense", "hyperclovax", "jais2", "llama", "llama4_text", "mamba", "mistral",
    "mixtral", "mpt", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "openai-gpt", "opt", "persimmon",
    "phi", "phi3", "phimoe", "qwen2", "qwen3", "qwen3_5_text", "qwen3_moe", "rwkv", "smollm3", "stablelm",
    "starcoder2", "vaultgemma", "xglm",
)  # fmt: skip


@cache
def tiny_family(family: str) -> LanguageModel:
    """A random model of a family: two blocks of width 16, more outputs than its tokenizer has tokens."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    config_class = CONFIG_MAPPING[family]
    known = set(config_class().to_dict()) | set(config_class.attribute_map)
    always = {"pad_token_id"}  # which older configurations do not list, and their models ask for
    chosen = {name: value for name, value in _SIZES.items() if name in known | always} | _MORE.get(family, {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_class(**chosen)).eval().requires_grad_(False)
        with torch.no_grad():  # away from norms of ones and zeros, and from steps that hardly change anything
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    tokenizer = byte_level_tokenizer(280)
    assert isinstance(tokenizer, transformers.PreTrainedTokenizerFast)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=family,
        revision=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        n_layers=N_LAYERS,
        d_model=WIDTH,
        vocab_size=VOCABULARY,
        context=CONTEXT,
        fingerprint=family,
        tokenizer_fingerprint="byte-level",
        bos=0,
    )
