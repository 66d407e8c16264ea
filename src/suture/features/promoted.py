"""Which tokens a feature promotes in each model, found in one of two ways, and said which.

1. `direct`: the feature's direction, at unit length, times the mean derivative of the model's last step
   (`lm.unembedding`), as if nothing came between. In the last residual stream nothing does.
2. `run`: as strong as the feature gets (99.9 % activation), its direction is added at real positions and run through
   all later blocks (`lm.downstream`). In early and middle layers the direct path says little; but this takes passes
   of the model, so it is done for the features that a reader opens first, and for any that is asked for.
3. Other features there keep the direct path where their space lies in the residual stream, and nothing elsewhere.

The vocabulary's mean is taken off, and only entries that the tokenizer knows are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.logits import direct_path, spelled, strongest
from suture.lm.downstream import changes, contexts_of
from suture.lm.load import LanguageModel
from suture.lm.unembedding import Unembedding, unembedding

DIRECT, RUN = "direct", "run"

Side = dict[str, Any]
"""{"promoted": (token, value) pairs, "suppressed": the same, "path": `direct`, `run` or empty, and where there is one
"counts": vocabulary entries in bins from minus to plus "farthest"}."""
NOTHING: Side = {"promoted": [], "suppressed": [], "path": ""}


def promoted(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel],
    documents: Sequence[str],
    *,
    scales: Float[Tensor, "feature"],
    first: Iterable[int],
    n_top: int,
) -> list[list[Side]]:
    """Per feature and model the promoted and suppressed tokens.

    Args:
        dictionary: with one space per model.
        lms: its models, in the order of its spaces.
        documents: real text, for the positions.
        scales: every feature's 99.9 % activation in code units; NaN or 0 for a dead one.
        first: the features that are run through their models where the direct path is not all there is.
        n_top: tokens kept of each kind.

    Raises:
        UserError: not one model per space, or documents without a token.
    """
    if len(lms) != dictionary.n_spaces:
        raise UserError("models", len(lms), f"the dictionary has {dictionary.n_spaces} spaces", "give one for each")
    live = [feature for feature in first if float(scales[feature]) > 0]
    sides = []
    for m, lm in enumerate(lms):
        space = dictionary.spaces[m]
        if space.copy_of is not None and space.copy_of.rotated:  # its directions are no language model's
            sides.append([NOTHING] * dictionary.n_features)
            continue
        table = unembedding(lm, documents)
        in_stream = space.width == lm.d_model and not space.hookpoint.endswith(".in")
        own = _direct(dictionary, m, table, n_top) if in_stream else [NOTHING] * dictionary.n_features
        if not is_last(lm, space.hookpoint):
            for feature, side in promoted_by_running(
                dictionary, m, lm, live, documents, scales=scales, n_top=n_top, table=table
            ).items():
                own[feature] = side
        sides.append(own)
    return [list(side) for side in zip(*sides, strict=True)]


def _direct(dictionary: Dictionary, space: int, table: Unembedding, n_top: int) -> list[Side]:
    """1, for every feature of a space."""
    found = direct_path(dictionary.raw_decoder(space).detach(), table.derivative, table.ids, n_top=n_top)
    return [spelled(found, table.texts, i) | {"path": DIRECT} for i in range(dictionary.n_features)]


def is_last(lm: LanguageModel, hookpoint: str) -> bool:
    """Whether nothing but the last step comes after a hookpoint."""
    return hookpoint == f"resid{lm.n_layers - 1}.post"


def promoted_by_running(
    dictionary: Dictionary,
    space: int,
    lm: LanguageModel,
    features: Sequence[int],
    documents: Sequence[str],
    *,
    scales: Float[Tensor, "feature"],
    n_top: int = 10,
    table: Unembedding | None = None,
) -> dict[int, Side]:
    """Of any features, the tokens that their directions promote in one model when added and run through the rest.  (2)

    Values are changes of logits, the vocabulary's mean taken off. `table` saves making it again.

    Raises:
        UserError: a feature that never fires, or documents without a token.
    """
    dead = next((feature for feature in features if not float(scales[feature]) > 0), None)
    if dead is not None:
        raise UserError("feature", dead, "never fires, so nothing tells how much to add", "take a live one")
    if not features:
        return {}
    table = table or unembedding(lm, documents)
    chosen = torch.tensor(list(features))
    vectors = dictionary.raw_decoder(space).detach().cpu()[chosen] * scales[chosen, None].float().cpu()
    found: dict[int, Side] = {}
    remaining = iter(features)
    for change in changes(lm, dictionary.spaces[space].hookpoint, vectors.to(lm.device), contexts_of(lm, documents)):
        tokens = strongest(change, table.ids, n_top=n_top)
        for row in range(len(change)):
            found[next(remaining)] = spelled(tokens, table.texts, row) | {"path": RUN}
    return found


def opened_first(labels: Sequence[str], energy: Float[Tensor, "feature"], n: int) -> list[int]:
    """The `n` features that a reader opens first: of every label in turn those of most energy; none that is dead."""
    by_label: dict[str, list[int]] = {}
    order: list[int] = torch.argsort(energy.nan_to_num(), descending=True, stable=True).tolist()
    for feature in order:
        if labels[feature] != "dead":
            by_label.setdefault(labels[feature], []).append(feature)
    ranked = sorted((place, feature) for own in by_label.values() for place, feature in enumerate(own))
    return [feature for _, feature in ranked[:n]]
