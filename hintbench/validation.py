"""``validate()``: is the guest's memory in order?

Frame conservation, list symmetry, alignment, no two free buddies of one order left unmerged,
and every counter against what the lists hold. A recording that was loaded into an empty guest
need not mention every page, so there the number of pages proves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core.constants import (
    BUDDY,
    HIGHATOMIC,
    ISOLATED,
    KERNEL_6_12,
    KIND_MASK,
    MAX_PAGE_ORDER,
    MIGRATE_TYPES,
    NR_LOWORDER_PCP_LISTS,
    NR_PAGE_ORDERS,
    NR_PCP_LISTS,
    ORDER_MASK,
    PAGEBLOCK_ORDER,
    PCP,
)

if TYPE_CHECKING:
    import numpy

    from hintbench.boot import Machine
    from hintbench.core.zone import Zone
    from hintbench.guest import Guest


def validate(guest: Guest | Machine) -> list[str]:
    """Check a guest between two steps.

    Args:
        guest: What every hook is given; or the machine below it. In the middle of a step (in a
            hook under the zone lock, say) memory is rightly out of order: call it where nothing
            of the kernel's is under way, such as in `guest_stopping` or in a task.

    Returns:
        What is wrong, one sentence each; empty when all is well.
    """
    import numpy

    from hintbench.guest import Guest

    machine = guest.machine if isinstance(guest, Guest) else guest
    states = numpy.asarray(machine.pages.state)
    faults: list[str] = []
    for zone in machine.zones:
        faults += _free_lists(zone, states)
        faults += _unmerged(zone, states)
    faults += _pcp_lists(machine, states)
    faults += _overlaps(machine, states)
    if not machine.empty:
        faults += _lost_pages(machine, states)
    return faults


def _free_lists(zone: Zone, states: numpy.ndarray) -> list[str]:
    """Lists, heads and counters of one zone agree."""
    import numpy

    faults = []
    listed = 0
    pages = 0
    reserved = 0
    for order in range(NR_PAGE_ORDERS):
        count = 0
        for migratetype in range(MIGRATE_TYPES):
            try:
                pfns = zone.blocks_of(order, migratetype)
            except ValueError as error:
                faults.append(f"{zone}: {error}")
                continue
            count += len(pfns)
            if migratetype == HIGHATOMIC:
                reserved += len(pfns) << order
            for pfn in pfns:
                if states[pfn] != BUDDY | order:
                    faults.append(f"{zone}: pfn {pfn:#x} on list {order} has {states[pfn]:#04x}")
                if pfn & ((1 << order) - 1):
                    faults.append(f"{zone}: pfn {pfn:#x} of order {order} is not aligned")
                if not zone.start_pfn <= pfn < zone.end_pfn:
                    faults.append(f"{zone}: pfn {pfn:#x} is of another zone")
        if count != zone.nr_free[order]:
            faults.append(f"{zone}: order {order} counts {zone.nr_free[order]}, lists {count}")
        listed += count
        pages += count << order
    if pages != zone.free_pages:
        faults.append(f"{zone}: counts {zone.free_pages} free pages, lists {pages}")
    if zone.kernel >= KERNEL_6_12 and reserved != zone.free_highatomic:
        faults.append(
            f"{zone}: counts {zone.free_highatomic} free HIGHATOMIC pages, lists {reserved}"
        )
    kinds = states[zone.start_pfn : zone.end_pfn] & KIND_MASK
    heads = int(numpy.count_nonzero(kinds == BUDDY))
    if heads != listed:
        faults.append(f"{zone}: {heads} heads are marked free, {listed} are on lists")
    isolated = states[zone.start_pfn : zone.end_pfn][kinds == ISOLATED] & ORDER_MASK
    held = int((1 << isolated.astype(numpy.int64)).sum())
    if held != zone.isolated_pages:
        faults.append(f"{zone}: counts {zone.isolated_pages} isolated pages, marks {held}")
    return faults


def _unmerged(zone: Zone, states: numpy.ndarray) -> list[str]:
    """No two free buddies of one order, unless their migratetypes forbid the merge."""
    import numpy

    faults = []
    types = zone.pages.pageblock_type
    for order in range(MAX_PAGE_ORDER):
        heads = numpy.flatnonzero(states[zone.start_pfn : zone.end_pfn] == BUDDY | order)
        heads = heads + zone.start_pfn
        left = heads[heads & (1 << order) == 0]
        both = left[numpy.isin(left + (1 << order), heads)]
        for pfn in both.tolist():
            if order >= PAGEBLOCK_ORDER:
                pair = (types[pfn >> PAGEBLOCK_ORDER], types[(pfn >> PAGEBLOCK_ORDER) + 1])
                if pair[0] != pair[1] and max(pair) >= HIGHATOMIC:
                    continue
            faults.append(f"{zone}: {pfn:#x} and its buddy of order {order} are both free")
    return faults


def _pcp_lists(machine: Machine, states: numpy.ndarray) -> list[str]:
    """Per-CPU lists, heads and counters agree."""
    import numpy

    faults = []
    listed = 0
    for vcpu in machine.simulation.vcpus:
        for pcp in vcpu.pcps:
            name = f"pcp of CPU {vcpu.number} in {pcp.zone}"
            pages = 0
            for index in range(NR_PCP_LISTS):
                try:
                    pfns = pcp.pages_of(index)
                except ValueError as error:
                    faults.append(f"{name}: {error}")
                    continue
                order = PAGEBLOCK_ORDER if index >= NR_LOWORDER_PCP_LISTS else index // HIGHATOMIC
                pages += len(pfns) << order
                listed += len(pfns)
                for pfn in pfns:
                    if states[pfn] != PCP | order:
                        faults.append(f"{name}: pfn {pfn:#x} has {states[pfn]:#04x}")
                    if not pcp.zone.start_pfn <= pfn < pcp.zone.end_pfn:
                        faults.append(f"{name}: pfn {pfn:#x} is of another zone")
            if pages != pcp.count:
                faults.append(f"{name}: counts {pcp.count}, lists {pages}")
    marked = int(numpy.count_nonzero(states & KIND_MASK == PCP))
    # An exact replay takes pages from no list: its tapes name them.
    if not machine.empty and marked != listed:
        faults.append(f"{marked} heads are marked per-CPU, {listed} are on lists")
    return faults


def _overlaps(machine: Machine, states: numpy.ndarray) -> list[str]:
    """Every head is aligned, and no head lies inside another head's block."""
    import numpy

    heads = numpy.flatnonzero(states)
    orders = (states[heads] & ORDER_MASK).astype(numpy.int64)
    faults = []
    crooked = heads[(heads & ((1 << orders) - 1)) != 0]
    faults += [f"head {pfn:#x} is not aligned to its order" for pfn in crooked[:10].tolist()]
    ends = heads + (1 << orders)
    inside = numpy.flatnonzero(heads[1:] < ends[:-1])
    faults += [
        f"head {heads[index + 1]:#x} lies inside the block of {heads[index]:#x}"
        for index in inside[:10].tolist()
    ]
    return faults


def _lost_pages(machine: Machine, states: numpy.ndarray) -> list[str]:
    """Conservation: the blocks of a zone, whoever has them, make up its managed pages."""
    import numpy

    faults = []
    for zone in machine.zones:
        mine = states[zone.start_pfn : zone.end_pfn]
        orders = numpy.bincount(mine[mine != 0] & ORDER_MASK, minlength=1).tolist()
        pages = sum(count << order for order, count in enumerate(orders))
        if pages != zone.managed_pages:
            faults.append(f"{zone}: manages {zone.managed_pages} pages, its blocks have {pages}")
    return faults
