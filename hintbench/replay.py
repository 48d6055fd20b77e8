"""What a workload needs to replay a real kernel's trace.

Read a trace with `read_trace`, a copy of /proc/kpageflags with `read_page_flags`, and make a
`hintbench.Program` of them with `modelled_program` or `exact_program`.
"""

from hintbench.trace_events import Trace
from hintbench.trace_program import exact_program, modelled_program
from hintbench.trace_state import read_lru_pages, read_page_flags
from hintbench.traces import SAMPLE, SAMPLE_PAGES, SAMPLE_PAGES_END, read_trace

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
