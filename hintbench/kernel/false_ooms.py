"""Whether an allocation fails for what a strategy has in its hands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hintbench.core.constants import HIGHATOMIC, KERNEL_6_12, NR_PAGE_ORDERS
from hintbench.core.scan import largest_in_hand

if TYPE_CHECKING:
    from hintbench.core.vcpu import Vcpu
    from hintbench.core.zone import Zone


def pages_in_hand(vcpu: Vcpu) -> int:
    """Pages that the strategy has of the zones that could serve a vCPU's allocation."""
    return sum(zone.pages_in_hand for zone in _zones_of(vcpu))


def would_serve(vcpu: Vcpu) -> bool:
    """Whether some zone could serve the allocation if it had back what the strategy has of it.

    As __zone_watermark_ok() asks: enough pages above the min watermark and lowmem_reserve, and a
    block of the order. What the blocks would merge into is left out.

    Args:
        vcpu: whose allocation fails.
    """
    for zone in _zones_of(vcpu):
        if zone.pages_in_hand <= 0:
            continue
        mark = zone.watermark_min + zone.watermark_boost + zone.lowmem_reserve[vcpu.highest_zone]
        free_pages = zone.free_pages + zone.pages_in_hand - ((1 << vcpu.order) - 1)
        if vcpu.order or zone.kernel >= KERNEL_6_12:
            free_pages -= zone.free_highatomic
        if free_pages > mark and (
            _largest_in_hand(zone) >= vcpu.order or _has_block(zone, vcpu.order)
        ):
            return True
    return False


def _zones_of(vcpu: Vcpu) -> Iterator[Zone]:
    return (zone for zone in vcpu.zonelist if zone.number <= vcpu.highest_zone)


def _has_block(zone: Zone, order: int) -> bool:
    """Whether there is a free block of an order or more that is set aside for nobody."""
    return any(
        not zone.list_empty(current, migratetype)
        for current in range(order, NR_PAGE_ORDERS)
        for migratetype in range(HIGHATOMIC)
    )


def _largest_in_hand(zone: Zone) -> int:
    """The order of the largest block of a zone that the strategy has; -1 if it has none."""
    largest = largest_in_hand(zone.pages, zone.start_pfn, zone.end_pfn)
    return max(largest, *zone.own_blocks.values()) if zone.own_blocks else largest
