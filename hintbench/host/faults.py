"""What can go wrong at the host's side: an explored run answers, which makes it happen."""

from typing import Protocol


class HostFaults(Protocol):
    """How a host misbehaves; each is asked once for what it is named after."""

    async def indirect_table(self) -> None:
        """A request of several descriptors is added: its table may have to be allocated."""

    def queue_full(self) -> bool:
        """Whether this submission finds no room."""

    def refuses(self) -> bool:
        """Whether the host refuses the report that it begins to serve."""

    def stall_ns(self) -> int:
        """How much longer this descriptor takes [virtual ns]."""

    def answer_late_ns(self) -> int:
        """How much later than its end the guest hears of this report [virtual ns]."""

    def interrupt_late_ns(self) -> int:
        """How much later than the answer its interrupt is delivered [virtual ns]."""
