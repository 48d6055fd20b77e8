"""The hooks as the core calls them: a bound function each, and the tests it makes natively."""

import array
from collections.abc import Callable
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.constants import MAX_PAGE_ORDER, PAYER_HOOK, PAYERS
    from cython.cimports.hintbench.core.flags import UnitFlags
else:
    from hintbench.core.clock import VirtualClock
    from hintbench.core.constants import MAX_PAGE_ORDER, PAYER_HOOK, PAYERS
    from hintbench.core.flags import UnitFlags

_PFN_LIMIT = cython.declare(cython.longlong, 1 << 31)


@cython.cfunc
def check_range(
    what: str, name: str, value: cython.longlong, least: cython.longlong, most: cython.longlong
) -> cython.int:
    """Refuse an argument that would index past a table.

    Args:
        what: the function that was called.
        name: of the argument.
        value: of the argument.
        least: the smallest value that is right.
        most: the largest one.

    Raises:
        ValueError: the value is not one of ``least..most``.
    """
    if not least <= value <= most:
        raise ValueError(f"{what}: {name} is {value}, must be in {least}..{most}")
    return 0


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
        self.spent = memoryview(array.array("q", [0] * PAYERS))

    def begin(self, clock: VirtualClock) -> cython.Py_ssize_t:
        """The function is about to be called: what happens now is the strategy's doing.

        Returns:
            What :meth:`end` is to be given: who calls it, and when.
        """
        caller: cython.longlong = clock.payer
        clock.payer = PAYER_HOOK
        return (clock.now << 3) | caller

    def end(self, clock: VirtualClock, begun: cython.longlong) -> cython.int:
        """It has returned, and perhaps has left a coroutine, which is booked by itself."""
        clock.payer = begun & 7
        self.spent[clock.payer] += clock.now - (begun >> 3)
        return 0

    def charge_test(self, clock: VirtualClock) -> cython.int:
        """Charge what the test costs, which the core makes for the hook."""
        if self.cost_ns:
            clock.now += self.cost_ns
            self.spent[clock.payer] += self.cost_ns
        return 0

    @property
    def spent_ns(self) -> tuple[int, ...]:
        """Virtual time that its tests and its calls took, coroutines apart, by their caller."""
        return tuple(self.spent)


class HookResultError(TypeError):
    """A hook that may never wait returned something to wait for.

    Attributes:
        hook: its name.
    """

    def __init__(self, hook: str, result: object) -> None:
        super().__init__(
            f"returned {type(result).__name__}, but may not wait (it runs under the zone lock with"
            " interrupts off): it must return None"
        )
        self.hook = hook


@cython.cfunc
def refuse_to_wait(point: HookPoint, result: object) -> cython.int:
    """Refuse what a hook returned that may never wait.

    Raises:
        HookResultError: always.
    """
    if hasattr(result, "close"):
        # A coroutine that nobody will await.
        result.close()
    raise HookResultError(point.name, result)


@cython.final
@cython.cclass
class CoreHooks:
    """Every hook of a run; None where nobody listens, which costs nothing.

    Attributes:
        guest: the first argument of every hook.
        forget_when_taken: flags that a block loses when it leaves its free list.
        forget_when_allocated: flags that a block loses when it is handed to a caller.
        in_block_freed: ``block_freed`` runs, and must not be fired again from inside.
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
        self.in_block_freed = False
        self.forget_when_taken = []
        self.forget_when_allocated = []


@cython.final
@cython.freelist(64)
@cython.cclass
class Block:
    """``1 << order`` pages from ``pfn`` on, in ``zone``: free, isolated or held.

    A claim, as pfn and order are in the kernel: whether the pages are what the block says is
    looked at by whoever uses it.

    Attributes:
        pfn: its first page.
        order: its size as a power of two of pages.
        zone: the zone it lies in.
    """

    def __init__(self, pfn: int, order: int, zone: Any) -> None:
        check_range("Block", "order", order, 0, MAX_PAGE_ORDER)
        if not 0 <= pfn < _PFN_LIMIT or pfn & ((1 << order) - 1):
            raise ValueError(f"Block: pfn {pfn:#x} cannot head a block of order {order}")
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
