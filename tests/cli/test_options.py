"""Every option of the first command line is still there; a setting is an option, a key of a file, a line of docs."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from suture.activations.settings import CollectSettings
from suture.cli.app import COMMANDS
from suture.cli.options import Argument
from suture.cli.parser import read
from suture.errors import UserError
from suture.pipeline.settings import Setting, declared, from_flat
from suture.sweep.file import read_study
from suture.training.settings import TrainSettings

OLD = {
    "demo": (
        "",
        "--out !--quick --seed !--overwrite !--json",
    ),
    "collect": (
        "STORE",
        "*--model *--at --corpus --tokens *--revision --block --dtype --lm-dtype --batch-tokens --shard-rows "
        "--text-column --separator --split --device !--offline !--trust-remote-code !--resume !--overwrite "
        "!--json",
    ),
    "train": (
        "DICT",
        "--store !--stream --each --design --features --k --sparsity --loss !--flag --pad --model-dropout "
        "*--dedicated --tied --rows --batch-size --learning-rate/--lr --warmup --decay --k-start --k-anneal --l1 "
        "--l0 --aux --k-aux --dead-after --heldout *--space !--null --rotation-seed --copies --validate-every "
        "--checkpoint-every --seed --data-seed --feature-ranks --precision *--model *--at --corpus *--revision "
        "--block --fill-rows --dtype --lm-dtype --batch-tokens --text-column --separator --split !--offline "
        "!--trust-remote-code *--track --device !--resume !--overwrite !--json",
    ),
    "estimate": (
        "STUDY.toml",
        "--out --device --seconds !--offline !--json",
    ),
    "splice": (
        "DICT",
        "--out --corpus --documents --block *--revision --device !--offline !--trust-remote-code !--overwrite !--json",
    ),
    "causal": (
        "DICT",
        "--table --out *--feature --each-label --corpus --documents --block --seed *--revision --device "
        "!--offline !--trust-remote-code !--overwrite !--json",
    ),
    "features": (
        "DICT",
        "--store --out --rows --top !--tokens/--no-tokens *--revision --device !--offline !--trust-remote-code "
        "!--overwrite !--json",
    ),
    "steer": (
        "DICT",
        "--table *--feature --out *--strength *--kl *--prompt --corpus --neutral --prompts --new-tokens --seed "
        "*--revision --device !--offline !--trust-remote-code !--overwrite !--json",
    ),
    "report": (
        "DIR",
        "--out --title !--json",
    ),
    "study designs": (
        "OUT",
        "!--planted *--width --concepts --embedding --exclusive --pairwise --mean-active *--noise --stored "
        "*--model *--at --corpus --tokens *--revision --block --lm-dtype --store --features --k --rows "
        "--batch-size --learning-rate/--lr --k-start --k-anneal --heldout --described --model-dropout "
        "--dedicated --tied *--only --seeds --workers !--quick --device !--offline !--trust-remote-code "
        "!--overwrite !--json",
    ),
}
"""Per command its arguments by place and its options; * may be repeated, ! takes no value."""


def loaded(file: Path) -> Any:
    """A module from a file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = loaded(Path(__file__).resolve().parents[2] / "scripts" / "write_settings.py")


def words_of(setting: Setting) -> list[str]:
    """How an option is written, with the mark of its kind."""
    mark = "!" if setting.each is bool else "*" if setting.n_values is None else ""
    names = [f"--{name}" for name in (setting.name, *setting.also)]
    return [mark + "/".join([*names, *([f"--no-{setting.name}"] if setting.default is True else [])])]


@pytest.mark.parametrize("name", OLD)
def test_every_option_of_the_first_command_line_is_there(name: str) -> None:
    arguments, options = OLD[name]
    now = declared(COMMANDS[name]).values()
    places = [m.metavar for s in now for m in s.markers if isinstance(m, Argument)]
    assert places == arguments.split()
    assert set(options.split()) <= {word for setting in now for word in words_of(setting)}


def test_every_setting_has_a_sentence() -> None:
    for name, command in COMMANDS.items():
        for setting in declared(command).values():
            assert setting.sentence.endswith("."), (name, setting.name, setting.sentence)


def test_defaults_given_as_words_are_the_defaults() -> None:
    """Options and settings agree on how a value is written."""
    words: list[str] = []
    for setting in declared(TrainSettings).values():
        default = setting.default
        if default not in (None, (), False, True):
            words += [f"--{setting.name}", str(default)]
    command = read(COMMANDS["train"], ["d", *words], prog="suture train")
    assert from_flat(TrainSettings, getattr(command, "settings").values) == TrainSettings()  # noqa: B009


@pytest.mark.parametrize("kind", [TrainSettings, CollectSettings])
def test_every_setting_is_a_key_of_a_study(kind: type, tmp_path: Path) -> None:
    table = "train" if kind is TrainSettings else "collect"
    base = '[collect]\nmodel = ["a"]\nat = "x"\ncorpus = "c"\ntokens = 5\n[train]\n'
    for name in declared(kind):
        file = tmp_path / "study.toml"
        file.write_text(base + f'[sweep]\n"{table}.{name}" = [{{a = 1}}]\n')
        with pytest.raises(UserError) as refused:  # known, and no value for it
            read_study(file)
        assert "is no setting of" not in str(refused.value), name


def test_one_edit_adds_a_setting_everywhere(tmp_path: Path) -> None:
    """A field added to the source of the training settings is an option, a key and a line of the page at once."""
    source = Path(sys.modules[TrainSettings.__module__].__file__ or "").read_text("utf-8")
    place = "    seed: Seed = 0\n"
    assert source.count(place) == 1
    file = tmp_path / "made_settings.py"
    file.write_text(source.replace(place, '    wobble: Share = 0.25\n    """How much it wobbles."""\n' + place))
    try:
        module = loaded(file)
        made = module.TrainSettings
        assert from_flat(made, {"wobble": 0.5}).wobble == 0.5
        with pytest.raises(UserError, match=r"wobble = 2.0: is not a share"):
            from_flat(made, {"wobble": 2})

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Command:
            """Wobble."""

            settings: made = dataclasses.field(default_factory=made)  # pyright: ignore[reportInvalidTypeForm]

            def run(self) -> None:
                """Nothing."""

        assert read(Command, ["--wobble", "0.75"], prog="suture").settings.wobble == 0.75
        assert "| `wobble` | a number, 0 or above and at most 1 | `0.25` | How much it wobbles. |" in SCRIPT.table(made)
    finally:
        del sys.modules["made_settings"]


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    assert SCRIPT.PAGE.read_text("utf-8") == SCRIPT.page(), "write it again: python scripts/write_settings.py"
