"""report-then-hold: allocate free memory, report it, keep it until the guest needs it.

What it tracks: the batches that it holds, the most recent first; no hook on any free.
When it reports: it polls, every `interval_ns`, for the first time after one. While more memory is
    free than the watermark, a cycle allocates up to 8 batches of 32 huge pages each (512 MiB),
    tells the host of each batch in one request, and looks at the watermark again in between.
What it holds: whatever it has reported, so that no discard ever meets a page in use, and nothing
    that was reported is touched. It looks ten times a second while it holds anything: when less
    than half of the watermark is free, it lets go of half its batches; when memory is *low*, of
    everything, and then holds nothing for `cooldown_ns`. Low is a level, as LowMemoryCondition: an
    allocation is about to fail or less than 1/128 of the memory is free, 64 MiB at most. While it
    lasts it is looked at every second, and is one cooldown. A cooldown is twice as long as the one
    before (at most 5 min) if that has run out less than 10 min ago, and no look since then has seen
    more free memory than the watermark: that look forgets it.
Whose idea: the balloon driver of virtio-win, Balloon/sys/reporting.c and Device.c at 19158da76b1f,
    2026: Windows shows no driver its free lists, and touches what it gets back, so that
    report-then-release gains nothing.
Known defects:
    * held memory is not free: the guest runs out of huge pages first, which may not wait;
    * nothing below the watermark is ever reported, and no block that does not make up 2 MiB;
    * a request that the host did not take is not repeated; its blocks are held all the same;
    * low memory during a cooldown counts as none before it, since the driver's subtraction is
      unsigned: the next one has the length of the first.
    At fe993149478e, which has the cycle and not yet its threads, BalloonReportHold() does not look
    at the cooldown: it delays nothing there, as with `obey_cooldown=false`. The driver has a thread
    for releasing and one for holding, here one does both in turn: where the other would release
    while this one holds, it ends its cycle. In the driver that other one may let go of a batch
    which is not reported yet, and it is reported all the same, in use or not: nothing but the list
    of batches is locked. Not modelled: a request that finds no room goes out block by block, and
    one that takes longer than 1 s is given up.
    Windows also counts committed memory, and keeps a reserve of that; this guest has no such count.
    In an exact replay of a trace it gets only memory that the recorded kernel never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Claims, Strategy, hookimpl

if TYPE_CHECKING:
    from hintbench import Block, Guest, Zone

MIB_PAGES = 256
BLOCK_ORDER = 9  # REPORTING_BLOCK_SIZE: 2 MiB, what the host can take back as a huge page
RAM_SHARE = 8  # REPORTING_AVAILABLE_FRACTION
LEAST_WATERMARK_MIB = 256  # REPORTING_MIN_AVAILABLE_PAGES
LEAST_OVERRIDE_MIB = 64  # what MinFreeMb is raised to, at least
MOST_COOLDOWN_NS = 300_000_000_000  # REPORTING_COOLDOWN_MAX_MS
QUIET_NS = 600_000_000_000  # REPORTING_COOLDOWN_RESET_MS
POLL_NS = 100_000_000  # REPORTING_COMMIT_POLL_MS
RETRY_NS = 1_000_000_000  # REPORTING_EVENT_RETRY_MS
# LowMemoryThreshold by default: "approximately 32 MB per 4 GB, to a maximum of 64 MB", Microsoft on
# CreateMemoryResourceNotification().
LOW_SHARE = 128
MOST_LOW_MIB = 64


class ReportThenHold(Strategy):
    """The Windows driver: a balloon that fills itself with what is free, and reports it."""

    name = "report-then-hold"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """The registry's values, and the constants of a cycle."""

        interval_ns: int = Field(
            2_000_000_000,
            ge=100_000_000,
            le=60_000_000_000,
            description="between two cycles [ns]; ReportIntervalMs",
        )
        min_free_mib: int | None = Field(
            None,
            ge=LEAST_OVERRIDE_MIB,
            le=1 << 22,
            description="the watermark, at most half of the memory [MiB]; MinFreeMb; none: an"
            " eighth of the memory, but at least 256",
        )
        cooldown_ns: int = Field(
            60_000_000_000,
            ge=1_000_000_000,
            le=600_000_000_000,
            description="without new holds after everything was let go [ns]; CooldownSec",
        )
        obey_cooldown: bool = Field(
            True, description="whether a cooldown delays anything; false in fe993149478e"
        )
        batch: int = Field(
            32, ge=1, le=256, description="blocks per request [blocks]; REPORTING_MAX_SEGMENTS"
        )
        batches: int = Field(
            8, ge=1, le=1024, description="requests per cycle; REPORTING_BATCHES_PER_CYCLE"
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {
        "interval_ns": 100_000_000,
        "min_free_mib": 64,
        "cooldown_ns": 1_000_000_000,
        "batch": 2,
    }
    declared_failures: Mapping[str, str] = {
        "liveness": "what is free below the watermark is never reported",
    }

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """BalloonReportInitialize(): read the parameters; the first cycle is an interval away."""
        self.guest, self.stopping = guest, False
        memory_pages = sum(zone.managed_pages for zone in guest.zones)
        given = self.parameters.min_free_mib
        if given is None:
            self.watermark = max(memory_pages // RAM_SHARE, LEAST_WATERMARK_MIB * MIB_PAGES)
        else:
            self.watermark = min(given * MIB_PAGES, memory_pages // 2)
        self.low_pages = min(memory_pages // LOW_SHARE, MOST_LOW_MIB * MIB_PAGES)
        # The highest zone first, as an allocation that may use any of them.
        self.zones = sorted(guest.zones, key=lambda zone: -zone.number)
        self.held: list[list[Block]] = []
        self.cooldown_ns, self.cooldown_until = 0, 0
        self.cycle_at = guest.now + self.parameters.interval_ns
        self.low, self.failing = False, False
        self.wake, self.let_go = guest.event(), guest.event()
        self.worker = guest.spawn(self._work(), cpu=guest.cpus[0], name="balloon")

    async def _work(self) -> None:
        """BalloonRoutine(), which lets go, and BalloonReportRoutine(), which holds, in turn."""
        while not self.stopping:
            woken = await self.wake.wait(timeout_ns=max(0, self._next_look() - self.guest.now))
            # With nothing held, only low memory wakes the thread that lets go.
            if woken or self.held or self.low or self._memory_is_low():
                await self._check_release()
            if self.guest.now >= self.cycle_at:
                await self._hold()
                self.cycle_at = self.guest.now + self.parameters.interval_ns
        await self._release(len(self.held))
        self.let_go.set()

    def _next_look(self) -> int:
        """When it looks again, unless memory gets low before."""
        if self.low:
            return min(self.cycle_at, self.guest.now + RETRY_NS)
        return min(self.cycle_at, self.guest.now + POLL_NS) if self.held else self.cycle_at

    async def _check_release(self) -> None:
        """BalloonReportCheckRelease(): does the guest need something back?"""
        was_low, self.low = self.low, self._memory_is_low()
        if self.low:
            await self._release(len(self.held))
            if not was_low:
                self._start_cooldown()
            self.failing = False
            self.let_go.set()
        elif self.held and self._free_pages() < self.watermark // 2:
            await self._release(len(self.held) // 2 + 1)
        elif self._free_pages() > self.watermark and self.guest.now >= self.cooldown_until:
            self.cooldown_until = 0

    def _memory_is_low(self) -> bool:
        """IsLowMemory(): an allocation is about to fail, or hardly anything is free."""
        return self.failing or self._free_pages() < self.low_pages

    def _free_pages(self) -> int:
        """AvailablePages."""
        return sum(zone.free_pages for zone in self.guest.zones)

    # -- hold -----------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """BalloonReportHold(): batch after batch, as long as more is free than the watermark."""
        if self.parameters.obey_cooldown and self.guest.now < self.cooldown_until:
            return
        for _ in range(self.parameters.batches):
            if not self._may_hold():
                return
            batch: list[Block] = []
            # Held from the first block on: who runs out of memory meanwhile waits for it.
            self.held.append(batch)
            await self._allocate(batch)
            if not batch:
                self.held.pop()
                return
            if self._memory_is_low() or not await self.guest.host.report(batch):
                return

    def _may_hold(self) -> bool:
        """Whether another batch may be taken."""
        if self._memory_is_low() or self.stopping:
            return False
        return self._free_pages() > self.watermark

    async def _allocate(self, batch: list[Block]) -> None:
        """MmAllocatePagesForMdlEx(): as many whole blocks as there are, up to a batch."""
        for zone in self.zones:
            async with zone.lock:
                while len(batch) < self.parameters.batch:
                    block = zone.hold(BLOCK_ORDER)
                    if block is None:
                        break
                    batch.append(block)

    # -- let go ---------------------------------------------------------------------------------

    async def _release(self, batches: int) -> None:
        """ReportingReleasePages(): the most recent batches go back to the guest."""
        for _ in range(min(batches, len(self.held))):
            by_zone: dict[Zone, list[Block]] = {}
            # Held to the last block, for the same reason.
            for block in self.held[-1]:
                by_zone.setdefault(block.zone, []).append(block)
            for zone, blocks in by_zone.items():
                async with zone.lock:
                    for block in blocks:
                        zone.let_go(block)
            self.held.pop()

    def _start_cooldown(self) -> None:
        """ReportingStartCooldown(): twice as long when the last one has run out not long ago."""
        now, base = self.guest.now, self.parameters.cooldown_ns
        # In the driver now - until is unsigned: one that still runs ends a very long time ago.
        again = self.cooldown_until != 0 and 0 <= now - self.cooldown_until < QUIET_NS
        longest = max(base, MOST_COOLDOWN_NS)
        self.cooldown_ns = min(self.cooldown_ns * 2, longest) if again else base
        self.cooldown_until = now + self.cooldown_ns

    @hookimpl
    async def memory_low(self) -> None:
        """LowMemoryCondition: wake the worker, and wait until it has let go of everything."""
        self.failing = True
        self.wake.set()
        if self.held:
            self.let_go.clear()
            await self.let_go.wait()

    @hookimpl
    async def guest_stopping(self) -> None:
        """BalloonReportReleaseAll(), once the worker has ended its step."""
        self.stopping = True
        self.wake.set()
        await self.worker.join()

    def claims(self) -> Claims:
        """Nothing but whole huge pages, each reported once while it is held."""
        return Claims(
            min_order=BLOCK_ORDER,
            liveness_bound_ns=self.parameters.interval_ns + 2_000_000_000,
            initial_flush=True,
            once=True,
        )
