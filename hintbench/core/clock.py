"""Virtual time: the running context's clock, the prices it is charged, and who runs next.

A simulation has one :class:`VirtualClock`.  Whoever runs (a vCPU's tape, a hook in it, a task,
an interrupt, the host) moves ``now`` forward by what it does; the scheduler loads it before a
step and stores it after.
"""

import array
import sys
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.cpython.object import PyObject_GenericSetAttr
    from cython.cimports.hintbench.core.clock import PyEval_GetGlobals
    from cython.cimports.hintbench.core.constants import NEVER
else:
    from hintbench.core.constants import NEVER

    PyObject_GenericSetAttr = object.__setattr__

_OURS = "hintbench."
_PLUGINS = ("hintbench.strategies.", "hintbench.testing.mutants.")
_trusted: set[str] = set()
"""Modules of ours that have come by: most of what is set is set by a few."""

_MULTIPLIER_1 = cython.declare(cython.ulonglong, 0x9E3779B97F4A7C15)
_MULTIPLIER_2 = cython.declare(cython.ulonglong, 0xC2B2AE3D27D4EB4F)
_MASK_64 = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)


@cython.final
@cython.cclass
class CostTable:
    """The charges of one run, in virtual nanoseconds; ``config.Costs`` documents each.

    Attributes:
        changes: how often one was set since; the interpreted core does not count.
    """

    def __init__(self, **costs: int) -> None:
        self.pcp_hit_ns = costs["pcp_hit_ns"]
        self.pcp_free_ns = costs["pcp_free_ns"]
        self.direct_path_ns = costs["direct_path_ns"]
        self.lock_take_ns = costs["lock_take_ns"]
        self.lock_handoff_ns = costs["lock_handoff_ns"]
        self.block_hot_ns = costs["block_hot_ns"]
        self.block_cold_ns = costs["block_cold_ns"]
        self.list_walk_block_ns = costs["list_walk_block_ns"]
        self.head_lookup_ns = costs["head_lookup_ns"]
        self.page_visit_ns = costs["page_visit_ns"]
        self.clear_page_ns = costs["clear_page_ns"]
        self.memory_page_ns = costs["memory_page_ns"]
        self.refault_small_ns = costs["refault_small_ns"]
        self.refault_huge_ns = costs["refault_huge_ns"]
        self.touch_page_ns = costs["touch_page_ns"]
        self.zone_fallback_ns = costs["zone_fallback_ns"]
        self.direct_reclaim_ns = costs["direct_reclaim_ns"]
        self.reclaim_retries = costs["reclaim_retries"]
        self.kswapd_wake_ns = costs["kswapd_wake_ns"]
        self.flag_ns = costs["flag_ns"]
        self.flag_contended_ns = costs["flag_contended_ns"]
        self.changes = 0

    def __setattr__(self, name: str, value: object) -> None:
        """Set a price from Python, which is counted."""
        self.changes += 1
        PyObject_GenericSetAttr(self, name, value)


@cython.cclass
class EventListener:
    """Sees every event that enters the digest, at the moment it happens."""

    def event(
        self,
        time_ns: cython.longlong,
        cpu: cython.int,
        kind: cython.int,
        pfn: cython.int,
        order: cython.int,
    ) -> cython.int:
        """One event; the arguments are those of :meth:`Digest.add`."""
        return 0

    def block_taken(self, pfn: cython.int, order: cython.int, reason: cython.int) -> cython.int:
        """A block has left its free list, as the hook of that name tells it."""
        return 0


@cython.final
@cython.cclass
class Digest:
    """A rolling 64-bit hash over every event of a run.

    Each event enters with its time, CPU, kind, pfn and order, so a change of any of them changes
    the digest.  It is integer arithmetic only: equal on every machine and in every build.
    """

    def __init__(self, seed: int = 0) -> None:
        self.state = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
        self.events = 0
        self.listener = None

    @cython.overflowcheck(False)
    def add(
        self,
        time_ns: cython.longlong,
        cpu: cython.int,
        kind: cython.int,
        pfn: cython.int,
        order: cython.int,
    ) -> cython.int:
        """Mix one event in; ``cpu`` is -1 for the host."""
        state: cython.ulonglong
        where: cython.ulonglong
        when: cython.ulonglong
        when = time_ns
        where = ((cpu + 1) << 8) | (kind << 4) | order
        where = (where << 32) | (pfn & 0x7FFFFFFF)
        state = ((self.state ^ when) * _MULTIPLIER_1) & _MASK_64
        state ^= state >> 29
        state = ((state ^ where) * _MULTIPLIER_2) & _MASK_64
        state ^= state >> 32
        self.state = state
        self.events += 1
        if self.listener is not None:
            self.listener.event(time_ns, cpu, kind, pfn, order)
        return 0

    def record(self, time_ns: int, cpu: int, kind: int, pfn: int, order: int) -> None:
        """Mix in an event from Python (reports, acknowledgements)."""
        self.add(time_ns, cpu, kind, pfn, order)

    def hexadecimal(self) -> str:
        """The digest as 16 hexadecimal digits."""
        return f"{self.state:016x}"


