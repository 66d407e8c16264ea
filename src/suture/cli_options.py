"""The choices and options that several subcommands of the command line share."""

from enum import StrEnum
from typing import Annotated

import typer


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
