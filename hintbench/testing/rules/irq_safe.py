"""irq-safe: a zone lock, and any lock that a completion takes, is taken with interrupts off.

Checked when a context gets a lock that it asked for with ``interrupts_off=False``
(`hintbench.tasks.context_rules`), as lockdep reports "inconsistent {IN-HARDIRQ-W} ->
{HARDIRQ-ON-W}".

Source: Documentation/locking/lockdep-design.rst; the zone lock is taken from interrupts.
"""