@cython.final
@cython.cclass
class VirtualClock:
    """Where the running context is in virtual time, and who it is.

    Attributes:
        now: virtual nanoseconds of the running context.
        cpu: the CPU it runs on (-1 on the host's side).
        payer: who its time is booked to (``PAYER_THREAD`` and so on).
        context: a number that no other context has; a lock remembers its holder by it.
        digest: the hash of the run's events.
        costs: the prices.
        preemptions: who loses time where; None in an undisturbed run.
        guarded: nobody's Python code but hintbench's own may set any of these.
    """

    def __init__(self, costs: CostTable, seed: int = 0) -> None:
        self.now = 0
        self.cpu = 0
        self.payer = 0
        self.context = 0
        self.costs = costs
        self.digest = Digest(seed)
        self.preemptions = None
        self.guarded = False

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute from Python; the core's own modules do so in C, and do not come here.

        Raises:
            AttributeError: a plugin does, in a run in which the clock is guarded.
        """
        if self.guarded:
            refuse_plugin(name)
        PyObject_GenericSetAttr(self, name, value)


def refuse_plugin(name: str) -> None:
    """Refuse what only hintbench's own modules may do.

    Args:
        name: what of the clock the caller's caller sets.

    Raises:
        AttributeError: it is code of somebody else's.
    """
    known: dict[str, Any] = _globals_of_caller()
    module: object = known.get("__name__", "")
    if type(module) is str and module in _trusted:
        return
    module = str(module)
    if module.startswith(_PLUGINS) or not module.startswith(_OURS):
        raise AttributeError(
            f"the clock's {name} is not a strategy's to set: guest.spend(ns) charges time,"
            " and waiting lets it pass"
        )
    _trusted.add(module)


@cython.cfunc
def _globals_of_caller() -> dict[str, Any]:
    """The module's names where the innermost function that is not compiled was written."""
    if cython.compiled:
        # Unlike sys._getframe() it makes no object of the frame.
        return cython.cast(dict, PyEval_GetGlobals())
    return sys._getframe(3).f_globals


if not cython.compiled:
    # There every step of the core would come by.
    del VirtualClock.__setattr__
    del CostTable.__setattr__


@cython.final
@cython.cclass
class Winner:
    """A tournament tree over the vCPUs' clocks: the lowest clock wins, ties the lowest number.

    Players enter as one number each, the clock with the vCPU's number below it, so that a match
    is one comparison and nothing has to be looked up (or predicted by the processor).  ``tree[1]``
    is the winner.  An update plays the matches from the vCPU's leaf to the root: log2(n) of them.
    """

    def __init__(self, size: int) -> None:
        leaves: cython.int = 2
        number: cython.int
        self.number_bits = 1
        while leaves < size:
            leaves *= 2
            self.number_bits += 1
        self.size = size
        self.leaves = leaves
        self.latest = NEVER >> self.number_bits
        self.keys = memoryview(array.array("q", [NEVER] * leaves))
        self.tree = memoryview(array.array("Q", [0] * (2 * leaves)))
        for number in range(leaves):
            self.tree[leaves + number] = _MASK_64
        for number in range(leaves):
            self.set(number, NEVER)

    @cython.overflowcheck(False)
    def set(self, number: cython.int, key: cython.longlong) -> cython.int:
        """Give vCPU ``number`` the clock ``key`` and play its matches again."""
        node: cython.int = self.leaves + number
        best: cython.ulonglong = key
        other: cython.ulonglong
        if key > self.latest and key != NEVER:
            raise OverflowError(f"vCPU {number}: {key} ns is too late for a clock")
        self.keys[number] = key
        # NEVER loses its upper bits to the number, and is still above every clock.
        best = ((best << self.number_bits) & _MASK_64) | cython.cast(cython.ulonglong, number)
        self.tree[node] = best
        while node > 1:
            other = self.tree[node ^ 1]
            best = other if other < best else best
            node >>= 1
            self.tree[node] = best
        return 0

    def first(self) -> int:
        """The number of the vCPU with the lowest clock."""
        return self.tree[1] & (self.leaves - 1)


# What other modules call: in C the same, inline (clock.pxd).
if cython.compiled:
    from cython.cimports.hintbench.core.clock import add_event
else:
    add_event = Digest.add
