"""percpu-array-v9: free page hinting v9, as posted.

What it tracks: an array of pfns per CPU. Every page of a pcp drain, and every block freed past the
    per-CPU lists, is looked up under the zone lock; if it now lies in a free block of the minimum
    order, the head's pfn is appended. Nothing is ever withdrawn.
When it reports: when the array of the freeing CPU holds `threshold` pfns, in the freeing thread,
    right after it released the zone lock. All that is still free is isolated, posted to the host
    and not waited for.
What it holds: up to `array_entries` blocks per CPU (1 GiB), from isolation to acknowledgement.
Whose idea: Nitesh Narayan Lal, "[RFC][Patch v9 0/6] KVM: Guest Free Page Hinting", 2019-03-06.
Known defects, most of them found in Duyck's review of patch 2/6 (2019-03-07); kept as posted:
    * the acknowledgement interrupt, and the error path, put blocks back without the zone lock;
      `locked_return` mends this one, as Nitesh's later tree did;
    * two sleeping allocations with interrupts off, for the result and for the request; nobody looks
      whether the second failed, and what writes through it would end the kernel. Here that is
      recorded as a break of `returned`, and the CPU lives on: the batch stays isolated for ever;
    * a full array drops hints for good, a residue below the threshold is never told;
    * the array is searched from end to end with the zone lock held, and knows nothing of other
      CPUs' arrays; the branch for heads is not searched at all;
    * an entry that is no longer free costs 1,024 page visits with the zone lock held, and what is
      sorted by zone number, which all nodes share, is locked by zone;
    * nothing bounds what all CPUs isolate together;
    * nothing locks the virtqueue: of two CPUs that add at once one's blocks never come back;
    * the submitter throws away the completions that it polls, and their blocks with them;
    * without a device the batch leaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from hintbench import Block, Freed, Guest, Zone

RESULT_BYTES = 16
"""sizeof(struct guest_isolated_pages): a pfn and an order."""
REQUEST_BYTES = 16
"""sizeof(struct virtio_balloon_hint_req): the array's address and its length."""
COMPARES_PER_NS = 2
"""if_exist(): pfns compared per nanosecond; 256 of them are 32 cache lines. Estimate."""
SORT_STEP_NS = 5
"""sort() by page_zonenum(): one compare and perhaps a swap, two struct pages. Estimate."""


class HintArray:
    """struct guest_free_pages: what one CPU has captured."""

    def __init__(self, entries: int) -> None:
        """Start with cleared slots."""
        self.pfns = [0] * entries
        self.index = 0


