"""The strategy that is checked: by name, by class, or by the file it stands in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hintbench.config.explain import explain
from hintbench.config.specs import PluginSpec
from hintbench.errors import HintbenchError, PluginError, UsageError, nearest
from hintbench.plugins.finding import load_plugin
from hintbench.plugins.finding import make as make_plugin
from hintbench.plugins.places import resolve, split_place
from hintbench.strategy import Claims, Strategy
from hintbench.testing.counterexamples.files import source_hash
from hintbench.testing.rules import RULES


@dataclass(frozen=True, slots=True)
class Subject:
    """A strategy under test, so described that another process can make it too.

    Attributes:
        text: ``NAME[,key=value...]``, ``FILE.py[,...]``, ``FILE.py:Class[,...]`` or
            ``module:Class[,...]``.
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
            home, name = split_place(plugin) or (plugin, "")
            if not home.endswith(".py"):
                return plugin
            found = _locate(home, counterexample, given)
            return f"{found}:{name}" if name else found

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

        make_plugin("strategy", strategy_class, parameters)
        return make

    def instance(self) -> Strategy:
        """An instance for exploration, which can say what it claims and declares.

        Raises:
            HintbenchError: there is no such strategy, a parameter is wrong, or what it says of
                itself cannot be read.
        """
        strategy_class, _ = self._resolve()
        name = strategy_class.name or self.text
        for attribute in ("check_parameters", "declared_failures"):
            value = getattr(strategy_class, attribute)
            if not isinstance(value, Mapping):
                raise PluginError(name, attribute, f"{value!r} is no mapping, such as {{}}")
        for rule in strategy_class.declared_failures:
            if rule not in RULES:
                near = nearest(str(rule), RULES)
                hint = f": did you mean {near!r}?" if near else f" ({', '.join(RULES)})"
                raise PluginError(name, "declared_failures", f"{rule!r} is no rule{hint}")
        known = Strategy.kernels
        if not strategy_class.kernels or not set(strategy_class.kernels) <= set(known):
            text = f"{strategy_class.kernels!r}: name one or more of {', '.join(known)}"
            raise PluginError(name, "kernels", text)
        try:
            strategy_class.Parameters.model_validate(dict(strategy_class.check_parameters))
        except ValidationError as error:
            text = explain(error, "", strategy_class.Parameters, "parameter")
            raise PluginError(name, "check_parameters", text) from error
        except HintbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(name, "Parameters", error) from error
        made = self.maker()()
        try:
            claims = made.claims()
        except HintbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(name, "claims", error) from error
        if not isinstance(claims, Claims):
            raise PluginError(name, "claims", f"returned {type(claims).__name__}, not Claims")
        return made

    def _resolve(self) -> tuple[type[Strategy], Mapping[str, Any]]:
        for plugin in self.plugins:
            load_plugin(plugin)
        return resolve("strategy", self.text)

    @property
    def name(self) -> str:
        """What it is called in tables and file names."""
        return self.strategy_class().name or self.strategy_class().__name__


def subject_of(make: Callable[[], Strategy], full_make: Callable[[], Strategy]) -> Subject | None:
    """How another process finds the strategy that a test suite was given as an object.

    Args:
        make: makes an instance of it, for exploration.
        full_make: makes one with its own constants.

    Returns:
        A subject that comes to the same class and parameters; None if there is none, as for a
        class that a function makes.
    """
    instance = make()
    kind = type(instance)
    parameters = instance.parameters
    usual = type(parameters).model_validate(dict(kind.check_parameters))
    chosen = {name: value for name, value in parameters if value != getattr(usual, name)}
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    for head in (kind.name, _from_here(file), f"{kind.__module__}:{kind.__qualname__}"):
        try:
            subject = Subject(str(PluginSpec(name=head, parameters=chosen)))
            if _same(subject.maker(), make) and _same(subject.maker(full=True), full_make):
                return subject
        except HintbenchError:
            continue
    return None


def _from_here(file: str) -> str:
    """A file as one would name it in the current folder."""
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _same(one: Callable[[], Strategy], other: Callable[[], Strategy]) -> bool:
    """Whether what two functions make behaves the same, as far as can be told."""
    first, second = one(), other()
    return (
        type(first).__qualname__ == type(second).__qualname__
        and first.parameters.model_dump() == second.parameters.model_dump()
        and source_hash(one) == source_hash(other)
    )


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
