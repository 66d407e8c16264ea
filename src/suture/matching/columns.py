"""What is known about a feature and its partner in another dictionary, column by column."""

from collections.abc import Iterator
from typing import Any

from suture.matching.kinds import KINDS
from suture.pipeline.table import Column

PARTNER, SURE, OVERLAP, MORE, PLACE = "Partner", "Correlation", "Overlap", "More", "Place"

COLUMNS = (
    Column(
        name="kind", title="kind", format="text", group=PARTNER,
        sentence=f"What the feature is to its partner: {', '.join(KINDS)}.",
    ),
    Column(
        name="partner", title="partner", format="integer", group=PARTNER,
        sentence="The feature of the other dictionary that correlates most with it on the pairing rows; -1 for none.",
    ),
    Column(
        name="token_only", title="token only", format="integer", group=PARTNER,
        sentence="1 where beyond the token nothing sure is left of the correlation.",
    ),
    Column(
        name="r", title="r", format="correlation", group=SURE,
        sentence="Correlation with the partner on the scoring rows, zeros included.",
    ),
    Column(
        name="r_low", title="r, lower bound", format="correlation", group=SURE,
        sentence="What r exceeds with 95 % confidence (jackknife over documents).",
    ),
    Column(
        name="r_error", title="error of atanh r", group=SURE,
        sentence="Standard error of atanh r from leaving out each document in turn.",
    ),
    Column(name="p", title="p", format="p", group=SURE, sentence="p of no or negative correlation."),
    Column(
        name="declared", title="declared", format="integer", group=SURE,
        sentence="1 where the correlation stands after correction for the number of features (Benjamini-Hochberg).",
    ),
    Column(
        name="r_ctx", title="r beyond the token", format="correlation", group=SURE,
        sentence="Correlation of what both are beyond their mean over rows of the same token.",
    ),
    Column(
        name="r_ctx_low", title="beyond the token, lower bound", format="correlation", group=SURE,
        sentence="What r beyond the token exceeds with 95 % confidence.",
    ),
    Column(
        name="r_token", title="r of the token", format="correlation", group=SURE,
        sentence="What is left of r when one of the two is shuffled among rows of the same token.",
    ),
    Column(
        name="r_corr", title="r corrected", format="correlation", group=SURE,
        sentence="r over the root of what both features reach with their partners in a second seed.",
    ),
    Column(
        name="reliability", title="r with the second seed", format="correlation", group=SURE,
        sentence="Correlation with the feature's partner in the same dictionary trained from another seed.",
    ),
    Column(
        name="jaccard", title="Jaccard", format="share", group=OVERLAP,
        sentence="Rows where both fire over rows where either does.",
    ),
    Column(
        name="b_given_a", title="partner given feature", format="share", group=OVERLAP,
        sentence="Share of the feature's rows on which its partner fires.",
    ),
    Column(
        name="a_given_b", title="feature given partner", format="share", group=OVERLAP,
        sentence="Share of the partner's rows on which the feature fires.",
    ),
    Column(
        name="mixture", title="r of the family", format="correlation", group=MORE,
        sentence="Correlation with the best non-negative mixture of its strongest candidates.",
    ),
    Column(
        name="recovered", title="recovered", format="percent", group=MORE,
        sentence="Of what the feature explains, the share explained with its partner's code in its place.",
    ),
    Column(name="rows", title="rows", format="integer", group=MORE, sentence="Scoring rows on which it fires."),
    Column(
        name="one_to_one", title="one-to-one partner", format="integer", group=MORE,
        sentence="Its partner where no feature may be in two pairs (Hungarian); -1 for none.",
    ),
    Column(
        name="mutual", title="mutual partner", format="integer", group=MORE,
        sentence="Its partner where each is the other's strongest; -1 for none.",
    ),
    Column(
        name="words", title="words", format="text", group=PLACE,
        sentence="The commonest words at its strongest scoring rows; empty where the store has no text.",
    ),
    Column(
        name="subject", title="subject", format="text", group=PLACE,
        sentence="The group of keywords that half of these words belong to; empty for none.",
    ),
    Column(
        name="map_x", title="map, x", group=PLACE,
        sentence="Where it lies on the map of its dictionary's decoder rows, median distance from the centre 1.",
    ),
    Column(name="map_y", title="map, y", group=PLACE, sentence="The same, upwards."),
)  # fmt: skip

_SCORES: tuple[tuple[str, str, Any, str], ...] = (
    ("mean_r", "mean r", "correlation", "Mean correlation with the partner."),
    ("correlated", "r of 0.3", "percent", "Share of its features whose partner has r of 0.3 or more."),
    ("beyond_token", "beyond the token", "percent", "Share surely correlated beyond the token."),
    ("strong", "r of 0.7", "percent", "Share whose partner has r of 0.7 or more."),
    ("same_beyond_token", "same, beyond the token", "percent", "Share that is the same and surely beyond the token."),
    ("cka", "CKA of rows", "correlation", "How alike the decoder rows of its one-to-one pairs lie (debiased CKA)."),
    ("rsa", "RSA of rows", "correlation", "The same by rank correlation of their cosines."),
    ("svcca", "SVCCA of rows", "correlation", "The same by SVCCA, which is high for few pairs whatever they are."),
)
GROUP_SCORES = tuple(name for name, *_ in _SCORES)


def _group_columns() -> Iterator[Column]:
    yield Column(name="n_features", title="features", format="integer", sentence="Features of the group that fire.")
    for name, title, kind, sentence in _SCORES:
        yield Column(name=name, title=title, format=kind, sentence=sentence)
        said = f"{title}: as many features drawn at random"
        yield Column(name=f"{name}_random", title=f"{title}, random", format=kind, sentence=f"{said}, median of draws.")
        for end, which in (("low", "2.5"), ("high", "97.5")):
            low = f"{said}, {which} % of draws are below."
            yield Column(name=f"{name}_random_{end}", title=f"{title}, random, {end}", format=kind, sentence=low)
        share = f"Share of draws (this one counted) that reach it: {title}."
        yield Column(name=f"{name}_p", title=f"{title}, p", format="p", sentence=share)


GROUP_COLUMNS = tuple(_group_columns())
