"""shared-state: the host reads the guest's allocator, and takes back what it finds free.

What it tracks: a bit for each 2 MiB frame, *soft*: the host has taken its memory, and the guest may
    allocate it all the same. Guest and host share it, and the free lists.
When it reports: never. A thread of the host looks every `interval_ns` for frames that are free and
    not soft, zone by zone. Under one hold of the host's lock it marks up to `frames` of them and
    discards them, neighbours in one call. No vCPU leaves the guest for that.
What it holds: nothing. A guest that is about to hand out a page of a soft frame calls the host,
    which backs all of the frame before it returns, so that devices may use it as well; no page
    of a frame that is not soft ever costs a call.
Whose idea: HyperAlloc (EuroSys 2025, pp. 702-719), over the allocator LLFree (USENIX ATC 2023).
Known defects:
    * an allocation waits for a whole frame to be backed, also where it needs 4 KiB of it;
    * what is freed and wanted again within the interval escapes both.
    In LLFree the mark is a compare-and-swap on the frame's own entry, which fails when the frame is
    not free; here it is one step of the host's thread, over a buddy allocator with its per-CPU
    lists: all frames of a hold are marked at its beginning, where the driver (HyperAlloc's QEMU,
    virtio-llfree-balloon.c) marks one after the other and discards in between, where they part.
    It has a lock for each zone, here is one for all; and it searches on until nothing is free, here
    what becomes free while a zone is gone through waits for the next look. Its install requests are
    of one frame, served by a thread a vCPU; here one call installs all frames of a block. LLFree
    itself also costs the guest less than that allocator does: not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from hintbench import Guest, Zone

FRAME_ORDER = 9  # a huge frame, 2 MiB
ZONE_NUMBERS = (2, 3, 1)  # Normal, Movable, DMA32; DMA stays as it is


class SharedState(Strategy):
    """HyperAlloc: the host takes what it sees to be free; the guest asks for it back on use."""

    name = "shared-state"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """How the host looks."""

        interval_ns: int = Field(
            5_000_000_000,
            ge=1_000_000,
            le=600_000_000_000,
            description="between two looks at the whole guest [ns]; LL_RETRY_INTERVAL",
        )
        frames: int = Field(
            8, ge=1, le=1024, description="frames taken under one hold of the host's lock [frames]"
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {"interval_ns": 1_000_000}

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Share the state, and start the host's thread."""
        self.guest, self.stopping = guest, False
        self.soft = guest.flags("soft", order=FRAME_ORDER)
        # ll_auto_soft_reclaim(): node by node.
        self.zones = sorted(
            (zone for zone in guest.zones if zone.number in ZONE_NUMBERS),
            key=lambda zone: (zone.node, ZONE_NUMBERS.index(zone.number)),
        )
        self.stop = guest.event()
        self.thread = guest.spawn(self._look(), cpu=-1, name="auto-reclaim")

    # -- the host -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """The thread of the host: the whole guest, again and again."""
        while not await self.stop.wait(timeout_ns=self.parameters.interval_ns):
            for zone in self.zones:
                await self._reclaim(zone)

    async def _reclaim(self, zone: Zone) -> None:
        """Take what is free in one zone, some frames under each hold of the host's lock."""
        shared, at_most = self.guest.host.shared, self.parameters.frames
        frames = sorted(
            frame
            for block in zone.free_blocks(FRAME_ORDER, without=self.soft)
            for frame in range(block.pfn, block.end_pfn, 1 << FRAME_ORDER)
            if not self.soft.test(frame)
        )
        for first in range(0, len(frames), at_most):
            async with shared.lock:
                taken = [
                    frame for frame in frames[first : first + at_most] if self._mark(zone, frame)
                ]
                shared.take_back([Block(frame, FRAME_ORDER, zone) for frame in taken])
            if self.stopping:
                return
            await self.guest.step()  # sched_yield()

    def _mark(self, zone: Zone, frame: int) -> bool:
        """Make a frame soft, if it is free and is not; the compare-and-swap."""
        block = zone.free_block_of(frame)
        free = block is not None and block.order >= FRAME_ORDER
        return free and not self.soft.test_and_set(frame)

    # -- the guest ------------------------------------------------------------------------------

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """The allocator has the frame's entry in its hands: the bit costs a load."""
        return {"page_allocated": HookFilter(flags=self.soft, cost_ns=self.guest.costs.flag_ns)}

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Install: the host backs the frames around the page; then they are soft no more."""
        await self.guest.host.shared.install(pfn, order)
        self.soft.clear(pfn, order)

    @hookimpl
    async def guest_stopping(self) -> None:
        """The host looks no more."""
        self.stopping = True
        self.stop.set()
        await self.thread.join()

    def claims(self) -> Claims:
        """All that is free is found at the next look; no lock of the guest's is ever taken."""
        return Claims(
            min_order=FRAME_ORDER,
            liveness_bound_ns=self.parameters.interval_ns + 2_000_000_000,
            initial_flush=True,
            lock_takes=(0, 0),
            one_zone=True,
            once=True,
        )
