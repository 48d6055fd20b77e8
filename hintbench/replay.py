"""What a workload needs to replay a real kernel's trace.

Read a trace with `read_trace`, a copy of /proc/kpageflags with `read_page_flags`, and make a
`hintbench.Program` of them with `modelled_program` or `exact_program`.
"""

from hintbench.traces import SAMPLE, SAMPLE_PAGES, SAMPLE_PAGES_END, read_trace
from hintbench.traces.events import Trace
from hintbench.traces.program import exact_program, modelled_program
from hintbench.traces.state import read_lru_pages, read_page_flags

__all__ = [
    "SAMPLE",
    "SAMPLE_PAGES",
    "SAMPLE_PAGES_END",
    "Trace",
    "exact_program",
    "modelled_program",
    "read_lru_pages",
    "read_page_flags",
    "read_trace",
]
