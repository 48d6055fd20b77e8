"""Who has which name: hintbench's own strategies and workloads, and what plugins contributed.

Ours stand in tables, so that a run neither imports nor looks up what it does not use. Everybody
else's are contributed while their modules are loaded (:mod:`hintbench.plugins.finding`).
"""

import importlib
from collections.abc import Iterator
from types import MappingProxyType, ModuleType
from typing import Any, Final

from hintbench.errors import PluginError
from hintbench.hookspecs import PROJECT


def _own(room: str, *names: str) -> MappingProxyType[str, str]:
    return MappingProxyType({name: f"hintbench.{room}.{name.replace('-', '_')}" for name in names})


OWN_STRATEGIES: Final = _own(
    "strategies",
    "none",
    "oracle",
    "percpu-array-v9",
    "bitmap-and-spin",
    "zone-confined-batching",
    "sync-hypercall",
    "zone-bitmap",
    "page-reporting",
    "report-then-hold",
    "shared-state",
)
"""Our own strategies by name, with the module of each."""

OWN_WORKLOADS: Final = _own(
    "workloads",
    "bulk",
    "repeat",
    "rand",
    "page-fault1",
    "memhog",
    "churn",
    "slab",
    "zones",
    "build",
    "trace",
)
"""Our own workloads by name, with the module of each."""

OWN: Final = {"strategy": OWN_STRATEGIES, "workload": OWN_WORKLOADS}
"""Both by kind."""

contributed: Final[dict[str, dict[str, type[Any]]]] = {"strategy": {}, "workload": {}}
"""What `load_plugin` and the entry points have contributed to this process, by kind and name."""

_sources: Final[dict[str, str]] = {}


def forget(module: str) -> None:
    """Drop what an earlier version of a module has contributed."""
    for classes in contributed.values():
        for name in [name for name, found in classes.items() if found.__module__ == module]:
            del classes[name]


def contribute(
    plugin: str, classes: list[tuple[str, type[Any]]], source: str, by_name: bool = True
) -> None:
    """Make classes known by name.

    Args:
        plugin: What the user asked for, for messages.
        classes: The classes, each with its kind, as :func:`classes_in` finds them.
        source: Where they come from, for `source_of`.
        by_name: They have to be found by their names; otherwise a name that is in use stays with
            whoever has it.

    Raises:
        PluginError: There is none, a name is in use, or a strategy has a misspelt hook.
    """
    if not classes:
        raise PluginError(plugin, "", "defines no Strategy and no Workload")
    named: dict[tuple[str, str], type[Any]] = {}
    for kind, found in classes:
        namesake = named.setdefault((kind, found.name), found)
        if namesake is not found:
            both = f"{namesake.__qualname__} and {found.__qualname__}"
            raise PluginError(plugin, "", f"{both} have one name, {kind} {found.name!r}")
        taken = contributed[kind].get(found.name)
        if found.name in OWN[kind] and OWN[kind][found.name] != found.__module__:
            raise PluginError(plugin, "", f"{kind} {found.name!r} is one of hintbench's own names")
        if by_name and taken is not None and taken is not found:
            other = source_of(taken)
            raise PluginError(plugin, "", f"{kind} {found.name!r} is already defined by {other}")
        if kind == "strategy" and found.name not in OWN[kind]:
            _check_hooks(found)
    for kind, found in classes:
        if found.name in OWN[kind]:
            continue  # a table finds it already
        contributed[kind].setdefault(found.name, found)
        _sources.setdefault(found.__module__, source)


def _check_hooks(found: type[Any]) -> None:
    """Misspelt hooks are an error when a plugin is loaded, not when its cell's turn comes."""
    from hintbench.plugins.binding import check_hooks

    check_hooks(found)


def classes_in(module: ModuleType, plugin: str) -> Iterator[tuple[str, type[Any]]]:
    """The plugins that are defined in a module or, for a package, below it, each with its kind.

    Raises:
        PluginError: One of them has no name of its own.
    """
    for found in vars(module).values():
        if not isinstance(found, type):
            continue
        if not f"{found.__module__}.".startswith(f"{module.__name__}."):
            continue
        kind = kind_of(found)
        # A class with a leading underscore, or that inherits its name, is a base for others.
        if kind is None or found.__name__.startswith("_"):
            continue
        if not vars(found).get("name"):
            text = f"class {found.__qualname__} has no name of its own: add, say, name = 'mine'"
            raise PluginError(plugin, "", text)
        yield kind, found


def kind_of(found: type) -> str | None:
    """Say what a class is: a strategy, a workload, or neither."""
    from hintbench.plugins.plugin_class import PluginClass

    return found.kind or None if issubclass(found, PluginClass) else None


def source_of(plugin: type) -> str:
    """Say where a strategy or workload comes from.

    Args:
        plugin: Its class.

    Returns:
        "hintbench", the distribution that installed it, the path of its file, or its module.
    """
    module = plugin.__module__
    if module in OWN_STRATEGIES.values() or module in OWN_WORKLOADS.values():
        return PROJECT
    return _sources.get(module, module)


def own_class(kind: str, name: str) -> type[Any]:
    """Import one of hintbench's own.

    Args:
        kind: "strategy" or "workload".
        name: Its name in the table.
    """
    imported = importlib.import_module(OWN[kind][name])
    return next(
        found for of, found in classes_in(imported, name) if of == kind and found.name == name
    )
