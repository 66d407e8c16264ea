"""The documents say what is true: their commands parse, their Python runs, their links lead somewhere.

1. Every `suture ...` line of a shell block is read by the real command line (nothing is executed).
2. Every Python block runs, one after the other as a reader would type them, in a folder with a small stories.txt.
3. Columns and files that those runs make are explained in the documents.
"""

import contextlib
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suture.cli.app import COMMANDS
from suture.cli.console import QUIET
from suture.cli.options import Command
from suture.cli.parser import read
from suture.errors import UsageError, UserError
from suture.features.table import FeatureTable
from suture.pipeline.artifact import open_artifact
from suture.pipeline.settings import declared
from suture.report.page import find_artifacts
from suture.sweep.file import read_study

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "suture"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
TYPED = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "questions.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line of the page where it begins, content) of every fenced block in a language."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(2)), m[2]) for m in FENCE.finditer(text) if m[1] == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def typed_commands() -> Iterator[str]:
    for page in TYPED:
        for _, block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("suture "):
                    yield line


def named_by(words: list[str]) -> tuple[type[Command], list[str]]:
    """The command that words after `suture` name, and what is left for it."""
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    assert " ".join(words[:length]) in COMMANDS, words
    return COMMANDS[" ".join(words[:length])], words[length:]


def options_of(command: type[Command]) -> set[str]:
    names = {name for setting in declared(command).values() for name in (setting.name, *setting.also)}
    names |= {f"no-{name}" for name, setting in declared(command).items() if setting.default is True}
    return {f"--{name}" for name in names} | {"--help", "-h", QUIET}


def stories(file: Path) -> None:
    """About 5,000 tokens in 64 documents: repetitive enough to train on, varied enough to be a language."""
    rng = random.Random(0)
    who = ["Tom", "Lily", "the little dog", "a bird", "Mom", "the old man"]
    did = ["went to", "looked at", "played in", "was happy in", "ran to", "sat down in"]
    place = ["the park", "the big tree", "a small house", "the red boat", "the garden", "the blue sea"]
    then = ["It was a sunny day.", "They had a lot of fun.", 'She said, "I want to play."', "He was sad."]

    def sentence() -> str:
        return f"{rng.choice(who)} {rng.choice(did)} {rng.choice(place)}. {rng.choice(then)}"

    documents = [" ".join(["Once upon a time,", *(sentence() for _ in range(5))]) for _ in range(64)]
    file.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")


def run_blocks(page: Path, folder: Path) -> dict[str, Any]:
    """Run a page's Python as one session; a traceback names the page and its line."""
    stories(folder / "stories.txt")
    session: dict[str, Any] = {"__name__": "page"}
    with contextlib.chdir(folder):
        for line, block in blocks(page, "python"):
            exec(compile("\n" * line + block, str(page), "exec"), session)
    return session


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    run_blocks(ROOT / "README.md", folder)
    return folder


@pytest.fixture(scope="module")
def guide_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide")
    run_blocks(ROOT / "docs" / "guide.md", folder)
    return folder


@pytest.mark.parametrize("command", list(typed_commands()))
def test_every_command_is_one_that_the_command_line_reads(command: str) -> None:
    found, rest = named_by(shlex.split(command, comments=True)[1:])
    read(found, rest, prog="suture")


@pytest.mark.parametrize("name", ["study", "layers"])
def test_every_study_file_is_one_that_a_sweep_reads(name: str, tmp_path: Path) -> None:
    (text,) = [b for _, b in blocks(ROOT / "docs" / "guide.md", "toml") if b.startswith(f"# {name}.toml")]
    (tmp_path / "file.toml").write_text(text, encoding="utf-8")
    cells = read_study(tmp_path / "file.toml").cells()
    # layers: mlp0 of one block with 4 hookpoints of two, 3 seeds; k 16 and both designs, k 32 and one; less resid0.post
    assert len(cells) == {"study": 4, "layers": 3 * 3 * 3}[name]
    assert len({cell.collect for cell in cells}) == 1


def test_a_wrong_command_would_be_noticed() -> None:
    for wrong in (
        ["d", "--store", "s", "--no-such-option"],
        ["--store", "s"],
        ["d", "--store", "s", "--design", "none"],
    ):
        with pytest.raises((UsageError, UserError)):
            read(COMMANDS["train"], wrong, prog="suture train")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_prose_exist(page: Path) -> None:
    everywhere = {"--version"}.union(*map(options_of, COMMANDS.values()))
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        words = code.split()
        if words[0] == "suture" and len(words) > 1:
            assert words[1] in {name.split()[0] for name in COMMANDS} or words[1].startswith("-"), code
        own = None
        if words[0] == "suture" and words[1:] and (words[1] in COMMANDS or " ".join(words[1:3]) in COMMANDS):
            own = options_of(named_by(words[1:])[0])
        if words[0] == "suture" or words[0].startswith("--"):
            wrong = [w for w in words if w.startswith("--") and w not in (everywhere if own is None else own)]
            assert not wrong, code


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`suture {name}`" in text


def test_the_file_table_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(named) == len(set(named)) > 50
    for name in named:
        assert (SOURCE / name).is_file(), name


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


def test_the_readme_example_runs(readme_run: Path) -> None:
    assert (readme_run / "report.html").stat().st_size > 10_000
    table = FeatureTable.load(readme_run / "features")
    assert set(table.counts) == {"A", "B", "shared", "one-sided", "drifted", "ambiguous", "dead"}


def test_the_store_reads_without_suture_as_the_formats_say(readme_run: Path) -> None:
    import torch

    from suture.activations.store import Store

    ((line, block),) = blocks(ROOT / "docs" / "formats.md", "python")
    session: dict[str, Any] = {}
    with contextlib.chdir(readme_run):
        exec(compile("\n" * line + block, "docs/formats.md", "exec"), session)
    store = Store.open(readme_run / "store")
    n_rows = store.shards[0]
    assert torch.equal(torch.from_numpy(session["rows"].copy()), store.read_space(torch.arange(n_rows), 0))


def test_the_guide_runs(guide_run: Path) -> None:
    steps = sorted(open_artifact(f).stage for f in find_artifacts(guide_run / "run"))
    assert steps == ["dictionary"] * 3 + ["effect"] * 2 + ["features"] * 3 + ["store"]
    assert (guide_run / "run" / "report.html").is_file()
    assert (guide_run / "tuned" / "model.safetensors").is_file()


def test_every_column_is_explained(guide_run: Path) -> None:
    explained = set(re.findall(r"`([\w-]+)`", (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")))
    for name in ("crosscoder", "pooled"):
        table = FeatureTable.load(guide_run / "run" / f"features-{name}")
        assert {re.sub("_[B-Z]$", "_A", name) for name in table.columns} <= explained  # a line stands for every model
        assert set(table.summary["two_clusters"]) <= explained
        assert set(table.counts) <= explained


def test_every_file_on_disk_is_explained(guide_run: Path) -> None:
    explained = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    for folder in find_artifacts(guide_run / "run"):
        for entry in open_artifact(folder).files:
            assert f"`{entry.name.rsplit('/', 1)[-1]}`" in explained, entry.name
