"""Semantic groups: features whose strongest rows are words of one subject, and whether such features match better.

1. A feature is in a group if at least half of the words at its strongest rows are the group's keywords; whole words, in
   lower case, so that `a` is not in `cat`. Of two groups the one with more words has it.
2. For each group the shares that a matching gives of all features, and how alike its features' decoder rows and their
   partners' lie (CKA, RSA, SVCCA over one-to-one pairs: 2410.06981).
3. The same of as many features drawn at random, so often that a 95 % range and a p-value stand beside: a group of few
   features has a high share by chance now and then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from suture import seeds
from suture.errors import UserError
from suture.matching.columns import GROUP_COLUMNS, GROUP_SCORES
from suture.matching.kinds import SAME, SAME_RAW, SILENT
from suture.matching.similarity import cka, rsa, svcca
from suture.pipeline.settings import read_toml
from suture.pipeline.table import Table

MEMBER = 0.5
"""Share of a feature's words that are keywords."""
LEAST_WORDS = 3
"""Rows below which a feature has no subject."""
LEAST_MEMBERS = 5
"""Features below which a group has no share to speak of."""
LEAST_PAIRS = 6
"""Pairs below which decoder rows have no arrangement to compare."""
N_DRAWS = 200
N_ARRANGED = 40
"""Draws for the arrangement of decoder rows, which takes longer."""
CORRELATED = 0.3

Keywords = Mapping[str, frozenset[str]]

DEFAULTS: Keywords = {
    name: frozenset(words.split())
    for name, words in {
        "time": (
            "time day days night nights morning evening afternoon today tomorrow yesterday now then later soon before "
            "after week weeks month months year years hour hours minute minutes moment once always never often while "
            "during until century decade january february march april june july august september october november "
            "december monday tuesday wednesday thursday friday saturday sunday summer winter spring autumn"
        ),
        "people": (
            "boy boys girl girls man men woman women child children mom mommy mother dad daddy father brother sister "
            "baby friend friends people person king queen prince princess grandma grandpa teacher doctor lady kid kids "
            "family son daughter uncle aunt president minister he she him her they them who"
        ),
        "emotions": (
            "happy happily sad sadly angry mad scared afraid fear love loved loves hate joy excited surprised worried "
            "proud lonely brave smile smiled smiling cry cried crying laugh laughed laughing glad upset sorry hope "
            "hoped feel felt feeling feelings kind nice shy jealous grumpy nervous calm"
        ),
        "nature": (
            "tree trees flower flowers grass leaf leaves sun moon star stars sky rain snow wind cloud clouds river "
            "lake sea ocean water mountain hill forest rock rocks stone sand animal animals bird birds dog dogs cat "
            "cats fish bear rabbit bunny frog bee butterfly duck squirrel fox lion mouse garden plant plants earth"
        ),
        "places": (
            "house home park school room kitchen store shop farm city town village street road beach zoo castle "
            "hospital church garage yard playground bedroom door world country place island bridge north south east "
            "west england america london york state states river station"
        ),
        "food": (
            "food eat ate eating cake cakes cookie cookies apple apples banana bread milk juice soup ice cream candy "
            "cheese egg eggs fruit fruits vegetable vegetables carrot lunch dinner breakfast pie sandwich sugar honey "
            "berries tea meal snack hungry taste tasty delicious yummy cook cooked"
        ),
    }.items()
}
"""Subjects of children's stories and of encyclopedias; a word may be in two."""


def read_groups(path: Path | None) -> Keywords:
    """Groups of a TOML file, `name = ["word", ..]`; the defaults without one.

    Raises:
        UserError: no such file, or something else in it.
    """
    if path is None:
        return DEFAULTS
    raw = read_toml(path, "groups")
    for name, own in raw.items():
        if not isinstance(own, list) or not own or not all(isinstance(word, str) and word.strip() for word in own):
            raise UserError("groups", name, "is no list of words", f'write {name} = ["word", "word"]')
    if not raw:
        raise UserError("groups", path, "names no group", 'write name = ["word", "word"]')
    return {name: frozenset(word.strip().lower() for word in own) for name, own in raw.items()}


