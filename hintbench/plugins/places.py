"""Strategies and workloads by where they stand: ``FILE.py``, ``FILE.py:Class``, ``module:Class``.

Who tries something new names its file; a name of its own is looked up by `finding`.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from hintbench.config.specs import TRACE, PluginSpec
from hintbench.errors import PluginError, UsageError
from hintbench.plugins.finding import find_strategy, find_workload, load_plugin
from hintbench.plugins.registry import classes_in, kind_of

_FILE: Final = ".py"


def split_place(text: str, kind: str = "strategy") -> tuple[str, str] | None:
    """Take a place apart.

    Args:
        text: what stands before the parameters on a command line.
        kind: "strategy" or "workload", of which ``trace:PATH`` is one, and no place.

    Returns:
        A file or module and the name of a class, which is "" for the only one of a file; None when
        it is a name, and no place.
    """
    home, colon, name = text.rpartition(":")
    if text.endswith(_FILE):
        return text, ""
    if kind == "workload" and home.strip() == TRACE:
        return None
    return (home, name) if colon else None


def resolve(kind: str, text: str) -> tuple[type[Any], Mapping[str, Any]]:
    """A strategy or workload as ``-s`` and ``-w`` name it: by its name or place, with parameters.

    Args:
        kind: "strategy" or "workload".
        text: ``NAME``, ``FILE.py``, ``FILE.py:Class`` or ``module:Class``, with ``,key=value``.

    Returns:
        The class, and the parameters that are given.

    Raises:
        UsageError: as from `class_at`, or a parameter is no ``key=value``.
        UnknownNameError: nobody has that name.
        PluginError: the plugin cannot be imported.
    """
    head, comma, rest = text.partition(",")
    place = split_place(head, kind)
    if place is None:
        spec = PluginSpec.parse(text, kind)
        find = find_strategy if kind == "strategy" else find_workload
        return find(spec.name), spec.parameters
    parameters = PluginSpec.parse(f"class{comma}{rest}", kind).parameters
    return class_at(kind, *place), parameters


def class_at(kind: str, home: str, name: str) -> type[Any]:
    """The strategy or workload of a file or module.

    Args:
        kind: "strategy" or "workload".
        home: the path of a ``.py`` file, or the dotted name of a module.
        name: of the class; "" for the only one of that kind in a file.

    Raises:
        UsageError: there is no such file, module or class, or there are several to choose from.
        PluginError: the file or module cannot be imported.
    """
    if not home.endswith(_FILE):
        return _named(kind, home, _import(home, name), name)
    # Its name needs to be nobody else's: who names a file means what is in it.
    module = load_plugin(home, by_name=False)
    return _named(kind, home, module, name) if name else _only(kind, home, module)


def _only(kind: str, path: str, module: ModuleType) -> type[Any]:
    classes = list(dict.fromkeys(classes_in(module, path)))
    found = [each for of, each in classes if of == kind]
    if len(found) == 1:
        return found[0]
    if not found:
        others = " and ".join(f"the {of} {each.name!r}" for of, each in classes)
        raise UsageError(f"{path} defines no {kind}, only {others}")
    several = f"{path} defines {len(found)}"
    places = " or ".join(sorted(f"{path}:{each.__name__}" for each in found))
    kinds = {"strategy": "strategies", "workload": "workloads"}[kind]
    raise UsageError(f"{several} {kinds}: name one of them, {places}")


def _named(kind: str, home: str, module: ModuleType, name: str) -> type[Any]:
    found = getattr(module, name, None)
    if not (isinstance(found, type) and kind_of(found) == kind):
        raise UsageError(f"{home}:{name}: {home} has no {kind} {name!r}")
    return found


def _import(module: str, name: str) -> ModuleType:
    # As `python -m` does, which a console script does not: a module in the current folder is found.
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    text = f"{module}:{name}"
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{text}: module {module!r} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:
        raise PluginError(text, "import", error) from error
