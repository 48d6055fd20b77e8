"""Whether a strategy has replaced parts of the guest that it runs in.

A guest whose watcher, rules or services are a strategy's own says nothing about the strategy: the
run counts as its fault. Zones, flags and locks are compiled, and refuse new methods themselves;
what of a zone is a number or a switch is remembered too.
"""

from __future__ import annotations

from typing import Any, Final

_OURS: Final = {
    "guest": (
        *("watcher", "on_violation", "host", "zones", "hooks", "machine", "scheduler", "rng"),
        "buffer_fails",
    ),
    "guest.host": ("watcher", "violate", "faults", "torn", "config", "backing", "clock"),
}
"""Attributes that stay what they were, by where they are."""
_OF_A_ZONE: Final = ("managed_pages", "hooks", "refuse_isolation")
"""Not its watermarks: whoever goes past them for a moment is refuted by what comes of it."""


class Seal:
    """Remembers what a guest is made of.

    Args:
        guest: before the strategy has seen it.
    """

    def __init__(self, guest: Any) -> None:
        self._parts = {"guest": guest, "guest.host": guest.host}
        self._before = {
            (where, name): getattr(self._parts[where], name)
            for where, names in _OURS.items()
            for name in names
        }
        self._zones = [(zone, self._of(zone)) for zone in guest.zones]
        self._own = {
            where: {name for name in vars(part) if callable(getattr(type(part), name, None))}
            for where, part in self._parts.items()
        }
        # As tuples these are taken and compared in a microsecond, by identity.
        self._methods = [
            (kind, tuple(vars(kind)), tuple(vars(kind).values()))
            for kind in map(type, self._parts.values())
        ]

    @staticmethod
    def _of(zone: Any) -> tuple[Any, ...]:
        return tuple(getattr(zone, name) for name in _OF_A_ZONE)

    def broken(self) -> str:
        """What has been replaced, as ``guest.host.report``; "" when nothing was."""
        for zone, before in self._zones:
            for name, value, now in zip(_OF_A_ZONE, before, self._of(zone), strict=True):
                if now is not value and now != value:
                    return f"zone.{name}"
        for (where, name), value in self._before.items():
            if getattr(self._parts[where], name, None) is not value:
                return f"{where}.{name}"
        for where, part in self._parts.items():
            for name in sorted(vars(part)):
                shadows = callable(getattr(type(part), name, None))
                if shadows and name not in self._own[where]:
                    return f"{where}.{name}"
        for kind, names, values in self._methods:
            if tuple(vars(kind).values()) == values:
                continue
            for name, value in zip(names, values, strict=True):
                if callable(value) and vars(kind).get(name) is not value:
                    return f"{kind.__name__}.{name}"
        return ""
