"""Binding hooks once per run: from plugins to the plain functions that the core calls.

pluggy validates the implementations; its calls cost over a microsecond each, a bound method 20 to
50 ns, so the core never makes a pluggy call.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import pluggy

from hintbench.errors import HintbenchError, PluginError, nearest
from hintbench.hookspecs import HOOKS, PROJECT, HintbenchHooks, HookInfo
from hintbench.strategy import HookFilter

if TYPE_CHECKING:
    from hintbench.guest.guest import Guest
    from hintbench.strategy import Strategy

BoundHook = Callable[..., Any]
"""Takes the hook's arguments in the declared order, all of them, by position."""

_MARK = f"{PROJECT}_impl"
_PROBE = frozenset({"guest_started", "guest_stopping"})
"""The hooks of a driver that a device without the feature never calls."""


class _Method(NamedTuple):
    """A method of a plugin that implements a hook."""

    hook: str
    attribute: str
    takes: tuple[str, ...]
    is_async: bool
    code: CodeType | None


# Looking through a class takes a millisecond, and a test explores thousands of runs of one.
_methods_of: WeakKeyDictionary[type, list[_Method]] = WeakKeyDictionary()


def bind_hooks(
    strategy: "Strategy", observers: Sequence[object] = (), *, off: bool = False
) -> dict[str, BoundHook | None]:
    """Resolve every hook for one run.

    Args:
        strategy: The strategy of the run.
        observers: Other objects whose classes have hooks; they run before the strategy, in this
            order, and must neither wait nor change anything.
        off: Attach the strategy's hooks as behind a static key that is off: each place finds one,
            and none of them does anything. Its device is not probed (`_PROBE`).

    Returns:
        For every hook a callable that takes all its arguments by position, or None when nobody
        implements it: the bound method itself where it takes exactly these arguments, else a
        small adapter; a `FanOut` where several implement the hook.

    Raises:
        PluginError: When a method is marked for a hook that does not exist, has a wrong signature,
            may wait where nothing may, or is named like a hook without being marked.
    """
    calls: dict[str, list[BoundHook]] = {name: [] for name in HOOKS}
    for plugin in (*observers, strategy):
        methods = _methods_of.get(type(plugin))
        if methods is None:
            methods = _methods_of[type(plugin)] = _find_methods(plugin)
        for method in methods:
            if method.is_async and plugin is not strategy:
                text = "an observer may not wait: write def, not async def"
                raise PluginError(plugin_name(plugin), method.attribute, text)
            call = _adapt(method, plugin)
            if off and plugin is strategy:
                if method.hook in _PROBE:
                    continue
                call = _switched_off(call)
            if plugin is not strategy:
                call = _watching(HOOKS[method.hook], call)
            calls[method.hook].append(call)
    return {
        name: None if not found else found[0] if len(found) == 1 else FanOut(HOOKS[name], found)
        for name, found in calls.items()
    }


def check_hooks(plugin: type) -> None:
    """Look for misspelt hooks and wrong signatures in a class, before anybody makes one of it.

    Args:
        plugin: A strategy's class, or any other with hooks.

    Raises:
        PluginError: As from `bind_hooks`.
    """
    for name in ("hook_filters", "claims"):
        if not callable(getattr(plugin, name, lambda: None)):
            raise PluginError(plugin_name(plugin), name, f"must be a method: def {name}(self)")
    if plugin not in _methods_of:
        _methods_of[plugin] = _find_methods(object.__new__(plugin))


def native_filters(
    strategy: "Strategy", hooks: Mapping[str, BoundHook | None], guest: "Guest"
) -> dict[str, HookFilter]:
    """Ask the strategy which blocks concern its hooks, once it has made its flags.

    Args:
        strategy: The strategy of the run.
        hooks: What `bind_hooks` returned for it.
        guest: The guest; it is charged for tests that are not made natively.

    Returns:
        The filters that the core is to apply. Where an observer shares the hook, only the
        strategy's part may be narrowed: that is done here, and nothing is returned for it.

    Raises:
        PluginError: When a filter names no hook of the strategy, or one that cannot be narrowed.
    """
    owner = plugin_name(strategy)
    filters: dict[str, HookFilter] = {}
    try:
        wanted: dict[str, Any] = dict(strategy.hook_filters())
    except HintbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(owner, "hook_filters", error) from error
    for name, narrowed in wanted.items():
        info = HOOKS.get(name)
        if info is None:
            raise PluginError(owner, "hook_filters", _unknown_hook(name))
        if not info.narrowable:
            raise PluginError(owner, "hook_filters", f"{name} cannot be narrowed")
        if not isinstance(narrowed, HookFilter):
            given = type(narrowed).__name__
            raise PluginError(owner, "hook_filters", f"{name}: {given} is not a HookFilter")
        call = hooks[name]
        if call is None or not _has_part_of(call, strategy):
            raise PluginError(owner, "hook_filters", f"{name} is not implemented")
        if isinstance(call, FanOut):
            call.narrow_last(narrowed, guest)
        else:
            filters[name] = narrowed
    return filters


