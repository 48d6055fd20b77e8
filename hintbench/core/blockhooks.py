"""What a zone tells the strategy of its blocks: that they merged, were freed, were taken.

Here stand the calls. When each of them is due is decided in :mod:`hintbench.core.buddy`, which
asks first whether anybody listens: a hook that nobody implements costs no call.
"""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.cpython.ref import PyObject, _Py_REFCNT
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.constants import PAYER_HOOK
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.hooks import (
        Block,
        HookPoint,
        call_block_freed,
        make_block,
        refuse_to_wait,
    )
else:
    from hintbench.core.clock import VirtualClock
    from hintbench.core.constants import PAYER_HOOK
    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import Block, HookPoint, make_block, refuse_to_wait


@cython.cclass
class BlockHooks:
    """The hooks about blocks of one zone, which is the subclass.

    Args:
        clock: charged what the hooks, and the tests before them, cost the guest.
        hooks: :class:`hintbench.core.hooks.CoreHooks`, or None where nobody listens.

    Attributes:
        editing_refused: ``block_taken`` runs, in which no list may be edited.
    """

    def __init__(self, clock: VirtualClock, hooks: Any = None) -> None:
        self.clock = clock
        self.hooks = hooks
        self.editing_refused = False
        self.last_block = None

    def concerns(self, point: HookPoint, pfn: cython.int, order: cython.int) -> cython.bint:
        """Whether a block concerns a hook; the test's cost is charged either way."""
        if point.cost_ns:
            point.charge_test(self.clock)
        if order < point.min_order:
            return False
        return point.flags is None or point.flags.any_set(pfn, order) != 0

    def tell_merged(self, point: HookPoint, pfn: cython.int, order: cython.int) -> object:
        """Call block_merged for the page in hand, which is on no list.

        Returns:
            The coroutine of a hook that dropped the lock, None when it has ended.
        """
        begun: cython.longlong = point.begin(self.clock)
        waiting = point.function(self.hooks.guest, self.clock.cpu, self, pfn, order)
        point.end(self.clock, begun)
        return waiting

    def tell_freed(
        self,
        pfn: cython.int,
        order: cython.int,
        freed_pfn: cython.int,
        freed_order: cython.int,
        origin: cython.int,
    ) -> cython.int:
        """Fire block_freed for a block that is on its free list now."""
        point: HookPoint = self.hooks.block_freed
        payer: cython.int = self.clock.payer
        begun: cython.longlong
        if not self.concerns(point, pfn, order):
            return 0
        # Named here, so that it stays what it is while the hook frees something itself.
        freed: Block = self.block_at(freed_pfn, freed_order)
        self.hooks.in_block_freed = True
        # HookPoint.begin() and end(), without a call.
        begun = self.clock.now
        self.clock.payer = PAYER_HOOK
        try:
            if cython.compiled:
                outcome = call_block_freed(
                    point.function,
                    self.hooks.guest,
                    self.clock.cpu,
                    self,
                    pfn,
                    order,
                    freed,
                    origin,
                )
            else:
                outcome = point.function(
                    self.hooks.guest, self.clock.cpu, self, pfn, order, freed, origin
                )
        finally:
            self.hooks.in_block_freed = False
        self.clock.payer = payer
        point.spent[payer] += self.clock.now - begun
        if outcome is not None:
            refuse_to_wait(point, outcome)
        return 0

    def tell_taken(self, pfn: cython.int, order: cython.int, reason: cython.int) -> cython.int:
        """A block has left its free list: flags that do not outlive this go, the hook fires."""
        begun: cython.longlong
        if self.clock.digest.listener is not None:
            self.clock.digest.listener.block_taken(pfn, order, reason)
        if self.hooks is None:
            return 0
        if self.hooks.forget_when_taken:
            for flags in self.hooks.forget_when_taken:
                cython.cast(UnitFlags, flags).forget(pfn, order)
        if self.hooks.block_taken is not None:
            point: HookPoint = self.hooks.block_taken
            if self.concerns(point, pfn, order):
                self.editing_refused = True
                begun = point.begin(self.clock)
                try:
                    outcome = point.function(self.hooks.guest, self, pfn, order, reason)
                finally:
                    self.editing_refused = False
                point.end(self.clock, begun)
                if outcome is not None:
                    refuse_to_wait(point, outcome)
        return 0

    def block_at(self, pfn: cython.int, order: cython.int) -> Block:
        """A :class:`Block`; the last one serves again if it is the same or nobody has it."""
        if cython.compiled and self.last_block is not None:
            if self.last_block.pfn == pfn and self.last_block.order == order:
                return self.last_block
            if _Py_REFCNT(cython.cast(cython.pointer(PyObject), self.last_block)) == 1:
                self.last_block.pfn = pfn
                self.last_block.order = order
                return self.last_block
        self.last_block = make_block(pfn, order, self)
        return self.last_block
