"""Finding strategies and workloads, wherever they live.

hintbench's own are found by a table, without a look at what else is installed: reading the entry
points of an environment takes longer than importing this package. Other people's come from

* ``-p FILE.py`` or ``-p package.module`` on the command line (`load_plugin`),
* the entry points of the group ``hintbench`` of installed distributions, each the name of a module
  or of a class. They are read only when a name is unknown, or to list what there is; setting the
  environment variable ``HINTBENCH_DISABLE_PLUGINS=1`` blocks them.

A module contributes every subclass of `Strategy` and `Workload` that is defined in it.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from hintbench.errors import HintbenchError, PluginError, UnknownNameError, UsageError, describe
from hintbench.hookspecs import PROJECT
from hintbench.watchdog import watch

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from hintbench.strategy import Strategy
    from hintbench.workload import Workload

DISABLE_VARIABLE: Final = "HINTBENCH_DISABLE_PLUGINS"
LOAD_LIMIT_SECONDS: Final = 60
"""How long the import of a plugin may take, which may import large libraries."""


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

_OWN: Final = {"strategy": OWN_STRATEGIES, "workload": OWN_WORKLOADS}

# What `load_plugin` and the entry points have contributed to this process, by kind and name.
_contributed: Final[dict[str, dict[str, type[Any]]]] = {"strategy": {}, "workload": {}}
_files: Final[dict[Path, tuple[tuple[int, int], ModuleType]]] = {}
_sources: Final[dict[str, str]] = {}


def find_strategy(name: str) -> "type[Strategy]":
    """Find a strategy by its name.

    Args:
        name: The name it gave itself, such as "bitmap-and-spin".

    Raises:
        UnknownNameError: When nobody has it; the message offers the nearest name.
        PluginError: When the plugin that has it cannot be imported.
    """
    return cast("type[Strategy]", _find("strategy", name))


def find_workload(name: str) -> "type[Workload]":
    """Find a workload by its name.

    Args:
        name: The name it gave itself, such as "churn".

    Raises:
        UnknownNameError: When nobody has it; the message offers the nearest name.
        PluginError: When the plugin that has it cannot be imported.
    """
    return cast("type[Workload]", _find("workload", name))


def known_strategies(broken: list[PluginError] | None = None) -> "dict[str, type[Strategy]]":
    """Import every strategy that can be found.

    Args:
        broken: Receives an error for each installed plugin that cannot be imported.

    Returns:
        The classes by name: our own first, then the others by name.
    """
    return _known("strategy", broken)


def known_workloads(broken: list[PluginError] | None = None) -> "dict[str, type[Workload]]":
    """Import every workload that can be found.

    Args:
        broken: Receives an error for each installed plugin that cannot be imported.

    Returns:
        The classes by name: our own first, then the others by name.
    """
    return _known("workload", broken)


def load_plugin(plugin: str, *, by_name: bool = True) -> ModuleType:
    """Import a plugin that is not installed, and make what it contributes known by name.

    Args:
        plugin: The path of a ``.py`` file, or the dotted name of a module.
        by_name: What it contributes has to be found by its name; otherwise a name that is in use
            stays with whoever has it.

    Returns:
        The module. A file is imported again only when it has changed since.

    Raises:
        UsageError: When there is no such file or module.
        PluginError: When it raises while it is imported, contributes nothing, or takes a name
            that is in use; the message names file and line.
    """
    if plugin.endswith(".py") or os.sep in plugin or Path(plugin).is_file():
        return _load_file(plugin, by_name)
    return _load_module(plugin)


def make(kind: str, plugin: type[Any], parameters: Mapping[str, Any] | None = None) -> Any:
    """Make an instance; what a stranger's constructor raises is that plugin's fault.

    Args:
        kind: "strategy" or "workload", for messages.
        plugin: Its class.
        parameters: Values by name; None for the defaults.

    Raises:
        ParameterError: When a parameter is wrong.
        PluginError: When the constructor raises anything else, or does not come back.
    """
    name = getattr(plugin, "name", "") or plugin.__name__
    try:
        with watch(lambda: name):
            return plugin(**(parameters or {}))
    except HintbenchError:
        raise
    except (Exception, SystemExit) as error:
        cause: BaseException | str = error
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            cause = f"{describe(error)}: its parameters come by name, def __init__(self, **given)"
        raise PluginError(name, f"making the {kind}", cause) from error


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


def _find(kind: str, name: str) -> type[Any]:
    found = _contributed[kind].get(name)
    if found is not None:
        return found
    module = _OWN[kind].get(name)
    if module is not None:
        return _own_class(kind, name, module)
    broken: list[PluginError] = []
    # The entry point of that very name first: it is nearly always the one, and then all others
    # need not be imported.
    points = sorted(_entry_points(), key=lambda point: point.name != name)
    for point in points:
        try:
            _load_entry_point(point)
        except PluginError as error:
            if point.name == name:
                raise
            broken.append(error)
        if name in _contributed[kind]:
            return _contributed[kind][name]
    hint = "or load a plugin with -p FILE.py"
    if broken:
        hint += f"; not loaded: {', '.join(error.plugin for error in broken)}"
    raise UnknownNameError(kind, name, [*_OWN[kind], *_contributed[kind]], hint)


def _known(kind: str, broken: list[PluginError] | None) -> dict[str, type[Any]]:
    for point in _entry_points():
        try:
            _load_entry_point(point)
        except PluginError as error:
            if broken is not None:
                broken.append(error)
    own = {name: _own_class(kind, name, module) for name, module in _OWN[kind].items()}
    return own | dict(sorted(_contributed[kind].items()))


def _own_class(kind: str, name: str, module: str) -> type[Any]:
    imported = importlib.import_module(module)
    return next(
        found for of, found in classes_in(imported, name) if of == kind and found.name == name
    )


def _entry_points() -> "list[EntryPoint]":
    """The entry points of other distributions; reads the metadata of all that is installed."""
    if os.environ.get(DISABLE_VARIABLE, "0") not in ("", "0"):
        return []
    from importlib.metadata import entry_points

    own = {*OWN_STRATEGIES.values(), *OWN_WORKLOADS.values()}
    return [point for point in entry_points(group=PROJECT) if point.module not in own]


def _load_entry_point(point: "EntryPoint") -> None:
    try:
        with watch(lambda: point.name, limit_seconds=LOAD_LIMIT_SECONDS):
            loaded = point.load()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise _import_error(point.name, error) from error
    source = point.dist.name if point.dist else point.value
    if isinstance(loaded, type):
        kind = _kind_of(loaded)
        if kind is None or not getattr(loaded, "name", ""):
            text = f"{point.value} is not a Strategy or Workload with a name"
            raise PluginError(point.name, "", text)
        _contribute(point.name, [(kind, loaded)], source)
    elif isinstance(loaded, ModuleType):
        _contribute(point.name, list(classes_in(loaded, point.name)), source)
    else:
        raise PluginError(point.name, "", f"{point.value} is neither a module nor a class")


def _load_module(name: str) -> ModuleType:
    try:
        with watch(lambda: name, limit_seconds=LOAD_LIMIT_SECONDS):
            module = importlib.import_module(name)
    except PluginError:
        raise
    except ModuleNotFoundError as error:
        # The module itself or a package around it; anything else is missing inside the plugin.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            file = Path(f"{name}.py")
            near = f": did you mean {str(file)!r}?" if file.is_file() else ""
            raise UsageError(f"plugin {name!r}: no module named {error.name!r}{near}") from error
        raise _import_error(name, error) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError | ValueError) and not all(
            part.isidentifier() for part in name.split(".")
        ):
            raise UsageError(
                f"plugin {name!r} is neither a FILE.py nor the name of a module"
            ) from error
        raise _import_error(name, error) from error
    _contribute(name, list(classes_in(module, name)), name)
    return module


def _load_file(plugin: str, by_name: bool) -> ModuleType:
    path = Path(plugin).expanduser().resolve()
    if path.is_dir():
        raise UsageError(f"plugin {plugin!r} is a folder: name a FILE.py in it, or a module")
    if not path.is_file():
        raise UsageError(f"plugin {plugin!r}: no such file")
    status = path.stat()
    version = (status.st_mtime_ns, status.st_size)
    if path in _files and _files[path][0] == version:
        return _files[path][1]
    # The same file name in two folders must not become one module, nor hide an installed one.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"hintbench_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {plugin!r} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with watch(lambda: plugin, limit_seconds=LOAD_LIMIT_SECONDS):
            spec.loader.exec_module(module)
        _forget(name)
        _contribute(plugin, list(classes_in(module, plugin)), str(path), by_name)
    except PluginError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_error(plugin, error, path) from error
    _files[path] = version, module
    return module


def _forget(module: str) -> None:
    """Drop what an earlier version of a file has contributed."""
    for classes in _contributed.values():
        for name in [name for name, found in classes.items() if found.__module__ == module]:
            del classes[name]


def _contribute(
    plugin: str, classes: list[tuple[str, type[Any]]], source: str, by_name: bool = True
) -> None:
    """Make classes known by name, unless another plugin has the name already."""
    if not classes:
        raise PluginError(plugin, "", "defines no Strategy and no Workload")
    named: dict[tuple[str, str], type[Any]] = {}
    for kind, found in classes:
        namesake = named.setdefault((kind, found.name), found)
        if namesake is not found:
            both = f"{namesake.__qualname__} and {found.__qualname__}"
            raise PluginError(plugin, "", f"{both} have one name, {kind} {found.name!r}")
        taken = _contributed[kind].get(found.name)
        if found.name in _OWN[kind] and _OWN[kind][found.name] != found.__module__:
            raise PluginError(plugin, "", f"{kind} {found.name!r} is one of hintbench's own names")
        if by_name and taken is not None and taken is not found:
            other = source_of(taken)
            raise PluginError(plugin, "", f"{kind} {found.name!r} is already defined by {other}")
        if kind == "strategy" and found.name not in _OWN[kind]:
            _check_hooks(found)
    for kind, found in classes:
        if found.name in _OWN[kind]:
            continue  # a table finds it already
        _contributed[kind].setdefault(found.name, found)
        _sources.setdefault(found.__module__, source)


def _check_hooks(found: type[Any]) -> None:
    """Misspelt hooks are an error when a plugin is loaded, not when its cell's turn comes."""
    from hintbench.binding import check_hooks

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
        kind = _kind_of(found)
        # A class with a leading underscore, or that inherits its name, is a base for others.
        if kind is None or found.__name__.startswith("_"):
            continue
        if not vars(found).get("name"):
            text = f"class {found.__qualname__} has no name of its own: add, say, name = 'mine'"
            raise PluginError(plugin, "", text)
        yield kind, found


def _kind_of(found: type) -> str | None:
    """Say what a class is: a strategy, a workload, or neither."""
    from hintbench.plugin_class import PluginClass

    return found.kind or None if issubclass(found, PluginClass) else None


def _import_error(plugin: str, error: BaseException, path: Path | None = None) -> PluginError:
    """Name file, line and cause of what a plugin raised while it was imported."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line, cause = error.filename, error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if path is None or frame.filename == str(path)]
        inside = [frame for frame in inside if not frame.filename.startswith("<frozen ")]
        if not inside:
            return PluginError(plugin, "", error)
        file, line, cause = inside[-1].filename, inside[-1].lineno, str(error)
    text = f"{Path(file).name}:{line}: {type(error).__name__}: {cause}"
    return PluginError(plugin, "", text)