def hook_owner(call: BoundHook) -> str:
    """Name the plugin that a bound hook belongs to.

    Args:
        call: One of the callables that `bind_hooks` returned.

    Returns:
        The plugin's name; for a `FanOut` the last plugin's, which is the strategy's if it takes
        part (the fan-out itself blames the right one).
    """
    return plugin_name(_plugin_of(call))


def plugin_name(plugin: object) -> str:
    """The name a plugin gave itself, else the name of its class."""
    name = getattr(plugin, "name", None)
    return name if isinstance(name, str) and name else type(plugin).__name__


def hook_codes(plugins: Sequence[object]) -> dict[CodeType, tuple[str, str]]:
    """Which plugin's hook a frame of a traceback belongs to.

    Args:
        plugins: Objects that `bind_hooks` has seen.

    Returns:
        By code object the plugin's name and the hook's.
    """
    found = {}
    for plugin in plugins:
        for method in _methods_of.get(type(plugin), ()):
            if method.code is not None:
                found[method.code] = plugin_name(plugin), method.hook
    return found


class FanOut:
    """Several implementations of one hook, called in order; waits are awaited in order too.

    Attributes:
        hook: The hook's declaration.
        calls: The implementations, observers first.
    """

    __slots__ = ("calls", "hook")

    def __init__(self, hook: HookInfo, calls: Sequence[BoundHook]) -> None:
        """Keep the implementations.

        Args:
            hook: The hook's declaration.
            calls: At least one callable, in the order in which to call them.
        """
        self.hook = hook
        self.calls = tuple(calls)

    def __call__(self, *arguments: Any) -> Coroutine[Any, Any, None] | None:
        """Call all; returns a coroutine as soon as one has to wait, which then calls the rest."""
        for number, call in enumerate(self.calls):
            try:
                wait = call(*arguments)
            except HintbenchError:
                raise
            except (Exception, SystemExit) as error:
                raise PluginError(hook_owner(call), self.hook.name, error) from error
            if wait is not None:
                if self.hook.waits == "never":
                    raise _refusal(hook_owner(call), self.hook, wait)
                return self._continue(wait, number, arguments)
        return None

    async def _continue(self, wait: Awaitable[None] | None, number: int, arguments: Any) -> None:
        while True:
            try:
                if wait is not None:
                    await wait
                number += 1
                if number == len(self.calls):
                    return
                wait = self.calls[number](*arguments)
            except HintbenchError:
                raise
            except (Exception, SystemExit) as error:
                raise PluginError(hook_owner(self.calls[number]), self.hook.name, error) from error

    def narrow_last(self, narrowed: HookFilter, guest: "Guest") -> None:
        """Apply a filter to the last implementation, which is the strategy's.

        Args:
            narrowed: The filter.
            guest: Who pays for the test.
        """
        *others, call = self.calls
        self.calls = (*others, _narrowed(self.hook, call, narrowed, guest))


def _adapt(method: _Method, plugin: object) -> BoundHook:
    """The bound method where it takes all arguments in order, else a function that picks them."""
    function: BoundHook = getattr(plugin, method.attribute)
    takes_all = method.takes == HOOKS[method.hook].arguments
    if takes_all and getattr(function, "__self__", None) is plugin:
        return function
    adapter: BoundHook = _adapter_maker(method.hook, method.takes)(function)
    adapter.__dict__["plugin"] = plugin
    adapter.__name__ = adapter.__qualname__ = f"{method.hook}_of_{type(plugin).__name__}"
    return adapter


@functools.cache
def _adapter_maker(hook: str, takes: tuple[str, ...]) -> Callable[[BoundHook], BoundHook]:
    """What makes a function of all arguments of a hook out of one that takes some of them."""
    # All names come from HOOKS (`_check_signature`), so this cannot be anything but a call.
    arguments = ", ".join(HOOKS[hook].arguments)
    maker: Callable[[BoundHook], BoundHook] = eval(
        f"lambda function: lambda {arguments}: function({', '.join(takes)})"
    )
    return maker


