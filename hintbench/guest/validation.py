"""``validate()``: is the guest's memory in order?

Frame conservation, list symmetry, alignment, no two free buddies of one order left unmerged,
and every counter against what the lists hold. A recording that was loaded into an empty guest
need not mention every page, so there the number of pages proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

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

    from hintbench.core.zone import Zone
    from hintbench.guest.boot import Machine
    from hintbench.guest.guest import Guest

MAX_ORDER_PAGES: Final = 1 << MAX_PAGE_ORDER


def check_end(guest: Guest, machine: Machine) -> None:
    """After the stop nothing may be left in the strategy's hands, and all memory is in order.

    What is wrong is noted as a violation of ``teardown`` or ``conservation``.
    """
    for zone in guest.zones:
        if zone.isolated_pages:
            guest.violate("teardown", f"{zone.isolated_pages} pages of {zone} were never put back")
        if zone.held_pages:
            guest.violate("teardown", f"{zone.held_pages} pages of {zone} are still held")
    for name, (flags, meaning) in guest.flag_sets.items():
        if meaning == "in-flight" and flags.count:
            guest.violate("teardown", f"{flags.count} units of {name!r} are still set")
    for fault in validate(machine):
        guest.violate("conservation", fault)


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

    from hintbench.guest.guest import Guest

    machine = guest.machine if isinstance(guest, Guest) else guest
    states = numpy.asarray(machine.pages.state)
    faults: list[str] = []
    counts = []
    for zone in machine.zones:
        counts.append(zone.pages.count_heads(zone.start_pfn, zone.end_pfn))
        faults += _free_lists(zone, states, counts[-1])
        faults += _unmerged(zone)
    faults += _pcp_lists(machine, states)
    faults += _overlaps(machine)
    if not machine.empty:
        faults += _lost_pages(machine, counts)
    return faults


def _free_lists(zone: Zone, states: numpy.ndarray, heads: Sequence[int]) -> list[str]:
    """Lists, heads (counted by state) and counters of one zone agree."""
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
                faults += _out_of_place(zone, pfn, order, states[pfn])
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
    marked = sum(count for state, count in enumerate(heads) if state & KIND_MASK == BUDDY)
    if marked != listed:
        faults.append(f"{zone}: {marked} heads are marked free, {listed} are on lists")
    isolated = sum(
        count << (state & ORDER_MASK)
        for state, count in enumerate(heads)
        if state & KIND_MASK == ISOLATED
    )
    if isolated != zone.isolated_pages:
        faults.append(f"{zone}: counts {zone.isolated_pages} isolated pages, marks {isolated}")
    return faults


def _out_of_place(zone: Zone, pfn: int, order: int, state: int) -> Iterator[str]:
    """A block that is on a free list of this order is a free block of it, in this zone."""
    if state != BUDDY | order:
        yield f"{zone}: pfn {pfn:#x} on list {order} has {state:#04x}"
    if pfn & ((1 << order) - 1):
        yield f"{zone}: pfn {pfn:#x} of order {order} is not aligned"
    if not zone.start_pfn <= pfn < zone.end_pfn:
        yield f"{zone}: pfn {pfn:#x} is of another zone"


def _unmerged(zone: Zone) -> list[str]:
    """No two free buddies of one order, unless their migratetypes forbid the merge."""
    faults = []
    types = zone.pages.pageblock_type
    # Two buddies lie in one piece: pieces are aligned to blocks of the top order.
    for heads, states in zone.pages.heads(zone.start_pfn & -MAX_ORDER_PAGES, zone.end_pfn):
        orders = (states & ORDER_MASK).astype(heads.dtype)
        mergeable = (states & KIND_MASK == BUDDY) & (orders < MAX_PAGE_ORDER)
        left = mergeable[:-1] & (heads[:-1] >> orders[:-1] & 1 == 0) & (states[1:] == states[:-1])
        left &= heads[1:] == heads[:-1] + (1 << orders[:-1])
        for pfn, order in zip(heads[:-1][left].tolist(), orders[:-1][left].tolist(), strict=True):
            if order >= PAGEBLOCK_ORDER:
                pair = (types[pfn >> PAGEBLOCK_ORDER], types[(pfn >> PAGEBLOCK_ORDER) + 1])
                if pair[0] != pair[1] and max(pair) >= HIGHATOMIC:
                    continue
            faults.append(f"{zone}: {pfn:#x} and its buddy of order {order} are both free")
    return faults


def _pcp_lists(machine: Machine, states: numpy.ndarray) -> list[str]:
    """Per-CPU lists, heads and counters agree."""
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
    heads = machine.pages.count_heads(0, machine.pages.page_count)
    marked = sum(count for state, count in enumerate(heads) if state & KIND_MASK == PCP)
    # An exact replay takes pages from no list: its tapes name them.
    if not machine.empty and marked != listed:
        faults.append(f"{marked} heads are marked per-CPU, {listed} are on lists")
    return faults


def _overlaps(machine: Machine) -> list[str]:
    """Every head is aligned, and no head lies inside another head's block."""
    import numpy

    crooked: list[int] = []
    inside: list[tuple[int, int]] = []
    before, end = -1, 0
    for heads, states in machine.pages.heads(0, machine.pages.page_count):
        if not len(heads):
            continue
        sizes = 1 << (states & ORDER_MASK).astype(heads.dtype)
        crooked += heads[heads & (sizes - 1) != 0].tolist()
        ends = numpy.append(end, heads + sizes)
        owners = numpy.append(before, heads)
        found = numpy.flatnonzero(heads < ends[:-1])
        inside += zip(heads[found].tolist(), owners[found].tolist(), strict=True)
        before, end = owners[-1], ends[-1]
    return [f"head {pfn:#x} is not aligned to its order" for pfn in crooked[:10]] + [
        f"head {pfn:#x} lies inside the block of {owner:#x}" for pfn, owner in inside[:10]
    ]


def _lost_pages(machine: Machine, heads: Sequence[Sequence[int]]) -> list[str]:
    """Conservation: the blocks of a zone, whoever has them, make up its managed pages."""
    faults = []
    for zone, counts in zip(machine.zones, heads, strict=True):
        pages = sum(
            count << (state & ORDER_MASK) for state, count in enumerate(counts) if state != 0
        )
        if pages != zone.managed_pages:
            faults.append(f"{zone}: manages {zone.managed_pages} pages, its blocks have {pages}")
    return faults
