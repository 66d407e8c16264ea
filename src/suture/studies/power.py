"""What could have been found: a run's own recipe on its own rows, with known features added (a positive control).

1. Known features of several strengths are added to a copy of the store (`planted/spikes`).
2. A dictionary is trained on it with the run's settings, described and labelled as any other.
3. Which of them were found and rightly labelled, strength by strength; the strength at which half are, with its
   interval, for exclusive and for shared ones.

"0 exclusive" is an answer only beside the strength from which on exclusive features would have been found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from suture.activations.store import Store, as_store
from suture.dictionary.rows import whole_documents
from suture.features.classify import classify
from suture.features.stats import describe
from suture.pipeline import artifact
from suture.planted.spike_settings import SpikeKind, SpikeSettings
from suture.planted.spikes import Found, Limit, add_spikes, detection_limit
from suture.training.settings import TrainSettings
from suture.training.train import train

STAGE = "power"
POWER = "power.json"
N_ROWS = 200_000
"""Rows that the dictionary is described on, at most."""


WHERE: dict[SpikeKind, str] = {
    "random": "on any rows",
    "documents": "in chosen documents",
    "token": "on a part of a token's rows",
}


@dataclass(frozen=True, kw_only=True)
class KindLimits:
    """Detection limits of the known features whose rows were chosen in one way."""

    kind: SpikeKind
    exclusive: Limit
    shared: Limit


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a run could have found."""

    exclusive: Limit
    shared: Limit
    kinds: tuple[KindLimits, ...]
    """The same of each kind of rows by itself."""
    rate: float
    """Share of the rows that carried each known feature."""
    found: tuple[Found, ...]

    @property
    def sentence(self) -> str:
        """The detection limits in words, by kind of rows where there are several."""
        several = self.kinds if len(self.kinds) > 1 else ()
        faintest = min(one.strength for one in self.found)
        exclusive = _reached(self.exclusive, " of the median norm", [(k.kind, k.exclusive) for k in several], faintest)
        shared = _reached(self.shared, "", [(k.kind, k.shared) for k in several], faintest)
        return (
            f"Of known features on {100 * self.rate:.2g} % of the rows, found and rightly labelled were: "
            f"exclusive ones, {exclusive}; shared ones, {shared}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; a limit that was not reached is null."""
        return {"sentence": self.sentence} | _finite(asdict(self))


def power(
    out: str | Path,
    store: Store | str | Path,
    settings: TrainSettings,
    spikes: SpikeSettings | None = None,
    *,
    on_progress: Callable[[str], None] | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Power:
    """Add known features to a store's rows, train with these settings, and say which were found (1 to 3).

    Args:
        out: folder of the result, with the dictionary that was trained on the spiked rows.
        store: the real rows, all spaces.
        settings: the run's own, with its view left out.
        spikes: which known features.
        on_progress: told what begins.
        overwrite: replace a finished result.
        command: the shell command, for the manifest.

    Raises:
        UserError: settings that do not fit the store.
        ArtifactError: `out` is finished already.
    """
    spikes, out = spikes or SpikeSettings(), Path(out)
    store = as_store(store)
    say = on_progress or (lambda _: None)
    recorded = {"train": asdict(settings), "spikes": asdict(spikes), "store": str(store.path)}
    create = artifact.create(
        out,
        stage=STAGE,
        settings=recorded,
        seed=settings.seed,
        parents=(store.path,),
        overwrite=overwrite,
        command=command,
    )
    with create as draft, TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.name}-") as rows:
        say("adding known features")
        spiked = add_spikes(Path(rows) / "spiked", store, spikes)
        say("training")
        dictionary = train(Path(rows) / "dictionary", spiked.store, settings)
        say("describing")
        chosen = whole_documents(spiked.store.documents, torch.arange(len(spiked.store)), N_ROWS)
        found = spiked.score(dictionary, classify(describe(dictionary, spiked.store, chosen)).label)
        exclusive, shared = limits(found, len(store.spaces))
        result = Power(
            exclusive=exclusive,
            shared=shared,
            kinds=limits_by_kind(found, spikes.kinds, len(store.spaces)),
            rate=spikes.rate,
            found=found,
        )
        dictionary.write(draft.folder)
        artifact.write_json(draft.folder / POWER, result.to_json())
    return result


def limits(found: Sequence[Found], n_spaces: int) -> tuple[Limit, Limit]:
    """The detection limits of exclusive and of shared known features."""
    exclusive, shared = (detection_limit(found, exclusive=own, n_spaces=n_spaces) for own in (True, False))
    return exclusive, shared


def limits_by_kind(found: Sequence[Found], kinds: Sequence[SpikeKind], n_spaces: int) -> tuple[KindLimits, ...]:
    """Of every kind that both an exclusive and a shared known feature are of: features that live in a handful of
    documents may be found as well as others and yet not be labelled, for want of documents.
    """
    found_of = {kind: [f for f in found if f.kind == kind] for kind in kinds}
    made = []
    for kind in dict.fromkeys(kinds):
        if len({len(f.owners) < n_spaces for f in found_of[kind]}) == 2:
            exclusive, shared = limits(found_of[kind], n_spaces)
            made.append(KindLimits(kind=kind, exclusive=exclusive, shared=shared))
    return tuple(made)


def _reached(limit: Limit, unit: str, kinds: Sequence[tuple[SpikeKind, Limit]], faintest: float) -> str:
    """A limit in words, and of every kind the strength alone."""

    def strength(one: Limit, unit: str = "") -> str:
        if not math.isfinite(one.strength):
            return "not even half of the strongest"
        if one.strength <= faintest:
            return f"half of the faintest tried already, {one.strength:.2f}{unit}"
        return f"half from {one.strength:.2f}{unit} on"

    own = [f"{WHERE[kind]} {strength(one).removeprefix('half ')}" for kind, one in kinds]
    if math.isfinite(limit.strength):
        high = f"{limit.high:.2f}" if math.isfinite(limit.high) else "beyond the strongest"
        own.insert(0, f"95 % interval {limit.low:.2f} to {high}")
    return f"{strength(limit, unit)} ({', '.join(own)})" if own else strength(limit, unit)


def _finite(value: Any) -> Any:
    """Infinities as null, however deep they lie."""
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
