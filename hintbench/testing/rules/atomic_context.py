"""atomic-context: no await, report, sleep or sleeping allocation where nothing may sleep.

That is under a zone lock, in an atomic hook and in a completion; and one zone lock at a time.
Checked in every run by `hintbench.tasks.context_rules` and by `Guest.allocate_buffer`.

Source: might_sleep() and CONFIG_DEBUG_ATOMIC_SLEEP; v9 2/6 calls kmalloc(GFP_KERNEL) behind
get_cpu_var(), on paths of which __free_pages_ok() has interrupts off.
"""
