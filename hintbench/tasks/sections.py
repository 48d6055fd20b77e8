"""Sections of a running context: what it may do now, and as which hook the kernel calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hintbench.core.accounts import PAYERS
from hintbench.core.contexts import HOOK, Context
from hintbench.core.interrupts import InterruptsOff
from hintbench.core.scheduler import MAY_SLEEP, CoreScheduler
from hintbench.errors import HintbenchError
from hintbench.tasks.context_rules import is_atomic


class Sections(CoreScheduler):
    """What the running context may do now, and who pays for it."""

    # The core declares them where mypy does not look.
    current: Context | None  # type: ignore[assignment]
    look_again: Callable[[], None] | None  # type: ignore[assignment]
    restored: Callable[[], None] | None  # type: ignore[assignment]

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

    def interrupts_off(self) -> InterruptsOff:
        """local_irq_save() .. local_irq_restore() in the running context; nests."""
        return InterruptsOff(self)

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
            context.atomic -= name != MAY_SLEEP
            if name in self.atomic_hooks:
                context.interrupts_off -= 1
                self.interrupts_on(context)
            self._change_payer(context, before[1])

    def _change_payer(self, context: Context, payer: str) -> None:
        """From now on somebody else pays for what a running context does."""
        self.accounts.book(context, self.clock.now)
        context.payer = payer
        self.clock.payer = PAYERS[payer]
