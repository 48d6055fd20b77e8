"""The text of kernel traces, one line after the other, into columns of numbers.

Reads the page allocator's events (``include/trace/events/kmem.h``) as ftrace, ``perf script``,
``trace-cmd report`` and the function_graph tracer print them, with and without the column of
flags, with pfns in decimal or hexadecimal, under their names of today and of before 3.3. What
cannot be used is counted, with the numbers of the first lines concerned, and never raises.
"""

import array
import re

import cython

from hintbench.core import tracewords as words
from hintbench.core.tracewords import (
    COLUMNS,
    EXTFRAG,
    MARK,
    PAGE_ALLOC,
    PAGE_FREE,
    PAGE_FREE_BATCHED,
    PCPU_DRAIN,
    PCPU_REFILL,
    PROBE,
    SHORTEST_ROW,
    ZONE_LOCKED,
)

if cython.compiled:
    from cython.cimports.hintbench.core.tracecursor import Cursor, Words
else:
    from hintbench.core.tracecursor import Cursor, Words

__all__ = [
    "COLUMNS",
    "EXTFRAG",
    "MARK",
    "PAGE_ALLOC",
    "PAGE_FREE",
    "PAGE_FREE_BATCHED",
    "PCPU_DRAIN",
    "PCPU_REFILL",
    "PROBE",
    "SHORTEST_ROW",
    "ZONE_LOCKED",
    "LineParser",
]

_KEPT_EVENTS = re.compile(
    rb"tracing_mark_write|print|bprint|bputs|mm_setup_per_zone_\w+|mm_calculate_totalreserve_pages"
)
_LOST = re.compile(
    rb"LOST\s+(\d+)\s+EVENTS|(\d+)\s+EVENTS\s+(?:LOST|DROPPED)|\blost\s+(\d+)\s+(?:events|samples)"
    rb"|EVENTS\s+(?:LOST|DROPPED)"
)
_WRITTEN = re.compile(rb"entries-in-buffer/entries-written:\s*(\d+)/(\d+)")
_MOST_ODD_LINES = 10_000

# C copies of the words, for the inner loops.
_ALLOC = cython.declare(cython.int, words.PAGE_ALLOC)
_FREE = cython.declare(cython.int, words.PAGE_FREE)
_FREE_BATCHED = cython.declare(cython.int, words.PAGE_FREE_BATCHED)
_GFP_UNKNOWN = cython.declare(cython.int, words.GFP_UNKNOWN)
_PFN = cython.declare(cython.int, words.FIELD_PFN)
_ORDER = cython.declare(cython.int, words.FIELD_ORDER)
_MIGRATETYPE = cython.declare(cython.int, words.FIELD_MIGRATETYPE)
_GFP = cython.declare(cython.int, words.FIELD_GFP)
_PAGE = cython.declare(cython.int, words.FIELD_PAGE)
_FALLBACK_ORDER = cython.declare(cython.int, words.FIELD_FALLBACK_ORDER)
_FALLBACK_TYPE = cython.declare(cython.int, words.FIELD_FALLBACK_TYPE)
_FRAGMENTING = cython.declare(cython.int, words.FIELD_FRAGMENTING)
_OWNERSHIP = cython.declare(cython.int, words.FIELD_OWNERSHIP)
_REFILL = cython.declare(cython.int, words.FIELD_REFILL)
_AUX_TYPE_SHIFT = cython.declare(cython.int, words.AUX_MIGRATETYPE_SHIFT)
_AUX_FRAGMENTING = cython.declare(cython.int, words.AUX_FRAGMENTING)
_AUX_OWNERSHIP = cython.declare(cython.int, words.AUX_CHANGE_OWNERSHIP)
_LAST_PFN = cython.declare(cython.longlong, 0x7FFFFFFE)


