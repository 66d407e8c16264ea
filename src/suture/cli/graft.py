"""The command `graft`: an unsafe behaviour taken out of a model, and what was made attached, exported or folded."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import ResumableOutput
from suture.errors import UserError
from suture.interventions.graft.settings import GraftSettings
from suture.lm.settings import LoadSettings
from suture.pipeline.settings import Count, Given, Weight

if TYPE_CHECKING:
    from suture.interventions.graft.make import Grafting
    from suture.lm.load import LanguageModel


@dataclass(frozen=True, kw_only=True)
class MakeGraft:
    """Take an unsafe behaviour out of a model by a few features; or use what was made.

    With --organism and --dictionary a graft is made and measured, every control beside it. With --apply one is attached
    to its model: to continue prompts, to be exported as a plain PyTorch hook, or to be folded into the weights.
    """

    out: Path | None = None
    """Folder of the graft, to be made."""
    organism: Path | None = None
    """The unsafe model, made by suture organism."""
    dictionary: tuple[Path, ...] = ()
    """Made by suture train on the unsafe model and the safe one; once for each hookpoint."""
    safe: str | None = None
    """The model without the behaviour; the organism's base where none is named."""
    alone: tuple[Path, ...] = ()
    """A dictionary of the unsafe model alone at one of these hookpoints, to stand beside."""
    corpus: str | None = None
    """Clean text; the documents kept out of the organism's training where none is named."""
    settings: Given[GraftSettings]
    apply: Path | None = None
    """A graft that was made."""
    model: str | None = None
    """With --apply: the model it is for."""
    prompt: tuple[str, ...] = ()
    """With --apply: a text to continue, as the model is and with the graft."""
    tokens: Count = 40
    """With --apply: length of the continuations, in tokens."""
    temperature: Weight = 0.0
    """With --apply: of the continuations; 0 takes the most probable token."""
    strength: Weight = 1.0
    """With --apply: so many times what the graft does."""
    export: Path | None = None
    """With --apply: write the graft as a Python file NAME.py of hooks, its tensors beside it."""
    fold: Path | None = None
    """With --apply: write the model with the graft's projections folded into its weights."""
    load: LoadSettings = field(default_factory=LoadSettings)
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Make a graft, or use one."""
        if self.apply is not None:
            self._use(self.apply)
        else:
            self._make()

    def _make(self) -> None:
        from suture.interventions.graft.make import graft
        from suture.interventions.organisms.organism import CORPUS, Organism, documents_of
        from suture.lm.corpus import open_corpus

        for name, value in (("model", self.model), ("export", self.export), ("fold", self.fold)):
            if value is not None:
                raise UserError(name, value, "is for a graft that was made", "name one with --apply")
        if self.prompt:
            raise UserError("prompt", self.prompt[0], "is for a graft that was made", "name one with --apply")
        if self.out is None or self.organism is None or not self.dictionary:
            name = "out" if self.out is None else "organism" if self.organism is None else "dictionary"
            raise UserError(name, "nothing", "is missing", f"give --{name}, or use a graft with --apply")
        settings = self.settings.over()
        organism = Organism.load(self.organism)
        lm, safe = self._loaded(str(self.organism)), self._loaded(self.safe or organism.base)
        if self.safe is None and safe.fingerprint != organism.base_fingerprint:
            problem = "has other weights than the model that the organism was made from"
            raise UserError("safe", organism.base, problem, "name that model with --safe")
        documents = organism.heldout()
        if self.corpus is not None:
            documents = [document.text for document in open_corpus(self.corpus, offline=self.load.offline)]
        with progress() as advance:
            found = graft(
                self.out,
                lm,
                self.dictionary,
                documents,
                organism.texts,
                settings,
                safe=safe,
                alone=self.alone,
                clean_text=documents_of(self.organism / CORPUS),
                on_progress=advance,
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        names = list(found.outcomes.coordinates["intervention"])
        outcomes = {name: found.of(name) for name in names}
        emit(
            {"out": str(self.out), **asdict(found.summary), "outcomes": outcomes},
            as_json=self.output.json,
            text=_text(found),
        )

    def _loaded(self, name: str) -> "LanguageModel":
        from suture.lm.models import load_models

        (lm,) = load_models([name], self.load, device=self.device)
        return lm

    def _use(self, path: Path) -> None:
        from suture.interventions.graft.export import export_hook, fold_into
        from suture.interventions.graft.graft import Graft
        from suture.lm.continuations import continuations

        for name, value in (("out", self.out), ("organism", self.organism), ("corpus", self.corpus)):
            if value is not None:
                raise UserError(name, value, "is for making a graft", "leave it out, or leave --apply out")
        if self.model is None:
            raise UserError("model", "nothing", "is missing", "name the model that the graft is for")
        if not (self.prompt or self.export or self.fold):
            raise UserError("prompt", "nothing", "is to be done with the graft", "give --prompt, --export or --fold")
        graft, lm = Graft.load(path), self._loaded(self.model)
        graft.check(lm)

        def write() -> list[str]:
            return continuations(lm, self.prompt, max_new_tokens=self.tokens, temperature=self.temperature)

        said: list[dict[str, str]] = []
        if self.prompt:
            before = write()
            with graft.attach(lm, strength=self.strength):
                after = write()
            said = [{"prompt": p, "without": b, "with": a} for p, b, a in zip(self.prompt, before, after, strict=True)]
        lines = [f"{one['prompt']}\n  without: {one['without']}\n  with:    {one['with']}" for one in said]
        result: dict[str, object] = {"graft": str(path), "model": lm.name, "continued": said}
        if self.export is not None:
            export_hook(graft, lm, self.export, overwrite=self.output.overwrite)
            result["export"] = str(self.export)
            lines.append(f"hook: {self.export}")
        if self.fold is not None:
            fold_into(graft, lm, self.fold, overwrite=self.output.overwrite, command=command_line())
            result["fold"] = str(self.fold)
            lines.append(f"model: {self.fold}")
        emit(result, as_json=self.output.json, text="\n".join(lines))


def _text(found: "Grafting") -> str:
    summary, lines = found.summary, []
    for place, features in zip(summary.hookpoints, summary.features, strict=True):
        lines.append(f"{place}: features {' '.join(map(str, features))}")
    lines.append(f"on {summary.n_fresh} fresh documents: success (at temperature 1), rise of the clean loss")
    for name in found.outcomes.coordinates["intervention"]:
        own = found.of(name)
        equal = ""
        if own["greedy_at_cost"] == own["greedy_at_cost"]:  # a number
            equal = f"; at the graft's cost {percent(own['greedy_at_cost'])}"
        lines.append(f"  {name}: {percent(own['greedy'])} ({percent(own['sampled'])}), {own['clean']:+.2%}{equal}")
    return "\n".join([*lines, *summary.statements, f"graft: {found.path}"])
