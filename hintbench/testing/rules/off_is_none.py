"""off-is-none: attached but disabled, a strategy changes nothing.

Checked by running a scenario with no strategy and with this one attached but off
(`hintbench.testing.comparisons`) and comparing the digests.

Source: a static key that is off is one jump; "attached but off" is a column of every table in
the review threads.
"""
