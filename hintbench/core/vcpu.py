"""A vCPU: its tape, the operation in hand, and how far a drain or merge in progress has got."""

from collections.abc import Iterator
from typing import Any

import cython
import numpy

from hintbench.core.hugepages import zeros

if cython.compiled:
    from cython.cimports.hintbench.core.constants import HIGHATOMIC, KERNEL_6_12
    from cython.cimports.hintbench.core.fallback import FallbackMode
    from cython.cimports.hintbench.core.pcp import PerCpuPages, index_order
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import HIGHATOMIC, KERNEL_6_12
    from hintbench.core.fallback import FallbackMode
    from hintbench.core.pcp import PerCpuPages, index_order
    from hintbench.core.zone import Zone

    # The phases of an operation (an enum of vcpu.pxd when compiled).  Each is a step of its own.
    READY = 0
    FIND_ZONE = 1
    REFILL = 2
    DIRECT_TAKE = 3
    HAND_OVER = 4
    FINISH_ALLOCATION = 5
    COMMIT_FREE = 6
    DRAIN = 7
    DRAIN_AGAIN = 8
    DIRECT_FREE = 9
    DIRECT_AGAIN = 10
    DONE = 11
    IN_HOOK = 12
    SLOW_PATH = 13
    FINISHED = 14
    EXACT = 15
    EXACT_AGAIN = 16
    RESERVE = 17

# How many operations are made ready at a time; few enough for a core's own cache.
_PIECE = cython.declare(cython.Py_ssize_t, 2048)
# A cache line more than a power of two, so that what the vCPUs read at one time lies
# in different sets of the cache.
_STRIDE = cython.declare(cython.Py_ssize_t, 2048 + 8)


@cython.final
@cython.cclass
class Drain:
    """free_pcppages_bulk() in progress: which page of a pcp goes back next.

    6.12 empties one list after the other from ``pindex`` on; 5.0 goes round robin over the
    migratetypes and takes more from a list the more empty ones it met (``batch_free``).

    Attributes:
        waiting: the coroutine of a ``block_merged`` hook that has dropped the zone lock. The merge
            stands at ``merge_pfn``, ``merge_order`` and ``merge_type``; they are kept here, since
            meanwhile others free pages of the same zone.
    """

    def __init__(self) -> None:
        self.pcp = None
        self.left = 0
        self.pindex = 0
        self.batch_free = 0
        self.in_list = False
        self.order = 0
        self.pfn = -1
        self.drained = 0
        self.waiting = None
        self.merge_pfn = 0
        self.merge_order = 0
        self.merge_type = 0

    def begin(self, pcp: PerCpuPages, count: cython.longlong, pindex: cython.int) -> cython.int:
        """Start a drain of ``count`` pages; ``pindex`` is the list to start with (6.12)."""
        self.pcp = pcp
        self.left = min(count, pcp.count)
        self.batch_free = 0
        self.in_list = False
        self.drained = 0
        # 5.0 increments before it looks, from migratetype 0.
        self.pindex = pindex if pcp.zone.kernel >= KERNEL_6_12 else 0
        return 0

    def next_pfn(self) -> cython.int:
        """Unlink the next page, coldest first; -1 when the drain is done."""
        pcp: PerCpuPages = self.pcp
        head: cython.int
        if self.left <= 0 or pcp.count <= 0:
            # Also when somebody else emptied the lists before the lock was granted.
            return -1
        head = pcp.first_list + self.pindex
        if not self.in_list or pcp.pages.next[head] == head:
            self._next_list()
            head = pcp.first_list + self.pindex
        self.order = index_order(self.pindex)
        self.pfn = pcp.pages.prev[head]
        pcp.pages.remove(self.pfn)
        pcp.count -= 1 << self.order
        self.left -= 1 << self.order
        self.drained += 1
        if pcp.zone.kernel < KERNEL_6_12:
            self.batch_free -= 1
            self.in_list = self.batch_free > 0
        return self.pfn

    def keep_merge(self, zone: Zone) -> cython.int:
        """Remember a merge of ``zone`` whose hook waits."""
        self.waiting = zone.waiting
        self.merge_pfn = zone.merge_pfn
        self.merge_order = zone.merge_order
        self.merge_type = zone.merge_type
        zone.waiting = None
        return 0

    def resume_merge(
        self, zone: Zone, origin: cython.int, freed_pfn: cython.int, freed_order: cython.int
    ) -> cython.int:
        """The hook has ended: go on with its merge. Another hook may make it wait again."""
        self.waiting = None
        zone.merge(
            self.merge_pfn,
            self.merge_order,
            self.merge_type,
            False,
            origin,
            freed_pfn,
            freed_order,
        )
        if zone.waiting is not None:
            self.keep_merge(zone)
        return 0

    def _next_list(self) -> cython.int:
        pcp: PerCpuPages = self.pcp
        head: cython.int
        if pcp.zone.kernel >= KERNEL_6_12:
            self.pindex = pcp.next_list(self.pindex)
            self.in_list = True
            return 0
        # What a list that ran out left over is carried on.
        while True:
            self.batch_free += 1
            self.pindex += 1
            if self.pindex >= HIGHATOMIC:
                self.pindex = 0
            head = pcp.first_list + self.pindex
            if pcp.pages.next[head] != head:
                break
        if self.batch_free == HIGHATOMIC:
            # The only list with pages: all of it.
            self.batch_free = self.left
        self.in_list = True
        return 0


