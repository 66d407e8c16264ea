"""Tiny random language models of many families, with tiny tokenizers, saved as Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
SENTENCES = (
    "Once upon a time, there was a little dog named Max. He liked to play in the park with his friends.",
    "Lily saw a big red ball. She said, \"Can I have it, please?\" Her mom smiled and said yes.",
    "The cat sat on the mat. The cat was happy because the sun was warm.",
    "Tim and Sue went to the shop. They wanted to buy a cake, but the shop was closed!",
)  # fmt: skip
N_LAYERS, WIDTH, CONTEXT = 3, 16, 64

_SIZES = {
    "gpt2": ("GPT2", {"n_layer": N_LAYERS, "n_embd": WIDTH, "n_head": 2, "n_positions": CONTEXT}),
    "gpt_neox": (
        "GPTNeoX",
        {
            "num_hidden_layers": N_LAYERS,
            "hidden_size": WIDTH,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "gpt_neo": (
        "GPTNeo",
        {
            "num_layers": N_LAYERS,
            "hidden_size": WIDTH,
            "num_heads": 2,
            "max_position_embeddings": CONTEXT,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 8,
        },
    ),
}
_MODERN = {
    "num_hidden_layers": N_LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": CONTEXT,
}
for _family, _prefix in {
    "llama": "Llama",
    "mistral": "Mistral",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}.items():
    _SIZES[_family] = (_prefix, _MODERN)
FAMILIES = tuple(_SIZES)

# Families without hookpoint names of their own, here for what they carry from token to token: a state instead of a
# cache of keys and values, both of them, or nothing at all.
_STATE = {"num_hidden_layers": N_LAYERS, "hidden_size": WIDTH, "max_position_embeddings": CONTEXT}
_MAMBA2 = {"chunk_size": 8, "expand": 2, "num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 4}
_OTHERS = {
    "mamba": ("Mamba", _STATE | {"state_size": 4, "time_step_rank": 2}),
    "mamba2": ("Mamba2", _STATE | _MAMBA2),
    "rwkv": ("Rwkv", {"num_hidden_layers": N_LAYERS, "hidden_size": WIDTH, "context_length": CONTEXT}),
    "bamba": (
        "Bamba",
        _MODERN
        | {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}
        | {"mamba_chunk_size": 8},
    ),
    "openai-gpt": ("OpenAIGPT", {"n_layer": N_LAYERS, "n_embd": WIDTH, "n_head": 2, "n_positions": CONTEXT}),
}
STATEFUL = tuple(_OTHERS)


def byte_level_tokenizer(vocab_size: int = 320) -> transformers.PreTrainedTokenizerFast:
    """GPT-2's kind: bytes as characters, merges inside words, `<|endoftext|>` as its only special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )


def sentencepiece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Llama's kind: spaces become `▁`, one is prepended, and a character outside the vocabulary falls back to bytes."""
    special = ["<unk>", "<s>", "</s>"]
    characters = sorted({c for s in SENTENCES for c in s.replace(" ", "▁")} | {"▁"})
    words = sorted({f"▁{w.strip('.,!?')}" for s in SENTENCES for w in s.split()})
    entries = special + [f"<0x{b:02X}>" for b in range(256)] + characters
    merges: list[tuple[str, str]] = []
    for word in words:
        for n in range(2, len(word) + 1):
            if word[:n] not in entries:
                entries.append(word[:n])
                merges.append((word[: n - 1], word[n - 1]))
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def wordpiece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """BERT's kind: lower case, accents and control characters dropped, blanks between words in no token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # pyright: ignore[reportCallIssue]
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    letters = [c for c in map(chr, range(33, 127)) if c == c.lower()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=260, special_tokens=["[UNK]"], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def normalising_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """SentencePiece's unigram kind with NFKC: characters composed and taken apart, a blank in front of every text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def save_tiny(folder: Path, family: str = "gpt2", *, tokenizer: str = "byte-level", seed: int = 0) -> Path:
    """Write a random model of `family` (3 blocks, width 16, context 64) and its tokenizer; returns the folder."""
    words = {
        "byte-level": byte_level_tokenizer,
        "sentencepiece": sentencepiece_tokenizer,
        "wordpiece": wordpiece_tokenizer,
        "normalising": normalising_tokenizer,
    }[tokenizer]()
    prefix, sizes = (_SIZES | _OTHERS)[family]
    config_class = getattr(transformers, f"{prefix}TextConfig" if family == "gemma3" else f"{prefix}Config")
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    # Untied: with the input table as unembedding a random model repeats its last token whatever is done to it.
    config = config_class(vocab_size=len(words), **(sizes | {"tie_word_embeddings": False}), **ids)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # the default, 0.02, makes blocks that hardly change the stream
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
