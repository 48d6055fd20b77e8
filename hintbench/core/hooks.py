"""The hooks as the core calls them: a bound function each, and the tests it makes natively."""

from collections.abc import Callable
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.flags import UnitFlags
else:
    from hintbench.core.flags import UnitFlags


@cython.final
@cython.cclass
class HookPoint:
    """One hook that somebody implements.

    Args:
        name: the hook's name, for messages.
        function: called with the guest and the hook's arguments.
        min_order: blocks of a lower order do not concern the hook.
        flags: only blocks that overlap a unit with this flag concern it; None for every block.
        cost_ns: what the test costs the guest each time it is made, whether or not it hits.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        min_order: int = 0,
        flags: UnitFlags | None = None,
        cost_ns: int = 0,
    ) -> None:
        self.name = name
        self.function = function
        self.min_order = min_order
        self.flags = flags
        self.cost_ns = cost_ns


@cython.final
@cython.cclass
class CoreHooks:
    """Every hook of a run; None where nobody listens, which costs nothing.

    Attributes:
        guest: the first argument of every hook.
        forget_when_taken: flags that a block loses when it leaves its free list.
        forget_when_allocated: flags that a block loses when it is handed to a caller.
    """

    def __init__(self, guest: Any = None) -> None:
        self.guest = guest
        self.page_freeing = None
        self.block_merged = None
        self.block_freed = None
        self.block_taken = None
        self.free_completed = None
        self.page_allocated = None
        self.memory_low = None
        self.forget_when_taken = []
        self.forget_when_allocated = []


@cython.final
@cython.freelist(64)
@cython.cclass
class Block:
    """``1 << order`` pages from ``pfn`` on, in ``zone``: free, isolated or held.

    Attributes:
        pfn: its first page.
        order: its size as a power of two of pages.
        zone: the zone it lies in.
    """

    def __init__(self, pfn: int, order: int, zone: Any) -> None:
        self.pfn = pfn
        self.order = order
        self.zone = zone

    @property
    def pages(self) -> int:
        """How many pages it has."""
        return 1 << self.order

    @property
    def end_pfn(self) -> int:
        """The first page behind it."""
        return self.pfn + (1 << self.order)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Block):
            return NotImplemented
        return (self.pfn, self.order, self.zone) == (other.pfn, other.order, other.zone)

    def __hash__(self) -> int:
        return hash((self.pfn, self.order))

    def __repr__(self) -> str:
        return f"Block(pfn={self.pfn:#x}, order={self.order}, zone={self.zone!r})"


@cython.cfunc
def make_block(pfn: cython.int, order: cython.int, zone: object) -> Block:
    """A :class:`Block` without a trip through its Python constructor."""
    if cython.compiled:
        block: Block = Block.__new__(Block)
        block.pfn = pfn
        block.order = order
        block.zone = zone
        return block
    return Block(pfn, order, zone)
