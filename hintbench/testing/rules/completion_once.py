"""completion-once: each completion is consumed exactly once, whoever polls.

Several may share an interrupt, so a handler that takes one leaves the others; and a handler whose
completion somebody else took must not touch it. The first is found when completions are left over
after the workload; the second is told by the strategy itself (`Guest.oops`), where the kernel
would have dereferenced nothing.

Source: virtqueue_get_buf() loops in drivers/virtio; v9's hinting_ack() takes one buffer an
interrupt.
"""

from hintbench.testing.explored import Checker


class RuleChecker(Checker):
    """Looks whether completions are left."""

    rule = "completion-once"

    def at_settled(self) -> None:
        """All interrupts have been taken."""
        if self.run.guest.host.has_completions:
            self.violate("a completion was never fetched, and no interrupt will come", "left")
