"""Uses of per-CPU state and calls of hooks, watched in explored runs.

What is right passes without leaving the compiled core; Python is asked about the rest.
"""

from collections.abc import Callable
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.cpython.object import PyObject_GenericGetAttr
    from cython.cimports.hintbench.core.constants import ROLE_INTERRUPT
    from cython.cimports.hintbench.core.contexts import Context
    from cython.cimports.hintbench.core.scheduler import CoreScheduler
else:
    from hintbench.core.constants import ROLE_INTERRUPT
    from hintbench.core.contexts import Context
    from hintbench.core.scheduler import CoreScheduler

    PyObject_GenericGetAttr = object.__getattribute__


@cython.final
@cython.cclass
class Gate:
    """Stands before a CPU's state, and lets that CPU pass while it has interrupts off.

    Args:
        scheduler: knows who runs.
        cpu: whose state it is.
        ask: called with the CPU when somebody else comes, or with interrupts on.
        ask_always: called also when all is well.
    """

    def __init__(
        self, scheduler: CoreScheduler, cpu: int, ask: Callable[[int], None], ask_always: bool
    ) -> None:
        self.scheduler = scheduler
        self.cpu = cpu
        self.ask = ask
        self.ask_always = ask_always

    def __call__(self) -> None:
        """The state is about to be touched."""
        self.come()

    def come(self) -> cython.int:
        """As the call."""
        context: Context = self.scheduler.current
        off: cython.bint
        if self.scheduler.clock.cpu == self.cpu and not self.ask_always:
            if context is None:
                off = self.scheduler.off_in_hook > 0 or self.scheduler.off_by_hook
            else:
                off = context.interrupts_off > 0 or context.role == ROLE_INTERRUPT
            if off:
                return 0
        self.ask(self.cpu)
        return 0


@cython.cclass
class Guard:
    """Looks like an object, and has it known before every use of it.

    Its subclasses (`hintbench.guest.guarded`) add the special methods of the object's type, which
    Python looks for there.

    Args:
        target: the object.
        touched: called without arguments; a `Gate` perhaps.
    """

    def __init__(self, target: Any, touched: Callable[[], None]) -> None:
        if cython.compiled:
            self.guarded_target = target
            self.guarded_touched = touched
        else:
            object.__setattr__(self, "guarded_target", target)
            object.__setattr__(self, "guarded_touched", touched)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            # The type's special methods, which see to themselves, and its class.
            try:
                return PyObject_GenericGetAttr(self, name)
            except AttributeError:
                pass
        return getattr(touch(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(touch(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(touch(self), name)


def target_of(value: Guard) -> Any:
    """The object behind a guard, which is not touched."""
    if cython.compiled:
        return value.guarded_target
    return object.__getattribute__(value, "guarded_target")


def touch(value: Any) -> Any:
    """The object behind a guard, which is touched now; anything else is itself."""
    if cython.compiled:
        if not isinstance(value, Guard):
            return value
        guard: Guard = cython.cast(Guard, value)
        if isinstance(guard.guarded_touched, Gate):
            cython.cast(Gate, guard.guarded_touched).come()
        else:
            guard.guarded_touched()
        return guard.guarded_target
    # Not isinstance(), which asks for the class: that of the object.
    if not issubclass(type(value), Guard):
        return value
    object.__getattribute__(value, "guarded_touched")()
    return object.__getattribute__(value, "guarded_target")


@cython.final
@cython.cclass
class Joined:
    """One callable for several, which are called in order.

    Args:
        calls: those; the list may change.
    """

    def __init__(self, calls: list[Callable[..., Any]]) -> None:
        self.calls = calls

    def __call__(self, *arguments: Any) -> None:
        """All are called with these arguments."""
        for call in self.calls:
            call(*arguments)


@cython.final
@cython.cclass
class HookWatch:
    """Stands where a hook of the strategy stands, and has it known that this one runs.

    Args:
        scheduler: has it for whoever asks (`CoreScheduler.plain_hook`).
        name: of the hook.
        function: the hook.
        off: whether it runs with interrupts off.
        told: called with the name and the arguments before the hook is; the list may change.
    """

    def __init__(
        self,
        scheduler: CoreScheduler,
        name: str,
        function: Callable[..., Any],
        off: bool,
        told: list[Callable[..., None]],
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self.function = function
        self.off = off
        self.told = told

    def __call__(self, *arguments: Any) -> Any:
        """The hook is called."""
        outer: object = self.scheduler.plain_hook
        off: cython.bint = self.scheduler.off_by_hook
        number: cython.longlong = self.scheduler.clock.context
        locks: cython.ulonglong = self.scheduler.takes.held_by(number)
        self.scheduler.plain_hook = (self.name, arguments)
        self.scheduler.off_by_hook = self.off
        try:
            for call in self.told:
                call(self.name, arguments)
            found = self.function(*arguments)
            if self.scheduler.takes.held_by(number) != locks:
                self.scheduler.rules.check_returned(self.name, self.function, locks)
            return found
        finally:
            self.scheduler.plain_hook = outer
            self.scheduler.off_by_hook = off
