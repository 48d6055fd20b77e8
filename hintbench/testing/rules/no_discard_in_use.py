"""no-discard-in-use: no discard takes effect on a page that a caller has.

Checked with contents: every page that is handed out carries a stamp, a discard erases it, and the
owner looks for it when it frees the page; and at the moment of the discard
(`hintbench.core.audit`). Leaving the free list is not being handed out: a spinner is allowed.

Source: madvise(MADV_DONTNEED) by the host throws away what the page holds, whoever has it.
"""