def group_of(found: Sequence[str], keywords: Keywords) -> str:
    """1: the group of a feature with these words; empty for none.

    >>> group_of(["dog", "dogs", "the"], DEFAULTS), group_of(["the", "a", "dog"], DEFAULTS)
    ('nature', '')
    """
    if len(found) < LEAST_WORDS:
        return ""
    counts = Counter(name for word in found for name, own in keywords.items() if word in own)
    best = max(counts, key=lambda name: (counts[name], name), default="")
    return best if best and counts[best] >= MEMBER * len(found) else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What groups are scored by: a matching's table, and both dictionaries' decoder rows."""

    table: Table
    rows: tuple[Float[ndarray, "feature _"], Float[ndarray, "other _"]]

    def shares(self, features: Int[ndarray, "member"]) -> dict[str, float]:
        """2, of some features."""
        table = self.table
        kind, r = table["kind"][features], np.nan_to_num(table["r"][features])
        beyond = (table["partner"][features] >= 0) & (table["token_only"][features] == 0)
        return {
            "mean_r": float(r.mean()),
            "correlated": float((r >= CORRELATED).mean()),
            "beyond_token": float(beyond.mean()),
            "strong": float((r >= SAME_RAW).mean()),
            "same_beyond_token": float(((kind == SAME) & beyond).mean()),
        }

    def arrangement(self, features: Int[ndarray, "member"]) -> dict[str, float]:
        """2: how alike the decoder rows of one-to-one pairs lie; NaN for few pairs."""
        partner = self.table["one_to_one"][features]
        own = features[partner >= 0]
        if len(own) < LEAST_PAIRS:
            return dict.fromkeys(("cka", "rsa", "svcca"), np.nan)
        one = torch.from_numpy(self.rows[0][own])
        two = torch.from_numpy(self.rows[1][partner[partner >= 0].astype(np.int64)])
        return {"cka": cka(one, two), "rsa": rsa(one, two), "svcca": svcca(one, two)}


def group_table(scored: Scored, groups: Sequence[str], names: Sequence[str], *, seed: int = 0) -> Table:
    """A row for each group that has a few features: its scores, and those of as many drawn at random (2, 3)."""
    asked = np.flatnonzero(scored.table["kind"] != SILENT)
    of = np.asarray(groups, dtype=object)[asked]
    there = [name for name in names if (of == name).sum() >= LEAST_MEMBERS]
    values: dict[str, list[float]] = {column.name: [] for column in GROUP_COLUMNS}
    for name in there:
        own = asked[of == name]
        generator = seeds.numpy_generator(f"groups {name}", seed)
        drawn = [generator.choice(asked, len(own), replace=False) for _ in range(N_DRAWS)]
        found = scored.shares(own) | scored.arrangement(own)
        chance = [
            scored.shares(one) | (scored.arrangement(one) if i < N_ARRANGED else {}) for i, one in enumerate(drawn)
        ]
        values["n_features"].append(float(len(own)))
        for score in GROUP_SCORES:
            random = np.array([one[score] for one in chance if score in one and np.isfinite(one[score])])
            values[score].append(found[score])
            low, middle, high = np.quantile(random, [0.025, 0.5, 0.975]) if len(random) else (np.nan,) * 3
            values[f"{score}_random"].append(float(middle))
            values[f"{score}_random_low"].append(float(low))
            values[f"{score}_random_high"].append(float(high))
            above = (1 + (random >= found[score]).sum()) / (1 + len(random))
            values[f"{score}_p"].append(float(above) if np.isfinite(found[score]) and len(random) else np.nan)
    return Table(
        axes=("group",),
        columns=GROUP_COLUMNS,
        values={name: np.array(own, dtype=np.float64) for name, own in values.items()},
        coordinates={"group": there},
    )
