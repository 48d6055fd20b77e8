"""The host's side: reports, their service, discards, acknowledgements."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hintbench.core.constants import EVENT_ACKNOWLEDGED, EVENT_REPORTED, RANK_HOST
from hintbench.core.contexts import Context, Park, Step
from hintbench.core.measures import Integral
from hintbench.host.acknowledgements import Acknowledgements
from hintbench.host.reports import Completion, Report, blocks_of, nothing
from hintbench.host.shared_memory import SharedMemory
from hintbench.host.unmapping import Unmapping
from hintbench.tasks.scheduler import Scheduler

if TYPE_CHECKING:
    from hintbench.config.costs import HostConfig
    from hintbench.core.hooks import Block
    from hintbench.core.simulation import Simulation
    from hintbench.guest.watching import Watcher
    from hintbench.host.faults import HostFaults


class Host:
    """Who takes memory back.

    Reports are served first come first served by one thread; each descriptor's memory goes at the
    moment when the host has worked through it.

    Args:
        config: what it does and what that costs; plain, since it is read for every block.

    Attributes:
        attached: whether there is a device to report to.
        accepts: False while the host refuses whatever it serves: it discards nothing, and answers
            that it failed.
        resets: how often the device has been reset.
        shared: what it does with an allocator whose state it can read.
        unmapping: how it takes memory back, and what that costs.
        acknowledgements: how the guest hears of its answers.
        reported_batches, reported_blocks, reported_pages: what it was told of so far.
        refused_reports: how many found no room, or no device.
        cpu_ns: how long the host has worked [virtual ns].
        log: every report as (virtual ns, its blocks), when somebody puts a list here.
        simulation, scheduler, clock, backing: the model underneath; these and what follows are the
            framework's and its tests', and nothing that a strategy may use.
        violate, watcher, faults, torn: what an explored run looks on and intervenes with.
        in_flight: pages in reports that it has not answered, over time.
        calls: how often it was entered.
    """

    def __init__(self, config: HostConfig, simulation: Simulation, scheduler: Scheduler) -> None:
        self.config = config
        self.simulation = simulation
        self.scheduler = scheduler
        self.clock = simulation.clock
        self.backing = simulation.backing
        self.attached = True
        self.accepts = True
        self.resets = 0
        self.shared = SharedMemory(self)
        self.unmapping = Unmapping(self)
        self.acknowledgements = Acknowledgements(self)
        self.log: list[tuple[int, tuple[Block, ...]]] | None = None
        self.violate: Callable[[str, str], None] = lambda rule, text: None
        self.watcher: Watcher | None = None
        self.faults: HostFaults | None = None
        self.torn: Callable[[str], None] | None = None
        self._last_added: Report | None = None
        self._queue: deque[Report] = deque()
        self._busy = False
        self._unanswered: list[Report] = []
        self._outstanding = 0
        self.in_flight = Integral(0)
        self.reported_blocks = 0
        self.reported_batches = 0
        self.reported_pages = 0
        self.refused_reports = 0
        self.cpu_ns = 0
        self.calls = 0

    # -- what a strategy calls ------------------------------------------------------------------

    async def report(self, blocks: Iterable[Block], *, joined: bool = False) -> bool:
        """Tell the host that these blocks are free, and sleep until it has answered.

        Args:
            blocks: what to report.
            joined: neighbours in the list share a descriptor.

        Returns:
            Whether the host took them; False also when the queue is full or no device is there.

        Raises:
            PluginError: the caller may not sleep.
        """
        self.scheduler.require_sleep("reports and waits")
        report = await self._submit(blocks_of(blocks), joined)
        if report is None:
            return False

        def wait(context: Context) -> None:
            if self._holds:
                report.finished = lambda: self.scheduler.unpark(context, report.ok)
            else:
                report.finished = lambda: self._interrupt(report, context)

        park = Park("held" if self._holds else "sleep", wait)
        await park
        return bool(park.outcome)

    async def post(
        self,
        blocks: Iterable[Block],
        on_interrupt: Callable[[], Any],
        *,
        joined: bool = False,
        locked: bool = True,
    ) -> bool:
        """Tell the host and do not wait; completions are fetched with `poll`.

        Args:
            blocks: what to report.
            on_interrupt: called without arguments in hard-interrupt context on this CPU when the
                host has answered; may return a coroutine that spins but does not sleep. Answers
                that come before it runs share one interrupt, if they name the same handler: equal
                ones (a bound method of one object equals itself, each ``lambda`` is another).
                So it must fetch all that `poll` has, not one.
            joined: neighbours in the list share a descriptor.
            locked: the driver's lock is held around virtqueue_add_outbuf(). Without it two CPUs
                can be in the queue at once, and one report overwrites the other; that happens in
                runs that are explored.

        Returns:
            False when the queue is full or no device is there; nothing was submitted then.
        """
        report = await self._submit(blocks_of(blocks), joined, locked)
        if report is None:
            return False

        def completed() -> None:
            self.acknowledgements.add(Completion(report.blocks, report.ok))
            if self.config.acknowledge == "interrupt":
                self.acknowledgements.interrupt(report.cpu, on_interrupt)

        report.posted = True
        report.finished = completed
        if self._holds:

            def held(context: Context) -> None:
                def back() -> None:
                    completed()
                    self.scheduler.unpark(context, None)

                report.finished = back

            await Park("held", held)
        return True

    async def hypercall(self, blocks: Iterable[Block]) -> bool:
        """A synchronous call: the vCPU is out of the guest until the memory is gone.

        Unlike reports, calls of several vCPUs are served side by side, and there is no queue that
        could be full.

        Returns:
            Whether the host took them: False also when no host listens, or it refuses.
        """
        await Step()
        report = Report(blocks_of(blocks), self.clock.cpu, False)
        if not self.attached:
            self._not_submitted(report)
            return False
        report.synchronous = True
        if self.watcher is not None:
            self.watcher.reported(report, self.scheduler.current)
        self._call(report, self.config.hypercall_ns)

        def held(context: Context) -> None:
            report.finished = lambda: self.scheduler.unpark(context, report.ok)

        park = Park("held", held)
        await park
        return bool(park.outcome)

    def reset(self) -> None:
        """The device is reset: what it has not discarded yet it never will, and it says so."""
        self.resets += 1
        for report in self._unanswered:
            report.reset = True
            report.ok = False

    def poll(self) -> Completion | None:
        """Fetch the oldest completion that nobody has fetched; None when there is none."""
        return self.acknowledgements.fetch()

    @property
    def has_completions(self) -> bool:
        """Whether a completion waits to be fetched."""
        return self.acknowledgements.waiting

    def claim_free_memory(self, at_order: int = 0, outside_pcp: bool = False) -> None:
        """The oracle's service: from now on free memory is taken back at once, for nothing.

        Refaults of it cost nothing either, so what is measured is a bound on both sides.

        Args:
            at_order: blocks of this order and more.
            outside_pcp: only when they reach the buddy allocator, merged.
        """
        self.unmapping.claim_free_memory(at_order, outside_pcp)

    # -- the service ----------------------------------------------------------------------------

    @property
    def _holds(self) -> bool:
        """Whether a report keeps the kicking vCPU out of the guest for its whole service."""
        return self.config.kick != "device-thread"

    async def _submit(
        self, blocks: tuple[Block, ...], joined: bool, locked: bool = True
    ) -> Report | None:
        """Put a report into the queue and kick; None when it has no room or there is no device."""
        config = self.config
        # The caller may be ahead of those who submit before it, and of the host's answers.
        await Step()
        report = Report(blocks, self.clock.cpu, joined)
        if self.faults is not None and len(report.descriptors) > 1:
            await self.faults.indirect_table()
        full = config.kick != "hypercall" and self._outstanding >= config.queue_capacity
        if self.faults is not None and self.faults.queue_full():
            full = True
        if not self.attached or full:
            self._not_submitted(report)
            return None
        if self.watcher is not None:
            self.watcher.reported(report, self.scheduler.current)
        if config.kick == "hypercall":
            self._call(report, config.hypercall_ns)
            return report
        self._count(report)
        self._outstanding += 1
        if config.kick == "vcpu-thread":
            self.clock.now += config.call_vcpu_thread_ns
            arrives = self.clock.now
        else:
            self.clock.now += config.call_device_thread_ns
            arrives = self.clock.now + config.device_latency_ns
        if not locked and self.torn is not None:
            self._add_torn(self.torn)
            arrives = max(arrives, self.clock.now)
        self._last_added = report
        self.simulation.schedule(arrives, RANK_HOST, 0, lambda: self._arrived(report))
        return report

    def _not_submitted(self, report: Report) -> None:
        self.refused_reports += 1
        if self.watcher is not None:
            self.watcher.not_submitted(report)

    def _add_torn(self, torn: Callable[[str], None]) -> None:
        """virtqueue_add_split() without a lock: the free descriptor is read, then written.

        Whoever adds in between reads the same one, and what it wrote there is gone, unless the
        host has seen it by then.
        """
        last = self._last_added
        torn("write the descriptor")
        other = self._last_added
        if other is not None and other is not last and not other.arrived:
            other.overwritten = True
            if self.watcher is not None:
                self.watcher.overwritten(other)
        torn("")

    def _call(self, report: Report, call_ns: int) -> None:
        """Enter the hypervisor, which serves the report in the vCPU's own thread, at once."""
        self._count(report)
        report.queued = False
        self.clock.now += call_ns
        self.simulation.schedule(self.clock.now, RANK_HOST, 0, lambda: self._serve(report))

    def _count(self, report: Report) -> None:
        self._unanswered.append(report)
        self.reported_batches += 1
        self.reported_blocks += len(report.blocks)
        self.reported_pages += report.pages
        self.calls += 1
        self.in_flight.add(self.clock.now, report.pages)
        if self.log is not None:
            self.log.append((self.clock.now, report.blocks))
        first = report.blocks[0] if report.blocks else None
        self.clock.digest.record(
            self.clock.now,
            report.cpu,
            EVENT_REPORTED,
            first.pfn if first else 0,
            min(len(report.blocks), 15),
        )

    def _arrived(self, report: Report) -> None:
        if report.overwritten:
            return
        report.arrived = True
        self._queue.append(report)
        if not self._busy:
            self._busy = True
            self._next_report()

    def _next_report(self) -> None:
        if not self._queue:
            self._busy = False
            return
        self._serve(self._queue.popleft())

    def _serve(self, report: Report) -> None:
        """Work through the next descriptor of a report, or end it."""
        if report.next == 0:
            report.ok = self.accepts and not report.reset
            if self.faults is not None and self.faults.refuses():
                report.ok = False
        if report.next >= len(report.descriptors):
            self._end(report)
            return
        pfn, pages = report.descriptors[report.next]
        cost = self.config.descriptor_ns
        if report.ok:
            cost = self.unmapping.descriptor_cost(pfn, pages)
        self.cpu_ns += cost
        if self.faults is not None:
            cost += self.faults.stall_ns()
        self.simulation.schedule(
            self.clock.now + cost, RANK_HOST, 1, lambda: self._discard(report, pfn, pages)
        )

    def _discard(self, report: Report, pfn: int, pages: int) -> None:
        """A descriptor's memory goes, at this moment."""
        self.clock.cpu = -1
        report.next += 1
        if report.ok and not report.reset:
            self.unmapping.discard(pfn, pages, calls=self.unmapping.calls(pages))
        self._serve(report)

    def _end(self, report: Report) -> None:
        self.in_flight.add(self.clock.now, -report.pages)
        self.clock.digest.record(
            self.clock.now, report.cpu, EVENT_ACKNOWLEDGED, len(report.blocks), 0
        )
        late_ns = self.faults.answer_late_ns() if self.faults is not None else 0
        if late_ns:
            # The host has done its work, and goes on with other reports; its answer lingers.
            self.simulation.schedule(
                self.clock.now + late_ns, RANK_HOST, 2, lambda: self._answer(report)
            )
        else:
            self._answer(report)
        if report.queued:
            self._outstanding -= 1
            self._next_report()

    def _answer(self, report: Report) -> None:
        """The guest hears of the end of a report."""
        self._unanswered.remove(report)
        if self.watcher is not None:
            self.watcher.answered(report)
        now = self.clock.now
        # What is called knows the report: kept, each would be a circle for the garbage collector.
        finished, report.finished = report.finished, nothing
        finished()
        # A spinner that polled has spent its own time, not the host's.
        self.clock.now = now

    def _interrupt(self, report: Report, context: Context) -> None:
        """The acknowledgement of a sleeping report arrives by interrupt and wakes its task."""
        if self.config.acknowledge == "poll" or report.cpu < 0:
            self.scheduler.unpark(context, report.ok)
            return
        self.acknowledgements.deliver(report.cpu, lambda: self.scheduler.unpark(context, report.ok))
