"""Per-CPU state of which every use is seen, not only the moment when it is fetched.

``ring = rings[cpu]`` and then, after a wait, ``ring.clear()`` touches a CPU's state as much as
``rings[cpu].clear()`` does. While rules are checked a CPU's state is therefore handed out behind a
guard, which looks like it and asks who touches it each time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from hintbench.core.guarding import Guard, target_of, touch

_BINARY: Final = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow"),
    *("lshift", "rshift", "and", "xor", "or"),
)
"""Operators of two operands, each of which may be the object, and which may work in place."""
_COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge")
_SPECIAL: Final = (
    *("len", "length_hint", "iter", "next", "reversed", "contains", "getitem", "setitem"),
    *("delitem", "bool", "call", "repr", "str", "bytes", "format", "dir", "sizeof"),
    *("neg", "pos", "abs", "invert", "int", "float", "complex", "index", "round", "trunc"),
    *("floor", "ceil", "divmod", "rdivmod", "enter", "exit", "await", "aiter", "anext"),
    *("aenter", "aexit", "copy", "deepcopy", "reduce", "reduce_ex"),
)
"""Methods that Python looks up in the type, without their underscores."""


UNCHANGING: Final = (int, float, str, bytes, bool, tuple, frozenset, type(None))
"""What cannot change is no state that somebody else could touch."""


def guard(target: Any, touched: Callable[[], None]) -> Any:
    """A guard for an object, with the special methods that its type has."""
    if isinstance(target, UNCHANGING):
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
    for short in _COMPARISONS:
        members[f"__{short}__"] = _operate(getattr(operator, f"__{short}__"))
    for short in _BINARY:
        # All of them: a list has no __radd__, and can be added to another all the same.
        function = getattr(operator, f"__{short}__")
        members[f"__{short}__"] = _operate(function)
        members[f"__r{short}__"] = _operate(function, from_the_right=True)
        members[f"__i{short}__"] = _operate(getattr(operator, f"__i{short}__"))
    members["__hash__"] = _hash_of(kind)
    # isinstance() asks for the class: that of the object.
    members["__class__"] = property(lambda _guard: kind)
    return type(f"Guarded{kind.__name__}", (Guard,), members)


def _forward(name: str) -> Callable[..., Any]:
    def forward(self: Guard, *arguments: Any) -> Any:
        target = touch(self)
        found = getattr(target, name)(*arguments)
        # An iterator's __iter__ and the __enter__ of a context hand the object itself back.
        return self if found is target else found

    return forward


def _operate(
    function: Callable[[Any, Any], Any], from_the_right: bool = False
) -> Callable[..., Any]:
    def operate(self: Guard, other: Any) -> Any:
        target, operand = touch(self), touch(other)
        found = function(operand, target) if from_the_right else function(target, operand)
        # ``ring += [pfn]`` hands the object itself back.
        return self if found is target else found

    return operate


def _hash_of(kind: Any) -> Any:
    """What a guard has for ``__hash__``: None for one that compares by its contents, as a list."""
    if kind.__hash__ is None:
        return None

    def find_hash(self: Guard) -> int:
        if kind.__hash__ is object.__hash__:
            # Which object it is says nothing of what is in it.
            return object.__hash__(target_of(self))
        return hash(touch(self))

    return find_hash
