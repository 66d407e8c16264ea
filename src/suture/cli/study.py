"""The commands of `study`: whole experiments whose result is a table, and for `designs` a page."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture.activations.settings import CollectSettings
from suture.cli.console import command_line, emit, progress, say
from suture.cli.interventions import steer_settings
from suture.cli.match import models_of
from suture.cli.options import Argument, DictionaryModels, Output
from suture.errors import UserError
from suture.interventions.settings import ResponseSettings, SteerSettings
from suture.lm.settings import LoadSettings
from suture.matching.settings import FamilySettings, LayerSettings
from suture.pipeline.settings import Count, Given, Limits, Option, Without
from suture.planted.settings import PlantedSettings
from suture.planted.spike_settings import RelatedSettings, SpikeSettings
from suture.stitching.settings import LadderSettings
from suture.studies.designs import Recipe
from suture.training.settings import TrainSettings

if TYPE_CHECKING:
    from suture.studies.compare import DesignStudy
    from suture.studies.grounds import Ground, PlantedGround

ANYWHERE = {"device", "offline", "trust-remote-code"}
"""Settings of collecting that may stand beside planted models or a store."""
STRENGTHS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Of the study of steering, where none are given."""


@dataclass(frozen=True, kw_only=True)
class Designs:
    """Compare every way to train one dictionary for several models.

    Separate dictionaries, pooled, crosscoder and their variants, on the same rows, with as many weights and as many
    active features, over seeds, each with its null; on planted models whose concepts are known, or on language models
    (--model or --store). The same command goes on where it was interrupted.
    """

    out: Annotated[Path, Argument(metavar="OUT")]
    """Folder of the study; what is finished there is kept."""
    planted: bool = False
    """On models whose concepts are known, as without --model and --store."""
    stored: Count | None = None
    """Planted: rows in a store, gone over again; 100000, with --quick 15000."""
    store: Path | None = None
    """Activations, made by suture collect, in place of --model."""
    only: tuple[str, ...] = ()
    """Name of a design; all that apply where none is named."""
    seeds: Count | None = None
    """Seeds 0, 1, .., for the intervals; 3, with --quick 1."""
    workers: Count = 1
    """Processes that cells are run in."""
    quick: bool = False
    """Less of everything: under a minute."""
    recipe: Given[Recipe]
    truth: Annotated[Given[PlantedSettings], Without(("seed", "null"))]
    text: Given[CollectSettings]
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Run the study, and say what came out."""
        from suture.studies.compare import study_designs

        usual = 1 if self.quick else 3
        with progress() as advance:
            result = study_designs(
                self.out,
                self._study(),
                only=self.only,
                n_seeds=usual if self.seeds is None else self.seeds,
                workers=self.workers,
                overwrite=self.output.overwrite,
                on_step=advance,
                command=command_line(),
            )
        emit(result.to_json(), as_json=self.output.json, text=result.text())

    def _study(self) -> "DesignStudy":
        """The study of these options; those that go with another ground are refused."""
        from suture.studies.compare import DesignStudy, planted_study, text_recipe
        from suture.studies.grounds import PlantedGround

        base = planted_study(quick=self.quick)
        assert isinstance(base.ground, PlantedGround)
        if self.store is None and "model" not in self.text.values:
            for name in self.text.values.keys() - ANYWHERE:
                raise UserError(name, self.text.values[name], "goes with --model", "leave it out")
            return DesignStudy(ground=self._planted(base.ground), recipe=self.recipe.over(base.recipe))
        if self.planted:
            raise UserError("planted", True, "and language models exclude each other", "choose one ground")
        given = dict(self.truth.values) | ({} if self.stored is None else {"stored": self.stored})
        for name, value in given.items():
            raise UserError(name, value, "is for planted models", "leave it out")
        return DesignStudy(ground=self._text(), recipe=self.recipe.over(text_recipe(quick=self.quick)))

    def _planted(self, base: "PlantedGround") -> "Ground":
        n_stored = base.n_stored if self.stored is None else self.stored
        return replace(base, planted=self.truth.over(base.planted), n_stored=n_stored)

    def _text(self) -> "Ground":
        from suture.studies.compare import text_rows
        from suture.studies.grounds import LanguageGround

        given = self.text.values
        offline = bool(given.get("offline"))
        if self.store is not None:
            for name in given.keys() - ANYWHERE:
                raise UserError(name, given[name], "is for collecting, a store has its own", "leave it out")
            return LanguageGround(store=str(self.store), offline=offline)
        for name in ("at", "corpus"):
            if name not in given:
                raise UserError(name, None, "is missing, --model needs it", f"give --{name} as in suture collect")
        collect = Given(CollectSettings, {"tokens": text_rows(quick=self.quick)} | dict(given)).over()
        return LanguageGround(collect=collect, offline=offline)


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """Can a cosine stand in for activation correlation?

    Cosines of directions (raw, padded, rotated, mapped either way, of encoders) and correlations of pre-activations,
    each judged by how well it finds the partners that held-out correlation finds.
    """

    dictionary_a: Annotated[Path, Argument(metavar="DICT_A")]
    """A dictionary of one space."""
    dictionary_b: Annotated[Path, Argument(metavar="DICT_B")]
    """Another, of the same space or another."""
    store: Path
    """Activations of both spaces, made by suture collect."""
    out: Path
    """Folder of the result, to be made."""
    n_rows: Annotated[Count, Option("rows")] = 100_000
    """Rows at most that neither was trained on."""
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Measure, and say how good each stand-in is."""
        from suture.studies.proxies import proxies

        table = proxies(
            self.out,
            self.dictionary_a,
            self.dictionary_b,
            self.store,
            n_rows=self.n_rows,
            overwrite=self.output.overwrite,
            command=command_line(),
        )
        names = table.coordinates["proxy"]
        found = {name: {c.name: float(table[c.name][i]) for c in table.columns} for i, name in enumerate(names)}
        lines = [
            f"{name}: " + ", ".join(f"{c.title} {c.write(found[name][c.name])}" for c in table.columns)
            for name in names
        ]
        emit(
            {"out": str(self.out), "proxies": found},
            as_json=self.output.json,
            text="\n".join([*lines, f"proxies: {self.out}"]),
        )


