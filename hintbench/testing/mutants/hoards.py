"""Wrong about what they keep: memory that was taken past isolation is out of use as well."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hintbench import hookimpl
from hintbench.strategies.report_then_hold import ReportThenHold
from hintbench.testing.mutants.bases import MIN_ORDER, UNIT_PAGES, Isolating, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Block, Claims, Zone

MOST_KEPT = 12
"""Blocks of a zone that are kept for later."""


class KeepsAReserve(Mutant, Isolating):
    """Allocates a block whenever it has told of one, for when it will need memory itself."""

    name = "keeps-a-reserve"
    breaks = ("bounded-in-flight", "no-false-oom")

    def prepare(self) -> None:
        """Nothing is kept."""
        super().prepare()
        self.kept: dict[Zone, list[int]] = {zone: [] for zone in self.guest.zones}

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: nobody gets it who is about to fail, and it claims to have two blocks at most."""
        async with zone.lock:
            for block in blocks:
                self.put_back(zone, block, ok)
                mine = zone.allocate(MIN_ORDER) if len(self.kept[zone]) < MOST_KEPT else -1
                if mine >= 0:
                    self.kept[zone].append(mine)
        self.done[zone].set()

    @hookimpl
    async def guest_stopping(self) -> None:
        """All of it is given back in the end."""
        await super().guest_stopping()
        for zone, kept in self.kept.items():
            async with zone.lock:
                for pfn in kept:
                    zone.free(pfn, MIN_ORDER)


class HoldsMoreThanItClaims(Mutant, ReportThenHold):  # type: ignore[misc]
    """Holds batch after batch, and takes only the last for what it has in its hands."""

    name = "holds-more-than-it-claims"
    breaks = ("bounded-in-flight",)
    # As the driver itself: what is free below the watermark is never reported.
    may_break = ("liveness",)
    declared_failures: Mapping[str, str] = {}

    def claims(self) -> Claims:
        """Wrong: what was held before is out of use still."""
        cap = self.parameters.batch * UNIT_PAGES
        return dataclasses.replace(super().claims(), in_flight_pages=cap)


MUTANTS: tuple[type[Mutant], ...] = (KeepsAReserve, HoldsMoreThanItClaims)
