"""Per-CPU state of which every use is seen, not only the moment when it is fetched.

``ring = rings[cpu]`` and then, after a wait, ``ring.clear()`` touches a CPU's state as much as
``rings[cpu].clear()`` does. While rules are checked a CPU's state is therefore handed out behind a
guard, which looks like it and asks who touches it each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

_SPECIAL: Final = (
    *("len", "iter", "contains", "getitem", "setitem", "delitem", "reversed", "next"),
    *("eq", "ne", "lt", "le", "gt", "ge", "bool", "call", "repr", "str", "format"),
    *("add", "radd", "iadd", "sub", "isub", "mul", "imul", "and", "iand", "or", "ior", "xor"),
    *("ixor", "int", "index", "float", "enter", "exit"),
)
"""Methods that Python looks up in the type, without their underscores."""


class Guard:
    """Looks like an object and calls a function before every use of it.

    Args:
        target: the object.
        touched: called without arguments.
    """

    __slots__ = ("_guarded_target", "_guarded_touched")

    def __init__(self, target: Any, touched: Callable[[], None]) -> None:
        object.__setattr__(self, "_guarded_target", target)
        object.__setattr__(self, "_guarded_touched", touched)

    def __getattr__(self, name: str) -> Any:
        object.__getattribute__(self, "_guarded_touched")()
        return getattr(object.__getattribute__(self, "_guarded_target"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__getattribute__(self, "_guarded_touched")()
        setattr(object.__getattribute__(self, "_guarded_target"), name, value)


def guard(target: Any, touched: Callable[[], None]) -> Any:
    """A guard for an object, with the special methods that its type has."""
    if isinstance(target, int | float | str | bytes | bool | tuple | frozenset | type(None)):
        # What cannot change is no state that somebody else could touch.
        return target
    kind: Any = type(target)
    return _guard_type(kind)(target, touched)


@cache
def _guard_type(kind: Any) -> type[Guard]:
    members: dict[str, Any] = {"__slots__": ()}
    for short in _SPECIAL:
        name = f"__{short}__"
        if getattr(kind, name, None) is not None:
            members[name] = _forward(name)
    # One that compares by its contents has no hash, as the object itself.
    members["__hash__"] = object.__hash__ if kind.__hash__ is not None else None
    # isinstance() asks for the class: that of the object.
    members["__class__"] = property(lambda _guard: kind)
    return type(f"Guarded{kind.__name__}", (Guard,), members)


def _forward(name: str) -> Callable[..., Any]:
    def forward(self: Guard, *arguments: Any) -> Any:
        object.__getattribute__(self, "_guarded_touched")()
        target = object.__getattribute__(self, "_guarded_target")
        found = getattr(target, name)(*arguments)
        # ``ring += [pfn]`` hands the object itself back.
        return self if found is target else found

    return forward
