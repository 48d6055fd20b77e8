"""conservation: every page is at every step in exactly one place.

Each event of the run is held against a table of legal transitions of every page's owner
(`hintbench.core.audit`), after every unlocked edit the free lists are looked through, and so are
they at the end (`hintbench.core.consistency`).

Source: Duyck on v9 2/6, "I'm pretty sure this code is not thread safe".
"""

from hintbench.testing.checker import Checker


class RuleChecker(Checker):
    """Looks through lists and counters when the run is over; the auditor does the rest."""

    rule = "conservation"

    def at_settled(self) -> None:
        """Nobody edits a list now."""
        self.run.check_lists()

    def at_end(self) -> None:
        """Nor now."""
        self.run.check_lists()
