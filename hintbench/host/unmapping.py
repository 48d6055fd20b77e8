"""How the host takes memory back: what a range costs to unmap, and the discard itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hintbench.core.constants import EVENT_DISCARDED, PAGE_SIZE, PAGEBLOCK_PAGES
from hintbench.core.freelists import inspect_blocks
from hintbench.core.scan import first_used

if TYPE_CHECKING:
    from hintbench.host.host import Host

_HUGE_BYTES: Final = PAGEBLOCK_PAGES * PAGE_SIZE


class Unmapping:
    """What the host's memory management does with ranges that it may have back.

    Attributes:
        discards: ranges taken back.
        redundant_pages: pages of them that were not backed any more.
        kicks: interruptions of other vCPUs, to flush their TLBs.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._config = host.config
        self._simulation = host.simulation
        self._backing = host.simulation.backing
        unit = host.config.descriptor_bytes
        self._piecemeal = unit is not None and unit < _HUGE_BYTES
        self.discards = 0
        self.redundant_pages = 0
        self.kicks = 0

    def descriptor_cost(self, pfn: int, pages: int) -> int:
        """What the host pays for one descriptor [ns], or for the many that its VMM makes of it.

        Args:
            pfn: first page of the range.
            pages: its length.
        """
        price = self.cost(pfn, pages, small=self._piecemeal)
        return self._config.descriptor_ns * self.calls(pages) + price

    def calls(self, pages: int) -> int:
        """How many calls of madvise the VMM makes of one descriptor of so many pages."""
        unit = self._config.descriptor_bytes
        return max(1, pages * PAGE_SIZE // unit) if unit else 1

    def cost(self, pfn: int, pages: int, *, small: bool = False) -> int:
        """What unmapping the backed part of a range takes [ns]; nothing while discards are off.

        Args:
            pfn: its first page.
            pages: its length.
            small: each page is unmapped by a call of its own.
        """
        config = self._config
        if not config.discard:
            return 0
        huge, each, splits = self._backing.mapped_in(pfn, pages, small)
        price = config.unmap_call_ns if small else config.unmap_small_ns
        return config.unmap_huge_ns * huge + price * each + config.split_huge_ns * splits

    def discard(self, pfn: int, pages: int, *, calls: int) -> None:
        """Take a range back, unless discards are off.

        Args:
            pfn: its first page.
            pages: its length.
            calls: how many calls of madvise that takes, if all of it is mapped.
        """
        if not self._config.discard:
            return
        self._check_not_used(pfn, pages)
        if self._host.watcher is not None:
            self._host.watcher.discarded(pfn, pages)
        taken = self._backing.discard_range(pfn, pages, self._piecemeal)
        self.redundant_pages += pages - taken
        self.discards += 1
        clock = self._simulation.clock
        clock.digest.record(clock.now, -1, EVENT_DISCARDED, pfn, (pages - 1).bit_length())
        if taken:
            # Every madvise that unmapped something flushes the other vCPUs' TLBs.
            calls = max(1, calls * taken // pages)
            processors = self._host.scheduler.processors
            self.kicks += processors.kick_others(self._config.vcpu_kick_ns * calls) * calls

    def _check_not_used(self, pfn: int, pages: int) -> None:
        """No discard of a page that a caller has: the rule every run checks by state."""
        used = first_used(self._simulation.pages, pfn, pages)
        if used >= 0:
            self._host.violate(
                "no-discard-in-use",
                f"the host discards pfn {pfn:#x} ({pages} pages) while pfn {used:#x} is in use",
            )

    def claim_free_memory(self, at_order: int = 0, outside_pcp: bool = False) -> None:
        """From now on free memory is taken back at once, for nothing, and so are its refaults.

        Args:
            at_order: blocks of this order and more.
            outside_pcp: only when they reach the buddy allocator, merged.
        """
        simulation, backing = self._simulation, self._backing
        backing.free_of_charge = True
        if outside_pcp:
            for zone in simulation.zones:
                zone.claim_order = at_order
                zone.claim = backing.claim
        else:
            # A huge refault would bring free neighbours back with the page that is touched.
            backing.huge_granule = False
            simulation.claim_freed = True
            simulation.claim_order = at_order
        for zone in simulation.zones:
            for block in inspect_blocks(zone, at_order):
                backing.claim(block.pfn, block.order)
