"""Names for features by a language model at hand, each tried on texts that it was not made from.

1. A feature's examples are dealt by document: some are shown to the labeler, the others are kept, one of a document.
2. The labeler names every feature from the texts shown, greedily.
3. Of each feature as many texts of others are drawn, and the labeler says of each text how well the marked token fits
   the name; and the same with names of other features (`detect`).
4. What is worth more than chance goes into a file of names as the report's page reads and writes it; the others stay in
   the table alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from suture import seeds
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable, need_table_of
from suture.lm.chat import preference
from suture.lm.continuations import continuations
from suture.lm.load import LanguageModel, load_model
from suture.naming.detect import Detection, detection
from suture.naming.prompts import fit_prompt, name_in, name_prompt, window
from suture.naming.settings import NameSettings
from suture.pipeline import artifact
from suture.pipeline.files import read_json, sha256_of, write_json
from suture.pipeline.job import Tell, silent
from suture.pipeline.result import typed
from suture.pipeline.table import Column, Table, Tabular
from suture.uncertainty import Interval, mean_interval

STAGE, TABLE, NOTES, SUMMARY = "names", "names.safetensors", "notes.json", "summary.json"
NAMED, TRIED = "named.jsonl", "tried.jsonl"
NOTES_FORMAT = 1
YES, NO = "Yes", "No"
AT_ONCE = 8
"""Features named in one go."""
LEAST_TRIED = 4
COLUMNS = (
    Column(name="feature", title="feature", format="integer", sentence="Number of the feature."),
    Column(name="name", title="name", format="text", sentence="What the labeler called it."),
    Column(name="auroc", title="AUROC", sentence="How often the labeler finds the name to fit a text with the feature "
           "better than one without, texts that it was not named from."),
    Column(name="low", title="low", sentence="Lower end of its 95 % interval."),
    Column(name="high", title="high", sentence="Upper end of its 95 % interval."),
    Column(name="chance", title="chance", sentence="Mean AUROC of other features' names on the same texts."),
    Column(name="n_tried", title="tried on", format="integer", sentence="Texts with the feature; as many without."),
    Column(name="good", title="good", format="integer", sentence="1 where the interval lies above chance."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Naming(Tabular):
    """Names of features, and what they are worth."""

    labeler: str
    names: Table
    auroc: float
    """Mean over the features."""
    above_chance: Interval | None
    """95 % interval, over features, of AUROC less chance."""
    chance: float
    n_good: int
    path: Path | None = None
    """The folder that it was read from."""

    @property
    def table(self) -> Table:
        """A row per feature."""
        return self.names

    @property
    def good(self) -> dict[int, str]:
        """The names that are surely better than chance."""
        own = self.names.values
        return {int(f): str(n) for f, n, good in zip(own["feature"], own["name"], own["good"], strict=True) if good}

    def __repr__(self) -> str:
        n = len(self.names.values["feature"])
        return (
            f"Naming({n:,} features by {self.labeler}: AUROC {self.auroc:.2f}, other names {self.chance:.2f}; "
            f"{self.n_good} above chance)"
        )

    @staticmethod
    def load(path: str | Path) -> Naming:
        """Read what `label` wrote.

        Raises:
            ArtifactError: not a finished folder of names.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="names")
        found = read_json(path / SUMMARY)
        within = found.pop("above_chance")
        return Naming(
            names=Table.load(path / TABLE),
            above_chance=None if within is None else (within[0], within[1]),
            path=path,
            **found,
        )


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """One feature's texts.  (1)"""

    feature: int
    shown: tuple[str, ...]
    tried: tuple[str, ...]
    others: tuple[str, ...]
    """Texts without the feature."""


def label(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    table: FeatureTable | str | Path,
    labeler: LanguageModel | str,
    settings: NameSettings | None = None,
    *,
    on_progress: Tell = silent,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Naming:
    """Name features with a language model, and try every name; detection scoring as in arXiv:2410.13928.

    Args:
        out: the folder to be made.
        dictionary: its folder, or what was loaded from it.
        table: made by `features` with examples.
        labeler: any causal language model; asked in its chat template where it has one.
        settings: how.
        on_progress: told how far it is.
        resume: go on with an unfinished run of the same settings.
        overwrite: replace a finished one.
        command: the shell command to be recorded.

    Raises:
        UserError: a feature without examples enough, or a labeler that cannot be asked.
        ArtifactError: `out` is taken, or a table of another dictionary.
    """
    settings = settings or NameSettings()
    folder, tables = Dictionary.folder_of(dictionary), artifact.folder_of(table, setting="table")
    loaded = dictionary if isinstance(dictionary, Dictionary) else Dictionary.load(dictionary)
    known = FeatureTable.load(tables)
    need_table_of(folder, tables, known, loaded)
    lm = load_model(labeler) if isinstance(labeler, str) else labeler
    dealt = deal(known.examples, settings)
    recorded = asdict(settings) | {"labeler": lm.fingerprint}
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, parents=[folder, tables], overwrite=overwrite,
        resume=resume, resumable=True, command=command,
    ) as draft:  # fmt: skip
        draft.scratch += [NAMED, TRIED]
        names = _named(lm, dealt, settings, draft.folder / NAMED, on_progress)
        found = _tried(lm, dealt, names, settings, draft.folder / TRIED, on_progress)
        _write(draft.folder, lm.name, dealt, names, found, identity=sha256_of(folder / artifact.MANIFEST)[:16])
    return Naming.load(out)


