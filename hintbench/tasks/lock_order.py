"""In which order locks are taken inside each other, and by whom: what lockdep knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hintbench.core.locks import LockTimeline

ZONES: Final = "a zone's lock"
"""All zones' locks are of one class, as in the kernel."""


class LockOrder:
    """Remembers every pair of locks of which one was taken inside the other.

    Two that were taken in both orders, by whomever and whenever, are a deadlock in waiting
    (Documentation/locking/lockdep-design.rst); so is a lock that is taken with interrupts on, if
    interrupts take it elsewhere, or one that it is taken inside.
    """

    def __init__(self) -> None:
        self._inside: dict[str, list[str]] = {}
        # Interrupts free memory, and wait for zones' locks.
        self._in_interrupts: set[str] = {ZONES}
        self._with_interrupts_on: set[str] = set()
        self._unsafe: set[str] = set()

    def add(self, outer: LockTimeline, inner: LockTimeline) -> list[str]:
        """One lock was taken while another was held.

        Args:
            outer: the one that was held.
            inner: the one that was taken.

        Returns:
            How it has been the other way round before, from ``inner`` to ``outer``; empty when it
            has not.
        """
        first, second = _class_of(outer), _class_of(inner)
        known = self._inside.setdefault(first, [])
        if second in known or first == second:
            return []
        known.append(second)
        return self._way(second, first)

    def taken(self, lock: LockTimeline, *, in_interrupts: bool, interrupts_on: bool) -> list[str]:
        """A lock was taken, and those that it was taken inside have been added.

        Args:
            lock: it.
            in_interrupts: by what runs in interrupts too.
            interrupts_on: with interrupts on.

        Returns:
            The locks for which an interrupt that comes to their holder may wait for ever, itself or
            by way of who waits for them with a lock that it wants; each once.
        """
        name = _class_of(lock)
        if in_interrupts:
            self._in_interrupts.add(name)
        if interrupts_on:
            self._with_interrupts_on.add(name)
        if not self._with_interrupts_on - self._unsafe:
            return []
        waited_for = list(self._in_interrupts)
        for each in waited_for:
            waited_for += [one for one in self._inside.get(each, ()) if one not in waited_for]
        found = sorted(self._with_interrupts_on.intersection(waited_for) - self._unsafe)
        self._unsafe.update(found)
        return found

    def _way(self, start: str, end: str) -> list[str]:
        """The locks from one to another of which each was taken inside the one before."""
        ways = [[start]]
        seen = {start}
        for way in ways:
            for following in self._inside.get(way[-1], ()):
                if following == end:
                    return [*way, end]
                if following not in seen:
                    seen.add(following)
                    ways.append([*way, following])
        return []


def _class_of(lock: LockTimeline) -> str:
    return ZONES if lock.of_zone else str(lock.name)
