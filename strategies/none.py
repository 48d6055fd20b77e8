"""none: the baseline.

What it tracks: nothing. When it reports: never. What it holds: nothing.
Whose idea: a guest without free page hinting.
Known defects: the host gets nothing back; every figure of another strategy is read against it.
"""

from hintbench import Claims, Strategy


class Nothing(Strategy):
    """Reports nothing: the baseline that every other strategy is read against."""

    name = "none"

    def claims(self) -> Claims:
        """The host is never told of anything."""
        return Claims(reports_nothing=True)