@cython.final
@cython.cclass
class Vcpu:
    """One vCPU: what it runs and where it stands.

    Args:
        number: its number.
        node: its NUMA node.
        zonelist: the zones it allocates from, preferred first.
        pcps: its per-CPU pages by zone index.
        blocks: yields (codes, values, times) arrays: its tape.

    Attributes:
        waits_behind: what its slot held when it began to wait for it: nothing, or who else waits.
        irqs_off_ns: when it last switched interrupts off to free under a zone lock.
    """

    def __init__(
        self,
        number: int,
        node: int,
        zonelist: list[Any],
        pcps: list[Any],
        blocks: Iterator[Any],
    ) -> None:
        self.number = number
        self.node = node
        self.zonelist = zonelist
        self.pcps = pcps
        self.blocks = blocks
        self.phase = READY
        self.after = READY
        self.position = 0
        self.length = 0
        self.started = 0
        self.order = 0
        self.migratetype = 0
        self.slot = 0
        self.waits_behind = 0
        self.pfn = -1
        self.zone_at = 0
        self.highest_zone = 0
        self.flags = 0
        self.no_fragment = False
        self.judged_zone = -1
        self.avoids_fragments = False
        self.several_nodes = len({zone.node for zone in zonelist}) > 1
        self.preferred_node = node
        self.slow = False
        self.irqs_off_ns = 0
        self.lock_wait = 0
        self.spin = 0
        self.slow_path = 0
        self.piece_end = 0
        self.clearing = False
        self.piece_at = 0
        self.block_length = 0
        self.room = 0
        self.timed = False
        self.idle = False
        self.idle_ns = 0
        self.finished_ns = 0
        self.woken = False
        self.drain = Drain()
        self.mode = FallbackMode()
        self.coroutine = None
        self.hook = ""

    def place_words(self, words: Any) -> None:
        """Have operations made ready in ``words``, if none are yet."""
        if self.room == 0:
            self.words = words
            self.room = len(words)

    def next_block(self) -> cython.int:
        """Make the tape's next operations ready; 0 at its end."""
        while self.piece_at >= self.block_length:
            block = next(self.blocks, None)
            if block is None:
                self.position = 0
                self.length = 0
                return 0
            self.codes = memoryview(numpy.ascontiguousarray(block.code))
            self.values = memoryview(numpy.ascontiguousarray(block.value))
            self.block_times = memoryview(numpy.ascontiguousarray(block.time_ns))
            self.block_length = len(block.code)
            self.piece_at = 0
        return self._unpack()

    def _unpack(self) -> cython.int:
        """Join codes and values: one stream of memory instead of two.

        A piece at a time, which stays in the cache until it is used.
        """
        first: cython.Py_ssize_t = self.piece_at
        end: cython.Py_ssize_t = min(first + _PIECE, self.block_length)
        at: cython.Py_ssize_t
        any_time: cython.longlong = 0
        if end - first > self.room:
            self.room = _PIECE
            self.words = memoryview(numpy.empty(self.room, dtype=numpy.uint64))
        for at in range(first, end):
            self.words[at - first] = (
                cython.cast(cython.ulonglong, self.values[at]) << 32
            ) | self.codes[at]
            any_time |= self.block_times[at]
        self.times = self.block_times[first:end]
        self.timed = any_time != 0
        self.position = 0
        self.length = end - first
        self.piece_at = end
        return 1


def place_words(vcpus: list[Any]) -> None:
    """Let the ready operations of many vCPUs lie in one array, on huge pages if that is large.

    Each is a stream of its own; on pages of 4 KiB 256 of them would not leave the processor's
    table of addresses much room for anything else.
    """
    words = zeros(len(vcpus) * _STRIDE, dtype=numpy.uint64)
    for number, vcpu in enumerate(vcpus):
        first = number * _STRIDE
        vcpu.place_words(memoryview(words[first : first + _PIECE]))
