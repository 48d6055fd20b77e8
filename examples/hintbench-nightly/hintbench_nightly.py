"""A strategy that tells at fixed times, and a workload with ebb and flood, for hintbench.

This is what a package of one's own looks like: it imports nothing but what `hintbench` exports,
and its entry points (pyproject.toml) are how hintbench finds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from hintbench import Claims, Program, Strategy, Workload, WorkloadSetting, hookimpl
from hintbench.operations import allocate, free, idle


class Nightly(Strategy):
    """Every `interval_ns`, tell of all free blocks of 2 MiB that the host does not know of yet."""

    name = "nightly"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """When, and how much at a time."""

        interval_ns: int = Field(100_000_000, ge=1_000_000, description="between passes [ns]")
        batch: int = Field(16, ge=1, le=256, description="blocks per report [blocks]")

    parameters: Parameters
    # Small enough that passes happen within the few milliseconds of a scenario.
    check_parameters: ClassVar[dict[str, Any]] = {"interval_ns": 1_000_000, "batch": 2}
    # A rule that is known to be broken is declared with the reason; `hintbench check` insists on
    # exactly these.
    declared_failures: Mapping[str, str] = {
        "no-false-oom": "an allocation does not wait for the blocks that are being told",
    }

    @hookimpl
    def guest_started(self, guest: Any) -> None:
        """Name the flag, start the thread."""
        self.guest, self.stop = guest, guest.event()
        self.told = guest.flags("told", order=9, meaning="told", forget="taken")
        self.thread = guest.spawn(self.work(), cpu=guest.cpus[0], name="nightly")

    async def work(self) -> None:
        """One pass after the other, until the guest stops."""
        while not await self.stop.wait(timeout_ns=self.parameters.interval_ns):
            for zone in self.guest.zones:
                while await self.tell(zone):
                    pass

    async def tell(self, zone: Any) -> bool:
        """Isolate a batch, report it, put it back; whether there may be more."""
        async with zone.lock:
            found = zone.free_blocks(9, without=self.told, limit=self.parameters.batch)
            taken = [block for block in found if zone.isolate(block.pfn)]
        if not taken:
            return False
        acknowledged = await self.guest.host.report(taken)
        async with zone.lock:
            for block in taken:
                order = zone.put_back(block)
                # A block that merged with a neighbour is larger than what the host was told of.
                if acknowledged and order == block.order:
                    self.told.set(block.pfn, block.order)
        return acknowledged

    @hookimpl
    async def guest_stopping(self) -> None:
        """Begin nothing more, and wait for what is in flight."""
        self.stop.set()
        await self.thread.join()

    def claims(self) -> Claims:
        """What the conformance suite may hold it to."""
        given = self.parameters
        return Claims(
            min_order=9,
            liveness_bound_ns=given.interval_ns + 2_000_000_000,
            initial_flush=True,
            in_flight_pages=given.batch << 10,
            lock_takes=(1, 1),
            one_zone=True,
            any_pfn=True,
        )


class Tides(Workload):
    """Take a share of the memory in huge pages, give it back, rest; again and again."""

    name = "tides"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """How high and how often."""

        share: float = Field(0.4, gt=0, lt=0.9, description="of the memory [fraction]")
        rounds: int = Field(4, ge=1, le=1000, description="floods")
        rest_ns: int = Field(300_000_000, ge=0, description="between them [ns]")

    parameters: Parameters

    def program(self, setting: WorkloadSetting) -> Program:
        """One stream of operations a vCPU, in numpy blocks."""
        each = self.blocks_a_vcpu(setting, self.parameters.share, 9)
        total, rounds = each * setting.vcpus, self.parameters.rounds

        def stream(number: int) -> Iterator[Any]:
            slots = np.arange(number * each, (number + 1) * each)
            for _ in range(rounds):
                yield allocate(slots, order=9)
                yield free(slots)
                yield idle(self.parameters.rest_ns)

        return Program(total, tuple(map(stream, range(setting.vcpus))), 2 * total * rounds)
