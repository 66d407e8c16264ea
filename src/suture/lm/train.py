"""Train a small causal language model from text documents, or fine-tune an existing one, on one device.

1. Every document becomes `[BOS] + its tokens`; a tokenizer whose EOS differs from its BOS also closes it with EOS.
2. Each epoch shuffles the documents, lays them end to end, and cuts that stream into blocks from a random offset on.
3. A block is one row of a batch: next-token cross-entropy at every position, the gradient's norm clipped.
4. Muon updates the matrices inside the blocks, AdamW the embeddings, norms and biases. On three megabytes of stories
   one epoch of this goes as far as two to three of AdamW alone.
5. The rate of both warms up linearly, then falls along a cosine to zero at the last step.
6. After every epoch the held-out documents are scored, in nats per token and per byte of their text.

Everything random comes from the settings' seed inside a forked generator, so the caller's random state stays as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from suture import seeds
from suture.errors import NumericalError, UserError
from suture.lm.create import LMShape, new_lm
from suture.lm.heldout import HeldOutLoss, encode_documents, held_out_loss, next_token_loss


@dataclass(frozen=True, kw_only=True)
class LMSettings:
    """How a language model is trained, or trained further."""

    epochs: int = 10
    """Passes over the documents."""
    batch_size: int = 8
    """Blocks per step."""
    block: int = 256
    """Tokens per block; at most the model's context."""
    learning_rate: float = 3e-3
    """Peak rate, of Muon (scaled to AdamW's update size) and AdamW alike."""
    warmup: float = 0.02
    """Share of all steps over which the rate rises from zero."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors (norms, biases) are left alone."""
    clip: float = 1.0
    """The gradient's norm over all parameters is cut to this."""
    precision: str = "float32"
    """Arithmetic of the forward pass; weights and optimiser stay float32. bfloat16 pays on CPUs that have it."""
    seed: int = 0
    """Initial weights, order of documents, cut of blocks, dropout."""
    report_every: int = 50
    """Steps between progress records."""

    def __post_init__(self) -> None:
        """Raise UserError for settings that cannot train."""
        for name in ("epochs", "batch_size", "report_every"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is less than 1", "give a positive number")
        if self.block < 2:
            raise UserError("block", self.block, "leaves nothing to predict", "give at least 2 tokens")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(name, getattr(self, name), "is not positive", "give a positive number")
        if not 0 <= self.warmup < 1:
            raise UserError("warmup", self.warmup, "is not in [0, 1)", "give a share of the steps such as 0.02")
        if self.weight_decay < 0:
            raise UserError("weight_decay", self.weight_decay, "is negative", "give zero or more")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError("precision", self.precision, "is not known", "use float32 or bfloat16")


@dataclass(frozen=True, kw_only=True)
class LMProgress:
    """One point of the loss curve."""

    step: int
    n_steps: int
    epoch: int
    n_tokens: int
    """Tokens trained on so far."""
    loss: float
    """Mean training loss (nats per token, dropout on) since the last record."""
    learning_rate: float
    tokens_per_second: float
    held_out: HeldOutLoss | None
    """Filled after the last step of an epoch, if held-out documents were given."""


@dataclass(frozen=True, kw_only=True)
class TrainedLM:
    """A model in evaluation mode, its tokenizer, and how the training went."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    curve: tuple[LMProgress, ...]

    @property
    def held_out(self) -> HeldOutLoss | None:
        """The loss on the held-out documents after the last step."""
        return self.curve[-1].held_out


def epoch_blocks(
    documents: Sequence[Int[Tensor, "_"]], block: int, generator: torch.Generator
) -> Int[Tensor, "batch token"]:
    """One epoch's rows: shuffled documents end to end, cut every `block` tokens from a random offset on.

    The offset moves the cuts from epoch to epoch, so that a small corpus is not seen twice at the same positions. The
    two ends that do not fill a block are left out; there is at least one row if there are `block` tokens.
    """
    order = torch.randperm(len(documents), generator=generator).tolist()
    stream = torch.cat([documents[i] for i in order])
    offset = int(torch.randint(min(block, len(stream) - block + 1), (1,), generator=generator))
    n_rows = (len(stream) - offset) // block
    return stream[offset : offset + n_rows * block].view(n_rows, block)


def n_steps_per_epoch(n_tokens: int, settings: LMSettings) -> int:
    """Steps that every epoch can make wherever its offset falls; the last may have fewer rows.

    >>> n_steps_per_epoch(1000, LMSettings(block=10, batch_size=8)), n_steps_per_epoch(19, LMSettings(block=10))
    (13, 1)
    """
    n_rows = max((n_tokens - settings.block + 1) // settings.block, 1)
    return math.ceil(n_rows / settings.batch_size)


def rate_factor(step: int, *, n_steps: int, warmup: float) -> float:
    """The share of the peak learning rate at a step counted from 0: linear up, then a cosine down to zero.

    >>> [round(rate_factor(i, n_steps=5, warmup=0.4), 3) for i in range(5)]
    [0.5, 1.0, 0.75, 0.25, 0.0]
    """
    n_warm = round(n_steps * warmup)
    if step < n_warm:
        return (step + 1) / n_warm
    return 0.5 * (1 + math.cos(math.pi * (step - n_warm + 1) / (n_steps - n_warm)))


def optimizers(model: PreTrainedModel, settings: LMSettings) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and vectors; the same rate serves both.

    Muon's update is scaled to the root mean square of AdamW's (2502.16982). Norms and biases are not decayed: that
    would pull at the function, not at its complexity.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    tables |= {id(head.weight)} if head is not None else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in trained if p.ndim == 2 and id(p) not in tables]
    embeddings = [p for p in trained if p.ndim >= 2 and (p.ndim > 2 or id(p) in tables)]
    vectors = [p for p in trained if p.ndim < 2]
    muon = torch.optim.Muon(
        hidden,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": embeddings, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    return muon, adamw


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    settings: LMSettings,
    *,
    held_out: Sequence[str] | None = None,
    on_progress: Callable[[LMProgress], None] | None = None,
) -> TrainedLM:
    """Train a model on documents, in place, from the weights it has; it comes back in evaluation mode.

    Args:
        model: any causal LM with float32 weights.
        tokenizer: the model's own.
        documents: texts, one per document; read once, tokens kept in memory.
        settings: length, rate, precision, seed.
        held_out: documents scored after every epoch; scoring never changes the training.
        on_progress: called with each point of the loss curve.

    Raises:
        UserError: too little text for one block, a block beyond the model's context, weights in half precision, or a
            tokenizer without BOS and EOS.
        NumericalError: the loss is no longer finite; names the step.
    """
    context = getattr(model.config, "max_position_embeddings", settings.block)
    if settings.block > context:
        raise UserError("block", settings.block, f"is beyond the model's context of {context}", "give a smaller block")
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise UserError("dtype", model.dtype, "rounds small steps of training to nothing", "load the model in float32")
    encoded = encode_documents(documents, tokenizer)  # 1
    n_tokens = sum(map(len, encoded))
    if n_tokens < settings.block:
        raise UserError("block", settings.block, f"is longer than the {n_tokens} tokens of all documents", "lower it")
    with seeds.drawing("language model", settings.seed, device=model.device):

        def score() -> HeldOutLoss | None:
            return held_out_loss(model, tokenizer, held_out) if held_out else None

        curve = _train(model, encoded, settings, score=score, on_progress=on_progress)
    model.eval()
    return TrainedLM(model=model, tokenizer=tokenizer, curve=curve)


def _train(
    model: PreTrainedModel,
    encoded: Sequence[Int[Tensor, "_"]],
    settings: LMSettings,
    *,
    score: Callable[[], HeldOutLoss | None],
    on_progress: Callable[[LMProgress], None] | None,
) -> tuple[LMProgress, ...]:
    """The loop; the random state is already the settings'."""
    both = optimizers(model, settings)
    n_epoch = n_steps_per_epoch(sum(map(len, encoded)), settings)
    n_steps = settings.epochs * n_epoch
    curve: list[LMProgress] = []
    losses: list[float] = []
    n_tokens, n_tokens_before, clock = 0, 0, time.perf_counter()
    model.train()
    for step, batch in enumerate(_batches(encoded, settings, n_epoch), start=1):
        rate = settings.learning_rate * rate_factor(step - 1, n_steps=n_steps, warmup=settings.warmup)  # 5
        losses.append(_step(model, both, batch.to(model.device), rate, settings))
        if not math.isfinite(losses[-1]):
            raise NumericalError(
                "learning_rate", settings.learning_rate, f"the loss was {losses[-1]} at step {step}", "lower it"
            )
        n_tokens += batch.numel()
        if step % settings.report_every == 0 or step % n_epoch == 0:
            seconds = time.perf_counter() - clock
            record = LMProgress(
                step=step,
                n_steps=n_steps,
                epoch=(step - 1) // n_epoch + 1,
                n_tokens=n_tokens,
                loss=sum(losses) / len(losses),
                learning_rate=rate,
                tokens_per_second=(n_tokens - n_tokens_before) / seconds,
                held_out=score() if step % n_epoch == 0 else None,  # 6
            )
            curve.append(record)
            if on_progress:
                on_progress(record)
            losses, n_tokens_before, clock = [], n_tokens, time.perf_counter()
    return tuple(curve)


def _batches(
    encoded: Sequence[Int[Tensor, "_"]], settings: LMSettings, n_epoch: int
) -> Iterator[Int[Tensor, "batch token"]]:
    """Every batch of the training, `n_epoch` per epoch; one generator decides all orders and offsets."""
    order = seeds.generator("language model", settings.seed)
    for _ in range(settings.epochs):
        rows = epoch_blocks(encoded, settings.block, order)  # 2
        yield from rows.split(settings.batch_size)[:n_epoch]


def _step(
    model: PreTrainedModel,
    both: tuple[torch.optim.Muon, torch.optim.AdamW],
    batch: Int[Tensor, "batch token"],
    rate: float,
    settings: LMSettings,
) -> float:
    """One update; returns the batch's loss in nats per token."""
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        logits = model(input_ids=batch, use_cache=False).logits
    loss = next_token_loss(logits, batch)  # 3
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    for optimizer in both:  # 4
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def train_lm(
    documents: Iterable[str],
    shape: LMShape,
    settings: LMSettings,
    *,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[str] | None = None,
    on_progress: Callable[[LMProgress], None] | None = None,
) -> TrainedLM:
    """Train a model of this shape from nothing; arguments and errors otherwise as for `fine_tune`."""
    model = new_lm(shape, tokenizer, seed=settings.seed)
    return fine_tune(model, tokenizer, documents, settings, held_out=held_out, on_progress=on_progress)
