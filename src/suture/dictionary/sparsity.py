"""Which features are active: top-k per row, top n·k of a batch, everything above zero, or above a learned threshold.

A sparsity is settings plus two choices over the same chunks of pre-activations: `select_training`, what the training
step looks at, and `select_inference`, what `Dictionary.encode` returns. They differ for BatchTopK (a batch's own
cut-off against a saved threshold; 2412.06410) and JumpReLU (training also needs the pairs just below the threshold,
through which its gradient flows; 2407.14435).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from suture.dictionary.codes import Pattern
from suture.dictionary.design import Sparsity
from suture.dictionary.kernels import MARGIN, Chunks, above, top_k
from suture.parallel import ALONE, Grid, Ranks


@dataclass(frozen=True)
class Selection:
    """The pairs a step looks at, with their pre-activations in the weights' precision."""

    pattern: Pattern
    pre: Float[Tensor, "active"]
    """Pre-activations with bias, before any ReLU or threshold."""
    cutoff: float | None = None
    """BatchTopK: the smallest score kept in this batch."""


def select_training(
    chunks: Chunks,
    sparsity: Sparsity,
    *,
    k: float,
    score_weight: Float[Tensor, "feature"] | None,
    threshold: Float[Tensor, "feature"],
    grid: Grid = ALONE,
) -> Selection:
    """The active pairs of a training batch. `k` may be above `sparsity.k` while it is annealed.

    `score_weight` multiplies BatchTopK's pre-activations (the decoder norms, summed over spaces). Where the features or
    the rows are split over ranks, each gets its own pairs of what one process would have chosen.
    """
    if sparsity.kind == "topk":
        return top_k_rows(chunks, round(k), grid.features)
    if sparsity.kind == "batchtopk":
        assert score_weight is not None
        return _top_of_batch(chunks, k, score_weight, grid)
    if sparsity.kind == "relu+l1":
        return _above(chunks, torch.zeros_like(threshold))
    return _above(chunks, threshold - sparsity.bandwidth / 2)


def select_inference(
    chunks: Chunks, sparsity: Sparsity, threshold: Float[Tensor, "feature"], grid: Grid = ALONE
) -> Selection:
    """The pairs that `encode` returns: top-k per row, or everything above its threshold."""
    if sparsity.kind == "topk":
        return top_k_rows(chunks, sparsity.k, grid.features)
    return _above(chunks, threshold)


def top_k_rows(chunks: Chunks, k: int, ranks: Ranks) -> Selection:
    """The k largest pre-activations of every row, over the features of all ranks; of equal ones any.

    A bf16 product offers a few candidates more than k, and the exact pre-activations decide between them.
    """
    n_features = chunks.W_enc.shape[0]
    k_own = min(k, n_features)
    if chunks.precision == "bfloat16":
        wanted = min(k_own + MARGIN, n_features)
        feature = torch.cat([top_k(pre, wanted).to(torch.int32) for _, pre in chunks])
        pre = chunks.exact(Pattern.fixed(feature, n_features)).view(-1, wanted)
        best = pre.topk(k_own, dim=-1, sorted=False).indices
        feature, pre = feature.gather(1, best), pre.gather(1, best)
    else:
        features, values = [], []
        for _, part in chunks:
            best = top_k(part, k_own)
            features.append(best.to(torch.int32))
            values.append(part.gather(1, best))
        feature, pre = torch.cat(features), torch.cat(values)
    if ranks.size == 1:
        return Selection(Pattern.fixed(feature, n_features), pre.view(-1))
    kept = _best_of_all_ranks(pre, k, ranks)
    row, place = kept.nonzero(as_tuple=True)
    return Selection(Pattern.from_pairs(row, feature[row, place], pre.shape[0], n_features), pre[row, place])


def _best_of_all_ranks(own: Float[Tensor, "row own"], k: int, ranks: Ranks) -> Bool[Tensor, "row own"]:
    """Which of this rank's values are among the k largest of their row over all ranks."""
    parts = ranks.gather(own.t().contiguous())
    everyone = torch.cat(parts).t()
    best = everyone.topk(min(k, everyone.shape[1]), dim=-1, sorted=False).indices
    kept = torch.zeros_like(everyone, dtype=torch.bool).scatter_(1, best, True)
    first = sum(part.shape[0] for part in parts[: ranks.rank])
    return kept[:, first : first + own.shape[1]]


def _top_of_batch(chunks: Chunks, k: float, score_weight: Tensor, grid: Grid) -> Selection:
    """The n·k largest positive scores of the batch, exactly.

    1. A few rows tell roughly where the cut-off lies; take everything above a bar a little below it.
    2. Too few pairs above the bar (or the re-scored ones fall below it): lower the bar and look again.
    3. Of the pairs above the bar, exactly re-scored, keep the n·k best.
    """
    n_features = chunks.W_enc.shape[0]
    wanted = round(chunks.x.shape[0] * grid.data.size * k)
    bar = _guess_cutoff(chunks, k, score_weight, grid)
    while True:
        found = _above(chunks, bar / score_weight)
        score = found.pre * score_weight[found.pattern.feature]
        parts = grid.world.gather(score)
        everyone = torch.cat(parts)
        # a bf16 product may lose pairs within its rounding of the bar, so the cut-off must lie clearly above it
        enough = everyone.numel() >= wanted and float(everyone.topk(wanted).values[-1]) >= bar * 1.02
        if enough or bar <= 0.0:
            break
        bar = bar * 0.8 if bar > 1e-6 else 0.0
    best = everyone.topk(min(wanted, everyone.numel()), sorted=False).indices
    first = sum(part.numel() for part in parts[: grid.world.rank])
    kept = (best[(best >= first) & (best < first + score.numel())] - first).sort().values
    pattern = Pattern.from_pairs(found.pattern.row[kept], found.pattern.feature[kept], found.pattern.n_rows, n_features)
    cutoff = float(everyone[best].min()) if best.numel() else None
    return Selection(pattern, found.pre[kept], cutoff)


def _guess_cutoff(chunks: Chunks, k: float, score_weight: Tensor, grid: Grid) -> float:
    n_each = -(-64 // grid.data.size)
    sample = (chunks.sample(n_each) * score_weight).flatten()
    wanted = round(n_each * grid.data.size * k * 1.15)
    best = grid.world.concatenate(sample.topk(min(sample.numel(), wanted)).values)
    return max(0.0, 0.9 * float(best.topk(min(best.numel(), wanted)).values[-1]))


def _above(chunks: Chunks, bar: Tensor) -> Selection:
    """Every pair whose pre-activation exceeds its feature's bar."""
    rows, features, values = [], [], []
    for start, pre in chunks:
        row, feature = above(pre, bar)
        rows.append(row + start)
        features.append(feature)
        if chunks.precision == "float32":
            values.append(pre[row, feature])
    pattern = Pattern.from_pairs(torch.cat(rows), torch.cat(features), chunks.x.shape[0], chunks.W_enc.shape[0])
    if chunks.precision == "float32":
        return Selection(pattern, torch.cat(values))
    exact = chunks.exact(pattern)
    kept = exact > bar[pattern.feature]
    pairs = Pattern.from_pairs(pattern.row[kept], pattern.feature[kept], pattern.n_rows, pattern.n_features)
    return Selection(pairs, exact[kept])
