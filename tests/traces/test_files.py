"""Reading kernel traces: every shape of text, every fault, and the imported form."""

import gzip
import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench.core import tracewords as words
from hintbench.core.tracetext import COLUMNS, SHORTEST_ROW, LineParser
from hintbench.errors import TraceError
from hintbench.traces import input as trace_input
from hintbench.traces import read_trace, save_trace
from hintbench.traces.events import Fault

ALLOC, FREE, BATCHED = words.PAGE_ALLOC, words.PAGE_FREE, words.PAGE_FREE_BATCHED
LOCKED, DRAIN, EXTFRAG = words.ZONE_LOCKED, words.PCPU_DRAIN, words.EXTFRAG
RECLAIM = words.GFP_DIRECT_RECLAIM | words.GFP_KSWAPD_RECLAIM
HIGHUSER_MOVABLE = RECLAIM | words.GFP_HIGHMEM | words.GFP_MOVABLE

# Text of a line; then time, cpu, kind, pfn, order, migratetype, flags, pid.
SHAPES = {
    "ftrace": (
        "            init-1       [003] .....    23.376266: mm_page_alloc: page=(____ptrval____)"
        " pfn=0x5ade order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO",
        (23_376_266_000, 3, ALLOC, 0x5ADE, 1, 0, RECLAIM | words.GFP_ZERO, 1),
    ),
    "ftrace of an older kernel": (
        "  <...>-22275 [006] ....   889.213383: mm_page_alloc: page=00000000d2be5665 pfn=970744"
        " order=0 migratetype=0 gfp_flags=GFP_HIGHUSER|__GFP_ZERO",
        (
            889_213_383_000, 6, ALLOC, 970744, 0, 0,
            RECLAIM | words.GFP_HIGHMEM | words.GFP_ZERO, 22275,
        ),
    ),
    "ftrace in an interrupt": (
        "<idle>-0     [006] d.s.  1110.217281: mm_page_free: page=ffffea0064142000 pfn=26235008"
        " order=3",
        (1_110_217_281_000, 6, FREE, 26235008, 3, -1, words.IN_IRQ, 0),
    ),
    "ftrace without flags": (
        "   work-200   [001]    23.377440: mm_page_free_batched: page=0 pfn=0x2b93 order=0",
        (23_377_440_000, 1, BATCHED, 0x2B93, 0, -1, 0, 200),
    ),
    "ftrace with thread groups": (
        "   work-201   (   200) [001] ...2.   23.377440: mm_page_free_batched: page=0 pfn=0x2b93"
        " order=0 cold=0",
        (23_377_440_000, 1, BATCHED, 0x2B93, 0, -1, 0, 201),
    ),
    "zone locked": (
        "work-207 [000] d..3. 23.813332: mm_page_alloc_zone_locked: page=0 pfn=0x19802 order=1"
        " migratetype=2 percpu_refill=1",
        (23_813_332_000, 0, LOCKED, 0x19802, 1, 2, 0, 207),
    ),
    "drain by a worker": (
        "     kworker/0:1-10      [000] d..2.    60.336046: mm_page_pcpu_drain: page=0"
        " pfn=0x9c00 order=9 migratetype=1",
        (60_336_046_000, 0, DRAIN, 0x9C00, 9, 1, words.BY_KWORKER, 10),
    ),
    "extfrag": (
        "kcompactd0-51 [002] d..3. 17.201484: mm_page_alloc_extfrag: page=0 pfn=0x16400"
        " alloc_order=0 fallback_order=10 pageblock_order=9 alloc_migratetype=0"
        " fallback_migratetype=1 fragmenting=0 change_ownership=1",
        (17_201_484_000, 2, EXTFRAG, 0x16400, 0, 0, words.BY_KCOMPACTD, 51),
    ),
    "perf script": (
        "perf  6429 [000]    22.498450:             kmem:mm_page_alloc: page=0x176a17 pfn=1534487"
        " order=0 migratetype=0 gfp_flags=GFP_KERNEL",
        (22_498_450_000, 0, ALLOC, 1534487, 0, 0, RECLAIM, 6429),
    ),
    "perf script with periods and nanoseconds": (
        "a task 6429/6430 [011] 22.498450123:          1 kmem:mm_page_free: page=0x1 pfn=0x1a"
        " order=0",
        (22_498_450_123, 11, FREE, 0x1A, 0, -1, 0, 6430),
    ),
    "trace-cmd report": (
        "           trace-cmd-1234  [005]   123.456789: mm_page_alloc:        page=0xffffffff98"
        " pfn=0x1d1ac1 order=0 migratetype=1 gfp_flags=0x140cca",
        (
            123_456_789_000, 5, ALLOC, 0x1D1AC1, 0, 1, HIGHUSER_MOVABLE | words.GFP_COMP, 1234,
        ),
    ),
    "function graph": (
        " 1)               |  /* mm_page_alloc: page=0 pfn=0x10 order=0 migratetype=0"
        " gfp_flags=GFP_ATOMIC|__GFP_NOWARN */",
        (
            0, 1, ALLOC, 0x10, 0, 0,
            words.GFP_HIGH | words.GFP_KSWAPD_RECLAIM | words.GFP_NOWARN, 0,
        ),
    ),
    "function graph with times": (
        "  345.678901 |   12)   <idle>-0   |               |  /* mm_page_free: page=0 pfn=0x10"
        " order=0 */",
        (345_678_901_000, 12, FREE, 0x10, 0, -1, 0, 0),
    ),
    "names before 3.3": (
        "a-7 [000] 5.000001: mm_page_free_direct: page=0 pfn=17 order=2",
        (5_000_001_000, 0, FREE, 17, 2, -1, 0, 7),
    ),
    "more names before 3.3": (
        "a-7 [000] 5.000001: mm_pagevec_free: page=0 pfn=17 order=0 cold=1",
        (5_000_001_000, 0, BATCHED, 17, 0, -1, 0, 7),
    ),
    "a failed allocation": (
        "a-7 [000] ..... 5.000001: mm_page_alloc: page=(null) pfn=0x0 order=9 migratetype=1"
        " gfp_flags=GFP_TRANSHUGE_LIGHT|__GFP_NORETRY|__GFP_THISNODE",
        (
            5_000_001_000, 0, ALLOC, -1, 9, 1,
            words.GFP_HIGHMEM | words.GFP_MOVABLE | words.GFP_COMP | words.GFP_NOWARN
            | words.GFP_NORETRY, 7,
        ),
    ),
    "a counter clock and a task with digits and brackets": (
        "my [x] 2-16 [000] ..... 1234567: mm_page_free: page=0 pfn=0xff order=0",
        (1_234_567, 0, FREE, 0xFF, 0, -1, 0, 16),
    ),
}  # fmt: skip
NO_PFN = "a-1 [000] ..... 1.1: mm_page_free: page=0 order=0\n"
BAD_PFN = "a-1 [000] ..... 1.1: mm_page_free: page=0 pfn=0xzz order=0\n"
BAD_ORDER = "a-1 [000] ..... 1.1: mm_page_free: page=0 pfn=0x10 order=11\n"
GOOD = "a-1 [000] ..... {}: mm_page_free: page=0 pfn=0x10 order=0\n"


