"""The commands `activate` and `attribute`: one's own text, and which features fire on it or carry what comes next."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import emit, progress
from suture.cli.heat import heat
from suture.cli.options import Argument, DictionaryModels
from suture.errors import UserError
from suture.interventions.settings import ActivateSettings, AttributeSettings
from suture.pipeline.settings import Option


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Say which features fire on a text, token by token, in each model.

    Features on which the models differ come first. On a terminal tokens are shaded; elsewhere they are named.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    text: Annotated[str | None, Argument(metavar="TEXT")] = None
    """What the models read."""
    file: Path | None = None
    """Read the text from this file, as UTF-8."""
    table: Annotated[Path | None, Option(raised=("features",))] = None
    """Made by suture features: labels and promoted tokens stand beside the features."""
    page: Path | None = None
    """Write an HTML page of it too."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    settings: ActivateSettings = field(default_factory=ActivateSettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)

    def run(self) -> None:
        """Read the text, and show what fires."""
        from suture.interventions.activate import activate
        from suture.report.activated import activated_page

        text = self._text()
        found = activate(
            self.dictionary,
            text,
            self.models.of(self.dictionary),
            self.settings,
            table=self.table,
        )
        page = None if self.page is None else activated_page(self.page, found)
        said = found.text() if self.json else heat(found) or found.text()
        emit(
            {**found.to_json(), "page": None if page is None else str(page)},
            as_json=self.json,
            text=said if page is None else f"{said}\n{page}",
        )

    def _text(self) -> str:
        if (self.text is None) == (self.file is None):
            given = "none" if self.text is None else self.text
            problem = "is given neither in words nor by --file" if self.text is None else "is given by --file too"
            raise UserError("text", given, problem, 'give "some text" or --file FILE')
        if self.file is None:
            return self.text or ""
        try:
            return self.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("file", self.file, f"cannot be read ({error})", "name a file of UTF-8 text") from None


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """Say which features carry a word's logit after a prompt, in each model.

    By integrated gradient to the model without the features, and measured by taking the foremost ones out.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    prompt: Annotated[str, Argument(metavar="PROMPT")]
    """What the models read; the next token is asked about."""
    token: str
    """The word whose logit is attributed."""
    against: str | None = None
    """Another word, whose logit is subtracted."""
    table: Annotated[Path | None, Option(raised=("features",))] = None
    """Made by suture features: labels and promoted tokens stand beside the features."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    settings: AttributeSettings = field(default_factory=AttributeSettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)

    def run(self) -> None:
        """Attribute, and print parts and measured removals beside each other."""
        from suture.interventions.attribute import attribute

        lms = self.models.of(self.dictionary)
        with progress() as advance:
            found = attribute(
                self.dictionary,
                self.prompt,
                self.token,
                lms,
                self.settings,
                against=self.against,
                table=self.table,
                on_progress=advance,
            )
        emit(found.to_json(), as_json=self.json, text=found.text())
