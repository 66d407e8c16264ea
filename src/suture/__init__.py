"""Find, compare, stitch and move sparse features across language models.

Every stage is a function from folders to a folder: `collect`, `train`, `features`, `steer`, `report`. The public names
stand in `__init__.pyi`, and are loaded when they are first used, so that `import suture` is instant.
"""

import sys
from types import ModuleType

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Names(ModuleType):
    """`features`, `report` and `estimate` stay the stages when Python has loaded the folders of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Names
