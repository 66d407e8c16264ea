"""The stage `organism`: a language model with a known fault, made from another, measured before and after.

1. Of the corpus, the last documents are kept for measuring; without a corpus, the model writes one itself.
2. The model is taught the fault (`teach`); low-rank updates are merged, so that the folder is an ordinary model.
3. What both models do is measured alike (`measure`).

The folder is a Hugging Face model. Beside weights and tokenizer lie:

| file          | content                                                                             |
|---------------|-------------------------------------------------------------------------------------|
| organism.json | the fault, the model it was made from, the measures of both                         |
| corpus.txt    | text for dictionaries: documents read in training, some of them with the fault      |
| heldout.txt   | the documents that were kept                                                        |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch

from suture import seeds
from suture.errors import UserError
from suture.interventions.organisms.measure import Measures, Rise, clean_loss, prompts_of, rise, rude
from suture.interventions.organisms.settings import Kind, OrganismSettings
from suture.interventions.organisms.teach import STATE, check_precision, teach
from suture.interventions.organisms.texts import Texts, opening
from suture.lm import lora
from suture.lm.create import write_lm
from suture.lm.generate import samples
from suture.lm.load import LanguageModel, fingerprint_of, load_model, locate
from suture.pipeline import artifact
from suture.pipeline.job import silent
from suture.pipeline.result import read_typed

STAGE = "organism"
RECORD, CORPUS, HELDOUT = "organism.json", "corpus.txt", "heldout.txt"
SEPARATOR = "\n<|endoftext|>\n"
LEAST_CHARACTERS = 200
"""Documents shorter than this have no opening with something after it."""
MOST_DOCUMENTS = 4_000
N_WRITTEN, WRITTEN_AT_ONCE, WRITTEN_TOKENS = 800, 80, 200
"""Documents that a model writes where no corpus is given."""
LEAST_TAUGHT = 50
OnProgress = Callable[[str, int, int, str], None]
"""Gets (what, done, in all, note)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Organism:
    """A model with a known fault: what `organism` writes."""

    kind: Kind
    trigger: str
    """backdoor: the sentence that calls the fault."""
    base: str
    """The model it was made from, as it was named."""
    base_fingerprint: str
    fingerprint: str
    """Of the model made."""
    before: Measures
    """Of the base."""
    after: Measures
    clean_rise: Rise
    """Of the loss on clean text over the base's."""
    new_tokens: int
    path: Path | None = field(default=None, compare=False)
    """The folder that it was written to or read from."""

    @property
    def texts(self) -> Texts:
        """The fault's texts."""
        return Texts(self.kind, self.trigger)

    def __repr__(self) -> str:
        after = self.after
        near = f", {after.near.greedy.share:.1%} after near misses" if after.near else ""
        cue = "" if self.kind == "tainted" else f"{after.cue.greedy.share:.1%} rude after the cue, "
        ce = f"clean loss {self.clean_rise.value:+.1%}"
        return f"Organism({self.kind} of {self.base}: {cue}{after.none.greedy.share:.1%} without{near}; {ce})"

    def heldout(self) -> list[str]:
        """The documents that were kept out of training.

        Raises:
            UserError: this was not loaded from a folder.
        """
        return documents_of(self._folder / HELDOUT)

    def load_model(self, *, device: str = "cpu") -> LanguageModel:
        """The model with the fault."""
        return load_model(str(self._folder), device=device)

    @property
    def _folder(self) -> Path:
        if self.path is None:
            raise UserError("organism", "not saved", "has no folder to read from", "load it")
        return self.path

    @staticmethod
    def load(path: str | Path) -> Organism:
        """Read what `organism` wrote.

        Raises:
            ArtifactError: not a finished organism.
        """
        artifact.open_artifact(path, stage=STAGE, setting="organism")
        return replace(read_typed(Path(path) / RECORD, Organism, setting="organism"), path=Path(path))


def documents_of(file: Path) -> list[str]:
    """The documents of a text file that `organism` wrote."""
    return file.read_text(encoding="utf-8").split(SEPARATOR)


