"""What a plugin has replaced of modules that are everybody's.

A plugin that puts a function of its own in the place of numpy's, or of a class of this package,
changes what the others do that are run beside it, and what is found out about itself.
"""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any, Final

_EVERYBODYS: Final = ("builtins", "math", "numpy", "random", "time")
_OURS: Final = "hintbench"
_PLUGINS: Final = ("hintbench.strategies", "hintbench.workloads")


class Replacements:
    """Remembers the functions, classes and constants of the modules that are loaded by now."""

    def __init__(self) -> None:
        self._places: list[tuple[str, Any, dict[str, Any]]] = []
        # Whatever somebody has put there.
        loaded: dict[str, Any] = dict(sys.modules)
        for name, module in loaded.items():
            if not isinstance(module, ModuleType):
                continue
            if name in _EVERYBODYS:
                self._remember(name, module)
            elif name.partition(".")[0] == _OURS and not name.startswith(_PLUGINS):
                self._remember(name, module)
                for value in list(vars(module).values()):
                    if isinstance(value, type) and value.__module__ == name:
                        self._remember(f"{name}.{value.__qualname__}", value)

    def _remember(self, name: str, place: Any) -> None:
        self._places.append((name, place, dict(vars(place))))

    def undo(self) -> str:
        """Put everything back that has been replaced.

        Returns:
            The name of the first of it, as ``numpy.sort``; "" if nothing was.
        """
        first = ""
        for name, place, before in self._places:
            now = vars(place)
            for attribute, value in before.items():
                if now.get(attribute) is value or not _is_fixed(attribute, value):
                    continue
                first = first or f"{name}.{attribute}"
                setattr(place, attribute, value)
        return first


def _is_fixed(name: str, value: Any) -> bool:
    """Whether nobody has a reason to replace it: a function, a class, or a constant."""
    if name.startswith("__"):
        return isinstance(value, FunctionType)  # __init__ of a class, not __loader__ of a module
    return callable(value) or name.isupper()