class PercpuArrayV9(Strategy):
    """Nitesh's v9 as posted: a pfn array per CPU, isolated and posted by the freeing thread."""

    name = "percpu-array-v9"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """The constants of v9, and its one repair."""

        array_entries: int = Field(
            256, ge=1, le=65536, description="slots per CPU [pfns]; MAX_FGPT_ENTRIES"
        )
        threshold: int = Field(
            128, ge=1, le=65536, description="captures that make a CPU hint [pfns]"
        )
        min_order: int = Field(
            10, ge=0, le=10, description="smallest block [order]; FREE_PAGE_HINTING_MIN_ORDER"
        )
        locked_return: bool = Field(
            False, description="put blocks back with the zone lock held, as later versions do"
        )

    parameters: Parameters
    kernels: ClassVar[tuple[str, ...]] = ("5.0",)
    check_parameters: ClassVar[Mapping[str, Any]] = {
        "array_entries": 2,
        "threshold": 2,
        "min_order": 4,
    }
    declared_failures: Mapping[str, str] = {
        "conservation": "an unlocked put back tears the free list and loses updates of its counts",
        "locked-lists": "hinting_ack() and the error path call __free_one_page() without the lock",
        "atomic-context": "kmalloc(GFP_KERNEL) in the free path, where interrupts are off",
        "returned": "blocks whose completion the submitter threw away never come back, nor those"
        " whose request had no memory",
        "completion-once": "one buffer an interrupt, though several may be waiting, or none",
        "teardown": "nothing waits for what is in flight when the guest stops",
        "liveness": "a residue below the threshold is never told",
        "no-silent-drop": "a pfn that meets a full array is dropped, and no later pass finds it",
        "no-false-oom": "an allocation fails while blocks in flight would have served it",
        "bounded-in-flight": "every CPU may isolate an array's worth, 1 GiB",
        "one-zone": "sorted by zone number, an array holds blocks of several zones",
        "bounded-hold": "an entry that is no longer free costs 1,024 page visits under the lock",
        "once": "the array knows nothing of other CPUs' arrays, nor of what it told before",
    }

    def __init__(self, parameters: BaseModel | None = None, **overrides: object) -> None:
        """Read the parameters; what the repair mends is no longer declared to fail."""
        super().__init__(parameters, **overrides)
        if self.parameters.locked_return:
            mended, declared = ("locked-lists", "conservation"), self.declared_failures
            self.declared_failures = {r: why for r, why in declared.items() if r not in mended}

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Give every CPU its array (DEFINE_PER_CPU)."""
        self.guest, self.threshold = guest, self.parameters.threshold
        self.arrays = guest.per_cpu(lambda: HintArray(self.parameters.array_entries))

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Charge get_buddy_page() for every page freed; call only if it found a large block."""
        lookup_ns = self.guest.costs.head_lookup_ns
        return {"block_freed": HookFilter(min_order=self.parameters.min_order, cost_ns=lookup_ns)}

    @hookimpl
    def block_freed(self, guest: Guest, cpu: int, pfn: int, freed: Freed) -> None:
        """guest_free_page_enqueue(): capture the head, with the zone lock held."""
        array = self.arrays[cpu]
        if array.index == len(array.pfns):
            guest.count_drop("array full")
            return
        # PageBuddy(page) is true only if the page that was freed heads the merged block; then
        # nobody looks whether the array has it.
        if freed.pfn != pfn and self._exists(guest, array, pfn):
            return
        array.pfns[array.index] = pfn
        array.index += 1

    def _exists(self, guest: Guest, array: HintArray, pfn: int) -> bool:
        """if_exist(): compare every slot of this CPU, used, cleared or stale."""
        found = pfn in array.pfns
        compared = array.pfns.index(pfn) + 1 if found else len(array.pfns)
        guest.spend(compared // COMPARES_PER_NS)
        return found

    @hookimpl
    def free_completed(self, cpu: int) -> Coroutine[None, None, None] | None:
        """guest_free_page_try_hinting(): the thread that freed does the work."""
        array = self.arrays[cpu]
        return self._hint(array) if array.index >= self.threshold else None

    async def _hint(self, array: HintArray) -> None:
        """guest_free_page_hinting(): isolate what is still free of this CPU's array."""
        guest, entries = self.guest, array.index
        # GFP_KERNEL: while it sleeps interrupts are on, one may free, and its own pass clears the
        # slots; this pass then goes on over `entries` zeros and scans from pfn 0.
        if not await guest.allocate_buffer(len(array.pfns) * RESULT_BYTES):
            array.index = 0
            guest.count_drop("no memory for the result", entries)
            return
        array.pfns[:entries] = sorted(array.pfns[:entries], key=self._zone_number)
        guest.spend(SORT_STEP_NS * entries * entries.bit_length())
        isolated = await self._isolate(array, entries)
        array.index = 0
        if isolated:
            await self._report(isolated)

    def _zone_number(self, pfn: int) -> int:
        """page_zonenum(): the same for the Normal zones of all nodes."""
        return self.guest.zone_of(pfn).number

    async def _isolate(self, array: HintArray, entries: int) -> list[Block]:
        """Walk the pages of every entry, its zone's lock held; change locks with the zone."""
        min_order = self.parameters.min_order
        isolated: list[Block] = []
        locked: Zone | None = None
        for index in range(entries):
            pfn = array.pfns[index]
            end_pfn = pfn + (1 << min_order)
            zone = locked = await self._lock(self.guest.zone_of(pfn), locked)
            # The walk visits pfn, pfn + 1, ... and charges each visit: PageCompound: on behind
            # the compound page; page_ref_count: next page; PageBuddy of the minimum order, or
            # get_buddy_page() finds one around it: that block; else next page.
            while (block := zone.scan_range(pfn, end_pfn, min_order)) is not None:
                if zone.isolate(block.pfn) is not None:  # None: the watermark forbids it
                    isolated.append(block)
                pfn = block.end_pfn
            array.pfns[index] = 0
        if locked is not None:
            locked.lock.release()
        return isolated

    async def _lock(self, zone: Zone, locked: Zone | None) -> Zone:
        """Hold the lock of this entry's zone instead of that of the entry before."""
        if zone is not locked:
            if locked is not None:
                locked.lock.release()
            await zone.lock.acquire()
        return zone

    async def _report(self, isolated: list[Block]) -> None:
        """guest_free_page_report() and virtballoon_page_hinting(): post, kick, do not wait."""
        host = self.guest.host
        if not host.attached:
            return  # nobody keeps the array: its blocks leak
        # Patch 3/6: kmalloc(sizeof(*hint_req), GFP_KERNEL), whose answer is used unseen.
        request = await self.guest.allocate_buffer(REQUEST_BYTES)
        await self.guest.step()  # the walk took long: what was acknowledged meanwhile is there
        while host.poll() is not None:
            pass  # "detach all the used buffers": a completion, and with it the way back
        if not request:
            self.guest.oops("returned", "hint_req->phys_addr = ..., but hint_req is NULL")
            return
        # virtqueue_add_outbuf() with no lock around it: another CPU may be in the queue too.
        if not await host.post(isolated, self._acknowledged, locked=False):
            await self._release(isolated)

    def _acknowledged(self) -> Coroutine[None, None, None] | None:
        """hinting_ack(): one buffer per interrupt, though several may be waiting."""
        completion = self.guest.host.poll()
        if completion is None:
            self.guest.oops("completion-once", "hinting_ack() dereferences a missing buffer")
            return None
        return self._release(completion.blocks)

    async def _release(self, blocks: Iterable[Block]) -> None:
        """release_buddy_pages(): __free_one_page() for each block, in whatever context."""
        locked: Zone | None = None
        for block in blocks:
            if self.parameters.locked_return:
                locked = await self._lock(block.zone, locked)
            block.zone.put_back(block, tail=False)
        if locked is not None:
            locked.lock.release()

    def claims(self) -> Claims:
        """What one would expect of it; v9 says nothing of the kind, and keeps none of it."""
        return Claims(
            min_order=self.parameters.min_order,
            liveness_bound_ns=1_000_000_000,
            in_flight_pages=self.parameters.array_entries << 10,
            hold_visits=2 * self.parameters.array_entries,
            one_zone=True,
            once=True,
            any_pfn=True,
        )
