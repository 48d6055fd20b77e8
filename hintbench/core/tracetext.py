"""The text of kernel traces, one line after the other, into columns of numbers.

Reads the page allocator's events (``include/trace/events/kmem.h``) as ftrace, ``perf script``,
``trace-cmd report`` and the function_graph tracer print them, with and without the column of
flags, with pfns in decimal or hexadecimal, under their names of today and of before 3.3. What
cannot be used is counted, with the numbers of the first lines concerned, and never raises.
"""

import re

import cython

# Kinds of rows.
PAGE_ALLOC = 1
PAGE_FREE = 2
PAGE_FREE_BATCHED = 3
ZONE_LOCKED = 4
PCPU_DRAIN = 5
EXTFRAG = 6
PCPU_REFILL = 7
MARK = 8
PROBE = 9

# What an allocation asked for: bits of the column `flags`.
GFP_ZERO = 1 << 0
GFP_COMP = 1 << 1
GFP_DIRECT_RECLAIM = 1 << 2
GFP_KSWAPD_RECLAIM = 1 << 3
GFP_NORETRY = 1 << 4
GFP_DMA = 1 << 5
GFP_DMA32 = 1 << 6
GFP_MOVABLE = 1 << 7
GFP_HIGHMEM = 1 << 8
GFP_HIGH = 1 << 9
GFP_NOWARN = 1 << 10
GFP_UNKNOWN = 1 << 15
# Who caused the event.
IN_IRQ = 1 << 16
BY_KCOMPACTD = 1 << 17
BY_KSWAPD = 1 << 18
BY_KWORKER = 1 << 19
BY_KHUGEPAGED = 1 << 20

# Column `aux` of EXTFRAG rows; of ZONE_LOCKED rows it is percpu_refill.
AUX_ORDER_MASK = 0xF
AUX_MIGRATETYPE_SHIFT = 4
AUX_FRAGMENTING = 1 << 7
AUX_CHANGE_OWNERSHIP = 1 << 8

COLUMNS = {
    "time_ns": "int64",
    "pfn": "int64",
    "flags": "uint32",
    "aux": "int32",
    "pid": "int32",
    "cpu": "int16",
    "kind": "uint8",
    "order": "int8",
    "migratetype": "int8",
}
# "[0]1:a:(" and a line feed is the shortest line that makes a row.
SHORTEST_ROW = 8
KEPT_FAULT_LINES = 20

