"""Real kernels' traces: from text to columns, to a history of pages, to tapes, to a verdict.

`files` reads and keeps them, `history` says what happened to each page, `program` makes tapes of
it, `start` and `load` give a guest the state that the machine had, and `compare`, `truth` and
`verify` hold the model against the kernel.
"""

from hintbench.traces.files import (
    SAMPLE,
    SAMPLE_PAGES,
    SAMPLE_PAGES_END,
    MigratetypeOrder,
    Trace,
    read_trace,
    save_trace,
)

__all__ = [
    "SAMPLE",
    "SAMPLE_PAGES",
    "SAMPLE_PAGES_END",
    "MigratetypeOrder",
    "Trace",
    "read_trace",
    "save_trace",
]
