"""The text of a trace for benchmarks, in the form of ftrace: order-0 pages taken and given back."""

from pathlib import Path
from typing import Final

_CPUS: Final = 4
_LIVE: Final = 50_000
_FIRST_PFN: Final = 0x40000
_ALLOC: Final = (
    "            work-200     [{cpu:03d}] .....    {seconds}.{micros:06d}: mm_page_alloc:"
    " page=(____ptrval____) pfn={pfn:#x} order=0 migratetype=1"
    " gfp_flags=GFP_HIGHUSER_MOVABLE|__GFP_ZERO\n"
)
_FREE: Final = (
    "            work-200     [{cpu:03d}] .....    {seconds}.{micros:06d}: mm_page_free:"
    " page=(____ptrval____) pfn={pfn:#x} order=0\n"
)


def write_trace(path: str | Path, lines: int) -> None:
    """Write the text of a trace: 50,000 live pages of which one after the other is replaced.

    Args:
        path: the file.
        lines: how many events; an even number.
    """
    with open(path, "w", encoding="ascii") as file:
        file.write("# tracer: nop\n#\n")
        for number in range(lines):
            replaced, freed = divmod(max(number - _LIVE, 0), 2)
            page = number if number < _LIVE else replaced * 7919 % _LIVE
            text = _FREE if number >= _LIVE and not freed else _ALLOC
            seconds, micros = divmod(number, 1_000_000)
            file.write(
                text.format(
                    cpu=page % _CPUS, seconds=10 + seconds, micros=micros, pfn=_FIRST_PFN + page
                )
            )
