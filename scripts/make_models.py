"""Train the language models that ship with suture, on TinyStories, and write their folders and model cards.

    SUTURE_SHARED=../shared OMP_NUM_THREADS=1 python scripts/make_models.py [NAME ...] [--out src/suture/models]

1. Read the training stories; one tokenizer is learned from them and shared by all models.
2. Train each model; the validation stories are only scored, never trained on.
3. Save in half precision, load the folder back in float32, and score and sample what was loaded: the card's numbers are
   those of the files that ship.

The same processor with the same number of threads gives the same weights; elsewhere they differ in rounding only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from suture.lm.create import END_OF_TEXT, LMShape, save_lm, train_tokenizer
from suture.lm.heldout import HeldOutLoss, held_out_loss
from suture.lm.train import LMProgress, LMSettings, TrainedLM, train_lm

ROOT = Path(__file__).resolve().parent.parent
VOCAB_SIZE = 2048


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What tells one shipped model from another."""

    n_layers: int
    seed: int


RECIPES = {
    "tinystories-1l": Recipe(n_layers=1, seed=0),
    "tinystories-2l": Recipe(n_layers=2, seed=0),
    "tinystories-1l-seed2": Recipe(n_layers=1, seed=2),
}


def shape_of(recipe: Recipe) -> LMShape:
    """Small enough that a dictionary on its activations trains in seconds."""
    return LMShape(architecture="gpt_neo", n_layers=recipe.n_layers, width=128, n_heads=4, context=256, dropout=0.05)


def settings_of(recipe: Recipe) -> LMSettings:
    """Six epochs, minutes on one idle core: training and held-out loss are still close at the end."""
    return LMSettings(
        epochs=6,
        batch_size=4,
        block=256,
        learning_rate=3e-3,
        weight_decay=0.1,
        precision="bfloat16",
        seed=recipe.seed,
    )


def stories(path: Path) -> list[str]:
    """The stories of a file, split by lines of `<|endoftext|>`."""
    return [story for part in path.read_text(encoding="utf-8").split(END_OF_TEXT) if (story := part.strip())]


def show(record: LMProgress) -> None:
    """One line per progress record, on stderr."""
    held_out = ""
    if record.held_out:
        held_out = f"  held out {record.held_out.nats_per_token:.4f} /token {record.held_out.nats_per_byte:.4f} /byte"
    print(
        f"step {record.step}/{record.n_steps}  epoch {record.epoch}  loss {record.loss:.4f}  "
        f"{record.tokens_per_second:,.0f} tokens/s{held_out}",
        file=sys.stderr,
        flush=True,
    )


def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, temperature: float | None) -> str:
    """A story from BOS: greedy without a temperature, otherwise sampled with seed 0."""
    start = torch.tensor([[tokenizer.bos_token_id]])
    choice: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        choice = {"do_sample": True, "temperature": temperature, "top_k": 0}
    torch.manual_seed(0)
    generate: Callable[..., Tensor] = model.generate  # pyright: ignore[reportAssignmentType]
    tokens = generate(start, attention_mask=torch.ones_like(start), max_new_tokens=200, **choice)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


CARD = """---
language: en
license: cdla-sharing-1.0
library_name: transformers
pipeline_tag: text-generation
datasets: [roneneldan/TinyStories]
---

# {name}

A {n_layers}-layer GPT-Neo language model of width {width} that writes short children's stories. It was trained by the
suture project as a small, complete object of study: `tinystories-1l`, `tinystories-2l` and `tinystories-1l-seed2` share one
byte-level BPE tokenizer of {vocab} entries and differ in depth or in seed alone.

| | |
|---|---|
| parameters | {n_parameters:,} (embeddings tied) |
| layers, width, heads, context | {n_layers}, {width}, {n_heads}, {context}; all attention global |
| data | {n_stories:,} stories of roneneldan/TinyStories (CDLA-Sharing-1.0), {n_bytes:,} bytes |
| training | {n_steps:,} steps of {batch_size} x {block} tokens, {epochs} epochs, {n_tokens:,} tokens, seed {seed} |
| optimiser | Muon (matrices of the blocks) and AdamW (the rest), peak rate {learning_rate}, cosine to zero, decay {weight_decay}, dropout {dropout} |
| validation loss | {nats_per_token:.4f} nats per token, {nats_per_byte:.4f} nats per byte ({valid_stories} stories kept out, {valid_tokens:,} tokens) |
| training loss at the end | {train_loss:.4f} nats per token |
| licence of the weights | CDLA-Sharing-1.0, as the data |

Every document begins with `<|endoftext|>` (token 0), which the tokenizer does not add by itself. Weights are stored in
float16; load them in float32. The validation loss is that of the stored weights.

## It writes

Greedy, from `<|endoftext|>`:

> {greedy}

Sampled at temperature 0.7, seed 0:

> {sampled}

## Limits

It knows the words of three-year-olds only, mixes up its characters within a few sentences, and was never meant for
anything but research on models.

## Reproduce

```
SUTURE_SHARED=../shared OMP_NUM_THREADS=1 python scripts/make_models.py {name}
```
"""  # noqa: E501


def write_card(folder: Path, facts: dict[str, object]) -> None:
    """Fill the card; samples are quoted line by line, so that their paragraphs stay in the quotation."""
    quoted = {key: str(facts[key]).replace("\n", "\n> ") for key in ("greedy", "sampled")}
    (folder / "README.md").write_text(CARD.format(**(facts | quoted)), encoding="utf-8")


def make(name: str, out: Path, data: Path) -> HeldOutLoss:
    """Train one model and write its folder."""
    recipe = RECIPES[name]
    shape, settings = shape_of(recipe), settings_of(recipe)
    training, validation = stories(data / "train.txt"), stories(data / "valid.txt")
    tokenizer = train_tokenizer(training, vocab_size=VOCAB_SIZE)
    trained: TrainedLM = train_lm(training, shape, settings, tokenizer=tokenizer, held_out=validation, on_progress=show)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    save_lm(trained.model, trained.tokenizer, folder, card="")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded_tokenizer = AutoTokenizer.from_pretrained(folder)
    score, end = held_out_loss(model, loaded_tokenizer, validation), trained.curve[-1]
    facts = {
        "name": name,
        "vocab": len(loaded_tokenizer),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_stories": len(training),
        "n_bytes": sum(len(story.encode()) for story in training),
        "n_steps": end.n_steps,
        "n_tokens": end.n_tokens,
        "train_loss": end.loss,
        "valid_stories": len(validation),
        "valid_tokens": score.n_tokens,
        "nats_per_token": score.nats_per_token,
        "nats_per_byte": score.nats_per_byte,
        "greedy": sample(model, loaded_tokenizer, temperature=None),
        "sampled": sample(model, loaded_tokenizer, temperature=0.7),
    }
    write_card(folder, vars(shape) | vars(settings) | facts)
    return score


def main() -> None:
    """Train the models named on the command line, all of them without names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "src" / "suture" / "models")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(RECIPES)
    if unknown:
        parser.error(f"no model is called {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    data = Path(os.environ.get("SUTURE_SHARED", ROOT.parent / "shared")) / "data" / "tinystories"
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or RECIPES:
        start = time.perf_counter()
        score = make(name, arguments.out, data)
        summary = {"model": name, "nats_per_token": score.nats_per_token, "nats_per_byte": score.nats_per_byte}
        print(json.dumps(summary | {"seconds": round(time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