def deal(examples: Sequence[Sequence[Mapping[str, Any]]], settings: NameSettings) -> list[Dealt]:
    """Every feature's texts, those to be shown and those kept from different documents.  (1, 3)

    Raises:
        UserError: a feature was asked for that has too few, or none has enough.
    """

    def text(example: Mapping[str, Any]) -> str:
        return window(example, settings.n_before, settings.n_after)

    per_document = [_one_per_document(own, text) for own in examples]
    enough = [i for i, own in enumerate(per_document) if len(own) >= settings.n_shown + LEAST_TRIED]
    least = f"{settings.n_shown} to show and {LEAST_TRIED} to try, each of another document"
    for feature in settings.feature:
        if feature not in enough:
            problem = f"has too few examples: {least}"
            raise UserError("feature", feature, problem, "describe the features with more examples, or show fewer")
    if not enough:
        raise UserError("table", f"{len(examples)} features", f"have too few examples: {least}", "show fewer")
    draw = seeds.numpy_generator("features to name", settings.seed)
    chosen = settings.feature or sorted(draw.permutation(enough)[: settings.n_features].tolist())
    found = []
    for feature in chosen:
        own = per_document[feature]
        shown, tried = own[: settings.n_shown], own[settings.n_shown :][: settings.n_tried]
        rows = {(e["document"], e["row"]) for e in examples[feature]}
        others = _texts_without(per_document, feature, rows, len(tried), settings.seed, text)
        found.append(
            Dealt(feature=feature, shown=tuple(map(text, shown)), tried=tuple(map(text, tried)), others=others)
        )
    return found


def _one_per_document(examples: Sequence[Mapping[str, Any]], text: Any) -> list[Mapping[str, Any]]:
    """An example of each document, every second one first, so that shown and kept ones are of all strengths alike."""
    found: dict[int, Mapping[str, Any]] = {}
    texts: set[str] = set()
    for example in examples:
        if example["document"] not in found and text(example) not in texts:
            found[example["document"]] = example
            texts.add(text(example))
    alone = list(found.values())
    return alone[::2] + alone[1::2]


def _texts_without(
    per_document: Sequence[Sequence[Mapping[str, Any]]], feature: int, rows: set[Any], n: int, seed: int, text: Any
) -> tuple[str, ...]:
    """Texts of other features' examples, every feature once before one comes again, every document once."""
    draw = seeds.numpy_generator("texts without a feature", seed, feature)
    order = [i for i in draw.permutation(len(per_document)).tolist() if i != feature]
    left = {i: draw.permutation(len(per_document[i])).tolist() for i in order[: 4 * n]}
    found: dict[int, str] = {}
    while len(found) < n and any(left.values()):
        for other in [i for i in left if left[i]]:
            example = per_document[other][left[other].pop()]
            if (example["document"], example["row"]) not in rows and example["document"] not in found:
                found[example["document"]] = text(example)
            if len(found) == n:
                break
    return tuple(found.values())


def _named(lm: LanguageModel, dealt: Sequence[Dealt], settings: NameSettings, file: Path, tell: Tell) -> dict[int, str]:
    """2; what an earlier run found is in the file."""
    found: dict[int, str] = {int(feature): name for feature, name in _lines(file)}
    left = [own for own in dealt if own.feature not in found]
    for begin in range(0, len(left), AT_ONCE):
        tell("naming", len(found), len(dealt), "")
        some = left[begin : begin + AT_ONCE]
        prompts = [name_prompt(lm, own.shown) for own in some]
        answers = continuations(lm, prompts, max_new_tokens=settings.new_tokens, batch_size=settings.batch_size)
        for own, answer in zip(some, answers, strict=True):
            found[own.feature] = name_in(answer)
            _add(file, [own.feature, found[own.feature]])
    tell("naming", len(dealt), len(dealt), "")
    return found


def _tried(
    lm: LanguageModel,
    dealt: Sequence[Dealt],
    names: Mapping[int, str],
    settings: NameSettings,
    file: Path,
    tell: Tell,
) -> dict[int, Detection]:
    """3."""
    answers: dict[int, Any] = {int(feature): values for feature, values in _lines(file)}
    found = {}
    for number, own in enumerate(dealt):
        tell("trying names", number, len(dealt), "")
        if own.feature not in answers:
            tried = [names[own.feature], *shuffled(own.feature, names, settings)]
            answers[own.feature] = [_fits(lm, name, own, settings).tolist() for name in tried]
            _add(file, [own.feature, answers[own.feature]])
        values = torch.tensor(answers[own.feature])
        n = len(own.tried)
        found[own.feature] = detection(values[:, :n], values[:, n:], settings.n_draws, settings.seed)
    tell("trying names", len(dealt), len(dealt), "")
    return found


