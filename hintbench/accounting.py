"""Whose CPU time it was, and how long interrupts were off for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hintbench.contexts import HOOK, HOST, INTERRUPT, KERNEL, TASK, THREAD, Context
from hintbench.core.constants import (
    PAYER_HOOK,
    PAYER_INTERRUPT,
    PAYER_KERNEL,
    PAYER_TASK,
    PAYER_THREAD,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench.core.hooks import CoreHooks, HookPoint

PAYERS: Final = {
    THREAD: PAYER_THREAD,
    HOOK: PAYER_HOOK,
    TASK: PAYER_TASK,
    INTERRUPT: PAYER_INTERRUPT,
    KERNEL: PAYER_KERNEL,
    HOST: PAYER_TASK,
}
"""How the core numbers them. The first and `KERNEL` are the kernel's own work, the rest is the
strategy's."""
_UNDER_THE_LOCK: Final = ("block_merged", "block_freed", "block_taken")
_OUTSIDE: Final = ("page_freeing", "free_completed", "page_allocated")


class Accounts:
    """What contexts used, by payer.

    Attributes:
        cpu_ns: CPU time of contexts, spinning and being held by the host included [virtual ns].
        longest_irqs_off_ns: the longest time for which a CPU took no interrupts, by who ended it;
            those of locks are known to the locks.
        spin_ns, held_ns: virtual time that contexts spun, and that vCPUs were out of the guest.
    """

    def __init__(self) -> None:
        self.cpu_ns = dict.fromkeys((HOOK, TASK, INTERRUPT, KERNEL, HOST), 0)
        self.longest_irqs_off_ns = dict.fromkeys(PAYERS, 0)
        self.spin_ns = 0
        self.held_ns = 0

    def book(self, context: Context, now_ns: int) -> None:
        """A context has used its CPU since it was booked last."""
        self.cpu_ns[context.payer] += now_ns - context.booked_ns
        context.booked_ns = now_ns

    def waited(self, context: Context, waited_ns: int) -> None:
        """A context kept its vCPU busy, or out of the guest, without running."""
        if context.parked == "held":
            self.held_ns += waited_ns
        else:
            self.spin_ns += waited_ns
        self.cpu_ns[context.payer] += waited_ns

    def irqs_off(self, payer: str, since_ns: int, now_ns: int) -> None:
        """A CPU takes interrupts again."""
        self.longest_irqs_off_ns[payer] = max(self.longest_irqs_off_ns[payer], now_ns - since_ns)

    def guest_cpu_ns(self, hooks: CoreHooks) -> dict[str, int]:
        """CPU time of the guest, by payer: the strategy's three kinds, and the kernel's background.

        A plain hook is no context. Where a tape runs it, its time is only known to the hook; where
        a task of the kernel does, that task has been booked for it too.
        """
        in_thread = _spent(hooks, _UNDER_THE_LOCK + _OUTSIDE, PAYER_THREAD)
        in_kernel = _spent(hooks, _UNDER_THE_LOCK + _OUTSIDE, PAYER_KERNEL)
        return {
            HOOK: self.cpu_ns[HOOK] + in_thread + in_kernel,
            TASK: self.cpu_ns[TASK],
            INTERRUPT: self.cpu_ns[INTERRUPT],
            KERNEL: self.cpu_ns[KERNEL] - in_kernel,
        }


def hold_of_hooks_ns(hooks: CoreHooks, payer: int) -> int:
    """How much of the holds of one payer went to hooks that run under the zone lock."""
    return _spent(hooks, _UNDER_THE_LOCK, payer)


def _spent(hooks: CoreHooks, names: Iterable[str], payer: int) -> int:
    points: list[HookPoint | None] = [getattr(hooks, name) for name in names]
    return sum(point.spent_ns[payer] for point in points if point is not None)
