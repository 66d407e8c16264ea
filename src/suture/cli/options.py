"""The choices and options that several subcommands of the command line share."""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from suture.errors import UserError


class StoreType(StrEnum):
    """`--dtype` of a store."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class LMType(StrEnum):
    """`--lm-dtype`."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished result.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run of the same settings.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask a hub: local folders and caches only.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps, or auto: CUDA where there is one.")]
TrustCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a model.")]


def read_toml(file: Path, setting: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it is missing, or no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(setting, file, f"cannot be read ({problem})", "name a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(setting, file, f"is not TOML ({error})", "mend that line") from None
