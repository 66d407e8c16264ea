"""The command `collect`: text through the models, and what is kept on the way."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture import units
from suture.activations.settings import CollectSettings
from suture.cli.console import command_line, emit, percent, progress, say
from suture.cli.options import Argument, ResumableOutput

if TYPE_CHECKING:
    from suture.activations.collect import CollectProgress


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Keep models' activations on text side by side in a store.

    A row is a text position where a token of every model ends; give --model and --at once per model. Several processes
    share the work: torchrun --nproc-per-node N -m suture collect ...
    """

    store: Annotated[Path, Argument(metavar="STORE", raised=("out", "path"))]
    """The store's folder, to be made."""
    settings: CollectSettings
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Collect, and say how many rows of which model were kept."""
        from suture.activations.collect import collect_with
        from suture.lm.models import accelerator
        from suture.parallel import grid, local_device

        with grid(device=local_device(accelerator(self.settings.device))) as place, progress() as advance:
            announced: list[bool] = []

            def show(state: "CollectProgress") -> None:
                if not announced:
                    announced.append(True)
                    needed, free = units.size(state.n_bytes_expected), units.size(state.n_bytes_free)
                    say(f"the store will take about {needed} of disk ({free} are free)")
                advance("rows", state.n_rows, state.n_rows_wanted, f"{state.rows_per_second:,.0f} rows/s")

            made = collect_with(
                self.store,
                self.settings,
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                on_progress=show if place.world.leads else None,
                command=command_line(),
                ranks=place.world,
            )
        if not place.world.leads:
            return
        kept = [
            {"space": s.label, "tokens": a.n_tokens, "kept": a.kept_share}
            for s, a in zip(made.spaces, made.alignment, strict=True)
        ]
        shares = ", ".join(f"{k['space']} {percent(k['kept'])} of {k['tokens']:,} tokens" for k in kept)
        short = "" if len(made) >= self.settings.tokens else f" (the corpus ended before {self.settings.tokens:,})"
        emit(
            {"store": str(self.store), "rows": len(made), "alignment": kept, "settings": made.manifest.settings},
            as_json=self.output.json,
            text="\n".join([f"{self.store}: {len(made):,} rows{short}; kept {shares}", *made.remarks]),
        )
