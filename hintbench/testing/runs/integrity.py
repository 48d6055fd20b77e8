"""Whether a strategy has replaced parts of the guest that it runs in.

A guest whose watcher, rules or services are a strategy's own says nothing about the strategy: the
run counts as its fault. Zones, flags and locks are compiled, and refuse new methods themselves;
what of a zone is a number or a switch is remembered too, and so are prices and the types of
pageblocks. Of the virtual clock only hintbench's own modules set anything meanwhile.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import Any, Final

_FIXED: Final = {
    "guest": (
        *("watcher", "on_violation", "host", "zones", "hooks", "machine", "scheduler", "rng"),
        *("buffer_fails", "_prices", "_sharing", "_spinners"),
    ),
    "guest.host": (
        *("watcher", "violate", "faults", "torn", "config", "backing", "clock"),
        *("unmapping", "shared", "acknowledgements", "scheduler", "simulation"),
    ),
    "guest._sharing": ("_clock", "_guest", "_prices", "_spinners", "cpus", "scheduler"),
    "guest._spinners": ("_host", "_scheduler"),
}
"""Attributes that stay what they were, by where they are."""
_OF_A_ZONE: Final = ("managed_pages", "hooks", "refuse_isolation", "kept", "violate", "torn")
_WATERMARKS: Final = ("watermark_min", "watermark_low", "watermark_high")
"""Whoever goes past these for a moment is refuted by what comes of it; here only who leaves them so
in a run in which nothing else was found."""

# Each takes all of its attributes in one go: there are two of these for every run.
_parts_of: Final = {where: attrgetter(*names) for where, names in _FIXED.items()}
_of_a_zone: Final = attrgetter(*_OF_A_ZONE)
_watermarks_of: Final = attrgetter(*_WATERMARKS)


def _prices_of(costs: Any) -> tuple[int, ...]:
    """What tells whether a price was set: how often, and in the interpreted core all prices."""
    return (costs.changes, *getattr(costs, "__dict__", {}).values())


@cache
def _methods_of(kind: Any) -> frozenset[str]:
    """What an object of a type must not have of its own; a check makes thousands of one type."""
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))


def _shadowing(part: Any) -> set[str]:
    """The methods of its type that an object has other things in the place of."""
    kind: Any = type(part)
    # What has slots has no room for a method of its own.
    return getattr(part, "__dict__", {}).keys() & _methods_of(kind)


class Seal:
    """Remembers what a guest is made of.

    Args:
        guest: before the strategy has seen it.
    """

    def __init__(self, guest: Any) -> None:
        self._parts = {
            "guest": guest,
            "guest.host": guest.host,
            "guest._sharing": guest._sharing,
            "guest._spinners": guest._spinners,
        }
        self._before = {where: _parts_of[where](part) for where, part in self._parts.items()}
        self._zones = [(zone, _of_a_zone(zone)) for zone in guest.zones]
        self._watermarks = [_watermarks_of(zone) for zone in guest.zones]
        self._clock = guest.machine.clock
        self._clock.guarded = True
        self._costs = _prices_of(self._clock.costs)
        self._pages = guest.machine.pages
        self._types = self._pages.weigh_types() - self._pages.retyped
        self._own = {where: _shadowing(part) for where, part in self._parts.items()}
        # As tuples these are taken and compared in a microsecond, by identity.
        self._methods = [
            (kind, tuple(vars(kind)), tuple(vars(kind).values()))
            for kind in map(type, self._parts.values())
        ]

    def broken(self, *, lasting: bool = True) -> str:
        """What has been replaced, as ``guest.host.report``; "" when nothing was.

        Args:
            lasting: the run has come to its end, so what is out of place by now stays so.
        """
        return (
            self._in_the_machine()
            or self._in_a_zone(lasting=lasting)
            or self._in_a_part()
            or self._in_a_class()
        )

    def _in_the_machine(self) -> str:
        if not self._clock.guarded:
            return "guest.machine.clock"
        if _prices_of(self._clock.costs) != self._costs:
            return "guest.machine.clock.costs"
        if self._pages.weigh_types() - self._pages.retyped != self._types:
            return "guest.machine.pages.pageblock_type"
        return ""

    def _in_a_zone(self, *, lasting: bool) -> str:
        for zone, before in self._zones:
            for name, value, now in zip(_OF_A_ZONE, before, _of_a_zone(zone), strict=True):
                if now is not value and now != value:
                    return f"zone.{name}"
        if lasting:
            for (zone, _), marks in zip(self._zones, self._watermarks, strict=True):
                if _watermarks_of(zone) != marks:
                    return "zone.watermark_min, _low or _high"
        return ""

    def _in_a_part(self) -> str:
        for where, part in self._parts.items():
            if name := self._replaced(where, part):
                return f"{where}.{name}"
        for where, part in self._parts.items():
            for name in sorted(_shadowing(part)):
                if name not in self._own[where]:
                    return f"{where}.{name}"
        return ""

    def _in_a_class(self) -> str:
        for kind, names, values in self._methods:
            if tuple(vars(kind).values()) == values:
                continue
            for name, value in zip(names, values, strict=True):
                if callable(value) and vars(kind).get(name) is not value:
                    return f"{kind.__name__}.{name}"
        return ""

    def _replaced(self, where: str, part: Any) -> str:
        """The first of a part's attributes that is another object now; "" if none is."""
        for name, value in zip(_FIXED[where], self._before[where], strict=True):
            if getattr(part, name, None) is not value:
                return name
        return ""
