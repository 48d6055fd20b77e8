"""Whose CPU time it was, and how long interrupts were off for whom."""

import cython

from hintbench.core.contexts import HOOK, HOST, INTERRUPT, KERNEL, TASK, THREAD

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        PAYER_HOOK,
        PAYER_INTERRUPT,
        PAYER_KERNEL,
        PAYER_TASK,
        PAYER_THREAD,
    )
    from cython.cimports.hintbench.core.contexts import Context
else:
    from hintbench.core.constants import (
        PAYER_HOOK,
        PAYER_INTERRUPT,
        PAYER_KERNEL,
        PAYER_TASK,
        PAYER_THREAD,
    )
    from hintbench.core.contexts import Context

PAYERS = {
    THREAD: PAYER_THREAD,
    HOOK: PAYER_HOOK,
    TASK: PAYER_TASK,
    INTERRUPT: PAYER_INTERRUPT,
    KERNEL: PAYER_KERNEL,
    HOST: PAYER_TASK,
}
"""How the core numbers them. The first and `KERNEL` are the kernel's own work, the rest is the
strategy's."""


@cython.final
@cython.cclass
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

    def book(self, context: Context, now_ns: cython.longlong) -> cython.int:
        """A context has used its CPU since it was booked last."""
        if now_ns != context.booked_ns:
            self.cpu_ns[context.payer] += now_ns - context.booked_ns
            context.booked_ns = now_ns
        return 0

    def waited(self, context: Context, waited_ns: cython.longlong) -> cython.int:
        """A context kept its vCPU busy, or out of the guest, without running."""
        if context.parked == "held":
            self.held_ns += waited_ns
        else:
            self.spin_ns += waited_ns
        self.cpu_ns[context.payer] += waited_ns
        return 0

    def irqs_off(
        self, payer: str, since_ns: cython.longlong, now_ns: cython.longlong
    ) -> cython.int:
        """A CPU takes interrupts again."""
        if now_ns - since_ns > self.longest_irqs_off_ns[payer]:
            self.longest_irqs_off_ns[payer] = now_ns - since_ns
        return 0
