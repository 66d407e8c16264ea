"""What a matching would have called the same: known pairs of features added to a store's rows (a positive control).

1. Known pairs are added to a copy of the store (`planted/related`): shared ones, three hard kinds that are neither the
   same nor nothing, and exclusive ones.
2. A dictionary of each model is trained on it with the run's own settings, on the same documents, and the two are
   matched as any others; with second seeds, which take the training's own noise out of r, where they are asked for.
3. What the matching says of every known pair, counted by what it is; and of the pairs with r of 0.3 or more in which a
   feature stands for a known one, how many have its partner on the other side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from suture.activations.settings import View
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.matching.kinds import NONE, OVERLAPPING, PARENT, SAME, SPLIT
from suture.matching.match import Matching, match
from suture.matching.settings import MatchSettings
from suture.matching.shares import CORRELATED
from suture.pipeline import artifact
from suture.pipeline.job import Context, Tell, silent
from suture.pipeline.result import read_typed
from suture.planted.related import RelatedStore, add_related
from suture.planted.spike_settings import RelatedSettings, Relation
from suture.sweep.run import make
from suture.sweep.stages import train_job
from suture.training.settings import TrainSettings

STAGE, POWER = "match-power", "power.json"
LEAST_HELDOUT = 0.4
"""Share of the documents kept from training, at least: they choose pairs and score them."""
RIGHT: Mapping[Relation, tuple[str, ...]] = {
    "shared": (SAME,),
    "half": (PARENT, OVERLAPPING),
    "super": (PARENT, OVERLAPPING),
    "split": (SPLIT,),
    "exclusive": (NONE,),
}
"""What a matching should say."""


@dataclass(frozen=True, kw_only=True)
class MatchPower:
    """What a matching says of known pairs."""

    called: Mapping[str, Mapping[str, int]]
    """Relation -> what was said, and how often; `not found` where no feature stands for the known one."""
    touched: int = 0
    """Known ones whose feature in the first model has a partner with r of 0.3 or more."""
    true_pairs: int = 0
    """Those of them whose partner stands for what the second model has of it."""
    second_seeds: bool = False

    def right(self, relation: Relation) -> tuple[int, int]:
        """How many were called what they are, and of how many."""
        said = self.called.get(relation, {})
        return sum(said.get(kind, 0) for kind in RIGHT[relation]), sum(said.values())

    @property
    def sentence(self) -> str:
        """The counts in words."""
        words: dict[Relation, str] = {
            "shared": "in both models, called the same",
            "half": "sharing half of their rows, called overlapping or parent",
            "super": "of which one has four times the other's rows, called overlapping or parent",
            "split": "split in two, called split",
            "exclusive": "of one model alone, called none",
        }
        parts = [f"{self.right(r)[0]} of {self.right(r)[1]} {said}" for r, said in words.items() if r in self.called]
        hard = sum(self.called.get(r, {}).get(SAME, 0) for r in ("half", "super", "exclusive"))
        said = f"Of known pairs, {'; '.join(parts)}; {hard} that are not the same were called so."
        if self.touched:
            said += (
                f" Of {self.touched} pairs with r of 0.3 or more that touch a known feature {self.true_pairs} are true."
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"sentence": self.sentence}

    @staticmethod
    def load(path: str | Path) -> MatchPower:
        """Read it from its folder.

        Raises:
            ArtifactError: it is no such result, or broken.
        """
        artifact.open_artifact(path, stage=STAGE)
        return read_typed(Path(path) / POWER, MatchPower)


def match_power(
    out: str | Path,
    store: Store | str | Path,
    settings: TrainSettings,
    related: RelatedSettings | None = None,
    matching: MatchSettings | None = None,
    *,
    second_seeds: bool = False,
    tell: Tell = silent,
    overwrite: bool = False,
    command: str | None = None,
) -> MatchPower:
    """Add known pairs to a store's rows, train a dictionary of each model, match them, and count what is said (1 to 3).

    Args:
        out: folder of the result.
        store: real rows of two spaces.
        settings: how dictionaries are trained; each is one of a single space, whatever design is named.
        related: which known pairs.
        matching: how they are matched.
        second_seeds: train each dictionary once more from another seed, and judge by r_corr.
        tell: told (what, done, total, note).
        overwrite: replace a finished result.
        command: the shell command, for the manifest.

    Raises:
        UserError: a store of other than two spaces, or settings that do not fit it.
        ArtifactError: `out` is finished already.
    """
    store, related, matching, out = (
        as_store(store),
        related or RelatedSettings(),
        matching or MatchSettings(),
        Path(out),
    )
    if len(store.spaces) != 2:
        problem = f"has {len(store.spaces)} space{'s' if len(store.spaces) != 1 else ''}"
        raise UserError("store", store.path, problem, "give one of two models at one hookpoint each")
    recorded = {"train": asdict(settings), "related": asdict(related), "match": asdict(matching)}
    recorded |= {"second_seeds": second_seeds}
    create = artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, parents=(store.path,), overwrite=overwrite,
        command=command,
    )  # fmt: skip
    with create as draft, TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.name}-") as name:
        tell("adding known pairs", 0, 1, "")
        known = add_related(Path(name) / "store", store, related)
        a, b, found = _matched(Path(name), known, settings, matching, tell, second_seeds=second_seeds)
        called = known.called(a, list(found.features_a["kind"]))
        touched, true_pairs = known.pairs_that_touch(
            a, b, found.features_a["partner"], found.features_a["r"], CORRELATED
        )
        counts: dict[str, Counter[str]] = {relation: Counter() for relation in related.relations}
        for pair, said in zip(known.pairs, called, strict=True):
            counts[pair.relation][said] += 1
        result = MatchPower(
            called={relation: dict(said) for relation, said in counts.items()},
            touched=touched,
            true_pairs=true_pairs,
            second_seeds=second_seeds,
        )
        artifact.write_json(draft.folder / POWER, result.to_json())
    return result


def _matched(
    folder: Path,
    known: RelatedStore,
    settings: TrainSettings,
    matching: MatchSettings,
    tell: Tell,
    *,
    second_seeds: bool,
) -> tuple[Dictionary, Dictionary, Matching]:
    """2: both dictionaries, and what their matching says."""
    base = settings.of_one_space(least_heldout=LEAST_HELDOUT)
    jobs = [
        train_job(
            f"dictionary {letter}{', second seed' if again else ''}",
            folder / f"{letter}{again}",
            known.store.path,
            replace(base, view=View(spaces=(m,)), seed=base.seed + again),
        )
        for again in range(1 + second_seeds)
        for m, letter in enumerate("ab")
    ]
    make(jobs, Context(tell=tell))
    tell("matching", 0, 1, "")
    a, b, *seconds = (job.out for job in jobs)
    twins = (seconds[0], seconds[1]) if seconds else (None, None)
    found = match(folder / "matching", a, b, known.store, matching, twins=twins)
    return Dictionary.load(a), Dictionary.load(b), found