@dataclass(frozen=True, kw_only=True)
class LadderStudy:
    """What do larger dictionaries have that smaller ones lack?

    A ladder of sizes is trained on one space, neighbours are stitched at one L0, and a Frankenstein of all of them is
    set beside dictionaries trained natively at its size. The same command goes on where it was interrupted.
    """

    store: Annotated[Path, Argument(metavar="STORE")]
    """Activations, made by suture collect; of several spaces name one with --space."""
    out: Path
    """Folder of the study; what is finished there is kept."""
    workers: Count = 1
    """Processes that stitching is run in."""
    ladder: LadderSettings = field(default_factory=LadderSettings)
    settings: TrainSettings = field(default_factory=TrainSettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Train, stitch, and say what is novel and what a Frankenstein is worth."""
        from suture.studies.stitching import stitching_study

        with progress() as advance:
            found = stitching_study(
                self.out,
                self.store,
                self.settings,
                self.ladder,
                tell=advance,
                workers=self.workers,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit(
            {"out": str(self.out), **found.to_json()},
            as_json=self.output.json,
            text="\n".join([*found.sentences, f"study: {found.path}"]),
        )


@dataclass(frozen=True, kw_only=True)
class LayerStudy:
    """Which layers of two models correspond, and how sure is that?

    Every hookpoint of a store's first model against every one of its second, by measures of how alike two spaces are;
    beside each the chance bar, what the token alone gives, and which pairs are not told apart from the best.
    """

    store: Annotated[Path, Argument(metavar="STORE")]
    """Activations of two models at one hookpoint each or several, made by suture collect."""
    out: Path
    """Folder of the result, to be made."""
    random_weights: bool = False
    """Compare with a second model of random weights too: what architecture and tokens give."""
    device: str = "cpu"
    """Where that model runs: cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    settings: LayerSettings = field(default_factory=LayerSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Compare, and say which are most alike."""
        from suture.studies.controls import layers_with_controls

        with progress() as advance:
            found = layers_with_controls(
                self.out,
                self.store,
                self.settings,
                random_weights=models_of(self.store, self.load, self.device) if self.random_weights else None,
                tell=advance,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit(
            {"out": str(self.out), **found.to_json()},
            as_json=self.output.json,
            text="\n".join([*found.sentences, f"layers: {self.out}"]),
        )


@dataclass(frozen=True, kw_only=True)
class UniversalityStudy:
    """Which features do many dictionaries have?

    Of several models, seeds, sizes or layers: features are joined into families, one of a dictionary at most, on one
    half of the documents and confirmed on the other; and every dictionary's share that is found in all, in most, in
    another.
    """

    dictionary: tuple[Path, ...]
    """Made by suture train, over spaces of the store; twice or more."""
    store: Path
    """Activations of all their spaces, made by suture collect."""
    out: Path
    """Folder of the result, to be made."""
    second_seeds: bool = False
    """Train a second seed of each first: the ceiling, beside the result."""
    random_weights: bool = False
    """Find families with the last dictionary's model of random weights too: what the token gives."""
    device: str = "cpu"
    """Where that model runs: cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    settings: FamilySettings = field(default_factory=FamilySettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Find families, and say how many features are found how often."""
        from suture.studies.controls import universality_with_controls

        with progress() as advance:
            found = universality_with_controls(
                self.out,
                self.dictionary,
                self.store,
                self.settings,
                second_seeds=self.second_seeds,
                random_weights=models_of(self.store, self.load, self.device) if self.random_weights else None,
                tell=advance,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit(
            {"out": str(self.out), **asdict(found.summary), "sentences": found.summary.sentences},
            as_json=self.output.json,
            text="\n".join([*found.summary.sentences, f"families: {self.out}"]),
        )


@dataclass(frozen=True, kw_only=True)
class PowerStudy:
    """What could have been found?

    Known features are added to a store's rows, a dictionary is trained on them as on any other, and those that come
    back rightly labelled are counted, strength by strength.
    """

    store: Annotated[Path, Argument(metavar="STORE")]
    """Activations, made by suture collect."""
    out: Path
    """Folder of the result, to be made."""
    matching: bool = False
    """Of a matching of two dictionaries, one of each model, instead of a joint one: what would be called the same."""
    second_seeds: bool = False
    """With --matching: train a second seed of each, so that the training's noise is taken out of r."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    spikes: SpikeSettings = field(default_factory=SpikeSettings)
    related: Given[RelatedSettings]
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Add, train, and say from which strength on half of them are found, or what was called the same."""
        if self.matching:
            self._match()
            return
        for name, value in self.related.values.items():
            raise UserError(name, value, "is for known pairs of features", "add --matching")
        if self.second_seeds:
            raise UserError("second-seeds", True, "is for a matching", "add --matching")
        from suture.studies.power import power

        result = power(
            self.out,
            self.store,
            self.settings,
            self.spikes,
            on_progress=say,
            overwrite=self.output.overwrite,
            command=command_line(),
        )
        emit(
            {"power": str(self.out), **result.to_json()},
            as_json=self.output.json,
            text=f"{self.out}: {result.sentence}",
        )

    def _match(self) -> None:
        from suture.studies.match_power import match_power

        with progress() as advance:
            result = match_power(
                self.out,
                self.store,
                self.settings,
                self.related.over(),
                second_seeds=self.second_seeds,
                tell=advance,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit(
            {"power": str(self.out), **result.to_json()},
            as_json=self.output.json,
            text=f"{self.out}: {result.sentence}",
        )


@dataclass(frozen=True, kw_only=True)
class SteeringStudy:
    """Do two models respond alike, and could one have known?

    Features of every label are steered in both models, over a range of strengths, with controls; how alike the models
    answer is set beside what was known of each feature before: co-firing, its part beyond the token, its share, mapped
    cosine, label. The same command goes on where it was interrupted.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """A dictionary of two models, made by suture train."""
    table: Path
    """Made by suture features."""
    out: Path
    """Folder of the study; what is finished there is kept."""
    corpus: str | None = None
    """Neutral text; the store's held-out documents where none is named."""
    neutral: Count = 32
    """Documents of neutral text."""
    prompts: Annotated[int, Limits(2)] = 32
    """Openings of other documents, after whose last tokens the models' answers are taken."""
    bridge: Path | None = None
    """Made by suture bridge between the dictionary's spaces: the other model's direction, carried over, is tried."""
    settings: ResponseSettings = field(default_factory=ResponseSettings)
    steering: Annotated[Given[SteerSettings], Without(("seed",))]
    models: DictionaryModels = field(default_factory=DictionaryModels)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Steer, relate, and say what predicts agreement."""
        from suture.interventions.responses.responses import responses
        from suture.interventions.steer.steer import texts_of

        lms = self.models.of(self.dictionary)
        texts = self.models.texts(self.dictionary, self.corpus)
        neutral, openings = texts_of(texts, n_neutral=self.neutral, n_prompts=self.prompts)
        usual = {"strength": STRENGTHS, "control-draws": 1, "random": 0, "seed": self.settings.seed}
        with progress() as advance:
            found = responses(
                self.out,
                self.dictionary,
                self.table,
                lms=lms,
                prompts=openings,
                neutral=neutral,
                steering=steer_settings(self.steering, usual),
                settings=self.settings,
                bridge=self.bridge,
                on_progress=lambda p: advance("passes", p.done, p.total),
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        emit(
            {"out": str(self.out), **found.to_json()},
            as_json=self.output.json,
            text="\n".join([*found.sentences, f"study: {found.path}"]),
        )
