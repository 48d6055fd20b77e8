"""When a kernel timer fires: never early, and up to an eighth late.

A timer of the kernel goes into a wheel of several levels, which are the coarser the longer it runs
(kernel/time/timer.c since 4.8). At 250 Hz one of 2 s, as page reporting sets it, or of 1 s, as
vmstat does, fires on a multiple of 8 jiffies: up to 32 ms late.
"""

from typing import Final

HZ: Final = 250
"""CONFIG_HZ of the usual distributions, and of the recorded guests."""
JIFFY_NS: Final = 1_000_000_000 // HZ
"""One jiffy [ns]."""
LEVEL_SHIFT: Final = 3
"""LVL_CLK_SHIFT: each level is 8 times coarser than the one below."""
LEVEL_SIZE: Final = 64
"""LVL_SIZE: buckets of a level."""
LEVELS: Final = 9
GRID_NS: Final = JIFFY_NS << LEVEL_SHIFT
"""Timers of 63 to 503 jiffies (0.25 to 2 s) fire on multiples of this [ns]."""


def timer_fires_ns(now_ns: int, delay_ns: int, phase_ns: int = 0) -> int:
    """When a timer fires, as calc_wheel_index() has it.

    Args:
        now_ns: when it is started [virtual ns].
        delay_ns: how long it is to run [virtual ns]; rounded up to jiffies.
        phase_ns: a time at which jiffies was a multiple of every level's step [virtual ns].

    Returns:
        The virtual time [ns], after ``now_ns + delay_ns``.
    """
    now = (now_ns - phase_ns) // JIFFY_NS
    delay = -(-delay_ns // JIFFY_NS)
    level = 0
    while level < LEVELS - 1 and delay >= (LEVEL_SIZE - 1) << (level * LEVEL_SHIFT):
        level += 1
    shift = level * LEVEL_SHIFT
    return ((now + delay >> shift) + 1 << shift) * JIFFY_NS + phase_ns
