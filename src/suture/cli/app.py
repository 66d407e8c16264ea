"""The command line: the list of its commands, each a frozen dataclass of settings that runs the stage of its name.

Every command: `--json` prints one JSON object on stdout and nothing else there; progress goes to stderr, and `--quiet`
leaves it out; exit code 0 done, 2 the user can fix it (one line that names the setting, its value and the way out), 1
our bug, 130 interrupted.
Heavy imports stand inside functions, in the command line's files alone, so that every `--help` is instant.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from suture.cli.activate import Activate, Attribute
from suture.cli.bridge import Bridge, Carry
from suture.cli.collect import Collect
from suture.cli.console import answer, emit, said_once, without_quiet
from suture.cli.estimate import EstimateStudy
from suture.cli.features import Features
from suture.cli.formats import Export, Import
from suture.cli.graft import MakeGraft
from suture.cli.interventions import CausalCheck, SpliceCheck, Steer
from suture.cli.label import Label
from suture.cli.match import Match
from suture.cli.options import Command
from suture.cli.organism import MakeOrganism
from suture.cli.play import Play
from suture.cli.stages import Demo, Report, Verify
from suture.cli.stitch import Refit, Stitch
from suture.cli.study import (
    Designs,
    LadderStudy,
    LayerStudy,
    PowerStudy,
    Proxies,
    SteeringStudy,
    UniversalityStudy,
)
from suture.cli.sweep import Sweep
from suture.cli.train import Train
from suture.errors import UsageError
from suture.pipeline.settings import name_of

COMMANDS: Mapping[str, type[Command]] = {
    "demo": Demo,
    "estimate": EstimateStudy,
    "collect": Collect,
    "train": Train,
    "features": Features,
    "activate": Activate,
    "attribute": Attribute,
    "play": Play,
    "label": Label,
    "match": Match,
    "refit": Refit,
    "stitch": Stitch,
    "bridge": Bridge,
    "carry": Carry,
    "steer": Steer,
    "splice": SpliceCheck,
    "causal": CausalCheck,
    "import": Import,
    "export": Export,
    "organism": MakeOrganism,
    "graft": MakeGraft,
    "sweep": Sweep,
    "report": Report,
    "verify": Verify,
    "study designs": Designs,
    "study layers": LayerStudy,
    "study universality": UniversalityStudy,
    "study proxies": Proxies,
    "study power": PowerStudy,
    "study steering": SteeringStudy,
    "study stitching": LadderStudy,
}
RESUMABLE = {
    "collect": "what was finished is kept, --resume goes on from there",
    "train": "what was finished is kept, --resume goes on from there",
    "organism": "what was finished is kept, --resume goes on from there",
    "graft": "what was finished is kept, --resume goes on from there",
    "steer": "the features that are done were kept, --resume goes on after them",
    "label": "what was finished is kept, --resume goes on from there",
    "demo": "the same command goes on after the stages that are done",
    "sweep": "the same command goes on after the cells that are done",
    "study designs": "the same command goes on after the cells that are done",
    "study steering": "the same command goes on after the features that are done",
    "study stitching": "the same command goes on after the dictionaries that are done",
}
"""What an interrupt leaves; of any other command nothing is half-written."""


def run(words: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    name, rest = _split(without_quiet(words))
    kind = COMMANDS.get(name)
    return answer(
        words,
        lambda: _run(name, rest),
        interrupted=RESUMABLE.get(name, "nothing is half-written"),
        named=lambda setting: setting.replace("_", "-") if kind is None else name_of(kind, setting),
    )


def _run(name: str, rest: Sequence[str]) -> None:
    if name in ("", "-h", "--help"):
        emit({}, as_json=False, text=_help(""))
    elif name == "--version":
        from suture.pipeline.artifact import package_version

        emit({}, as_json=False, text=f"suture {package_version()}")
    elif name not in COMMANDS:
        if any(known.startswith(f"{name} ") for known in COMMANDS) and (not rest or rest[0] in ("-h", "--help")):
            emit({}, as_json=False, text=_help(name))
            return
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"No such command {' '.join([name, *rest[:1]]) if name == 'study' else name}.{hint}", "suture")
    else:
        from suture.cli.parser import read

        with said_once():
            command = read(COMMANDS[name], rest, prog=f"suture {name}")
        command.run()


def _split(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command's name, of one word or two, and what follows.

    >>> _split(["train", "d"]), _split(["study", "designs", "out"])
    (('train', ['d']), ('study designs', ['out']))
    """
    two = " ".join(words[:2])
    return (two, words[2:]) if two in COMMANDS and len(words) > 1 else ("".join(words[:1]), words[1:])


def _help(group: str) -> str:
    """The commands, a line for each."""
    shown = {name: kind for name, kind in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, shown))
    lines = [f"  {name:<{width}}  {(kind.__doc__ or '').partition(chr(10))[0]}" for name, kind in shown.items()]
    head = "Find, compare, stitch and move sparse features across language models."
    return "\n".join(
        [
            "Usage: suture COMMAND [OPTIONS]",
            "",
            f"  {head}",
            "",
            "Commands:",
            *lines,
            "",
            "suture COMMAND --help says more; --quiet leaves progress out; suture --version",
        ]
    )
