"""CPU time of the guest, by who pays for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hintbench.core.constants import PAYER_KERNEL, PAYER_THREAD
from hintbench.core.contexts import HOOK, INTERRUPT, KERNEL, TASK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench.core.accounts import Accounts
    from hintbench.core.hooks import CoreHooks, HookPoint

_UNDER_THE_LOCK: Final = ("block_merged", "block_freed", "block_taken")
_OUTSIDE: Final = ("page_freeing", "free_completed", "page_allocated")


def guest_cpu_ns(accounts: Accounts, hooks: CoreHooks) -> dict[str, int]:
    """CPU time of the guest, by payer: the strategy's three kinds, and the kernel's background.

    A plain hook is no context. Where a tape runs it, its time is only known to the hook; where
    a task of the kernel does, that task has been booked for it too.
    """
    in_thread = _spent(hooks, _UNDER_THE_LOCK + _OUTSIDE, PAYER_THREAD)
    in_kernel = _spent(hooks, _UNDER_THE_LOCK + _OUTSIDE, PAYER_KERNEL)
    return {
        HOOK: accounts.cpu_ns[HOOK] + in_thread + in_kernel,
        TASK: accounts.cpu_ns[TASK],
        INTERRUPT: accounts.cpu_ns[INTERRUPT],
        KERNEL: accounts.cpu_ns[KERNEL] - in_kernel,
    }


def hold_of_hooks_ns(hooks: CoreHooks, payer: int) -> int:
    """How much of the holds of one payer went to hooks that run under the zone lock."""
    return _spent(hooks, _UNDER_THE_LOCK, payer)


def _spent(hooks: CoreHooks, names: Iterable[str], payer: int) -> int:
    points: list[HookPoint | None] = [getattr(hooks, name) for name in names]
    return sum(point.spent_ns[payer] for point in points if point is not None)
