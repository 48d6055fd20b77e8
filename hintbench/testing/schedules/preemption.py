"""One preemption: who is late, where, and by how much."""

from __future__ import annotations

from typing import Final, NamedTuple

STEP: Final = 0
HOLD: Final = 1
EDIT: Final = 2
EVENT: Final = 3
"""Where a context can be late: before a step, holding a lock, inside an unlocked edit, before a
step of a task, an interrupt or the host."""


class Preemption(NamedTuple):
    """A context is late.

    Attributes:
        point: ``STEP``, ``HOLD``, ``EDIT`` or ``EVENT``.
        number: which of the run's points of that kind, from 1 on.
        delay_ns: by how much [virtual ns].
    """

    point: int
    number: int
    delay_ns: int
