"""THE CONTRACT: every hook that a strategy may implement.

A hook is a method of the strategy with the hook's name, marked with `hintbench.hookimpl`::

    class Mine(Strategy):
        name = "mine"

        @hookimpl
        def block_freed(self, zone, pfn, order): ...

It may leave out arguments that it does not need, and may list the rest in any order. Each hook
fires at the very point of the kernel that its description names, not later: a hook in the zone-lock
section of a pcp drain sees the free lists in between two frees of that drain.

Three things are said of every hook besides what it means:

*Context*: whose virtual time it spends, which lock is held, whether interrupts are on.

*May wait*: what it may await. A hook that waits is an ``async def``, or a ``def`` that returns
either None or a coroutine; the latter spares a coroutine when there is nothing to wait for.

* "never": a plain ``def``. It may spend time (`guest.spend`), change the strategy's own state, set
  and clear flags, set an event, spawn a task, at once or delayed. A task that is woken so, or
  started at once, costs it `Costs.task_wake_ns`, and prolongs the hold of a zone lock by that;
  whether one should is told at `hintbench.Event`. Everything else is the bug "sleeping in
  atomic context".
* "spin": it may also take a zone lock, spin on a flag, post to the host or make a synchronous
  call that holds its vCPU. It never sleeps: the vCPU does nothing else meanwhile.
* "sleep": it runs in a task and may await anything. Never while it holds a zone lock.

*May be narrowed*: a strategy that names the hook in `Strategy.hook_filters` is only called for
blocks that concern it; the core makes the test, and charges what it would cost the guest.

Units: a pfn is a page frame number (4 KiB pages), an order is the power of two of pages, times are
virtual nanoseconds. Functions of the kernel are those of mm/page_alloc.c unless said otherwise.
"""

import inspect
from collections.abc import Callable, Coroutine
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.guest.guest import Guest

PROJECT = "hintbench"
"""The name that pluggy knows the hooks by, and the group of the entry points."""

