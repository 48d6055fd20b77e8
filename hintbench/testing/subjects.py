"""The strategy that is checked: by name, by class, or by the file it stands in."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hintbench.errors import HintbenchError, PluginError, UsageError
from hintbench.plugins import find_strategy, load_plugin
from hintbench.specs import PluginSpec
from hintbench.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Subject:
    """A strategy under test, so described that another process can make it too.

    Attributes:
        text: ``NAME[,key=value...]``, ``module:Class[,key=value...]`` or ``FILE.py[,...]``.
        plugins: files or modules to look names up in.
    """

    text: str
    plugins: tuple[str, ...] = ()

    def located(self, counterexample: Path, given: tuple[str, ...] = ()) -> Subject:
        """The same subject where its files are now, which a counterexample names as check did.

        A given plugin stands for every file of its name. Other files are looked for from the
        current folder, then beside the counterexample and in the folder above it: `check` puts
        counterexamples into a folder where it runs.

        Args:
            counterexample: the file that names the subject.
            given: plugins of the command line, which are loaded too.

        Raises:
            UsageError: a file is in none of these places.
        """

        def locate(plugin: str) -> str:
            return _locate(plugin, counterexample, given) if plugin.endswith(".py") else plugin

        head, comma, rest = self.text.partition(",")
        plugins = [locate(plugin) for plugin in self.plugins]
        return Subject(f"{locate(head)}{comma}{rest}", tuple(dict.fromkeys((*plugins, *given))))

    def strategy_class(self) -> type[Strategy]:
        """The strategy's class.

        Raises:
            HintbenchError: there is none.
        """
        return self._resolve()[0]

    def maker(self, full: bool = False) -> Callable[[], Strategy]:
        """What makes instances of it, for exploration.

        Args:
            full: with its own default parameters, not the small ones for exploration.

        Raises:
            HintbenchError: there is no such strategy, or a parameter is wrong.
        """
        strategy_class, given = self._resolve()
        parameters: dict[str, Any] = {} if full else dict(strategy_class.check_parameters)
        parameters.update(given)

        def make() -> Strategy:
            return strategy_class(**parameters)

        try:
            make()
        except HintbenchError:
            raise
        except Exception as error:
            raise PluginError(strategy_class.name or self.text, "__init__", error) from error
        return make

    def _resolve(self) -> tuple[type[Strategy], Mapping[str, Any]]:
        for plugin in self.plugins:
            load_plugin(plugin)
        head, comma, rest = self.text.partition(",")
        if head.endswith(".py"):
            spec = PluginSpec.parse(f"file{comma}{rest}", "strategy")
            return strategy_in_file(head), spec.parameters
        if ":" in head:
            spec = PluginSpec.parse(f"class{comma}{rest}", "strategy")
            return strategy_in_module(head), spec.parameters
        spec = PluginSpec.parse(self.text, "strategy")
        return find_strategy(spec.name), spec.parameters

    @property
    def name(self) -> str:
        """What it is called in tables and file names."""
        return self.strategy_class().name or self.strategy_class().__name__


def _locate(plugin: str, counterexample: Path, given: tuple[str, ...]) -> str:
    """Where a file is that a counterexample names."""
    path = Path(plugin).expanduser()
    for each in given:
        if Path(each).name == path.name:
            return each
    if path.is_file():
        return plugin
    folder = counterexample.absolute().parent
    for place in (folder / path, folder.parent / path, folder / path.name):
        if place.is_file():
            return str(place)
    raise UsageError(
        f"{counterexample} needs the plugin {plugin!r}, which is neither here nor beside it nor in"
        f" the folder above it: name it with -p PATH/{path.name}"
    )


def strategy_in_file(path: str) -> type[Strategy]:
    """The one strategy that a file defines.

    Raises:
        HintbenchError: it cannot be loaded, or defines none or several.
    """
    before = set(_subclasses(Strategy))
    # Its name needs to be nobody else's: who names a file means what is in it.
    load_plugin(path, by_name=False)
    where = Path(path).resolve()
    classes: list[type[Strategy]] = _subclasses(Strategy)
    found = [each for each in classes if _file_of(each) == where]
    found = [each for each in found if each.name] or found
    fresh = [each for each in found if each not in before] or found[-1:]
    if len(fresh) != 1:
        names = ", ".join(sorted(each.name or each.__name__ for each in fresh)) or "none"
        raise UsageError(f"{path} defines {names}: name one strategy with -p {path} NAME")
    return fresh[0]


def strategy_in_module(text: str) -> type[Strategy]:
    """The strategy that ``module:Class`` names.

    Raises:
        HintbenchError: there is no such module or class, or it is no strategy.
    """
    module_name, _, class_name = text.partition(":")
    # As `python -m` does, which a console script does not: a module in the current folder is found.
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{text}: module {module_name!r} cannot be imported: {error}") from None
    except Exception as error:
        raise PluginError(text, "import", error) from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        raise UsageError(f"{text}: {module_name} has no strategy {class_name!r}")
    return found


def _subclasses(base: type[Strategy]) -> list[type[Strategy]]:
    found: list[type[Strategy]] = []
    for each in base.__subclasses__():
        found += [each, *_subclasses(each)]
    return found


def _file_of(strategy_class: type) -> Path | None:
    try:
        return Path(inspect.getfile(strategy_class)).resolve()
    except (OSError, TypeError):
        return None
