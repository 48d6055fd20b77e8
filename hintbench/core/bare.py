"""Bare replay: allocate and free straight from a zone's free lists, with nothing around it."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        IN_USE,
        MOVABLE,
        ORIGIN_DIRECT_FREE,
        PAGEBLOCK_ORDER,
    )
    from cython.cimports.hintbench.core.simulation import prefetch
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import IN_USE, MOVABLE, ORIGIN_DIRECT_FREE, PAGEBLOCK_ORDER
    from hintbench.core.zone import Zone

# How many slots ahead memory is fetched.
_AHEAD = cython.declare(cython.int, 16)


def replay(zone: Zone, slots: Any, table: Any) -> int:
    """For every slot: free its page if it has one, then allocate a page of order 0 for it.

    Args:
        zone: whose free lists are used.
        slots: int32 array, which slot is next.
        table: int32 array by slot: its pfn, -1 for none; updated.

    Returns:
        The number of allocations and frees.
    """
    order_of: cython.int[::1] = memoryview(slots)
    pfns: cython.int[::1] = memoryview(table)
    index: cython.Py_ssize_t
    count: cython.Py_ssize_t = len(slots)
    slot: cython.int
    pfn: cython.int
    done: cython.Py_ssize_t = 0
    for index in range(count):
        if cython.compiled:
            if index + _AHEAD < count:
                # As the simulation does: first the slot, later the page that it holds.
                prefetch(cython.address(pfns[order_of[index + _AHEAD]]))
                pfn = pfns[order_of[index + _AHEAD // 2]]
                if pfn >= 0:
                    prefetch(cython.address(zone.pages.state[pfn]))
                    prefetch(
                        cython.address(zone.pages.links[2 * cython.cast(cython.Py_ssize_t, pfn)])
                    )
        slot = order_of[index]
        pfn = pfns[slot]
        if pfn >= 0:
            zone.free_one_page(
                pfn,
                0,
                zone.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER],
                False,
                ORIGIN_DIRECT_FREE,
            )
            done += 1
        pfn = zone.rmqueue_smallest(0, MOVABLE)
        if pfn < 0:
            raise MemoryError(f"bare replay: zone {zone.name} has no free page left")
        zone.pages.state[pfn] = IN_USE
        pfns[slot] = pfn
        done += 1
    return done
