"""`Found`: one dictionary's files among others, and whose they are by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from suture.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Found:
    """One dictionary's files, on this machine."""

    format: str
    source: str
    """As the user named it: a folder, a file or a hub repository."""
    folder: str
    """Where it lies inside, with forward slashes; empty where it is the source itself."""
    files: Mapping[str, Path]
    """By what they are to their format: `config`, `weights`, .."""

    @property
    def folder_name(self) -> str:
        """The name of the folder that it lies in."""
        return PurePosixPath(self.folder).name or Path(self.source).resolve().name

    @property
    def whole_path(self) -> str:
        """Source and folder, for what names alone say."""
        here = Path(self.source).expanduser()
        source = here.resolve().as_posix() if here.exists() else self.source
        return f"{source}/{self.folder}".rstrip("/")

    def scales(self, given: Sequence[float], n: int, why: str | None) -> tuple[float, ...]:
        """What activations of each space are multiplied by, where the file does not say it itself.

        Args:
            given: what the user said.
            n: spaces.
            why: what the file lacks; None where it lacks nothing.

        Raises:
            UserError: it is needed and not given, or given and not needed.
        """
        if why is None:
            if given:
                problem = "means nothing here: the file says itself what its activations are multiplied by"
                raise UserError("scale", list(given), problem, "leave it out")
            return (1.0,) * n
        if not given:
            fix = "say with --scale what activations are to be multiplied by (1 for raw ones)"
            raise UserError("source", self.whole_path, why, fix)
        if len(given) not in (1, n):
            raise UserError("scale", list(given), f"has {len(given)} values for {n} spaces", "give one per space")
        return tuple(given) * (n if len(given) == 1 else 1)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The names of a format's files in a dictionary's folder."""

    format: str
    needs: Mapping[str, str]
    """Role to a pattern of the name in the folder; it must be there."""
    may: Mapping[str, str] = field(default_factory=dict)
    """The same, and may be absent; `../` leads to the folder above."""
    alone: bool = False
    """Every file that matches `weights` is a dictionary of its own."""
    layers: str | None = None
    """A regular expression of files of which there are several, numbered."""


LAYOUTS = (
    Layout(
        format="saelens",
        needs={"config": "cfg.json", "weights": "sae_weights.safetensors"},
        may={"sparsity": "sparsity.safetensors"},
    ),
    Layout(format="llamascopium", needs={"config": "config.json", "weights": "sae_weights.safetensors"}),
    Layout(
        format="sparsify", needs={"config": "cfg.json", "weights": "sae.safetensors"}, may={"run": "../config.json"}
    ),
    Layout(format="dictionary-learning", needs={"config": "config.json", "weights": "ae.pt"}),
    Layout(
        format="dl-crosscoder",
        needs={"config": "config.json", "weights": "model.safetensors"},
        may={"trainer": "trainer_config.json"},
    ),
    Layout(format="kissane", needs={"config": "cfg.json", "weights": "cc_weights.pt"}),
    Layout(format="dl-crosscoder", needs={"config": "config.json", "weights": "cc_weights.pt"}),
    Layout(format="gemma-scope-2", needs={"weights": "params.safetensors"}, may={"config": "config.json"}),
    Layout(format="gemma-scope-2", needs={}, may={"config": "config.json"}, layers=r"params_layer_(\d+)\.safetensors"),
    Layout(format="gemma-scope", needs={"weights": "params.npz"}),
    Layout(format="llama-scope", needs={"config": "hyperparams.json", "weights": "checkpoints/final.safetensors"}),
    Layout(format="qwen-scope", needs={"weights": "layer*.sae.pt"}, may={"config": "config.json"}, alone=True),
)
"""The first that fits a folder is its format."""
SINGLE = (".pt", ".pth", ".safetensors")
"""A file that no layout claims is a dictionary by itself: whose, its keys say."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A dictionary by the names of its files."""

    format: str
    folder: str
    files: Mapping[str, str]
    """Role to its path inside the source."""

    @property
    def path(self) -> str:
        """What tells it from the others."""
        weights = self.files.get("weights") or next(iter(self.files.values()))
        return weights if "weights" in self.files else self.folder


