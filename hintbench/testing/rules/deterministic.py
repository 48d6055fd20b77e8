"""deterministic: the same scenario gives the same run, event by event.

Checked by running scenarios twice (`hintbench.testing.comparisons`) and comparing the digests.

Source: nothing that is measured could be repeated without it. A strategy draws random numbers from
guest.rng only.
"""
