"""progress-under-spin: while vCPUs spin with interrupts off an acknowledgement still ends the spin.

Checked by the run itself: when nothing can go on any more although somebody spins, or a spin
outlasts two virtual minutes (`hintbench.testing.runs.explored`).

Source: reference strategies, bitmap-and-spin 9: a kthread on a vCPU that can spin, or an interrupt
to one, deadlocks; Hildenbrand on Duyck's bit: spinning can stop all vCPUs.
"""
