"""Sections of a context with interrupts off."""

import cython

from hintbench.core.contexts import HOOK

if cython.compiled:
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.contexts import Context
    from cython.cimports.hintbench.core.scheduler import CoreScheduler
else:
    from hintbench.core.clock import VirtualClock
    from hintbench.core.contexts import Context
    from hintbench.core.scheduler import CoreScheduler


@cython.final
@cython.freelist(8)
@cython.cclass
class InterruptsOff:
    """local_irq_save() .. local_irq_restore() in the running context; nests."""

    def __init__(self, scheduler: CoreScheduler) -> None:
        self.scheduler = scheduler
        self.context = None
        self.since_ns = 0
        self.locks = 0

    def __enter__(self) -> None:
        context: Context = self.scheduler.current
        self.context = context
        self.since_ns = self.scheduler.clock.now
        self.locks = self.scheduler.takes.held_by(
            self.scheduler.clock.context if context is None else context.number
        )
        if context is not None:
            if not context.interrupts_off:
                context.irqs_off_ns = self.since_ns
            context.interrupts_off += 1
        else:
            # A plain hook in a tape.
            self.scheduler.off_in_hook += 1

    def __exit__(self, *exception: object) -> None:
        context: Context = self.context
        clock: VirtualClock = self.scheduler.clock
        if context is not None:
            context.interrupts_off -= 1
            if not context.interrupts_off and exception[0] is None:
                if self.scheduler.takes.held_by(context.number):
                    self.scheduler.rules.check_interrupts_on(context, self.locks)
            if context.cpu >= 0 and not context.interrupts_off:
                self.scheduler.interrupts_on(context)
                if self.scheduler.restored is not None and exception[0] is None:
                    self.scheduler.restored()
            return
        self.scheduler.off_in_hook -= 1
        if exception[0] is None and not self.scheduler.off_in_hook:
            if not self.scheduler.off_by_hook and self.scheduler.takes.held_by(clock.context):
                self.scheduler.rules.check_interrupts_on(None, self.locks)
        if exception[0] is None and clock.cpu >= 0:
            self.scheduler.processors.interrupts_were_off(clock.cpu, self.since_ns, HOOK)
            if self.scheduler.restored is not None and not self.scheduler.off_in_hook:
                self.scheduler.restored()
