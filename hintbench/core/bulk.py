"""What interrupts allocate and free: a block, or pages for a ring, alloc_pages_bulk(GFP_ATOMIC).

Pages come in two halves. The first runs under the zone lock, the second hands each page to its
owner; between them, and wherever a page concerns a hook, the caller may wait.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        EVENT_ALLOCATED,
        EVENT_RETURNED,
        EVENT_TAKEN,
        IN_USE,
        MOVABLE,
    )
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.hooks import HookPoint
    from cython.cimports.hintbench.core.simulation import Simulation, log_event
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        EVENT_ALLOCATED,
        EVENT_RETURNED,
        EVENT_TAKEN,
        IN_USE,
        MOVABLE,
    )
    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import HookPoint
    from hintbench.core.simulation import Simulation, log_event
    from hintbench.core.zone import Zone


def take_pages(sim: Simulation, zone: Zone, cpu: cython.int, pages: cython.int) -> list:
    """Take single pages off the free lists, at most down to half of the min watermark.

    Args:
        sim: the simulation.
        zone: whose pages; the caller holds its lock.
        cpu: the CPU of the interrupt.
        pages: how many, at most.
    """
    taken: list = []
    pfn: cython.int
    while len(taken) < pages and zone.free_pages > zone.watermark_min // 2 + 1:
        pfn = zone.allocate_block(0, MOVABLE)
        if pfn < 0:
            break
        log_event(sim, sim.clock.now, cpu, EVENT_TAKEN, pfn, 0)
        taken.append(pfn)
    return taken


def take_block(sim: Simulation, zone: Zone, cpu: cython.int, order: cython.int) -> cython.int:
    """Take a block off the free lists that is no strategy's; -1 where there is none.

    Args:
        sim: the simulation.
        zone: whose; the caller holds its lock.
        cpu: the CPU of the interrupt.
        order: its order.
    """
    pfn: cython.int = zone.allocate_block(order, MOVABLE)
    if pfn >= 0:
        log_event(sim, sim.clock.now, cpu, EVENT_TAKEN, pfn, order)
    return pfn


def free_block(
    sim: Simulation, zone: Zone, cpu: cython.int, pfn: cython.int, order: cython.int
) -> cython.int:
    """__free_one_page(): a block of :func:`take_block` goes back to its list's head, and notifies.

    Args:
        sim: the simulation.
        zone: whose; the caller holds its lock.
        cpu: the CPU of the interrupt.
        pfn: its first page.
        order: its order.

    Returns:
        The order after merging.
    """
    log_event(sim, sim.clock.now, cpu, EVENT_RETURNED, pfn, order)
    return zone.free_block(pfn, order)


@cython.ccall
def hand_out(sim: Simulation, cpu: cython.int, pfn: cython.int) -> cython.int:
    """The end of post_alloc_hook(): a page has its owner."""
    flags: UnitFlags
    for flags in sim.hooks.forget_when_allocated:
        flags.clear(pfn)
    log_event(sim, sim.clock.now, cpu, EVENT_ALLOCATED, pfn, 0)
    sim.pages.state[pfn] = IN_USE
    return 0


def hand_out_to_hook(
    sim: Simulation, cpu: cython.int, pfns: list, at: cython.Py_ssize_t
) -> cython.Py_ssize_t:
    """Hand out pages up to the first that concerns page_allocated().

    Args:
        sim: the simulation.
        cpu: the CPU of the interrupt.
        pfns: the pages.
        at: the first of them that has no owner yet.

    Returns:
        Which of them concerns the hook; their number if none does.
    """
    point: HookPoint = sim.hooks.page_allocated
    pfn: cython.int
    while at < len(pfns):
        pfn = pfns[at]
        if point is not None and sim.test_hook(point, pfn, 0):
            return at
        hand_out(sim, cpu, pfn)
        at += 1
    return at
