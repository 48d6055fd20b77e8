"""What the kernel says of its own free memory: /proc/kpageflags and /proc/pagetypeinfo."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hintbench.core.constants import MAX_PAGE_ORDER, NR_PAGE_ORDERS
from hintbench.errors import TraceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

UNKNOWN_TYPE: Final = 255
"""The migratetype of a pageblock of which nothing is known."""
KPF_LRU: Final = 5  # include/uapi/linux/kernel-page-flags.h
KPF_BUDDY: Final = 10
_TYPES: Final = {"Unmovable": 0, "Movable": 1, "Reclaimable": 2, "HighAtomic": 3}
_FREE_LINE: Final = re.compile(r"Node\s+(\d+), zone\s+(\w+), type\s+(\w+)((?:\s+>?\d+)+)\s*$")
_BLOCKS_LINE: Final = re.compile(r"Node\s+(\d+), zone\s+(\w+)((?:\s+\d+)+)\s*$")
_BLOCKS_HEAD: Final = re.compile(r"Number of blocks type\s+(.*)$")


@dataclass(frozen=True, slots=True, eq=False)
class FreeBlocks:
    """Free buddy blocks, by page.

    Attributes:
        pfn: First page of each block, rising; int32.
        order: Its order; int8.
    """

    pfn: npt.NDArray[np.int32]
    order: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.pfn)

    def by_order(self) -> tuple[int, ...]:
        """Number of blocks of each order 0..10."""
        import numpy as np

        return tuple(int(n) for n in np.bincount(self.order, minlength=NR_PAGE_ORDERS))


def read_page_flags(path: str | Path) -> npt.NDArray[np.bool_]:
    """Read which pages are in free buddy blocks from a copy of /proc/kpageflags.

    Args:
        path: 64-bit little-endian words, one a page frame from 0 on; plain or gzip.

    Returns:
        For each page frame whether KPF_BUDDY is set. The kernel sets it on every page of a free
        block; pages on per-CPU lists do not have it.

    Raises:
        TraceError: When the file cannot be read or is no such copy.
    """
    return _has_flag(path, KPF_BUDDY)


def read_lru_pages(path: str | Path) -> npt.NDArray[np.bool_]:
    """Read which pages are on an LRU list, and so can be moved, from a copy of /proc/kpageflags.

    Args:
        path: As for `read_page_flags`.

    Returns:
        For each page frame whether KPF_LRU is set.

    Raises:
        TraceError: When the file cannot be read or is no such copy.
    """
    return _has_flag(path, KPF_LRU)


def _has_flag(path: str | Path, bit: int) -> npt.NDArray[np.bool_]:
    import numpy as np

    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}: is damaged: {error}") from error
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data or len(data) % 8:
        raise TraceError(
            f"{path}: is no copy of /proc/kpageflags: {len(data)} bytes are"
            " not a whole number of 64-bit words"
        )
    flags = np.frombuffer(data, dtype="<u8")
    if (flags >> np.uint64(48) != 0).any():
        raise TraceError(f"{path}: is no copy of /proc/kpageflags: it has unknown flags")
    return (flags >> np.uint64(bit) & np.uint64(1)).astype(bool)


def free_blocks(free: npt.NDArray[np.bool_]) -> FreeBlocks:
    """Decompose free pages into the buddy blocks that they must form.

    Two free buddies of one order are never left unmerged below the largest order, so the blocks
    are the largest aligned ones. (The kernel keeps such buddies apart only when one is isolated.)

    Args:
        free: Whether each page is in a free block.
    """
    import numpy as np

    largest = np.full(len(free), -1, dtype=np.int8)
    whole = np.asarray(free, dtype=bool)
    heads = [np.flatnonzero(whole)]
    for _ in range(MAX_PAGE_ORDER):
        pairs = len(whole) // 2
        whole = whole[: pairs * 2 : 2] & whole[1 : pairs * 2 : 2]
        heads.append(np.flatnonzero(whole))
    for order, indices in enumerate(heads):
        largest[indices << order] = order
    # From the largest order down, a block swallows everything inside it.
    taken = np.zeros(len(free), dtype=bool)
    pfns, orders = [], []
    for order in range(MAX_PAGE_ORDER, -1, -1):
        first = heads[order] << order
        first = first[~taken[first]]
        taken[(first[:, None] + np.arange(1 << order)).ravel()] = True
        pfns.append(first)
        orders.append(np.full(len(first), order, dtype=np.int8))
    pfn = np.concatenate(pfns).astype(np.int32)
    order_of = np.concatenate(orders)
    rising = np.argsort(pfn)
    return FreeBlocks(pfn[rising], order_of[rising])


@dataclass(frozen=True, slots=True)
class PageTypes:
    """A copy of /proc/pagetypeinfo.

    Attributes:
        free: Free blocks by order 0..10, by (node, zone, migratetype).
        pageblocks: Pageblocks by (node, zone, migratetype).
    """

    free: Mapping[tuple[int, str, int], tuple[int, ...]]
    pageblocks: Mapping[tuple[int, str, int], int]

    def free_by_order(self, zone: str | None = None) -> tuple[int, ...]:
        """Free blocks of each order, of one zone or of all."""
        rows = [row for key, row in self.free.items() if zone in (None, key[1])]
        return tuple(map(sum, zip(*rows, strict=True))) if rows else (0,) * NR_PAGE_ORDERS


def read_page_types(path: str | Path) -> PageTypes:
    """Read a copy of /proc/pagetypeinfo; types other than the first four are left out.

    Raises:
        TraceError: When the file cannot be read or is no such copy.
    """
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    free: dict[tuple[int, str, int], tuple[int, ...]] = {}
    blocks: dict[tuple[int, str, int], int] = {}
    names: list[str] = []
    for line in text.splitlines():
        if match := _FREE_LINE.match(line):
            if match[3] in _TYPES:
                counts = tuple(int(word.lstrip(">")) for word in match[4].split())
                free[int(match[1]), match[2], _TYPES[match[3]]] = counts
        elif match := _BLOCKS_HEAD.match(line):
            names = match[1].split()
        elif names and (match := _BLOCKS_LINE.match(line)):
            for name, count in zip(names, match[3].split(), strict=False):
                if name in _TYPES:
                    blocks[int(match[1]), match[2], _TYPES[name]] = int(count)
    if not free:
        raise TraceError(f"{path}: is no copy of /proc/pagetypeinfo")
    return PageTypes(free, blocks)