@cython.final
@cython.cclass
class LineParser(Cursor):
    """Parses chunks of whole lines; the state between chunks is the time and the counts.

    Lines are numbered from 1 through all chunks.
    """

    time_ns: cython.longlong[::1]
    pfn: cython.longlong[::1]
    flags: cython.uint[::1]
    aux: cython.int[::1]
    pid: cython.int[::1]
    cpu: cython.short[::1]
    kind: cython.uchar[::1]
    order: cython.schar[::1]
    migratetype: cython.schar[::1]
    raw_bits: cython.int[::1]
    events: Words
    fields: Words
    gfp_names: Words
    row: cython.Py_ssize_t
    ignored: dict
    texts: list

    def __init__(self) -> None:
        Cursor.__init__(self)
        self.events = Words(words.EVENTS)
        self.fields = Words(words.FIELDS)
        self.gfp_names = Words(words.GFP_NAMES)
        self.raw_bits = memoryview(array.array("i", [0]) * 24)
        for number, bit in words.RAW_GFP_BITS:
            self.raw_bits[number] = bit
        self.row = 0
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
        for name in COLUMNS:
            if len(columns[name]) * SHORTEST_ROW < size:
                raise ValueError(f"the column {name} has too few places for {size} bytes")
        self.buffer = memoryview(buffer)
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

    @cython.cfunc
    @cython.exceptval(-1)
    def _line(self) -> cython.int:
        """Parse the line that begins at `at`, and leave `at` behind its line feed."""
        start: cython.Py_ssize_t = self.at
        self.skip_spaces()
        if self.buffer[self.at] != 10 and self.buffer[self.at] != 13:
            if self.buffer[self.at] != 35 and self.read_prefix():  # "#"
                self._event()
            else:
                self.skip_line()
                self._odd(start)
                return 0
        self.skip_line()
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _event(self) -> cython.int:
        """Read ``[system:]name: fields``."""
        first: cython.Py_ssize_t
        found: cython.int
        while True:
            first = self.at
            self.read_word()
            while self.buffer[self.at] == 45:  # "-", in some names
                self.at += 1
                self.read_word()
            if self.buffer[self.at] != 58 or self.at == first:  # ":"
                self.fault("malformed", 1)
                return 0
            self.at += 1
            if not self.at_word():
                break
        found = self.events.find(self.word)
        if found > 0:
            return self._fields(found)
        self._other(first, self.at - 1)
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
        flags: cython.int = self.context
        aux: cython.longlong = 0
        while True:
            self.skip_spaces()
            if not self.read_word():
                break
            if self.buffer[self.at] != 61:  # "="
                self.fault("malformed", 1)
                return 0
            self.at += 1
            field = self.fields.find(self.word)
            if field == _GFP:
                flags |= self._gfp_flags()
            elif field <= 0 or field == _PAGE:
                self.skip_to_space()
                continue
            elif not self.read_number():
                self.fault("malformed", 1)
                return 0
            elif field == _PFN:
                pfn = self.value
            elif field == _ORDER:
                order = self.value
            elif field == _MIGRATETYPE:
                migratetype = self.value
            elif field == _FALLBACK_ORDER:
                aux |= self.value & 15
            elif field == _FALLBACK_TYPE:
                aux |= (self.value & 7) << _AUX_TYPE_SHIFT
            elif self.value and field == _FRAGMENTING:
                aux |= _AUX_FRAGMENTING
            elif self.value and field == _OWNERSHIP:
                aux |= _AUX_OWNERSHIP
            elif self.value and field == _REFILL:
                aux |= 1
            seen |= field
        if not self._complete(kind, seen, pfn) or order > 10 or migratetype > 6:
            self.fault("malformed", 1)
            return 0
        self.time_ns[row] = self.line_ns
        # A failed allocation has no page: pfn 0, or all ones in old kernels.
        self.pfn[row] = pfn if 0 < pfn <= _LAST_PFN else -1
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
    def _complete(self, kind: cython.int, seen: cython.int, pfn: cython.longlong) -> cython.int:
        """Whether the line has all fields of its event: one that was cut off has not."""
        need: cython.int = _PFN | _ORDER
        if kind == _ALLOC:
            need |= _MIGRATETYPE | _GFP
        elif kind != _FREE and kind != _FREE_BATCHED:
            need |= _MIGRATETYPE
        return seen & need == need and (kind == _ALLOC or 0 < pfn <= _LAST_PFN)

    @cython.cfunc
    @cython.exceptval(-1)
    def _gfp_flags(self) -> cython.int:
        """Read ``NAME|NAME``, or a raw number as the kernels since 6.10 number the bits."""
        bits: cython.int = 0
        found: cython.int
        place: cython.Py_ssize_t = 0
        if self.at_digit():
            if not self.read_number():
                return _GFP_UNKNOWN
            while place < 24:
                if self.value >> place & 1:
                    bits |= self.raw_bits[place]
                place += 1
            return bits
        while self.read_word():
            found = self.gfp_names.find(self.word)
            bits |= found if found >= 0 else _GFP_UNKNOWN
            if self.buffer[self.at] != 124:  # "|"
                break
            self.at += 1
        self.skip_to_space()
        return bits

    def _other(self, first: cython.Py_ssize_t, last: cython.Py_ssize_t) -> None:
        """Keep a mark or the hit of a probe with its text; count any other event by name."""
        row: cython.Py_ssize_t = self.row
        name = bytes(self.buffer[first:last])
        self.skip_line()
        self.at -= 1
        text = bytes(self.buffer[last + 1 : self.at]).strip()
        is_mark = _KEPT_EVENTS.fullmatch(name) is not None
        if not is_mark and not text.startswith(b"("):
            self.ignored[name.decode()] = self.ignored.get(name.decode(), 0) + 1
            return
        self.time_ns[row] = self.line_ns
        self.pfn[row] = -1
        self.flags[row] = cython.cast(cython.uint, self.context)
        self.aux[row] = len(self.texts)
        self.pid[row] = self.line_pid
        self.cpu[row] = self.line_cpu
        self.kind[row] = MARK if is_mark else PROBE
        self.order[row] = self.migratetype[row] = 0
        self.texts.append((name.decode(), text.decode("utf-8", "replace")))
        self.row = row + 1

    def _odd(self, start: cython.Py_ssize_t) -> None:
        """A line that is no event: a header, a notice of lost events, or something else."""
        if self.counts.get("other", 0) > _MOST_ODD_LINES:
            self.fault("other", 1)
            return
        line = bytes(self.buffer[start : self.at - 1])
        lost = _LOST.search(line)
        if lost is not None:
            self.fault("lost", int(next((group for group in lost.groups() if group), 1)))
        elif line.lstrip().startswith(b"#"):
            written = _WRITTEN.search(line)
            if written is not None and int(written[2]) > int(written[1]):
                self.fault("overrun", int(written[2]) - int(written[1]))
        elif line.strip() and not line.startswith((b"cpus=", b"version =")):
            self.fault("other", 1)
