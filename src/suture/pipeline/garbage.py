"""Python's search for cycles, paused while millions of small objects are made that have none.

It looks through all objects each time a quarter more of them were made: for the examples of 16,000 features that takes
longer than making them.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While inside, or inside a function that this decorates, only counts of references free memory."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
