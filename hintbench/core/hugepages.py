"""Arrays on huge pages of the machine that simulates.

The core looks into its arrays at random. With pages of 4 KiB most looks miss the processor's table
of addresses (TLB), and to walk the page tables, twice in a virtual machine, takes longer than the
miss of the cache itself. Under Linux's usual setting (`madvise`) huge pages are for who asks.
"""

import contextlib
import mmap
from typing import Any

import numpy

HUGE_BYTES = 2 << 20
_mapped_bytes = 0


def zeros(count: int, dtype: Any) -> Any:
    """As ``numpy.zeros()``; on huge pages where it is that large and the system has some.

    What is never touched costs no memory.

    Args:
        count: elements.
        dtype: of each.
    """
    global _mapped_bytes
    size = count * numpy.dtype(dtype).itemsize
    if size < HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return numpy.zeros(count, dtype=dtype)
    # Not shared: other rules hold for shared memory.
    area = mmap.mmap(-1, size + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel without huge pages does not know the advice.
    with contextlib.suppress(OSError):
        area.madvise(mmap.MADV_HUGEPAGE)
    _mapped_bytes += size
    address = numpy.frombuffer(area, dtype=numpy.uint8).__array_interface__["data"][0]
    return numpy.frombuffer(area, dtype=dtype, count=count, offset=-address % HUGE_BYTES)


def mapped_bytes() -> int:
    """Bytes of all such arrays so far; ``tracemalloc`` does not see them."""
    return _mapped_bytes
