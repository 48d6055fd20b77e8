"""deterministic: the same scenario gives the same run, event by event.

Checked by running scenarios twice (`hintbench.testing.exploration`) and comparing the digests.

Source: DESIGN section 8; a strategy draws random numbers from guest.rng only.
"""
