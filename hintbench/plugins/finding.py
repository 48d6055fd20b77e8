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
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from hintbench.errors import HintbenchError, PluginError, UnknownNameError, UsageError, describe
from hintbench.hookspecs import PROJECT
from hintbench.plugins.registry import (
    OWN,
    classes_in,
    contribute,
    contributed,
    forget,
    kind_of,
    own_class,
)
from hintbench.plugins.replacements import Replacements
from hintbench.plugins.watchdog import watch

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from hintbench.strategy import Strategy
    from hintbench.workload import Workload

DISABLE_VARIABLE: Final = "HINTBENCH_DISABLE_PLUGINS"
LOAD_LIMIT_SECONDS: Final = 60
"""How long the import of a plugin may take, which may import large libraries."""

# The files that were loaded, each with its time and size then and its module.
_files: Final[dict[Path, tuple[tuple[int, int], ModuleType]]] = {}


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
            made = plugin(**(parameters or {}))
    except HintbenchError:
        raise
    except (Exception, SystemExit) as error:
        cause: BaseException | str = error
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            cause = f"{describe(error)}: its parameters come by name, def __init__(self, **given)"
        raise PluginError(name, f"making the {kind}", cause) from error
    if not hasattr(made, "parameters"):
        raise PluginError(name, "__init__", "does not call super().__init__(**given)")
    return made


def _find(kind: str, name: str) -> type[Any]:
    found = contributed[kind].get(name)
    if found is not None:
        return found
    if name in OWN[kind]:
        return own_class(kind, name)
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
        if name in contributed[kind]:
            return contributed[kind][name]
    hint = "or name its FILE.py"
    if broken:
        hint += f"; not loaded: {', '.join(error.plugin for error in broken)}"
    raise UnknownNameError(kind, name, [*OWN[kind], *contributed[kind]], hint)


def _known(kind: str, broken: list[PluginError] | None) -> dict[str, type[Any]]:
    for point in _entry_points():
        try:
            _load_entry_point(point)
        except PluginError as error:
            if broken is not None:
                broken.append(error)
    own = {name: own_class(kind, name) for name in OWN[kind]}
    return own | dict(sorted(contributed[kind].items()))


def _entry_points() -> "list[EntryPoint]":
    """The entry points of other distributions; reads the metadata of all that is installed."""
    if os.environ.get(DISABLE_VARIABLE, "0") not in ("", "0"):
        return []
    from importlib.metadata import entry_points

    own = {module for table in OWN.values() for module in table.values()}
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
        kind = kind_of(loaded)
        if kind is None or not getattr(loaded, "name", ""):
            text = f"{point.value} is not a Strategy or Workload with a name"
            raise PluginError(point.name, "", text)
        contribute(point.name, [(kind, loaded)], source)
    elif isinstance(loaded, ModuleType):
        contribute(point.name, list(classes_in(loaded, point.name)), source)
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
    contribute(name, list(classes_in(module, name)), name)
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
    everybodys = Replacements()
    try:
        try:
            with watch(lambda: plugin, limit_seconds=LOAD_LIMIT_SECONDS):
                spec.loader.exec_module(module)
        finally:
            replaced = everybodys.undo()
        if replaced:
            raise PluginError(plugin, "", f"replaces {replaced}, which is everybody's, on import")
        forget(name)
        contribute(plugin, list(classes_in(module, plugin)), str(path), by_name)
    except PluginError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_error(plugin, error, path) from error
    _files[path] = version, module
    return module


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