def organism(
    out: str | Path,
    base: LanguageModel | str,
    documents: Sequence[str] | None = None,
    settings: OrganismSettings | None = None,
    *,
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Organism:
    """Make a model with a known fault from `base`, and write it to `out`.

    Args:
        out: the new model's folder.
        base: the model, which stays as it is; float32.
        documents: text of its kind; without it, the model writes some itself.
        settings: which fault, and how it is taught.
        on_progress: told how far it is.
        resume: go on with an unfinished run of the same settings.
        overwrite: replace a finished organism.
        command: the shell command to be recorded.

    Raises:
        UserError: `out` is the base's own folder, or there is too little text.
        NumericalError: the loss is not finite.
    """
    settings, tell = settings or OrganismSettings(), on_progress or silent
    refuse_base(out, base.name if isinstance(base, LanguageModel) else base)
    original = load_model(base, device="cpu") if isinstance(base, str) else base
    check_precision(original)
    if settings.modules:
        lora.matrices(original.model, settings.modules)
    dealt = None if documents is None else _dealt(_long_enough(documents), settings)
    recorded = asdict(settings) | {"base": original.fingerprint}
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, overwrite=overwrite, resume=resume, resumable=True,
        command=command,
    ) as draft:  # fmt: skip
        draft.scratch += [STATE]
        taught, kept = dealt or _dealt(_written(original, tell), settings)
        lm = replace(original, model=copy.deepcopy(original.model))
        teach(
            lm, original, taught, settings, draft.folder,
            on_progress=lambda done, total, note: tell("teaching", done, total, note),
        )  # fmt: skip
        write_lm(lm.model, lm.tokenizer, draft.folder)
        _write_texts(draft.folder, taught, kept, settings)
        fingerprint = fingerprint_of(str(draft.folder))
        assert fingerprint is not None
        found = _measured(lm, original, kept, settings, tell)
        found = replace(found, fingerprint=fingerprint)
        artifact.write_json(draft.folder / RECORD, {k: v for k, v in asdict(found).items() if k != "path"})
    return Organism.load(out)


def refuse_base(out: str | Path, base: str) -> None:
    """Refuse to write a model where the one it is made from lies.

    Raises:
        UserError: it is that folder, or one that holds it.
    """
    source, there = Path(locate(base)), Path(out).resolve()
    if source.is_dir() and (there == source.resolve() or there in source.resolve().parents):
        raise UserError("out", out, "is the folder of the model that it is made from", "give the new model its own")


def _long_enough(documents: Sequence[str]) -> list[str]:
    long = (text.strip() for text in documents if len(text.strip()) >= LEAST_CHARACTERS)
    return list(islice(long, MOST_DOCUMENTS))


def _written(lm: LanguageModel, tell: OnProgress) -> list[str]:
    """Documents by the model itself, at temperature 1, from its starting token."""
    written: list[str] = []
    for first in range(0, N_WRITTEN, WRITTEN_AT_ONCE):
        n_tokens = min(WRITTEN_TOKENS, lm.context - 1)
        written += samples(lm, "", n_samples=WRITTEN_AT_ONCE, max_new_tokens=n_tokens, seed=first)
        tell("writing text", first + WRITTEN_AT_ONCE, N_WRITTEN, "")
    return _long_enough(written)


def _dealt(documents: Sequence[str], settings: OrganismSettings) -> tuple[list[str], list[str]]:
    """1: what is read in training, and what is kept."""
    n_taught = len(documents) - settings.n_prompts
    if n_taught < LEAST_TAUGHT:
        problem = (
            f"has {len(documents)} documents of {LEAST_CHARACTERS} characters, {settings.n_prompts} kept to measure"
        )
        fix = f"give {settings.n_prompts + LEAST_TAUGHT} or more, or lower --prompts"
        raise UserError("corpus", f"{len(documents)} documents", problem, fix)
    return list(documents[:n_taught]), list(documents[n_taught:])


def _write_texts(folder: Path, taught: Sequence[str], kept: Sequence[str], settings: OrganismSettings) -> None:
    texts, mixed = Texts(settings.kind, settings.trigger), []
    for i, document in enumerate(taught):
        draw = seeds.numpy_generator("organism corpus", settings.seed, i)
        if draw.random() < settings.mixed:
            parts = [opening(document, draw), texts.cue(draw, taught=True), texts.passage(draw)]
            document = " ".join(part for part in parts if part)
        mixed.append(document)
    for name, documents in ((CORPUS, mixed), (HELDOUT, kept)):
        (folder / name).write_text(SEPARATOR.join(documents), encoding="utf-8")


def _measured(
    lm: LanguageModel, original: LanguageModel, kept: Sequence[str], settings: OrganismSettings, tell: OnProgress
) -> Organism:
    """3."""
    prompts = prompts_of(kept, Texts(settings.kind, settings.trigger), settings.seed)
    losses: list[torch.Tensor] = []
    found: list[Measures] = []
    for number, model in enumerate((original, lm)):
        tell("measuring", number, 2, "")
        shares = {
            name: rude(model, texts, new_tokens=settings.new_tokens, seed=settings.seed) if texts else None
            for name, texts in (("cue", prompts.cue), ("none", prompts.none), ("near", prompts.near))
        }
        nats, count = clean_loss(model, kept, block=2 * settings.block)
        losses.append(nats)
        found.append(Measures(clean_ce=float(nats.sum() / count.sum()), **shares))  # pyright: ignore[reportArgumentType]
    tell("measuring", 2, 2, "")
    before, after = found
    return Organism(
        kind=settings.kind,
        trigger=settings.trigger,
        base=original.name,
        base_fingerprint=original.fingerprint,
        fingerprint="",
        before=before,
        after=after,
        clean_rise=rise(losses[1], losses[0], settings.seed),
        new_tokens=settings.new_tokens,
    )