def read_text(tmp_path, text, name="trace.txt"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_trace(file)


def row_of(trace, index=0):
    names = ("time_ns", "cpu", "kind", "pfn", "order", "migratetype", "flags", "pid")
    return tuple(int(getattr(trace, name)[index]) for name in names)


def faults_of(trace):
    return {fault.kind: (fault.count, fault.lines) for fault in trace.faults}


class TestShapes:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_line(self, tmp_path, shape, end):
        text, expected = SHAPES[shape]
        trace = read_text(tmp_path, text + end)
        assert len(trace) == 1
        assert row_of(trace) == expected
        assert [fault for fault in faults_of(trace) if fault != "untimed"] == []

    def test_fields_of_a_fallback(self, tmp_path):
        trace = read_text(tmp_path, SHAPES["extfrag"][0] + "\n")
        aux = int(trace.aux[0])
        assert aux & words.AUX_ORDER_MASK == 10
        assert aux >> words.AUX_MIGRATETYPE_SHIFT & 7 == 1
        assert not aux & words.AUX_FRAGMENTING
        assert aux & words.AUX_CHANGE_OWNERSHIP

    @pytest.mark.parametrize(
        ("text", "bits"),
        [
            ("GFP_NOWAIT", words.GFP_KSWAPD_RECLAIM | words.GFP_NOWARN),
            ("GFP_NOFS|__GFP_NOFAIL", RECLAIM),
            ("GFP_DMA32", words.GFP_DMA32),
            ("__GFP_DMA|__GFP_RECLAIM", words.GFP_DMA | RECLAIM),
            ("GFP_TRANSHUGE", words.GFP_DIRECT_RECLAIM | words.GFP_HIGHMEM | words.GFP_MOVABLE
             | words.GFP_COMP | words.GFP_NOWARN),
            ("none", 0),
            ("GFP_KERNEL|__GFP_INVENTED", RECLAIM | words.GFP_UNKNOWN),
            ("0xcc0", RECLAIM),
            ("0x10dc0", RECLAIM | words.GFP_ZERO | words.GFP_NORETRY),
        ],
    )  # fmt: skip
    def test_gfp_flags(self, tmp_path, text, bits):
        line = f"a-1 [0] 1.0: mm_page_alloc: page=0 pfn=0x1 order=0 migratetype=0 gfp_flags={text}"
        assert int(read_text(tmp_path, line + "\n").flags[0]) == bits

    def test_marks_and_probes_keep_their_text(self, tmp_path):
        text = (
            GOOD.format("1.0")
            + "work-200 [000] ..... 2.000000: tracing_mark_write: kpageflags-dumped /tmp/kpf0\n"
            "kworker/0:1-10 [000] ..... 3.000000: pr_vbreport: (report+0x4/0x120 [v]) nents=32\n"
            "a-1 [000] ..... 4.000000: sched_switch: prev=a ==> next=b\n"
        )
        trace = read_text(tmp_path, text)
        assert [(text.row, text.name) for text in trace.texts] == [
            (1, "tracing_mark_write"),
            (2, "pr_vbreport"),
        ]
        assert trace.texts[1].text == "(report+0x4/0x120 [v]) nents=32"
        assert trace.row_of_mark(["dumped", "kpf0"]) == 1
        assert trace.row_of_mark(["dumped"], after=1) is None
        assert trace.ignored == {"sched_switch": 1}

    def test_types_of_old_kernels(self, tmp_path):
        lines = [SHAPES[name][0] for name in ("trace-cmd report", "extfrag", "zone locked")]
        file = tmp_path / "trace.txt"
        file.write_text("\n".join(lines) + "\n")
        trace = read_trace(file, "old")
        assert trace.migratetype.tolist() == [2, 0, 1]
        assert int(trace.aux[1]) >> words.AUX_MIGRATETYPE_SHIFT & 7 == 2
        with pytest.raises(TraceError, match="'modern' or 'old'"):
            read_trace(file, "new")


class TestFaults:
    @pytest.mark.parametrize(
        ("text", "kind", "count", "lines"),
        [
            (GOOD.format("1.0") + "CPU:2 [LOST 123 EVENTS]\n", "lost", 123, (2,)),
            ("CPU:1 [7 EVENTS DROPPED]\n" + GOOD.format("1.0"), "lost", 7, (1,)),
            (GOOD.format("1.0") + "CPU:1 [EVENTS DROPPED]\n", "lost", 1, (2,)),
            (GOOD.format("1.0") + "Processed 9 events and lost 4 events!\n", "lost", 4, (2,)),
            ("# entries-in-buffer/entries-written: 5/12   #P:1\n" + GOOD.format("1.0"),
             "overrun", 7, (1,)),
            (GOOD.format("2.5") + GOOD.format("2.4"), "backward", 1, (2,)),
            (GOOD.format("4.2") + GOOD.format("0.1"), "wrapped", 1, (2,)),
            (GOOD.format("1.0") + NO_PFN, "malformed", 1, (2,)),
            (GOOD.format("1.0") + BAD_PFN, "malformed", 1, (2,)),
            (GOOD.format("1.0") + BAD_ORDER, "malformed", 1, (2,)),
            (GOOD.format("1.0") + "what is this\n", "other", 1, (2,)),
        ],
    )  # fmt: skip
    def test_is_counted_and_does_not_stop_the_import(self, tmp_path, text, kind, count, lines):
        trace = read_text(tmp_path, text)
        assert len(trace) >= 1
        assert faults_of(trace)[kind] == (count, lines)
        assert str(next(fault for fault in trace.faults if fault.kind == kind)).startswith(
            f"{count} "
        )

    def test_time_never_goes_back(self, tmp_path):
        text = "".join(GOOD.format(time) for time in ("5.0", "5.5", "5.4", "0.5", "0.75"))
        trace = read_text(tmp_path, text)
        times = [5.0, 5.5, 5.5, 5.5, 5.75]
        assert trace.time_ns.tolist() == [int(time * 1e9) for time in times]

    def test_a_last_line_that_is_cut_off(self, tmp_path):
        trace = read_text(tmp_path, GOOD.format("1.0") + GOOD.format("1.1")[:-20])
        assert len(trace) == 1
        assert faults_of(trace)["truncated"] == (1, (2,))

    def test_a_whole_last_line_without_its_line_feed(self, tmp_path):
        trace = read_text(tmp_path, GOOD.format("1.0") + GOOD.format("1.1")[:-1])
        assert (len(trace), trace.faults) == (2, ())

    def test_a_truncated_gzip_keeps_what_there_is(self, tmp_path):
        data = gzip.compress("".join(GOOD.format(f"{n}.0") for n in range(1, 20_000)).encode())
        trace = read_text(tmp_path, data[: len(data) // 2])
        assert 0 < len(trace) < 19_999
        assert "truncated" in faults_of(trace)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "is empty"),
            (b"\x17\x08\x44tracing6\0", "trace-cmd report"),
            (b"PERFILE2\0\0", "perf script"),
            (bytes(range(256)) * 9, "is a binary file"),
            (b"hello world\n", r"holds no event of the page allocator .*1 line of no known shape"),
            (b"a-1 [000] ..... 1.0: sched_switch: x=1\n", "only sched_switch"),
            (gzip.compress(b"x" * 99, mtime=0)[:12], "is damaged"),
            (b"\x1f\x8b\x08\x00garbage", "is damaged"),
            (b"x" * (6 << 20), "it has no lines"),
            (b"PK\x03\x04 no zip", "is not a whole imported trace"),
            (
                GOOD.format("1.0").replace("0x10", "0x7ffffff0").encode(),
                r"names page 0x7ffffff0, beyond 4 TiB",
            ),
        ],
    )
    def test_what_is_no_trace_gives_one_sentence(self, tmp_path, content, sentence):
        with pytest.raises(TraceError, match=sentence) as caught:
            read_text(tmp_path, content)
        assert "\n" not in str(caught.value)

    def test_unreadable(self, tmp_path):
        for name in (tmp_path, tmp_path / "missing"):
            with pytest.raises(TraceError, match="cannot be read"):
                read_trace(name)
        with pytest.raises(TraceError, match="no trace was given"):
            read_trace([])