def shuffled(feature: int, names: Mapping[int, str], settings: NameSettings) -> list[str]:
    """Names of other features that are not this one's too."""
    others = [name for other, name in names.items() if other != feature and name != names[feature]]
    draw = seeds.numpy_generator("shuffled names", settings.seed, feature)
    return [others[i] for i in draw.permutation(len(others))[: settings.n_shuffled]]


def _fits(lm: LanguageModel, name: str, own: Dealt, settings: NameSettings) -> Float[Tensor, "text"]:
    prompts = [fit_prompt(lm, name, text) for text in (*own.tried, *own.others)]
    return preference(lm, prompts, YES, NO, batch_size=settings.batch_size)


def _write(
    folder: Path,
    labeler: str,
    dealt: Sequence[Dealt],
    names: Mapping[int, str],
    found: Mapping[int, Detection],
    *,
    identity: str,
) -> None:
    """4."""
    features = [own.feature for own in dealt]
    good = [bool(found[f].good and names[f]) for f in features]
    values = {
        "feature": np.array(features, dtype=np.int64),
        "name": np.array([names[f] for f in features], dtype=object),
        "auroc": np.array([found[f].auroc for f in features]),
        "low": np.array([found[f].interval[0] for f in features]),
        "high": np.array([found[f].interval[1] for f in features]),
        "chance": np.array([found[f].chance for f in features]),
        "n_tried": np.array([len(own.tried) for own in dealt], dtype=np.int64),
        "good": np.array(good, dtype=np.int64),
    }
    Table(axes=("feature",), columns=COLUMNS, values=values).save(folder / TABLE)
    own = {
        str(f): {"name": names[f], "note": f"Named by {labeler}; {words(found[f])}", "lists": []}
        for f, is_good in zip(features, good, strict=True)
        if is_good
    }
    write_json(folder / NOTES, {"suture_notes": NOTES_FORMAT, "dictionaries": {identity: {"features": own}}})
    above = mean_interval(found[f].auroc - found[f].chance for f in features)
    summary = {
        "labeler": labeler,
        "auroc": float(values["auroc"].mean()),
        "chance": float(values["chance"].mean()),
        "above_chance": None if above is None or above.low is None else [above.low, above.high],
        "n_good": sum(good),
    }
    write_json(folder / SUMMARY, summary)


def names_of(dictionary: Dictionary | str | Path, source: str | Path) -> dict[int, str]:
    """A dictionary's names by feature: of a folder that `label` made, or of a file of notes saved by a report's reader.

    Raises:
        UserError: neither, or it has none for this dictionary.
    """
    source = Path(source)
    file = source / NOTES if source.is_dir() else source
    if source.is_dir():
        artifact.open_artifact(source, stage=STAGE, setting="names")
    try:
        known = typed(read_json(file), _Notes)
    except (OSError, ValueError) as error:
        fix = "name a folder made by suture label, or a file of notes saved from the report"
        raise UserError("names", source, f"cannot be read as names ({error})", fix) from None
    identity = sha256_of(Dictionary.folder_of(dictionary) / artifact.MANIFEST)[:16]
    own = known.dictionaries.get(identity)
    if own is None:
        problem = "has no names for this dictionary, only for others, whose features have other numbers"
        raise UserError("names", source, problem, f"suture label {Dictionary.folder_of(dictionary)} makes some")
    return {int(f): note.name.strip() for f, note in own.features.items() if f.isdecimal() and note.name.strip()}


@dataclass(frozen=True, kw_only=True)
class _Note:
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class _Features:
    features: dict[str, _Note]
    """By number."""


@dataclass(frozen=True, kw_only=True)
class _Notes:
    """What is read of a file of notes."""

    suture_notes: Literal[1]
    dictionaries: dict[str, _Features]


def words(own: Detection) -> str:
    """A name's worth, for people."""
    low, high = own.interval
    return f"AUROC {own.auroc:.2f} ({low:.2f} to {high:.2f}), other names {own.chance:.2f}"


def _lines(file: Path) -> list[Any]:
    """What was written whole before an interrupt; half a line is cut off, or the next one would be joined to it."""
    if not file.is_file():
        return []
    whole, _, half = file.read_bytes().rpartition(b"\n")
    if half:
        with file.open("r+b") as stream:
            stream.truncate(len(whole) + 1 if whole else 0)
    return [json.loads(line) for line in whole.splitlines()]


def _add(file: Path, record: Any) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
