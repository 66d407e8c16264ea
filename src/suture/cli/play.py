"""The command `play`: a live page for one's own texts, features and strengths, on this machine alone."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import emit, say
from suture.cli.options import Argument, DictionaryModels
from suture.errors import UserError
from suture.pipeline.settings import Option
from suture.play.settings import PlaySettings


@dataclass(frozen=True, kw_only=True)
class Play:
    """Serve a live page: type a text, see which features fire, steer both models with them, read what they write.

    It listens on 127.0.0.1 alone, at an address with a token, until Ctrl-C.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    table: Annotated[Path | None, Option(raised=("features",))] = None
    """Made by suture features: labels, promoted tokens, and strengths in what each feature reaches."""
    names: Path | None = None
    """Made by suture label, or notes saved from the report: names shown beside the features."""
    json: bool = False
    """Print one JSON object with the address on stdout and nothing else."""
    settings: PlaySettings = field(default_factory=PlaySettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)

    def run(self) -> None:
        """Load everything, then serve."""
        missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
        if missing:
            problem = f"needs {' and '.join(missing)}, which is not installed"
            raise UserError("play", self.dictionary, problem, "pip install 'suture[play]'")
        from suture.play.player import Player
        from suture.play.serve import serve

        player = Player.open(
            self.dictionary,
            self.models.of(self.dictionary),
            self.settings,
            table=self.table,
            names=self.names,
        )

        def ready(address: str) -> None:
            emit({"address": address}, as_json=self.json, text=address)
            say("open it in a browser on this machine; Ctrl-C ends it")

        serve(player, on_ready=ready)
