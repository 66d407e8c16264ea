"""`suture` and `python -m suture`: run the command line, and turn what goes wrong into one line and an exit code."""

import sys


def main() -> None:
    """Exit 0: done. 2: the user can fix it. 130: interrupted. 1: our bug, with its traceback."""
    from suture.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
