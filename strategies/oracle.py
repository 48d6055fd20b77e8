"""oracle: the bound that no strategy can pass.

What it tracks: nothing; the model itself takes the host's view of every page.
When it reports: never. The host takes back each free page at the instant it becomes free, and
neither guest nor host spends time on that. A page that is touched again refaults, for nothing.
What it holds: nothing, no lock, no block.
Whose idea: Belady's clairvoyant cache replacement, as a yardstick for what is possible.
Known defects: it cannot be built. With at_order=0 it also reaches pages on per-CPU lists and
fragments, which no real strategy does; at_order=9 (or 10) bounds a strategy of that order: only
free blocks of at least that order, outside the per-CPU lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from hintbench import Strategy, hookimpl

if TYPE_CHECKING:
    from hintbench import Guest


class Oracle(Strategy):
    """Takes back every free page at once and for nothing: the bound that none can pass."""

    name = "oracle"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """What counts as free."""

        at_order: int = Field(
            default=0,
            ge=0,
            le=10,
            description="smallest free block that is taken back [order]; 0 takes every free page,"
            " also those on per-CPU lists, any other order only blocks outside them",
        )

    parameters: Parameters

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Claim all that is free, from now to the end of the run."""
        at_order = self.parameters.at_order
        guest.host.claim_free_memory(at_order=at_order, outside_pcp=at_order > 0)
