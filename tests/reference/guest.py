"""A second model of how a guest finds a page: zonelists, watermarks, reclaim; obvious and slow.

Retells ``get_page_from_freelist``, ``__alloc_pages_slowpath`` and ``free_unref_page`` of Linux
6.12.117 and 5.0 over the zones and per-CPU lists of :mod:`reference.allocator` and
:mod:`reference.pcp`.  An operation is done at once: nothing runs beside it.

Left out besides what :mod:`reference.lists` leaves out: adding to the HIGHATOMIC reserve and
emptying it, reclaim that finds something, cpusets, node_reclaim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reference.allocator import ReferenceZone
from reference.lists import HIGHATOMIC
from reference.pcp import ReferencePcp
from reference.watermarks import NORMAL_ZONE, zone_watermark_ok

DMA32_ZONE = 1
MIN, LOW, HIGH = range(3)


@dataclass(frozen=True)
class Request:
    """What an allocation asks for.

    Attributes:
        order: blocks of 2**order pages.
        migratetype: its type.
        highest_zone: gfp_zone(): the highest zone number it may use.
        atomic: GFP_ATOMIC: uses the reserves, may not block.
        may_block: whether it waits for direct reclaim.
    """

    order: int
    migratetype: int
    highest_zone: int = NORMAL_ZONE
    atomic: bool = False
    may_block: bool = True


@dataclass
class NodeZone:
    """A zone and where it stands: its number (DMA 0 .. Movable 3) and its node."""

    number: int
    node: int
    lists: ReferenceZone


class ReferenceGuest:
    """The zones of a guest and its CPUs' lists.

    Args:
        kernel: "5.0" or "6.12".
        zones: by their addresses.
        pcps: by CPU, then by zone as in ``zones``.
        nodes: the node of each CPU.
    """

    def __init__(
        self,
        kernel: str,
        zones: Sequence[NodeZone],
        pcps: Sequence[Sequence[ReferencePcp]],
        nodes: Sequence[int],
    ) -> None:
        self.kernel = kernel
        self.zones = list(zones)
        self.pcps = [list(row) for row in pcps]
        self.nodes = list(nodes)
        self.orders: dict[int, int] = {}
        # By CPU and place of the zone: pcp->expire, and what the last tick of vmstat saw.
        self.expire: dict[tuple[int, int], int] = {}
        self.seen: dict[tuple[int, int], tuple[int, ...]] = {}

    def zone_of(self, pfn: int) -> NodeZone:
        """page_zone()."""
        return next(zone for zone in self.zones if zone.lists.spans(pfn))

    def zonelist(self, cpu: int) -> list[NodeZone]:
        """Of the CPU's node first, then of those after it, going round; each from the top down."""
        home = self.nodes[cpu]
        count = 1 + max(zone.node for zone in self.zones)
        return sorted(self.zones, key=lambda zone: ((zone.node - home) % count, -zone.number))

    # Allocate.

    def allocate(self, cpu: int, request: Request) -> int | None:
        """__alloc_pages(): the block's pfn, or None when the allocation fails."""
        pfn = self._get_page(cpu, request, LOW, self._nofragment(cpu, request))
        if pfn is None:
            pfn = self._get_page(cpu, request, MIN, nofragment=False)
        force = False
        while pfn is None and request.may_block:
            # Direct reclaim finds nothing but what lies on the per-CPU lists, and the reserve.
            self._unreserve(cpu, request, force=force)
            self.drain_all()
            pfn = self._get_page(cpu, request, MIN, nofragment=False)
            if pfn is None:
                if not self._unreserve(cpu, request, force=True):
                    break
                pfn = self._get_page(cpu, request, MIN, nofragment=False)
            force = True
        if pfn is not None:
            self.orders[pfn] = request.order
            self.zone_of(pfn).lists.mark_allocated(pfn, request.order, request.migratetype)
        return pfn

    def _unreserve(self, cpu: int, request: Request, *, force: bool) -> bool:
        """unreserve_highatomic_pageblock(); no guest of 6.12 here is large enough for a reserve."""
        return self.kernel == "5.0" and any(
            zone.lists.unreserve_highatomic_5_0(request.migratetype, force)
            for zone in self._usable(cpu, request)
        )

    def _usable(self, cpu: int, request: Request) -> list[NodeZone]:
        return [zone for zone in self.zonelist(cpu) if zone.number <= request.highest_zone]

    def _nofragment(self, cpu: int, request: Request) -> bool:
        """alloc_flags_nofragment(); in 5.0 it never sets the flag."""
        usable = self._usable(cpu, request)
        if self.kernel == "5.0" or not usable or usable[0].number != NORMAL_ZONE:
            return False
        if len({zone.node for zone in self.zones}) == 1:
            return True
        # The DMA32 zone of the same node must have pages.
        return any(zone.number == DMA32_ZONE and zone.node == usable[0].node for zone in self.zones)

    def _get_page(self, cpu: int, request: Request, mark: int, nofragment: bool) -> int | None:
        """get_page_from_freelist()."""
        usable = self._usable(cpu, request)
        for zone in usable:
            if nofragment and zone.node != usable[0].node:
                break
            if self._may_take(zone.lists, request, mark):
                slow = mark == MIN
                pfn = self._rmqueue(cpu, zone, request, nofragment, slow=slow)
                if pfn is not None:
                    if slow and request.atomic and request.order > 0 and self.kernel == "5.0":
                        zone.lists.reserve_highatomic_5_0(pfn)
                    return pfn
        return self._get_page(cpu, request, mark, nofragment=False) if nofragment else None

    def _may_take(self, zone: ReferenceZone, request: Request, mark: int) -> bool:
        """The watermarks that get_page_from_freelist() looks at."""
        reserve = request.atomic and mark == MIN
        if self.kernel == "6.12" and not zone.below_high:
            if self._watermark_fast(zone, request, HIGH, reserve):
                return True
            zone.below_high = True
        return self._watermark_fast(zone, request, mark, reserve)

    def _watermark_fast(
        self, zone: ReferenceZone, request: Request, mark: int, reserve: bool
    ) -> bool:
        """zone_watermark_fast()."""
        pages = [zone.watermarks[mark] + zone.watermark_boost]
        # 5.0 leaves the reserve aside only where this does not do.
        fast = self.kernel == "5.0" and request.order == 0
        if fast and zone.free_pages > pages[0] + zone.lowmem_reserve[request.highest_zone]:
            return True
        if self.kernel == "6.12" and request.order == 0 and reserve and mark == MIN:
            # Such an allocation does not heed the boost.
            pages.append(zone.watermarks[MIN])
        return any(
            zone_watermark_ok(
                zone,
                request.order,
                each,
                request.highest_zone,
                min_reserve=reserve,
                non_block=reserve,
                highatomic=reserve and request.order > 0,
            )
            for each in pages
        )

    def _rmqueue(
        self, cpu: int, zone: NodeZone, request: Request, nofragment: bool, *, slow: bool
    ) -> int | None:
        """rmqueue(): from the CPU's list, or from the buddy allocator."""
        pcp = self.pcps[cpu][self.zones.index(zone)]
        if pcp.caches(request.order):
            pfn = pcp.allocate(request.order, request.migratetype, nofragment)
            if pfn is not None or self.kernel == "5.0":
                return pfn
        # rmqueue_buddy(): the reserve is first for who wants a block, and last for a single page.
        non_block = slow and request.atomic
        pfn = None
        if non_block and request.order > 0:
            pfn = zone.lists.rmqueue_smallest(request.order, HIGHATOMIC)
        if pfn is None:
            pfn = zone.lists.rmqueue(request.order, request.migratetype, nofragment)
        if pfn is None and non_block and self.kernel == "6.12":
            pfn = zone.lists.rmqueue_smallest(request.order, HIGHATOMIC)
        return pfn

    # Free, and what happens in the background.

    def free(self, cpu: int, pfn: int) -> None:
        """free_unref_page() or free_one_page()."""
        order = self.orders.pop(pfn)
        zone = self.zone_of(pfn)
        zone.lists.mark_freed(pfn)
        pcp = self.pcps[cpu][self.zones.index(zone)]
        if pcp.caches(order):
            pcp.free(pfn, order)
        else:
            zone.lists.free_block(pfn, order)

    def drain_all(self) -> None:
        """drain_all_pages()."""
        for row in self.pcps:
            for pcp in row:
                pcp.drain_all()

    def decay(self, cpu: int) -> None:
        """refresh_cpu_vm_stats(): 6.12 decays; lists for zones of other nodes expire in both."""
        for place, pcp in enumerate(self.pcps[cpu]):
            count = pcp.count
            now = (count, pcp.free_count, pcp.alloc_factor, pcp.high)
            # Stands for a difference in vm_stat_diff.
            if self.seen.get((cpu, place)) != now:
                self.expire[cpu, place] = 3
            if self.kernel == "6.12":
                pcp.decay()
            self.seen[cpu, place] = (count, pcp.free_count, pcp.alloc_factor, pcp.high)
            self._drain_remote(cpu, place, pcp)

    def _drain_remote(self, cpu: int, place: int, pcp: ReferencePcp) -> None:
        """drain_zone_pages() when the list of another node's zone was idle for three ticks."""
        if self.expire.get((cpu, place), 0) == 0 or pcp.count == 0:
            return
        if self.zones[place].node == self.nodes[cpu]:
            self.expire[cpu, place] = 0
            return
        self.expire[cpu, place] -= 1
        if self.expire[cpu, place] == 0:
            pcp.drain(min(pcp.count, pcp.batch))

    def kswapd(self) -> None:
        """balance_pgdat() with nothing to reclaim: the boost ends, and that is all."""
        for zone in self.zones:
            zone.lists.watermark_boost = 0
            zone.lists.reclaim_active = False