Waits = Literal["never", "spin", "sleep"]
Wait = Coroutine[Any, Any, None] | None
"""What a hook that may wait returns: None when it is done, else what is to be awaited."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_hookspec = pluggy.HookspecMarker(PROJECT)


class Origin(IntEnum):
    """Where a block that `HintbenchHooks.block_freed` tells of came from."""

    PCP_DRAIN = 0
    """free_pcppages_bulk(): one of many pages under one hold of the zone lock."""
    DIRECT_FREE = 1
    """free_one_page(): an order that the per-CPU lists do not take, or they were busy."""
    PUT_BACK = 2
    """__putback_isolated_page(), when its caller asked for notification."""
    SPLIT = 3
    """split_large_buddy(): a block above the pageblock order, freed as two halves."""


class Reason(IntEnum):
    """Why a block left its free list, as `HintbenchHooks.block_taken` tells."""

    ALLOCATION = 0
    """Taken whole by an allocation or a refill of per-CPU lists."""
    SPLIT = 1
    """Taken by a smaller allocation: page_del_and_expand() puts the upper halves back."""
    MERGE = 2
    """__free_one_page() merges it with a buddy that is being freed."""
    ISOLATION = 3
    """__isolate_free_page()."""


class Freed(Protocol):
    """What was freed, before it merged with its buddies."""

    @property
    def pfn(self) -> int:
        """Its first page."""

    @property
    def order(self) -> int:
        """Its order."""


class HookInfo(NamedTuple):
    """What the framework knows of one hook; read from its declaration in `HintbenchHooks`.

    Attributes:
        name: The hook's name.
        arguments: Its arguments, in the order in which the core passes them.
        waits: What an implementation may await: "never", "spin" or "sleep".
        narrowable: Whether `Strategy.hook_filters` may name it.
    """

    name: str
    arguments: tuple[str, ...]
    waits: Waits
    narrowable: bool


_declared: dict[str, HookInfo] = {}


def _hook(waits: Waits, narrowable: bool = False) -> Callable[[_Function], _Function]:
    """Declare a hook and what it may do."""

    def declare(function: _Function) -> _Function:
        arguments = tuple(inspect.signature(function).parameters)[1:]
        name = function.__name__
        _declared[name] = HookInfo(name, arguments, waits, narrowable)
        return _hookspec(function)

    return declare


class HintbenchHooks:
    """The hooks, in the order in which a block of memory meets them."""

    @_hook(waits="sleep")
    def guest_started(self, guest: "Guest") -> Wait:
        """The guest has booted; the workload has not begun.

        For allocating state, naming flags and spawning tasks. What it does before its first await
        is done before any other hook fires; `Strategy.hook_filters` is asked right after that.

        Kernel: the probe function of a driver, such as virtballoon_probe().
        Context: a task on CPU 0; no lock, interrupts on. May wait: sleep.

        Args:
            guest: The guest, for the whole run.
        """

    @_hook(waits="spin", narrowable=True)
    def page_freeing(self, guest: "Guest", cpu: int, pfn: int, order: int) -> Wait:
        """A caller frees a block; it is on no list yet, neither of the pcp nor of the zone.

        Fires once per unit freed, and sees no merges. The block belongs to nobody else until the
        hook is done, so a synchronous call may tell the host of it without any lock.

        Kernel: arch_free_page(), the last step of free_pages_prepare().
        Context: the freeing caller, perhaps an interrupt; no zone lock. May wait: spin.

        Args:
            guest: The guest.
            cpu: The freeing vCPU.
            pfn: First page of what is freed.
            order: Its order.
        """

    @_hook(waits="spin", narrowable=True)
    def block_merged(self, guest: "Guest", cpu: int, zone: "Zone", pfn: int, order: int) -> Wait:
        """The merge loop has joined a block being freed with its buddy, and will go on.

        The one hook that may release and retake the zone lock it is called under; the loop reads
        the next buddy again afterwards. Until the loop ends the block is on no free list. A block
        that is put back merges in silence, whether its caller asks for notification or not: whoever
        puts it back learns from `zone.put_back` how large it has become.

        Kernel: __free_one_page(), after order++ (arch_merge_page() of Duyck's February 2019 RFC).
        Context: the freeing thread, or whoever drains; the lock of `zone` is held and interrupts
        are off. May wait: spin, on this very lock only.

        Args:
            guest: The guest.
            cpu: The vCPU that holds the lock.
            zone: The block's zone.
            pfn: First page of the block after this step.
            order: Its order after this step.
        """

    @_hook(waits="never", narrowable=True)
    def block_freed(
        self,
        guest: "Guest",
        cpu: int,
        zone: "Zone",
        pfn: int,
        order: int,
        freed: Freed,
        origin: Origin,
    ) -> None:
        """A block has arrived on a free list; merging is over.

        Fires for every page of a pcp drain (many times under one hold), for every direct free, for
        each half of a large block that is freed in two, and for a block put back with
        ``notify=True``. The upper halves that an allocation leaves over fire nothing.
        ``zone.put_back`` from inside must not notify.

        Kernel: the end of __free_one_page(), where page_reporting_notify_free() stands; in v9 the
        call of guest_free_page_enqueue() right after it.
        Context: the freeing thread, or whoever drains or puts back; the lock of `zone` is held and
        interrupts are off. What it spends prolongs the hold. May wait: never.

        Args:
            guest: The guest.
            cpu: The vCPU that holds the lock.
            zone: The block's zone.
            pfn: First page of the free block, after merging.
            order: Its order, after merging; this is what a filter's `min_order` is compared with.
            freed: What was freed, before merging: `.pfn` and `.order`.
            origin: By what it was freed; a plain int with the values of `Origin`.
        """

    @_hook(waits="never", narrowable=True)
    def block_taken(
        self, guest: "Guest", zone: "Zone", pfn: int, order: int, reason: Reason
    ) -> None:
        """A block has left its free list.

        It is unlinked already and, when it is being split, its upper halves are not linked yet:
        changes of the free lists are refused here. Flags that are forgotten when taken have been.

        Kernel: __del_page_from_free_list().
        Context: whoever takes the block; the lock of `zone` is held and interrupts are off.
        May wait: never.

        Args:
            guest: The guest.
            zone: The block's zone.
            pfn: First page of the block.
            order: Its order on the list, before any split.
            reason: Why it left; a plain int with the values of `Reason`.
        """

    @_hook(waits="spin")
    def free_completed(self, guest: "Guest", cpu: int) -> Wait:
        """The freeing CPU has just released the zone lock, after a pcp drain or a direct free.

        The freeing thread pays for whatever happens here.

        Kernel: behind the spin_unlock() of free_pcppages_bulk() and free_one_page(), where v9
        calls guest_free_page_try_hinting().
        Context: the freeing thread, perhaps an interrupt; no zone lock. In 5.0 interrupts are off.
        In 6.12 they are on, and after a drain the pcp lock is held, after a direct free no lock.
        The drains of vmstat and of direct reclaim fire it too, in the context of a task (a work
        item, the allocating thread), which pays; it must not sleep there either. May wait: spin.

        Args:
            guest: The guest.
            cpu: The vCPU that freed.
        """

    @_hook(waits="spin", narrowable=True)
    def page_allocated(self, guest: "Guest", cpu: int, pfn: int, order: int) -> Wait:
        """A block has left pcp or free list for a caller, who does not have it yet.

        It has not been cleared: whatever waits here is part of the allocation's latency. It fires
        for a hit on a per-CPU list too, long after the block left the zone's free list. Flags that
        are forgotten when allocated are forgotten right after this hook is done.

        Kernel: arch_alloc_page(), at the start of post_alloc_hook().
        Context: the caller, perhaps an interrupt or a thread with interrupts off; no zone lock.
        May wait: spin, or make a call that holds its vCPU (``guest.host.shared.install``).

        Args:
            guest: The guest.
            cpu: The allocating vCPU.
            pfn: First page of the block.
            order: Its order.
        """

    @_hook(waits="sleep")
    def memory_low(self, guest: "Guest", zone: "Zone") -> Wait:
        """A blocking allocation found no memory; the strategy may have what would serve it.

        Fires in every round of direct reclaim (`Costs.reclaim_retries`; one for costly orders),
        for each zone that the allocation may use, one after the other, the preferred one first.
        After all of them the watermarks are looked at: when a zone could serve the allocation now,
        it tries again, else the next round begins, and after the last one it fails. So waiting for
        blocks in flight to come back turns a false OOM into a stall.

        Kernel: shrink_slab() below __alloc_pages_direct_reclaim(), for any order, whether or not
        the drain of the per-CPU lists that follows would have been enough; and in the last round,
        before it gives up, the OOM notifiers, which Linux calls up to order 3 only.
        Context: the allocating thread; no lock, interrupts on. May wait: sleep.

        Args:
            guest: The guest.
            zone: One of the zones that the allocation may use.
        """

    @_hook(waits="sleep")
    def guest_stopping(self, guest: "Guest") -> Wait:
        """The workload has ended: drain, give everything back, end every task.

        After it nothing may be isolated, held, marked or scheduled. The free lists still change
        while it waits, so the hooks above still fire.

        Kernel: the remove function of a driver, such as virtballoon_remove().
        Context: a task on CPU 0; no lock, interrupts on. May wait: sleep.

        Args:
            guest: The guest.
        """


HOOKS: MappingProxyType[str, HookInfo] = MappingProxyType(_declared)
"""Every hook by name, in the order of their declaration."""