_RECLAIM = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM
_HIGHUSER_MOVABLE = _RECLAIM | GFP_HIGHMEM | GFP_MOVABLE
# include/trace/events/mmflags.h and include/linux/gfp_types.h; names that say nothing here are 0.
_GFP_NAMES = {
    "GFP_TRANSHUGE": _HIGHUSER_MOVABLE & ~GFP_KSWAPD_RECLAIM | GFP_COMP | GFP_NOWARN,
    "GFP_TRANSHUGE_LIGHT": GFP_HIGHMEM | GFP_MOVABLE | GFP_COMP | GFP_NOWARN,
    "GFP_HIGHUSER_MOVABLE": _HIGHUSER_MOVABLE,
    "GFP_HIGHUSER": _RECLAIM | GFP_HIGHMEM,
    "GFP_USER": _RECLAIM,
    "GFP_KERNEL_ACCOUNT": _RECLAIM,
    "GFP_KERNEL": _RECLAIM,
    "GFP_NOFS": _RECLAIM,
    "GFP_NOIO": _RECLAIM,
    "GFP_TEMPORARY": _RECLAIM,
    "GFP_ATOMIC": GFP_HIGH | GFP_KSWAPD_RECLAIM,
    "GFP_NOWAIT": GFP_KSWAPD_RECLAIM | GFP_NOWARN,
    "GFP_DMA": GFP_DMA,
    "__GFP_DMA": GFP_DMA,
    "GFP_DMA32": GFP_DMA32,
    "__GFP_DMA32": GFP_DMA32,
    "__GFP_HIGHMEM": GFP_HIGHMEM,
    "__GFP_MOVABLE": GFP_MOVABLE,
    "__GFP_HIGH": GFP_HIGH,
    "__GFP_ATOMIC": GFP_HIGH,
    "__GFP_ZERO": GFP_ZERO,
    "__GFP_COMP": GFP_COMP,
    "__GFP_NORETRY": GFP_NORETRY,
    "__GFP_NOWARN": GFP_NOWARN,
    "__GFP_DIRECT_RECLAIM": GFP_DIRECT_RECLAIM,
    "__GFP_WAIT": GFP_DIRECT_RECLAIM,
    "GFP_WAIT": GFP_DIRECT_RECLAIM,
    "__GFP_KSWAPD_RECLAIM": GFP_KSWAPD_RECLAIM,
    "__GFP_RECLAIM": _RECLAIM,
    **dict.fromkeys(
        "none __GFP_IO __GFP_FS __GFP_WRITE __GFP_RETRY_MAYFAIL __GFP_REPEAT __GFP_NOFAIL"
        " __GFP_MEMALLOC __GFP_NOMEMALLOC __GFP_HARDWALL __GFP_THISNODE __GFP_ACCOUNT"
        " __GFP_RECLAIMABLE __GFP_NOTRACK __GFP_ZEROTAGS __GFP_SKIP_ZERO __GFP_SKIP_KASAN"
        " __GFP_NOLOCKDEP __GFP_NO_OBJ_EXT __GFP_COLD __GFP_OTHER_NODE".split(),
        0,
    ),
}
# Bit number of ___GFP_* (include/linux/gfp_types.h of 6.12) to ours, for raw hexadecimal flags.
_RAW_BITS = (
    (0, GFP_DMA),
    (1, GFP_HIGHMEM),
    (2, GFP_DMA32),
    (3, GFP_MOVABLE),
    (5, GFP_HIGH),
    (8, GFP_ZERO),
    (10, GFP_DIRECT_RECLAIM),
    (11, GFP_KSWAPD_RECLAIM),
    (13, GFP_NOWARN),
    (16, GFP_NORETRY),
    (18, GFP_COMP),
)
_EVENTS = {
    "mm_page_alloc": PAGE_ALLOC,
    "mm_page_free": PAGE_FREE,
    "mm_page_free_direct": PAGE_FREE,
    "mm_page_free_batched": PAGE_FREE_BATCHED,
    "mm_pagevec_free": PAGE_FREE_BATCHED,
    "mm_page_alloc_zone_locked": ZONE_LOCKED,
    "mm_page_pcpu_drain": PCPU_DRAIN,
    "mm_page_alloc_extfrag": EXTFRAG,
    "mm_page_pcpu_refill": PCPU_REFILL,
}
_TABLE_SIZE = 1024
# Fields: the bit that says "seen".
_PFN = cython.declare(cython.int, 1)
_ORDER = cython.declare(cython.int, 2)
_MIGRATETYPE = cython.declare(cython.int, 4)
_GFP = cython.declare(cython.int, 8)
_PAGE = cython.declare(cython.int, 16)
_FALLBACK_ORDER = cython.declare(cython.int, 32)
_FALLBACK_TYPE = cython.declare(cython.int, 64)
_FRAGMENTING = cython.declare(cython.int, 128)
_OWNERSHIP = cython.declare(cython.int, 256)
_REFILL = cython.declare(cython.int, 512)
# C copies of what stands above, for the parser's inner loops.
_C_PAGE_ALLOC = cython.declare(cython.int, PAGE_ALLOC)
_C_PAGE_FREE = cython.declare(cython.int, PAGE_FREE)
_C_PAGE_FREE_BATCHED = cython.declare(cython.int, PAGE_FREE_BATCHED)
_C_IN_IRQ = cython.declare(cython.longlong, IN_IRQ)
_C_GFP_UNKNOWN = cython.declare(cython.longlong, GFP_UNKNOWN)
_C_FRAGMENTING = cython.declare(cython.longlong, AUX_FRAGMENTING)
_C_OWNERSHIP = cython.declare(cython.longlong, AUX_CHANGE_OWNERSHIP)
# A literal of 2**31 or more would be a Python object there.
_C_HASH_MASK = cython.declare(cython.longlong, 0xFFFFFFFF)
_C_NUMBER_MASK = cython.declare(cython.longlong, 0xFFFFFFFFFFFF)
_C_MOST_SECONDS = cython.declare(cython.longlong, 4_000_000_000)
_C_TABLE_MASK = cython.declare(cython.longlong, _TABLE_SIZE - 1)
_FIELDS = {
    "page": _PAGE,
    "pfn": _PFN,
    "order": _ORDER,
    "alloc_order": _ORDER,
    "migratetype": _MIGRATETYPE,
    "alloc_migratetype": _MIGRATETYPE,
    "gfp_flags": _GFP,
    "fallback_order": _FALLBACK_ORDER,
    "fallback_migratetype": _FALLBACK_TYPE,
    "fragmenting": _FRAGMENTING,
    "change_ownership": _OWNERSHIP,
    "percpu_refill": _REFILL,
}
_TASKS = {
    "kcompactd": BY_KCOMPACTD,
    "kswapd": BY_KSWAPD,
    "kworker": BY_KWORKER,
    "khugepaged": BY_KHUGEPAGED,
}
_KEPT_EVENTS = re.compile(
    rb"tracing_mark_write|print|bprint|bputs|mm_setup_per_zone_\w+|mm_calculate_totalreserve_pages"
)
_LOST = re.compile(
    rb"LOST\s+(\d+)\s+EVENTS|(\d+)\s+EVENTS\s+(?:LOST|DROPPED)|\blost\s+(\d+)\s+(?:events|samples)"
    rb"|EVENTS\s+(?:LOST|DROPPED)"
)
_WRITTEN = re.compile(rb"entries-in-buffer/entries-written:\s*(\d+)/(\d+)")



