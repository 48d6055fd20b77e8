"""Sections of a running context: with interrupts off, and as a hook that the kernel calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hintbench.accounting import PAYERS, Accounts
from hintbench.context_rules import MAY_SLEEP, ContextRules, is_atomic
from hintbench.contexts import HOOK, Context
from hintbench.errors import HintbenchError

if TYPE_CHECKING:
    from hintbench.core.clock import VirtualClock
    from hintbench.processors import Processors


class Sections:
    """What the running context may do now, and who pays for it.

    Args:
        clock: virtual time.
        rules: what contexts may do.

    Attributes:
        current: the context that runs; None while the core, or a plain hook in a tape, does.
        accounts: whose CPU time it was.
        atomic_hooks: hooks that run with interrupts off.
        off_in_hook: how many sections that switch interrupts off a plain hook in a tape is in.
        interrupts_on: called whenever a section ends and interrupts are on again; may be None.
    """

    processors: Processors

    def __init__(self, clock: VirtualClock, rules: ContextRules) -> None:
        self.clock = clock
        self.rules = rules
        self.current: Context | None = None
        self.accounts = Accounts()
        self.atomic_hooks: frozenset[str] = frozenset()
        self.off_in_hook = 0
        self.interrupts_on: Callable[[], None] | None = None

    def require_sleep(self, what: str) -> None:
        """Refuse what the running context would have to sleep for.

        Args:
            what: as in "sleeps".

        Raises:
            PluginError: it must not sleep.
        """
        if self.current is not None:
            self.rules.check_sleep(self.current, what)

    @property
    def atomic(self) -> bool:
        """Whether the running context must not sleep."""
        return self.current is None or is_atomic(self.current)

    @contextmanager
    def interrupts_off(self) -> Iterator[None]:
        """local_irq_save() .. local_irq_restore() in the running context; nests."""
        context = self.current
        if context is None:
            # A plain hook in a tape.
            since_ns = self.clock.now
            self.off_in_hook += 1
            try:
                yield
            finally:
                self.off_in_hook -= 1
                if self.clock.cpu >= 0:
                    self.processors.interrupts_were_off(self.clock.cpu, since_ns, HOOK)
            return
        if not context.interrupts_off:
            context.irqs_off_ns = self.clock.now
        context.interrupts_off += 1
        try:
            yield
        finally:
            context.interrupts_off -= 1
            if context.cpu >= 0 and not context.interrupts_off:
                self._interrupts_on(context)
        if self.interrupts_on is not None and not context.interrupts_off:
            self.interrupts_on()

    @contextmanager
    def as_hook(self, name: str, since_ns: int = 0) -> Iterator[Context]:
        """A task or slow path of the kernel's calls a hook of the strategy.

        The hook is held to its rules, its costs are the strategy's, and so is the blame.

        Args:
            name: the hook's.
            since_ns: since when interrupts are off, if they are.
        """
        context = self.current
        assert context is not None
        before = context.name, context.payer
        self._change_payer(context, HOOK)
        context.name = name
        context.irqs_off_ns = since_ns
        context.atomic += name != MAY_SLEEP
        context.interrupts_off += name in self.atomic_hooks
        try:
            yield context
        except HintbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise self.rules.blame(error, name) from error
        finally:
            context.name = before[0]
            self._change_payer(context, before[1])
            context.atomic -= name != MAY_SLEEP
            if name in self.atomic_hooks:
                context.interrupts_off -= 1
                self.processors.interrupts_were_off(context.cpu, context.irqs_off_ns, HOOK)

    def _change_payer(self, context: Context, payer: str) -> None:
        """From now on somebody else pays for what a running context does."""
        self.accounts.book(context, self.clock.now)
        context.payer = payer
        self.clock.payer = PAYERS[payer]

    def _interrupts_on(self, context: Context) -> None:
        """A context switches interrupts on again."""
        self.processors.interrupts_were_off(context.cpu, context.irqs_off_ns, context.payer)
