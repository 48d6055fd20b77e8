"""What rule checkers see of a running guest: one call for everything that happens.

A :class:`Watcher` is made of any number of checkers.  Each has methods named like the events below
for what it wants to see; events that nobody wants cost next to nothing.  Watchers look: they
change nothing and spend no virtual time.  What happens per page (who has it, what is free) is seen
by :class:`hintbench.core.audit.Auditor` instead, without leaving the compiled core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from hintbench.core.guarding import Joined

EVENTS: Final = (
    "reported",
    "not_submitted",
    "answered",
    "fetched",
    "discarded",
    "isolated",
    "put_back",
    "kept",
    "flag_set",
    "flag_cleared",
    "state_made",
    "per_cpu_touched",
    "dropped",
    "buffer_asked",
    "hook_called",
    "overtaken",
    "edit_preempted",
    "overwritten",
    "taken_back",
)
"""The events and their arguments:

* ``reported(report, context)``: a report, post or hypercall was submitted by a context (None: a
  plain hook), before the host sees it.
* ``not_submitted(report)``: the queue was full, or no device was there.
* ``answered(report)``: the host has acknowledged or refused it, or the device was reset.
* ``fetched(completion)``: somebody polled it.
* ``discarded(pfn, pages)``: the host takes the memory of these pages, now.
* ``isolated(zone, pfn, order)``, ``put_back(zone, pfn, order)``: under the lock or without it.
* ``kept(zone, pfn, order)``: a strategy has taken a block by `Zone.hold` or `Zone.allocate`.
* ``flag_set(flags, pfn, order)``, ``flag_cleared(flags, pfn, order)``: by a strategy; a checker
  that has an attribute ``flag_meanings`` hears of flags with these meanings only.
* ``state_made(rule)``: a strategy has made state that this rule looks after, ``per-cpu`` by
  ``guest.per_cpu(...)`` or ``locked-state`` by ``guest.guarded(...)``.
* ``per_cpu_touched(cpu)``: somebody looked at this CPU's part of ``guest.per_cpu(...)``; a checker
  whose attribute ``rightful_touches`` is False need not hear of that CPU's own with interrupts off.
* ``dropped(reason, count)``: ``guest.count_drop``.
* ``buffer_asked(size)``: ``guest.allocate_buffer``.
* ``hook_called(name, arguments)``: a hook of the strategy is about to run; a checker that has an
  attribute ``hooks`` hears of hooks with these names only.
* ``overtaken(part)``: an access to what CPUs share has ended, and others may come before its caller
  can go on with this.
* ``edit_preempted(part)``: an edit that nobody locked stands before this part of it, and others
  are about to run.
* ``overwritten(report)``: two CPUs were in the queue at once, and the host will never see this.
* ``taken_back(blocks)``: the host took these back by itself, having seen that they are free.
"""


class Watcher:
    """Hands every event to the checkers that have a method for it.

    Args:
        checkers: objects whose classes have methods named like :data:`EVENTS`.
    """

    reported: Callable[..., None]
    not_submitted: Callable[..., None]
    answered: Callable[..., None]
    fetched: Callable[..., None]
    discarded: Callable[..., None]
    isolated: Callable[..., None]
    put_back: Callable[..., None]
    kept: Callable[..., None]
    flag_set: Callable[..., None]
    flag_cleared: Callable[..., None]
    state_made: Callable[..., None]
    per_cpu_touched: Callable[..., None]
    dropped: Callable[..., None]
    buffer_asked: Callable[..., None]
    hook_called: Callable[..., None]
    overtaken: Callable[..., None]
    edit_preempted: Callable[..., None]
    overwritten: Callable[..., None]
    taken_back: Callable[..., None]

    def __init__(self, checkers: Iterable[object]) -> None:
        self._checkers = tuple(checkers)
        self._calls: dict[str, list[Callable[..., None]]] = {}
        for event, who in _listeners(tuple(type(each) for each in self._checkers)):
            calls = self._calls[event] = [getattr(self._checkers[at], event) for at in who]
            setattr(self, event, _join(calls))

    def forget(self, checker: object) -> None:
        """A checker has seen what it was to see: from now on it hears of flags only.

        Args:
            checker: one of them, perhaps in the middle of an event.
        """
        for calls in self._calls.values():
            for at, call in enumerate(calls):
                if getattr(call, "__self__", None) is checker:
                    calls[at] = _nobody

    @property
    def wants_rightful_touches(self) -> bool:
        """Whether anybody wants to hear of every use of per-CPU state, right or wrong."""
        return any(
            hasattr(checker, "per_cpu_touched") and getattr(checker, "rightful_touches", True)
            for checker in self._checkers
        )

    def of_hook(self, name: str) -> list[Callable[..., None]]:
        """Who wants to hear of a hook: the list changes when a checker is forgotten.

        Args:
            name: the hook's.
        """
        key = f"hook_called {name}"
        if key not in self._calls:
            who = _listeners_of_hook(tuple(type(each) for each in self._checkers), name)
            self._calls[key] = _calls([self._checkers[at] for at in who], "hook_called")
        return self._calls[key]

    def of_flags(self, meaning: str) -> FlagWatcher | None:
        """Who watches flags of a meaning; None when nobody does.

        Args:
            meaning: as in `Guest.flags`.
        """
        wanted = [
            checker
            for checker in self._checkers
            if meaning in getattr(checker, "flag_meanings", (meaning,))
        ]
        flags_set, flags_cleared = _calls(wanted, "flag_set"), _calls(wanted, "flag_cleared")
        if not flags_set and not flags_cleared:
            return None
        return FlagWatcher(_join(flags_set), _join(flags_cleared))


@dataclass(frozen=True, slots=True)
class FlagWatcher:
    """What one set of flags calls.

    Attributes:
        flag_set, flag_cleared: as the events of these names.
    """

    flag_set: Callable[..., None]
    flag_cleared: Callable[..., None]


@lru_cache(maxsize=64)
def _listeners(checkers: tuple[type, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """For every event which of some classes have a method for it; a run has the same again."""
    return tuple(
        (event, tuple(at for at, each in enumerate(checkers) if hasattr(each, event)))
        for event in EVENTS
    )


@lru_cache(maxsize=512)
def _listeners_of_hook(checkers: tuple[type, ...], name: str) -> tuple[int, ...]:
    """Which of some classes want to hear of a hook."""
    return tuple(
        at
        for at, each in enumerate(checkers)
        if hasattr(each, "hook_called") and name in getattr(each, "hooks", (name,))
    )


def _calls(checkers: Iterable[object], event: str) -> list[Callable[..., None]]:
    """The methods of those that have one for an event."""
    return [getattr(checker, event) for checker in checkers if hasattr(checker, event)]


def _nobody(*_arguments: Any) -> None:
    """What an event calls that nobody wants."""


def _join(calls: list[Callable[..., None]]) -> Callable[..., None]:
    """One callable for several, in order."""
    if not calls:
        return _nobody
    if len(calls) == 1:
        return calls[0]
    return Joined(calls)
