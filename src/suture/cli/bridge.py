"""The commands `bridge` and `carry`: maps between two models' spaces, and what is carried over them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture.bridges.settings import BridgeSettings, CarrySettings
from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Argument, Output
from suture.interventions.settings import SpliceSettings
from suture.lm.settings import LoadSettings

if TYPE_CHECKING:
    from suture.bridges.bridge import Bridge as Fitted
    from suture.bridges.bridge import MappedLoss
    from suture.bridges.crossing import Carried, CarriedFit

N_CARRY_STAGES = 3


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """Fit maps between two models' spaces, both ways.

    From rows at the same text positions: ridge, its best of a low rank, scaled rotation, both ways together, one hidden
    layer, and a map from whole texts alone. Each is judged on documents kept back, beside the same fit on rows that do
    not belong together.
    """

    store: Path
    """Activations of both spaces, made by suture collect."""
    out: Path
    """Folder of the bridge, to be made."""
    splice: bool = False
    """Also measure each model's loss with the mapped rows in place of its activations."""
    corpus: str | None = None
    """Text for that; the store's held-out documents where none is named."""
    settings: BridgeSettings = field(default_factory=BridgeSettings)
    splicing: SpliceSettings = field(default_factory=SpliceSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Fit, and say what each map explains."""
        from suture.bridges.bridge import bridge

        n_kinds = len(set(self.settings.kinds))
        n_stages = n_kinds * (2 if self.settings.control else 1) + 1 + self.splice
        with progress() as advance:
            steps = iter(range(1, n_stages + 1))
            found = bridge(
                self.out,
                self.store,
                self.settings,
                spliced=self._losses if self.splice else None,
                on_progress=lambda what: advance("bridge", next(steps), n_stages, what),
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        rows = [
            {"kind": kind, "way": way, **{c.name: _number(found.scores[c.name][i, w]) for c in found.scores.columns}}
            for i, kind in enumerate(found.maps)
            for w, way in enumerate(found.scores.coordinates["way"])
        ]
        summary = asdict(found.summary)
        emit({"out": str(self.out), **summary, "maps": rows}, as_json=self.output.json, text=_text(found, self.out))

    def _losses(self, found: "Fitted") -> "Mapping[str, Sequence[MappedLoss]]":
        """Each model's loss with the other's rows, mapped, in place of its activations."""
        from suture.activations.store import Store
        from suture.interventions.bridged import bridged_losses
        from suture.lm.corpus import open_corpus
        from suture.lm.models import accelerator, check_weights, load_models

        names = [space.model for space in found.spaces]
        lms = load_models(names, self.load, device=accelerator(self.device))
        check_weights(lms, [space.fingerprint for space in found.spaces])
        if self.corpus is None:
            from suture.bridges.ground import heldout_texts

            texts = heldout_texts(Store.open(self.store), self.settings)
        else:
            texts = (document.text for document in open_corpus(self.corpus, offline=self.load.offline))
        return bridged_losses(found, lms, list(islice(texts, self.splicing.n_documents)), self.splicing).of_kinds


@dataclass(frozen=True, kw_only=True)
class Carry:
    """Carry a dictionary, or directions, over a bridge into the other model.

    A dictionary is fitted to the other model's rows afterwards: one common threshold to its L0, its decoder by least
    squares. The result is a dictionary like any other; every feature is listed with whether it survived. Directions
    come from a file, .safetensors or .npy, one tensor [width] or [direction, width].
    """

    bridge: Annotated[Path, Argument(metavar="BRIDGE")]
    """Made by suture bridge."""
    dictionary: Annotated[Path, Argument(metavar="DICT|DIRECTION", raised=("direction",))]
    """A dictionary of one of the bridge's spaces, or a file of directions."""
    out: Path
    """Folder of the result, to be made."""
    native: Path | None = None
    """A dictionary trained in the other space, to compare with."""
    store: Path | None = None
    """The store that the bridge was fitted on, where it has moved."""
    settings: CarrySettings = field(default_factory=CarrySettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Carry, and say how well it does there."""
        if self.dictionary.is_file():
            self._directions()
            return
        from suture.bridges.crossing import carry

        with progress() as advance:
            steps = iter(range(1, N_CARRY_STAGES + 1))
            found = carry(
                self.out,
                self.bridge,
                self.dictionary,
                self.settings,
                native=self.native,
                store=self.store,
                on_progress=lambda what: advance("carry", next(steps), N_CARRY_STAGES, what),
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        text = _carried_text(found, self.out)
        emit({"out": str(self.out), **asdict(found.summary)}, as_json=self.output.json, text=text)

    def _directions(self) -> None:
        from suture.bridges.directions import carry_directions

        found = carry_directions(
            self.out,
            self.bridge,
            self.dictionary,
            self.settings,
            overwrite=self.output.overwrite,
            command=command_line(),
        )
        s = found.summary
        lines = [
            f"direction {i}: {percent(kept)} of its length kept, round trip {back:.3f}"
            for i, (kept, back) in enumerate(zip(s.norm_kept, s.round_trip, strict=True))
        ]
        text = "\n".join([f"{s.source} to {s.target} by {s.kind}", *lines, f"directions: {self.out}"])
        emit({"out": str(self.out), **asdict(s)}, as_json=self.output.json, text=text)


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _text(found: "Fitted", out: Path) -> str:
    scores, s = found.scores, found.summary
    lines = [
        f"A: {found.spaces[0].label}; B: {found.spaces[1].label}",
        f"fitted on {s.n_fit + s.n_check:,} rows, judged on {s.n_judge:,} of {s.n_documents:,} documents",
    ]
    for i, kind in enumerate(found.maps):
        parts = []
        for w, way in enumerate(scores.coordinates["way"]):
            r2, low, high, control = (scores[name][i, w] for name in ("r2", "r2_low", "r2_high", "control"))
            said = f"{way} R2 {r2:.3f} ({low:.3f} to {high:.3f}"
            said += f"; control {control:.3f})" if control == control else ")"
            loss, clean, recovered = (scores[name][i, w] for name in ("loss", "loss_clean", "recovered"))
            said += f", loss {loss:.3f} of {clean:.3f} ({percent(recovered)} recovered)" if loss == loss else ""
            parts.append(said)
        lines.append(f"{kind}: {'; '.join(parts)}")
    return "\n".join([*lines, f"bridge: {out}"])


def _carried_text(found: "Carried", out: Path) -> str:
    s = found.summary
    lines = [
        f"{s.source} to {s.target} by {s.kind}: {s.n_rows:,} rows of {s.n_documents:,} documents judge",
        f"at home: {_fit_text(s.at_home)}; the map itself leaves {s.map_fvu:.3f}",
    ]
    lines += [f"{fit.name}: {_fit_text(fit)}" for fit in (s.zero_shot, s.threshold, s.refitted)]
    lines += [f"{fit.name}: {_fit_text(fit)}" for fit in (s.native, s.native_at_l0) if fit is not None]
    if s.gap_closed is not None:
        lines.append(f"of the gap from zero-shot to native closed: {percent(s.gap_closed)}")
    lines.append(f"features: {', '.join(f'{n:,} {label}' for label, n in s.survival.items())}")
    return "\n".join([*lines, *s.statements, f"dictionary: {out}"])


def _fit_text(fit: "CarriedFit") -> str:
    return f"FVU {fit.fvu:.3f}, L0 {fit.l0:.1f}"