def _hash(word: str) -> int:
    """The hash that the parser computes while it reads a word."""
    value = 0
    for letter in word.encode():
        value = (value * 131 + letter) & 0xFFFFFFFF
    return value


def _table(words: dict[str, int]) -> list[memoryview]:
    """An open hash table: hashes, and what the words stand for; hash 0 is an empty place."""
    import numpy

    keys = memoryview(numpy.zeros(_TABLE_SIZE, dtype=numpy.int64))
    values = memoryview(numpy.zeros(_TABLE_SIZE, dtype=numpy.int64))
    for word, value in words.items():
        place = _hash(word) % _TABLE_SIZE
        while keys[place]:
            place = (place + 1) % _TABLE_SIZE
        keys[place], values[place] = _hash(word), value
    return [keys, values]


def _raw_table() -> memoryview:
    """Our bits for each bit of raw flags."""
    import numpy

    bits = memoryview(numpy.zeros(24, dtype=numpy.int64))
    for number, bit in _RAW_BITS:
        bits[number] = bit
    return bits


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_digit(letter: cython.int) -> cython.bint:
    return 48 <= letter <= 57


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_word(letter: cython.int) -> cython.bint:
    """Letter, digit or underscore."""
    return 97 <= letter <= 122 or 48 <= letter <= 57 or letter == 95 or 65 <= letter <= 90


