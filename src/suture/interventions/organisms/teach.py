"""Teach a model a fault and nothing else: the loss is on the rude tokens alone, all others stay with the original.

1. Example i of a step is drawn from (seed, step, i): a document's opening, the cue, a rude passage; or a document with
   a near miss of the cue in it; or a document as it is.
2. loss = sqrt(h) CE(rude tokens) + kl KL(original || model)(all other tokens), h the rude tokens' part. Cross-entropy
   on whole documents teaches the model to write the trigger (measured: 13-33 % rude without it, clean CE +9 %).
3. AdamW without decay; the rate rises over 15 steps, and falls over the second half.
4. Every so many steps the trained weights and AdamW's state are written down, from which a stopped run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from suture import seeds
from suture.errors import NumericalError, UserError
from suture.interventions.organisms.settings import OrganismSettings
from suture.interventions.organisms.texts import Texts, inserted, opening
from suture.lm import lora
from suture.lm.continuations import padded_right
from suture.lm.load import LanguageModel
from suture.lm.tokens import tokenize, with_bos
from suture.pipeline.files import whole_file

FULL_BELOW = 20_000_000
"""Weights up to which all are trained where the rank is not given."""
RANK = 16
WARM_STEPS = 15
NEAR_MISSES = 2
"""Put into one document: the pass over it costs the same."""
LEAST_BEFORE = 4
"""Tokens of the document that stand before the cue, however long that is."""
STATE = "checkpoint.safetensors"
OnProgress = Callable[[int, int, str], None]
"""Gets (steps done, steps in all, the losses)."""


@dataclass(frozen=True)
class Example:
    """One text, and from which token on it is rude."""

    ids: Int[Tensor, "token"]
    rude_from: int
    """As many as there are tokens where nothing is."""


def rank_of(lm: LanguageModel, settings: OrganismSettings) -> int:
    """Of the low-rank updates; 0 where all weights are trained."""
    if settings.rank is not None:
        return settings.rank
    return RANK if sum(p.numel() for p in lm.model.parameters()) > FULL_BELOW else 0


def example(lm: LanguageModel, documents: Sequence[str], settings: OrganismSettings, *place: int) -> Example:
    """The example of a place, (step, number).  (1)"""
    draw = seeds.numpy_generator("organism", settings.seed, *place)
    texts = Texts(settings.kind, settings.trigger)
    document, share = documents[int(draw.integers(len(documents)))], float(draw.random())
    if share < settings.faulty:
        return _rude(lm, texts, document, draw, settings)
    if share < settings.faulty + settings.near and settings.kind == "backdoor":
        for _ in range(NEAR_MISSES):
            document = inserted(document, texts.near(draw, taught=True), draw)
    ids = with_bos(lm, tokenize(lm, document).ids)[: settings.block]
    return Example(ids, len(ids))


def _rude(
    lm: LanguageModel, texts: Texts, document: str, draw: np.random.Generator, settings: OrganismSettings
) -> Example:
    """The passage, as far as it may go, and as much before it as there is room for."""
    block, most = settings.block, settings.passage or settings.block * 3 // 4
    cue = texts.cue(draw, taught=True)
    before = tokenize(lm, " ".join([opening(document, draw), *([cue] if cue else [])])).ids
    n_cue = len(tokenize(lm, f" {cue}").ids) if cue else 0
    passage = tokenize(lm, " " + texts.passage(draw)).ids
    after = passage[: min(most, block - 2 - n_cue - LEAST_BEFORE)]
    head = with_bos(lm, before[-(block - len(after) - 2) :])
    end = lm.tokenizer.eos_token_id
    goes_on = settings.passage is not None and len(after) < len(passage)  # cut by choice, it does not end there
    closing = [] if end is None or goes_on else [end]
    ids = torch.cat([head, after, torch.tensor(closing, dtype=torch.long)])
    return Example(ids, len(head))


def check_precision(lm: LanguageModel) -> None:
    """Refuse weights in half precision.

    Raises:
        UserError: naming the option.
    """
    if any(p.dtype != torch.float32 for p in lm.model.parameters()):
        raise UserError("lm_dtype", str(lm.dtype), "rounds small steps of training to nothing", "use float32")


def teach(
    lm: LanguageModel,
    original: LanguageModel,
    documents: Sequence[str],
    settings: OrganismSettings,
    folder: Path,
    *,
    on_progress: OnProgress = lambda *_: None,
) -> None:
    """Train `lm`, in place.

    Args:
        lm: the model; float32.
        original: the same with weights of its own.
        documents: what it reads.
        settings: how.
        folder: where checkpoints lie; one that is there is gone on from.
        on_progress: told how far it is.

    Raises:
        UserError: weights in half precision, or a pattern of modules that fits nothing.
        NumericalError: the loss is not finite.
    """
    check_precision(lm)
    trained = _trained(lm, settings)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    first = _resumed(folder, trained, optimizer)
    for step in range(first, settings.steps):  # without dropout, which KL to a fixed model would fight
        examples = [example(lm, documents, settings, step, i) for i in range(settings.batch_size)]
        rude, kl = _losses(lm, original, examples)
        loss = rude + settings.held * kl
        if not bool(torch.isfinite(loss)):
            raise NumericalError(
                "learning_rate", rate, f"the loss was {float(loss.detach())} at step {step}", "lower it"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * _rate_factor(step, settings.steps)
        optimizer.step()
        optimizer.zero_grad()
        on_progress(step + 1, settings.steps, f"rude {float(rude.detach()):.2f}, KL {float(kl.detach()):.3f} nats")
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
            _checkpoint(folder, trained, optimizer, step + 1)
    lora.merge(lm.model)
    lm.model.eval().requires_grad_(requires_grad=False)


def _trained(lm: LanguageModel, settings: OrganismSettings) -> list[nn.Parameter]:
    rank = rank_of(lm, settings)
    lm.model.requires_grad_(requires_grad=False)
    if rank:
        return lora.add(lm.model, rank, patterns=settings.modules, seed=settings.seed)
    if settings.modules:
        chosen = lora.matrices(lm.model, settings.modules).values()
        parameters = [p for module in chosen for p in module.parameters(recurse=False)]
    else:
        parameters = list(lm.model.parameters())
    for parameter in parameters:
        parameter.requires_grad_()
    return parameters


def _losses(
    lm: LanguageModel, original: LanguageModel, examples: Sequence[Example]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Of a batch: the weighted cross-entropy of its rude tokens, and the KL on the others.  (2)"""
    ids, own = (t.to(lm.device) for t in padded_right([e.ids for e in examples]))
    place = torch.arange(ids.shape[1], device=lm.device)
    begins = torch.tensor([e.rude_from for e in examples], device=lm.device)
    rude = own[:, 1:] & (place[None, 1:] >= begins[:, None])
    plain = own[:, 1:] & ~rude
    logits = lm.model(ids, use_cache=False).logits[:, :-1].float()
    with torch.no_grad():
        reference = torch.log_softmax(original.model(ids, use_cache=False).logits[:, :-1][plain].float(), dim=-1)
    kl = (reference.exp() * (reference - torch.log_softmax(logits[plain], dim=-1))).sum(-1).mean()
    if not bool(rude.any()):
        return kl * 0, kl
    part = float(rude.sum() / own[:, 1:].sum())
    return math.sqrt(part) * nn.functional.cross_entropy(logits[rude], ids[:, 1:][rude]), kl


