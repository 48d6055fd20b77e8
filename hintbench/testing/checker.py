"""The base of every rule's checker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hintbench.testing.runs.explored import ExploredRun


class Checker:
    """Base of every rule's checker; one instance sees one run.

    Besides the methods below a checker has methods for the events of `hintbench.guest.watching`
    that it wants to see.
    """

    rule = ""

    def __init__(self, run: ExploredRun) -> None:
        self.run = run

    def at_settled(self) -> None:
        """The workload has ended and the strategy had the time that it claims to need."""

    def at_stuck(self) -> None:
        """Nobody can go on any more."""

    def at_endless(self) -> None:
        """Steps are taken without end, though time may pass."""

    def at_stopping(self) -> None:
        """The strategy is about to be told to stop."""

    def at_stopped(self) -> None:
        """guest_stopping has ended, at this very moment."""

    def at_end(self) -> None:
        """The strategy has been stopped, and all that could still happen has."""

    def violate(self, text: str, kind: str = "", pfn: int = 0, pages: int = 0) -> None:
        """Say that the rule is broken."""
        self.run.violate(self.rule, text, kind, pfn, pages)