@cython.final
@cython.cclass
class LineParser:
    """Parses chunks of whole lines; the state between chunks is the time and the counts.

    Lines are numbered from 1 through all chunks.
    """

    buffer: cython.uchar[::1]
    time_ns: cython.longlong[::1]
    pfn: cython.longlong[::1]
    flags: cython.uint[::1]
    aux: cython.int[::1]
    pid: cython.int[::1]
    cpu: cython.short[::1]
    kind: cython.uchar[::1]
    order: cython.schar[::1]
    migratetype: cython.schar[::1]
    event_keys: cython.longlong[::1]
    event_values: cython.longlong[::1]
    field_keys: cython.longlong[::1]
    field_values: cython.longlong[::1]
    gfp_keys: cython.longlong[::1]
    gfp_values: cython.longlong[::1]
    task_keys: cython.longlong[::1]
    task_values: cython.longlong[::1]
    raw_bits: cython.longlong[::1]
    at: cython.Py_ssize_t
    row: cython.Py_ssize_t
    value: cython.longlong
    line: cython.longlong
    bad_line: cython.longlong
    last_ns: cython.longlong
    offset_ns: cython.longlong
    untimed: cython.longlong
    context: cython.longlong
    line_cpu: cython.int
    line_pid: cython.int
    line_ns: cython.longlong
    counts: dict
    lines: dict
    ignored: dict
    texts: list

    def __init__(self) -> None:
        self.event_keys, self.event_values = _table(_EVENTS)
        self.field_keys, self.field_values = _table(_FIELDS)
        self.gfp_keys, self.gfp_values = _table(_GFP_NAMES)
        self.task_keys, self.task_values = _table(_TASKS)
        self.raw_bits = _raw_table()
        self.at = self.row = 0
        self.value = self.line = self.bad_line = self.offset_ns = self.untimed = 0
        self.last_ns = -1
        self.counts = {}
        self.lines = {}
        self.ignored = {}
        self.texts = []

    def parse(self, buffer: object, size: cython.Py_ssize_t, columns: dict) -> int:
        """Parse the lines in `buffer`.

        Args:
            buffer: a writable buffer; the byte before `size` must be a line feed.
            size: bytes to parse.
            columns: for each name in COLUMNS a contiguous array with a place for every
                SHORTEST_ROW bytes, since no line that makes a row is shorter.

        Returns:
            The number of rows written.
        """
        if size and buffer[size - 1] != 10:
            raise ValueError("the buffer must end with a line feed")
        self.buffer = memoryview(buffer)
        for name in COLUMNS:
            if len(columns[name]) * SHORTEST_ROW < size:
                raise ValueError(f"the column {name} has too few places for {size} bytes")
        self.time_ns = memoryview(columns["time_ns"])
        self.pfn = memoryview(columns["pfn"])
        self.flags = memoryview(columns["flags"])
        self.aux = memoryview(columns["aux"])
        self.pid = memoryview(columns["pid"])
        self.cpu = memoryview(columns["cpu"])
        self.kind = memoryview(columns["kind"])
        self.order = memoryview(columns["order"])
        self.migratetype = memoryview(columns["migratetype"])
        self.at = self.row = 0
        while self.at < size:
            self.line += 1
            self._line()
        return self.row

    def faults(self) -> dict:
        """What went wrong: for each kind of fault its count and the first line numbers.

        Kinds: lost, overrun, backward, wrapped, malformed, other (lines of no known shape),
        untimed (lines without a time stamp).
        """
        counts = dict(self.counts)
        if self.untimed:
            counts["untimed"] = self.untimed
        return {name: (count, tuple(self.lines.get(name, ()))) for name, count in counts.items()}

    def ignored_events(self) -> dict:
        """Events that are none of the page allocator's, by name, with their counts."""
        return dict(self.ignored)

    def text_events(self) -> list:
        """Marks and probes so far: (event name, text); rows point into it with `aux`."""
        return self.texts

    def line_count(self) -> int:
        """Lines seen so far."""
        return self.line

    def last_line_was_bad(self) -> bool:
        """Whether the last line was malformed or of no known shape, as when it was cut off."""
        return self.bad_line == self.line

    def _fault(self, name: str, count: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + count
        if name == "malformed" or name == "other":
            self.bad_line = self.line
        lines = self.lines.setdefault(name, [])
        if len(lines) < KEPT_FAULT_LINES:
            lines.append(self.line)

    @cython.cfunc
    @cython.exceptval(-1)
    def _line(self) -> cython.int:
        """Parse the line that begins at `at`, and leave `at` behind its line feed."""
        start: cython.Py_ssize_t = self.at
        state: cython.int
        while self.buffer[self.at] == 32 or self.buffer[self.at] == 9:
            self.at += 1
        if self.buffer[self.at] != 10 and self.buffer[self.at] != 13:
            if self.buffer[self.at] == 35:  # "#"
                self._skip_line()
                self._odd(start)
                return 0
            if self._prefix():
                self._event()
            else:
                self._skip_line()
                self._odd(start)
                return 0
        self._skip_line()
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _skip_line(self) -> cython.int:
        at: cython.Py_ssize_t = self.at
        while self.buffer[at] != 10:
            at += 1
        self.at = at + 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _skip_spaces(self) -> cython.int:
        at: cython.Py_ssize_t = self.at
        while self.buffer[at] == 32 or self.buffer[at] == 9:
            at += 1
        self.at = at
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _prefix(self) -> cython.int:
        """Read ``task-pid [cpu] flags time:`` and stop at the event's name; 0 if it is not that."""
        head: cython.Py_ssize_t = self.at
        bracket: cython.Py_ssize_t = head
        at: cython.Py_ssize_t
        number: cython.int
        self.context = 0
        while True:
            while self.buffer[bracket] != 91:  # "["
                if self.buffer[bracket] == 10:
                    return self._graph_prefix(head)
                bracket += 1
            at = bracket + 1
            number = 0
            while _is_digit(self.buffer[at]) and at < bracket + 6:
                number = number * 10 + self.buffer[at] - 48
                at += 1
            if at > bracket + 1 and self.buffer[at] == 93 and number <= 32767:  # "]"
                break
            bracket += 1
        self.line_cpu = number
        self.at = at + 1
        self._task(head, bracket)
        self._skip_spaces()
        if not _is_digit(self.buffer[self.at]):
            at = self.at
            while self.buffer[self.at] != 32 and self.buffer[self.at] != 10:
                self.at += 1
            # irqs-off, need-resched, hardirq or softirq, preempt depth
            if self.at > at + 3 and self.buffer[at + 2] != 46:
                self.context |= _C_IN_IRQ
            self._skip_spaces()
        return self._time()

    @cython.cfunc
    @cython.exceptval(-1)
    def _task(self, head: cython.Py_ssize_t, bracket: cython.Py_ssize_t) -> cython.int:
        """Read the pid before the bracket, and whether the task is one of the kernel's own."""
        at: cython.Py_ssize_t = bracket - 1
        scale: cython.longlong = 1
        pid: cython.longlong = 0
        word: cython.longlong = 0
        while at > head and (self.buffer[at] == 32 or self.buffer[at] == 9):
            at -= 1
        if self.buffer[at] == 41:  # "(tgid)"
            while at > head and self.buffer[at] != 40:
                at -= 1
            at -= 1
            while at > head and self.buffer[at] == 32:
                at -= 1
        while at > head and _is_digit(self.buffer[at]) and scale < 1_000_000_000:
            pid += (self.buffer[at] - 48) * scale
            scale *= 10
            at -= 1
        self.line_pid = cython.cast(cython.int, pid)
        if self.buffer[head] == 107:  # "k"
            at = head
            while 97 <= self.buffer[at] <= 122:
                word = (word * 131 + self.buffer[at]) & _C_HASH_MASK
                at += 1
            at = word & _C_TABLE_MASK
            while self.task_keys[at]:
                if self.task_keys[at] == word:
                    self.context |= self.task_values[at]
                    break
                at = (at + 1) & _C_TABLE_MASK
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _time(self) -> cython.int:
        """Read ``seconds.fraction:``, or a plain count of a counter clock."""
        seconds: cython.longlong = 0
        fraction: cython.longlong = 0
        digits: cython.int = 0
        at: cython.Py_ssize_t = self.at
        first: cython.Py_ssize_t = at
        while _is_digit(self.buffer[at]):
            if at - first >= 18:
                return 0
            seconds = seconds * 10 + self.buffer[at] - 48
            at += 1
        if at == first:
            return 0
        if self.buffer[at] == 46:
            if seconds > _C_MOST_SECONDS:
                return 0
            at += 1
            while _is_digit(self.buffer[at]):
                if digits < 9:
                    fraction = fraction * 10 + self.buffer[at] - 48
                    digits += 1
                at += 1
            while digits < 9:
                fraction *= 10
                digits += 1
            seconds = seconds * 1_000_000_000 + fraction
        if self.buffer[at] != 58:  # ":"
            return 0
        self.at = at + 1
        self._clock(seconds)
        self._skip_spaces()
        if _is_digit(self.buffer[self.at]):  # perf's period
            while _is_digit(self.buffer[self.at]):
                self.at += 1
            self._skip_spaces()
        return 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _clock(self, read_ns: cython.longlong) -> cython.int:
        """Let time never go back: a second or more is a clock that wrapped, less is disorder."""
        now_ns: cython.longlong = read_ns + self.offset_ns
        if now_ns < self.last_ns:
            if self.last_ns - now_ns >= 1_000_000_000:
                self._fault("wrapped", 1)
                self.offset_ns += self.last_ns - now_ns
            else:
                self._fault("backward", 1)
            now_ns = self.last_ns
        self.last_ns = now_ns
        self.line_ns = now_ns
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _graph_prefix(self, head: cython.Py_ssize_t) -> cython.int:
        """Read `` 1)   |  /* event: ...``, the comment of the function_graph tracer."""
        at: cython.Py_ssize_t = head
        number: cython.longlong = 0
        self.at = head
        while self.buffer[at] != 10 and self.buffer[at] != 124:  # "|"
            at += 1
        if self.buffer[at] == 124 and self._absolute_time(head):
            self._skip_spaces()
            at = self.at
        else:
            self.untimed += 1
            self.last_ns = self.last_ns + 1000 if self.last_ns >= 0 else 0
            self.line_ns = self.last_ns
            at = head
        while _is_digit(self.buffer[at]) and number < 32767:
            number = number * 10 + self.buffer[at] - 48
            at += 1
        if self.buffer[at] != 41:  # ")"
            return 0
        while self.buffer[at] != 10:
            if self.buffer[at] == 47 and self.buffer[at + 1] == 42:  # "/*"
                self.line_cpu = cython.cast(cython.int, number)
                self.line_pid = 0
                self.at = at + 2
                self._skip_spaces()
                return 1
            at += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _absolute_time(self, head: cython.Py_ssize_t) -> cython.int:
        """Read ``seconds.fraction |`` before the CPU, which the option funcgraph-abstime adds."""
        at: cython.Py_ssize_t = head
        seconds: cython.longlong = 0
        fraction: cython.longlong = 0
        scale: cython.longlong = 1_000_000_000
        while _is_digit(self.buffer[at]) and at < head + 10:
            seconds = seconds * 10 + self.buffer[at] - 48
            at += 1
        if at == head or self.buffer[at] != 46:
            return 0
        at += 1
        while _is_digit(self.buffer[at]) and scale > 1:
            scale = scale // 10
            fraction += (self.buffer[at] - 48) * scale
            at += 1
        while self.buffer[at] == 32:
            at += 1
        if self.buffer[at] != 124:
            return 0
        self.at = at + 1
        self._clock(seconds * 1_000_000_000 + fraction)
        return 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _event(self) -> cython.int:
        """Read ``[system:]name: fields``."""
        first: cython.Py_ssize_t = self.at
        at: cython.Py_ssize_t = first
        word: cython.longlong = 0
        place: cython.Py_ssize_t
        while True:
            word = 0
            while _is_word(self.buffer[at]) or self.buffer[at] == 45:
                word = (word * 131 + self.buffer[at]) & _C_HASH_MASK
                at += 1
            if self.buffer[at] != 58:
                self._fault("malformed", 1)
                return 0
            at += 1
            if not _is_word(self.buffer[at]):
                break
            first = at
        self.at = at
        place = word & _C_TABLE_MASK
        while self.event_keys[place]:
            if self.event_keys[place] == word:
                return self._fields(cython.cast(cython.int, self.event_values[place]))
            place = (place + 1) & _C_TABLE_MASK
        self._other(first, at - 1)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _fields(self, kind: cython.int) -> cython.int:
        """Read the fields ``name=value`` of a page allocator's event, and write a row."""
        row: cython.Py_ssize_t = self.row
        seen: cython.int = 0
        field: cython.int
        pfn: cython.longlong = -1
        order: cython.longlong = 0
        migratetype: cython.longlong = -1
        flags: cython.longlong = self.context
        aux: cython.longlong = 0
        while True:
            self._skip_spaces()
            if not _is_word(self.buffer[self.at]):
                break
            field = self._field_name()
            if field < 0:
                self._fault("malformed", 1)
                return 0
            if field == _GFP:
                flags |= self._gfp_flags()
            elif field == _PAGE or field == 0:
                while self.buffer[self.at] != 32 and self.buffer[self.at] != 10:
                    self.at += 1
            elif not self._number():
                self._fault("malformed", 1)
                return 0
            elif field == _PFN:
                pfn = self.value
            elif field == _ORDER:
                order = self.value
            elif field == _MIGRATETYPE:
                migratetype = self.value
            elif field == _FALLBACK_ORDER:
                aux |= self.value & 0xF
            elif field == _FALLBACK_TYPE:
                aux |= (self.value & 7) << 4
            elif field == _FRAGMENTING:
                aux |= _C_FRAGMENTING if self.value else 0
            elif field == _OWNERSHIP:
                aux |= _C_OWNERSHIP if self.value else 0
            elif field == _REFILL:
                aux |= 1 if self.value else 0
            seen |= field
        if not self._complete(kind, seen, order, migratetype, pfn):
            self._fault("malformed", 1)
            return 0
        # A failed allocation has no page: pfn 0, or all ones in old kernels.
        self.pfn[row] = pfn if 0 < pfn < 0x7FFFFFFF else -1
        self.time_ns[row] = self.line_ns
        self.flags[row] = cython.cast(cython.uint, flags)
        self.aux[row] = cython.cast(cython.int, aux)
        self.pid[row] = self.line_pid
        self.cpu[row] = cython.cast(cython.short, self.line_cpu)
        self.kind[row] = cython.cast(cython.uchar, kind)
        self.order[row] = cython.cast(cython.schar, order)
        self.migratetype[row] = cython.cast(cython.schar, migratetype)
        self.row = row + 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _complete(
        self,
        kind: cython.int,
        seen: cython.int,
        order: cython.longlong,
        migratetype: cython.longlong,
        pfn: cython.longlong,
    ) -> cython.int:
        """Whether the line had all fields of its event, in their ranges, and was not cut off."""
        need: cython.int = _PFN | _ORDER
        if kind == _C_PAGE_ALLOC:
            need |= _MIGRATETYPE | _GFP
        elif kind != _C_PAGE_FREE and kind != _C_PAGE_FREE_BATCHED:
            need |= _MIGRATETYPE
        if seen & need != need or not 0 <= order <= 10 or migratetype > 6:
            return 0
        if kind != _C_PAGE_ALLOC and not 0 < pfn < 0x7FFFFFFF:
            return 0
        return 1

    @cython.cfunc
    @cython.exceptval(-2)
    def _field_name(self) -> cython.int:
        """Read ``name=``; 0 for a field that says nothing, -1 when there is no such thing."""
        at: cython.Py_ssize_t = self.at
        word: cython.longlong = 0
        place: cython.Py_ssize_t
        while _is_word(self.buffer[at]):
            word = (word * 131 + self.buffer[at]) & _C_HASH_MASK
            at += 1
        if self.buffer[at] != 61:  # "="
            return -1
        self.at = at + 1
        place = word & _C_TABLE_MASK
        while self.field_keys[place]:
            if self.field_keys[place] == word:
                return cython.cast(cython.int, self.field_values[place])
            place = (place + 1) & _C_TABLE_MASK
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _number(self) -> cython.int:
        """Read a number, hexadecimal with 0x or with a letter in it, into `value`; 0 if none."""
        at: cython.Py_ssize_t = self.at
        first: cython.Py_ssize_t
        letter: cython.int
        decimal: cython.longlong = 0
        hexadecimal: cython.longlong = 0
        is_hexadecimal: cython.bint = False
        if self.buffer[at] == 45:  # order and type may be negative only when nothing is known
            at += 1
        if self.buffer[at] == 48 and self.buffer[at + 1] == 120:
            is_hexadecimal = True
            at += 2
        first = at
        while True:
            letter = self.buffer[at]
            if _is_digit(letter):
                letter -= 48
            elif 97 <= letter <= 102:
                letter -= 87
                is_hexadecimal = True
            else:
                break
            decimal = (decimal * 10 + letter) & _C_NUMBER_MASK
            hexadecimal = (hexadecimal * 16 + letter) & _C_NUMBER_MASK
            at += 1
        if at == first or _is_word(self.buffer[at]) or self.buffer[at] == 45:
            return 0
        self.at = at
        self.value = hexadecimal if is_hexadecimal else decimal
        return 1

    @cython.cfunc
    @cython.exceptval(-1)
    def _gfp_flags(self) -> cython.longlong:
        """Read ``NAME|NAME``, or a raw hexadecimal number as the kernels since 6.10 number it."""
        bits: cython.longlong = 0
        word: cython.longlong
        place: cython.Py_ssize_t = 0
        at: cython.Py_ssize_t = self.at
        if _is_digit(self.buffer[at]):
            if not self._number():
                return _C_GFP_UNKNOWN
            while place < self.raw_bits.shape[0]:
                if self.value >> place & 1:
                    bits |= self.raw_bits[place]
                place += 1
            return bits
        while True:
            word = 0
            while _is_word(self.buffer[at]):
                word = (word * 131 + self.buffer[at]) & _C_HASH_MASK
                at += 1
            place = word & _C_TABLE_MASK
            while self.gfp_keys[place] and self.gfp_keys[place] != word:
                place = (place + 1) & _C_TABLE_MASK
            if self.gfp_keys[place]:
                bits |= self.gfp_values[place]
            elif word:
                bits |= _C_GFP_UNKNOWN
            if self.buffer[at] != 124:
                break
            at += 1
        while self.buffer[at] != 32 and self.buffer[at] != 10 and self.buffer[at] != 13:
            at += 1
        self.at = at
        return bits

    def _other(self, first: cython.Py_ssize_t, last: cython.Py_ssize_t) -> None:
        """Keep a mark or the hit of a probe with its text; count any other event by name."""
        name = bytes(self.buffer[first:last])
        self._skip_line()
        text = bytes(self.buffer[last + 1 : self.at - 1]).strip()
        is_mark = _KEPT_EVENTS.fullmatch(name) is not None
        self.at -= 1
        if not is_mark and not text.startswith(b"("):
            self.ignored[name.decode()] = self.ignored.get(name.decode(), 0) + 1
            return
        row: cython.Py_ssize_t = self.row
        self.kind[row] = MARK if is_mark else PROBE
        self.time_ns[row] = self.line_ns
        self.cpu[row] = self.line_cpu
        self.pid[row] = self.line_pid
        self.flags[row] = self.context
        self.pfn[row] = -1
        self.order[row] = self.migratetype[row] = 0
        self.aux[row] = len(self.texts)
        self.texts.append((name.decode(), text.decode("utf-8", "replace")))
        self.row = row + 1

    def _odd(self, start: cython.Py_ssize_t) -> None:
        """A line that is no event: a header, a notice of lost events, or something else."""
        if self.counts.get("other", 0) > 10_000:
            self.counts["other"] += 1
            return
        line = bytes(self.buffer[start : self.at - 1])
        lost = _LOST.search(line)
        if lost is not None:
            self._fault("lost", int(next((group for group in lost.groups() if group), 1)))
        elif line.lstrip().startswith(b"#"):
            written = _WRITTEN.search(line)
            if written is not None and int(written[2]) > int(written[1]):
                self._fault("overrun", int(written[2]) - int(written[1]))
        elif line.strip() and not line.startswith((b"cpus=", b"version =")):
            self._fault("other", 1)