def _narrowed(info: HookInfo, call: BoundHook, narrowed: HookFilter, guest: "Guest") -> BoundHook:
    """Make in Python the test that the core makes natively when nobody shares the hook."""
    at = info.arguments.index("pfn")

    def test_and_call(*arguments: Any) -> Any:
        pfn, order = arguments[at : at + 2]
        if narrowed.cost_ns:
            guest.spend(narrowed.cost_ns)
        if order < narrowed.min_order:
            return None
        if narrowed.flags is not None and not narrowed.flags.any(pfn, order):
            return None
        return call(*arguments)

    test_and_call.__dict__["plugin"] = _plugin_of(call)
    return test_and_call


def _switched_off(call: BoundHook) -> BoundHook:
    """A hook behind a static key that is off."""

    def pass_by(*_arguments: Any) -> None:
        return

    pass_by.__dict__["plugin"] = _plugin_of(call)
    return pass_by


def _watching(info: HookInfo, call: BoundHook) -> BoundHook:
    """Hold an observer to its word: it returns at once, with nothing to wait for."""

    def call_and_check(*arguments: Any) -> None:
        outcome = call(*arguments)
        if outcome is not None:
            raise _refusal(hook_owner(call), info, outcome, "is an observer's")

    call_and_check.__dict__["plugin"] = _plugin_of(call)
    return call_and_check


def _refusal(owner: str, info: HookInfo, outcome: object, why: str = "never waits") -> PluginError:
    """The error for a hook that returned something although it may not wait."""
    if inspect.iscoroutine(outcome):
        outcome.close()
    text = f"returned {type(outcome).__name__}, but the hook {why}: it must return None"
    return PluginError(owner, info.name, text)


def _plugin_of(call: BoundHook) -> object:
    """The object whose method a bound hook calls in the end."""
    if isinstance(call, FanOut):
        return _plugin_of(call.calls[-1])
    plugin = getattr(call, "plugin", None)
    return getattr(call, "__self__", None) if plugin is None else plugin


def _has_part_of(call: BoundHook, strategy: object) -> bool:
    # The strategy comes last in a fan-out; without it the last is an observer.
    return _plugin_of(call) is strategy


def _find_methods(plugin: object) -> list[_Method]:
    """Find and validate the hooks of a plugin: ours for help, pluggy's as the authority."""
    owner = plugin_name(plugin)
    methods = []
    for attribute in dir(type(plugin)):
        member = inspect.getattr_static(type(plugin), attribute, None)
        function = getattr(member, "__func__", member)
        options = getattr(function, _MARK, None)
        if options is None:
            if attribute in HOOKS and callable(function):
                raise PluginError(owner, attribute, "is named like a hook but lacks @hookimpl")
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            raise PluginError(owner, attribute, _unknown_hook(hook))
        if options.get("wrapper") or options.get("hookwrapper"):
            text = "wrappers are not supported: implement the hook itself"
            raise PluginError(owner, attribute, text)
        takes = _check_signature(owner, attribute, HOOKS[hook], getattr(plugin, attribute))
        is_async = _check_waits(owner, attribute, HOOKS[hook], function)
        code = getattr(inspect.unwrap(function), "__code__", None)
        methods.append(_Method(hook, attribute, takes, is_async, code))
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HintbenchHooks)
    try:
        manager.register(plugin, owner)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(owner, "", str(error)) from error
    return methods


def _check_signature(
    owner: str, attribute: str, info: HookInfo, function: BoundHook
) -> tuple[str, ...]:
    has = f"{info.name} has {', '.join(info.arguments)}"
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY):
            text = f"takes {parameter}: name the arguments plainly ({has})"
            raise PluginError(owner, attribute, text)
        if parameter.name not in info.arguments:
            near = nearest(parameter.name, info.arguments)
            hint = f": did you mean {near!r}?" if near else ""
            raise PluginError(owner, attribute, f"no argument {parameter.name!r}{hint} ({has})")
        if parameter.default is not parameter.empty:
            text = f"argument {parameter.name!r} has a default, which is never used"
            raise PluginError(owner, attribute, text)
    return tuple(parameters)


def _check_waits(owner: str, attribute: str, info: HookInfo, function: BoundHook) -> bool:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        text = "must not yield: a hook is a function or a coroutine"
        raise PluginError(owner, attribute, text)
    is_async = inspect.iscoroutinefunction(function)
    if is_async and info.waits == "never":
        where = "it runs under the zone lock with interrupts off"
        text = f"may not wait ({where}): write def, not async def"
        raise PluginError(owner, attribute, text)
    return is_async


def _unknown_hook(name: str) -> str:
    near = nearest(name, HOOKS)
    hint = f": did you mean {near!r}?" if near else ""
    return f"there is no hook {name!r}{hint} (hooks: {', '.join(HOOKS)})"