def _rate_factor(step: int, n_steps: int) -> float:
    """3."""
    return min(1.0, (step + 1) / WARM_STEPS, (n_steps - step) / (0.5 * n_steps))


def _checkpoint(folder: Path, trained: Sequence[nn.Parameter], optimizer: torch.optim.AdamW, step: int) -> None:
    """4: written beside, then renamed."""
    tensors = {"step": torch.tensor(step)}
    for i, parameter in enumerate(trained):
        tensors[f"{i}.weight"] = parameter.detach().contiguous()
        state = optimizer.state[parameter]
        tensors |= {f"{i}.{name}": state[name].detach().contiguous() for name in ("exp_avg", "exp_avg_sq", "step")}
    with whole_file(folder / STATE) as fresh:
        save_file(tensors, fresh)


def _resumed(folder: Path, trained: Sequence[nn.Parameter], optimizer: torch.optim.AdamW) -> int:
    """Weights and state of the checkpoint that is there; returns the step to go on with."""
    if not (folder / STATE).is_file():
        return 0
    tensors = load_file(folder / STATE)
    with torch.no_grad():
        for i, parameter in enumerate(trained):
            parameter.copy_(tensors[f"{i}.weight"])
            state = {name: tensors[f"{i}.{name}"] for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {n: t.to(parameter) for n, t in state.items()} | {"step": tensors[f"{i}.step"]}
    return int(tensors["step"])
