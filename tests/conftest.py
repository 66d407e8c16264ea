"""What every test may rely on."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("suture", deadline=None)  # a busy machine is no mistake of the code
settings.load_profile("suture")

# One thread for torch here and in every process that a test starts: tests run side by side, their tensors are small,
# and threads that wait for one another on a busy machine take many times what they save.
for _library in ("OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
