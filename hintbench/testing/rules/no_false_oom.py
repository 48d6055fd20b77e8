"""no-false-oom: a blocking allocation never fails while the strategy holds what would serve it.

It gets the blocks, or waits at most as long as they are in flight. Checked where an allocation
fails, in every run (`hintbench.kernel_threads`).

Source: Hildenbrand and Duyck on v9; the watermark gate of page reporting.
"""
