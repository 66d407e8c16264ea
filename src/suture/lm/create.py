"""New small language models: a tokenizer learned from text, an untrained model, and the folder that holds both."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from suture import seeds
from suture.errors import UserError
from suture.lm.load import quiet
from suture.pipeline.files import share
from suture.pipeline.folder import writing

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class LMShape:
    """The architecture of a model trained from nothing; a fine-tune takes its shape from the model."""

    architecture: str = "gpt_neo"
    """`gpt_neo`: LayerNorm, learned positions, all attention global. `llama`: RMSNorm, rotary positions, gated MLP."""
    n_layers: int = 1
    """Transformer blocks."""
    width: int = 128
    """Dimension of the residual stream."""
    n_heads: int = 4
    """Attention heads; must divide the width."""
    context: int = 256
    """Most tokens the model can see."""
    dropout: float = 0.1
    """On embeddings and on both block outputs (`gpt_neo`); on attention weights (`llama`, which has no other)."""

    def __post_init__(self) -> None:
        """Raise UserError for a shape that cannot be built."""
        if self.architecture not in ("gpt_neo", "llama"):
            raise UserError("architecture", self.architecture, "is not known", "use gpt_neo or llama")
        for name in ("n_layers", "width", "n_heads", "context"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is less than 1", "give a positive number")
        if self.width % self.n_heads:
            raise UserError("width", self.width, f"does not split into {self.n_heads} heads", "change one of them")
        if self.architecture == "llama" and (self.width // self.n_heads) % 2:
            raise UserError("n_heads", self.n_heads, "gives heads of odd width", "rotary positions need an even one")
        if not 0 <= self.dropout < 1:
            raise UserError("dropout", self.dropout, "is not in [0, 1)", "give a probability such as 0.1")


def train_tokenizer(documents: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose decoding gives back every text exactly.

    The vocabulary is `<|endoftext|>` (token 0; BOS, EOS and padding), the 256 bytes, and merges learned from the
    documents in the order of their frequency (ties by token number, so learning is deterministic). Digits are split
    one by one. Like GPT-2's tokenizer it adds no BOS by itself.

    Raises:
        UserError: `vocab_size` has no room for the 257 entries above.
    """
    if vocab_size < 257:
        raise UserError("vocab_size", vocab_size, "has no room for the 256 bytes", "give at least 257")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(documents, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def new_lm(shape: LMShape, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """An untrained model of this shape, embeddings tied, float32, on the CPU; the same seed gives the same weights."""
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "max_position_embeddings": shape.context,
        "attention_dropout": 0.0 if shape.architecture == "gpt_neo" else shape.dropout,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    with seeds.drawing("language model", seed):
        if shape.architecture == "llama":
            # 8/3 of the width gives the gated MLP as many weights as an ungated one of four widths (2002.05202).
            inner = 8 * math.ceil(shape.width / 3)
            return LlamaForCausalLM(
                LlamaConfig(
                    **shared,
                    num_hidden_layers=shape.n_layers,
                    num_attention_heads=shape.n_heads,
                    num_key_value_heads=shape.n_heads,
                    intermediate_size=inner,
                )
            )
        return GPTNeoForCausalLM(
            GPTNeoConfig(
                **shared,
                num_layers=shape.n_layers,
                num_heads=shape.n_heads,
                attention_types=[[["global"], shape.n_layers]],
                resid_dropout=shape.dropout,
                embed_dropout=shape.dropout,
                # The same function as GPT-Neo's `gelu_new`, as one kernel instead of eight.
                activation_function="gelu_pytorch_tanh",
            )
        )


def write_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Put weights, in the model's own dtype, and tokenizer into a folder that is there."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        share(file)


def save_lm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    card: str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a Hugging Face folder: safetensors weights in `dtype`, tokenizer, generation config, model card.

    The folder appears whole or not at all; the model given is not changed. float16 keeps three more bits of every
    weight than bfloat16, and the weights of a small model lie well inside its range.

    Raises:
        UserError: `path` exists.
    """
    if path.exists():
        raise UserError("path", str(path), "exists already", "remove it, or give another name")
    halved = copy.deepcopy(model)
    torch.nn.Module.to(halved, dtype=dtype)
    with writing(path, {"stage": "language model"}) as draft:
        write_lm(halved, tokenizer, draft.folder)
        (draft.folder / "README.md").write_text(card, encoding="utf-8")
