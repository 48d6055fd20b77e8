"""What these strategies share."""

ORDER = 9
UNIT = 1 << ORDER
DELAY = 300_000
"""Between a free and what is done about it [virtual ns]."""
