"""Exceptions a caller can act on; anything else that goes wrong is an assert, that is, our bug."""

from pathlib import PurePath


class UserError(Exception):
    """A mistake the user can mend: it names the setting, its value, what is wrong and the way out, on one line.

    The command line prints it and exits with code 2.
    """

    def __init__(self, setting: str, value: object, problem: str, fix: str) -> None:
        self.setting = setting
        self.value = value
        self.problem = problem
        self.fix = fix
        super().__init__(" ".join(f"{setting} = {_short(value)}: {problem}; {fix}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """What a copy is made of, so that an error in another process arrives as what it was."""
        return type(self), (self.setting, self.value, self.problem, self.fix)


class UsageError(Exception):
    """A command line that cannot be read: an option that is not there, or one without its value."""

    def __init__(self, message: str, program: str) -> None:
        self.program = program
        super().__init__(message)


class ArtifactError(UserError):
    """A folder that is not what its reader needs: missing, unfinished, damaged, of another kind or version."""


class InUseError(ArtifactError):
    """A folder that another process is writing."""


class NumericalError(UserError):
    """A NaN or an infinity where a number was needed; the message names where it came from."""


class DiskSpaceError(UserError):
    """The result would not fit on the disk."""


def _short(value: object, limit: int = 200) -> str:
    text = value if isinstance(value, str | PurePath) else repr(value)
    text = " ".join(str(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
