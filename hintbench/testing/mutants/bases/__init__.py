"""Small correct strategies, so that a mutant shows nothing but the one thing it does wrong.

`Isolating` takes blocks off their lists and sleeps until the host has answered, `Posting` does not
sleep and gives them back from the interrupt, `Ringed` captures in rings per CPU, `Listed` in one
list under a lock of its own, `Marking` leaves the blocks where they are and lets takers spin,
`Synchronous` calls the host from the freeing thread before anybody else can have the block.
"""

from hintbench import Strategy
from hintbench.testing.mutants.bases.isolating import Isolating, Posting
from hintbench.testing.mutants.bases.listed import Listed
from hintbench.testing.mutants.bases.marking import Marking
from hintbench.testing.mutants.bases.ringed import RING_ENTRIES, Ringed
from hintbench.testing.mutants.bases.synchronous import Synchronous
from hintbench.testing.mutants.bases.worker import (
    BATCH,
    DELAY_NS,
    LOOK_AT_MOST,
    MIN_ORDER,
    POLL_NS,
    UNIT_PAGES,
    Mutant,
)

__all__ = [
    "BASES",
    "BATCH",
    "DELAY_NS",
    "LOOK_AT_MOST",
    "MIN_ORDER",
    "POLL_NS",
    "RING_ENTRIES",
    "UNIT_PAGES",
    "Isolating",
    "Listed",
    "Marking",
    "Mutant",
    "Posting",
    "Ringed",
    "Synchronous",
]

BASES: tuple[type[Strategy], ...] = (Isolating, Posting, Ringed, Listed, Marking, Synchronous)
"""All of them."""