class TestInputs:
    TEXT = "".join(f"{text}\n" for text, _ in SHAPES.values())

    def columns(self, trace):
        return {name: getattr(trace, name).tolist() for name in COLUMNS}

    @pytest.mark.parametrize("chunk_bytes", [64, 97, 1000])
    def test_chunks_make_no_difference(self, tmp_path, monkeypatch, chunk_bytes):
        whole = read_text(tmp_path, self.TEXT)
        monkeypatch.setattr(trace_input, "_CHUNK_BYTES", chunk_bytes)
        assert self.columns(read_text(tmp_path, self.TEXT)) == self.columns(whole)

    def test_gzip_and_standard_input(self, tmp_path, monkeypatch):
        plain = read_text(tmp_path, self.TEXT)
        packed = gzip.compress(self.TEXT.encode(), mtime=0)
        assert self.columns(read_text(tmp_path, packed)) == self.columns(plain)
        for data in (self.TEXT.encode(), packed):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            trace = read_trace("-")
            assert self.columns(trace) == self.columns(plain)
            assert trace.sources == ("standard input",)

    def test_a_file_given_twice_is_refused(self, tmp_path):
        (tmp_path / "0").write_text("")
        (tmp_path / "link").symlink_to(tmp_path / "0")
        with pytest.raises(TraceError, match="link is given twice"):
            read_trace([tmp_path / "0", tmp_path / "link"])
        with pytest.raises(TraceError, match="- is given twice"):
            read_trace(["-", "-"])

    def test_several_files_become_one_in_order_of_time(self, tmp_path):
        mark = "a-1 [000] ..... {}: tracing_mark_write: here\n"
        (tmp_path / "0").write_text(
            GOOD.format("1.0") + mark.format("3.0") + "CPU:0 [LOST 2 EVENTS]\n"
        )
        (tmp_path / "1").write_text(GOOD.format("2.0") + GOOD.format("4.0"))
        trace = read_trace([tmp_path / "0", tmp_path / "1"])
        assert (trace.time_ns // 10**9).tolist() == [1, 2, 3, 4]
        assert [(text.row, text.text) for text in trace.texts] == [(2, "here")]
        assert faults_of(trace)["lost"] == (2, (3,))
        assert (trace.lines, len(trace.sources)) == (5, 2)

    def test_imported_form(self, tmp_path):
        text = self.TEXT + "a-1 [0] 9999.0: print: mark\nCPU:0 [LOST 2 EVENTS]\n"
        trace = read_text(tmp_path, text)
        save_trace(trace, tmp_path / "trace.npz")
        again = read_trace(tmp_path / "trace.npz")
        assert self.columns(again) == self.columns(trace)
        assert (again.texts, again.faults) == (trace.texts, trace.faults)
        assert (again.lines, again.sources) == (trace.lines, trace.sources)
        assert again.ignored == trace.ignored

    def test_imported_form_that_is_not_ours(self, tmp_path):
        file = tmp_path / "trace.npz"
        np.savez(file, schema=np.array("hintbench-trace/99"))
        with pytest.raises(TraceError, match="hintbench-trace/99, this version reads"):
            read_trace(file)
        np.savez(file, a=np.zeros(3))
        with pytest.raises(TraceError, match="no imported trace"):
            read_trace(file)
        save_trace(read_text(tmp_path, GOOD.format("1.0")), file)
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(TraceError, match="not a whole imported trace"):
            read_trace(file)
        with pytest.raises(TraceError, match="cannot be written"):
            save_trace(read_text(tmp_path, GOOD.format("1.0")), tmp_path / "no" / "folder")


class TestLineParser:
    PIECES = st.lists(
        st.sampled_from(
            [*" [](){}:=|/*#-.\t\r", "0", "12", "0x1f", "mm_page_alloc", "mm_page_free", "pfn",
             "order", "kmem:", "tracing_mark_write", "(x)", "kworker", "\n", "\n", "LOST 1 EVENTS",
             "[000]", "1.5:", "gfp_flags=", "migratetype=1", "page=0", "a-1", "1)", "/*"],
        ),
        max_size=60,
    )  # fmt: skip

    def parse(self, text):
        data = bytearray(text)
        places = len(data) // SHORTEST_ROW + 1
        columns = {name: np.zeros(places, dtype=dtype) for name, dtype in COLUMNS.items()}
        parser = LineParser()
        return parser, parser.parse(data, len(data), columns), columns

    @settings(deadline=None)
    @given(PIECES)
    def test_no_text_is_too_strange(self, pieces):
        text = "".join(pieces).encode() + b"\n"
        parser, rows, columns = self.parse(text)
        assert rows <= parser.line_count() == text.count(b"\n")
        assert (np.diff(columns["time_ns"][:rows]) >= 0).all()

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_no_bytes_are_too_strange(self, data):
        parser, rows, _ = self.parse(data + b"\n")
        assert 0 <= rows <= parser.line_count()

    def test_the_shortest_row(self):
        assert self.parse(b"[0]1:a:(\n" * 50)[1] == 50

    def test_misuse(self):
        columns = {name: np.zeros(1, dtype=dtype) for name, dtype in COLUMNS.items()}
        with pytest.raises(ValueError, match="end with a line feed"):
            LineParser().parse(bytearray(b"abc"), 3, columns)
        with pytest.raises(ValueError, match="too few places"):
            LineParser().parse(bytearray(b"\n" * 99), 99, columns)


def test_one_fault_is_told_in_the_singular():
    assert str(Fault("other", 1, (3,), "a.txt")) == "1 line of no known shape (a.txt: line 3)"
    assert str(Fault("overrun", 1)) == "1 event overwritten in the kernel's buffer"
    assert str(Fault("untimed", 2)) == "2 lines without a time"
