"""Agreement: do two models answer the same feature alike, more than they answer different features alike?

1. Take each model's changes of log-probabilities after the same prompts, over the vocabulary that both have.
2. Correlate them (Pearson over prompts and texts, each prompt centred): the matched correlation.
3. Do the same with this feature in one model and another feature, or a control direction, in the other.
4. The agreement is the matched correlation minus the mean mismatched one; its interval is a bootstrap over prompts, in
   which all pairs see the same draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions import measures
from suture.interventions.steer.effect import Agreement
from suture.uncertainty import Draws, correlation, interval


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One model's changes at the reference dose."""

    own: Mapping[int, Float[Tensor, "prompt text"]]
    """Per feature, under its own vector."""
    random: Sequence[Float[Tensor, "prompt text"]]
    """Under the control directions of the feature in question."""


def agreement(
    models: tuple[str, str],
    feature: int,
    partners: Sequence[int],
    a: Answered,
    b: Answered,
    draws: Draws,
    chance: str = "isotropic",
) -> Agreement:
    """The agreement of two models on one feature.

    Args:
        models: their labels.
        feature: the feature.
        partners: other features that both models were steered with.
        a: what the first model answered.
        b: what the second answered, over the same texts.
        draws: bootstrap draws of the prompts.
        chance: what kind of control directions the answers hold.
    """
    own_a, own_b = a.own[feature], b.own[feature]
    matched = measures.prompt_sums(own_a, own_b)
    mismatched = [measures.prompt_sums(own_a, b.own[j]) for j in partners]
    mismatched += [measures.prompt_sums(a.own[j], own_b) for j in partners]
    random = [measures.prompt_sums(own_a, r) for r in b.random]
    random += [measures.prompt_sums(r, own_b) for r in a.random]
    whole = Draws.whole(len(own_a))
    together = float(_correlations([matched], whole))
    low = float(_correlations(mismatched, whole)) if mismatched else None
    by_chance = float(_correlations(random, whole)) if random else None
    drawn = _correlations([matched], draws)
    return Agreement(
        models=models,
        correlation=together,
        mismatched=low,
        random=by_chance,
        value=together - (low or 0.0),
        interval=interval(drawn - (_correlations(mismatched, draws) if mismatched else 0.0)),
        value_over_random=None if by_chance is None else together - by_chance,
        interval_over_random=interval(drawn - _correlations(random, draws)) if random else None,
        n_tokens=own_a.shape[1],
        n_prompts=own_a.shape[0],
        mismatched_features=tuple(partners),
        random_kind=chance,
    )


def _correlations(pairs: Sequence[Float[Tensor, "prompt 3"]], draws: Draws) -> Float[Tensor, "draw"]:
    """In each draw, the mean over pairs of their correlation; 0 where one of the two models did not change at all."""
    ab, aa, bb = draws.sums(torch.stack(list(pairs), dim=1)).unbind(-1)
    return correlation(1, 0, 0, aa, bb, ab).nan_to_num(0.0).mean(1)