def candidates(names: Iterable[str]) -> list[Candidate]:
    """The dictionaries among these files, by their names alone.

    >>> [c.format for c in candidates(["a/cfg.json", "a/sae_weights.safetensors", "b/params.npz"])]
    ['saelens', 'gemma-scope']
    """
    known = set(names)
    inside: dict[str, list[str]] = {str(parent): [] for name in known for parent in PurePosixPath(name).parents}
    for name in sorted(known):
        inside[str(PurePosixPath(name).parent)].append(PurePosixPath(name).name)
    found: list[Candidate] = []
    claimed: set[str] = set()
    for folder in sorted(inside):
        for layout in LAYOUTS:
            made = _fitting(layout, folder, inside[folder], known, claimed)
            found += made
            claimed |= {path for one in made for path in one.files.values()}
    taken = {one.folder or "." for one in found}  # what else lies there or below is a training's, not a dictionary
    for name in sorted(known - claimed):
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        if PurePosixPath(name).suffix in SINGLE and not taken & parents:
            folder = str(PurePosixPath(name).parent)
            found.append(Candidate(format="single", folder="" if folder == "." else folder, files={"weights": name}))
    return found


def _fitting(layout: Layout, folder: str, inside: Sequence[str], known: set[str], claimed: set[str]) -> list[Candidate]:
    """The dictionaries of a layout in a folder, which holds the files `inside` itself."""
    prefix, place = ("", "") if folder == "." else (f"{folder}/", folder)
    optional = _optional(layout, folder, known)
    if layout.layers is not None:
        numbered = {int(m[1]): prefix + name for name in inside if (m := re.fullmatch(layout.layers, name))}
        files = {f"layer {n}": numbered[n] for n in sorted(numbered)}
        return [Candidate(format=layout.format, folder=place, files=files | optional)] if files else []
    needed: dict[str, list[str]] = {}
    for role, pattern in layout.needs.items():
        paths = [prefix + name for name in inside if fnmatchcase(name, pattern)]
        paths = [prefix + pattern] if "/" in pattern and prefix + pattern in known else paths
        needed[role] = [path for path in paths if path not in claimed]
    if not all(needed.values()):
        return []
    rest = {role: paths[0] for role, paths in needed.items() if role != "weights"}
    return [
        Candidate(format=layout.format, folder=place, files=rest | {"weights": weights} | optional)
        for weights in (needed["weights"] if layout.alone else needed["weights"][:1])
    ]


def _optional(layout: Layout, folder: str, known: set[str]) -> dict[str, str]:
    paths = {}
    for role, name in layout.may.items():
        base = PurePosixPath(folder).parent if name.startswith("../") else PurePosixPath(folder)
        paths[role] = str(base / name.removeprefix("../"))
    return {role: path for role, path in paths.items() if path in known}


def chosen(found: Sequence[Candidate], pattern: str | None, source: str) -> Candidate:
    """The one that the pattern is of: a part of its path, or a pattern with `*`.

    Raises:
        UserError: none or several are.
    """
    if not found:
        fix = "name the folder or file of a dictionary"
        raise UserError("source", source, "holds no dictionary of a format that is read", fix)
    fitting = [one for one in found if pattern is None or _matches(one, pattern)]
    exact = [one for one in fitting if pattern in (one.folder, one.path)]
    fitting = exact or fitting
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(one.path for one in (fitting or found)[:4])
    more = f" and {len(fitting or found) - 4} more" if len(fitting or found) > 4 else ""
    if not fitting:
        raise UserError("file", pattern, f"is no dictionary of {source}, which has {listed}{more}", "name one of them")
    if pattern is None:
        problem = f"holds {len(fitting)} dictionaries: {listed}{more}"
        raise UserError("source", source, problem, "name one of them with --file")
    raise UserError("file", pattern, f"means {len(fitting)} dictionaries: {listed}{more}", "write more of its path")


def _matches(one: Candidate, pattern: str) -> bool:
    if any(mark in pattern for mark in "*?["):
        return any(fnmatchcase(path, pattern) for path in (one.path, one.folder))
    return pattern in one.path
