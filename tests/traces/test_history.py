"""What a trace says of single pages, and copies of /proc/kpageflags."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hintbench.errors import TraceError
from hintbench.traces.history import page_history
from hintbench.traces.program import (
    replayed_rows,
)
from hintbench.traces.state import free_blocks, read_page_flags, read_page_types
from hintbench.traces.windows import committed_row, order_at
from recording import Recording, all_steps, flags, told


@pytest.fixture
def recording():
    return Recording()


class TestPageFlags:
    def words(self, free):
        return (np.asarray(free, dtype="<u8") << np.uint64(10) | np.uint64(1 << 3)).tobytes()

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_read(self, tmp_path, pack):
        file = tmp_path / "kpageflags"
        file.write_bytes(pack(self.words([1, 0, 1, 1])))
        assert read_page_flags(file).tolist() == [True, False, True, True]

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "0 bytes are not a whole number"),
            (b"1234567", "7 bytes are not a whole number"),
            (b"some text that is not flags.....", "unknown flags"),
            (gzip.compress(b"12345678", mtime=0)[:14], "is damaged"),
        ],
    )
    def test_what_is_no_copy(self, tmp_path, content, sentence):
        file = tmp_path / "kpageflags"
        file.write_bytes(content)
        with pytest.raises(TraceError, match=sentence):
            read_page_flags(file)
        with pytest.raises(TraceError, match="cannot be read"):
            read_page_flags(tmp_path / "missing")

    @given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 2000)), max_size=8))
    def test_blocks_are_the_largest_aligned_ones(self, ranges):
        free = flags(4096, *((first, first + length) for first, length in ranges))
        blocks = free_blocks(free)
        rebuilt = np.zeros(4096, dtype=int)
        heads = set(zip(blocks.pfn.tolist(), blocks.order.tolist(), strict=True))
        for pfn, order in heads:
            assert pfn % (1 << order) == 0
            rebuilt[pfn : pfn + (1 << order)] += 1
            assert order == 10 or (pfn ^ 1 << order, order) not in heads
        assert (rebuilt == free).all()
        assert (np.diff(blocks.pfn) > 0).all()
        assert sum(count << order for order, count in enumerate(blocks.by_order())) == free.sum()

    def test_page_types(self, tmp_path):
        file = tmp_path / "pagetypeinfo"
        zeros = " 0" * 8
        file.write_text(
            "Page block order: 9\n"
            f"Node    0, zone    DMA32, type    Unmovable  1 0 2{zeros[:-4]} 1 0\n"
            f"Node    0, zone    DMA32, type      Movable  3 0{zeros} >100\n"
            "Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic\n"
            "Node 0, zone    DMA32           35          468            1            0\n"
        )
        types = read_page_types(file)
        assert types.free_by_order() == (4, 0, 2, 0, 0, 0, 0, 0, 0, 1, 100)
        assert types.free_by_order("Normal") == (0,) * 11
        assert types.pageblocks[0, "DMA32", 1] == 468
        file.write_text("nothing of the kind\n")
        with pytest.raises(TraceError, match="no copy of /proc/pagetypeinfo"):
            read_page_types(file)


class TestHistory:
    def test_the_ordinary_life_of_a_page(self, recording, tmp_path):
        recording.lock(16).alloc(16).free(16).batched(16).drain(16)
        found = page_history(recording.read(tmp_path))
        assert told(found) == [
            (name, 16, "event") for name in ("take", "hand out", "give back", "return")
        ]
        assert committed_row(found.trace, found.paired, 2) == 3

    def test_a_steal_takes_its_block_and_a_small_claim_does_not_take_twice(
        self, recording, tmp_path
    ):
        recording.extfrag(16, 0).lock(64).extfrag(64, 8, change=1).extfrag(1024, 10, change=1)
        assert told(page_history(recording.read(tmp_path))) == [
            ("take", pfn, "event") for pfn in (16, 64, 1024)
        ]

    def test_a_free_that_missed_the_lists(self, recording, tmp_path):
        recording.alloc(16).free(16).mark("later").lock(16)
        assert told(page_history(recording.read(tmp_path))) == [
            ("hand out", 16, "event"),
            ("give back", 16, "event"),
            ("return", 16, "derived"),
            ("take", 16, "event"),
        ]

    def test_orders_without_lists_return_at_once(self, recording, tmp_path):
        recording.lock(16, 4).alloc(16, 4).free(16, 4)
        steps = told(page_history(recording.read(tmp_path)))
        assert [name for name, _, _ in steps] == ["take", "hand out", "give back", "return"]
        recording.lines.clear()
        recording.lock(16, 3).alloc(16, 3).free(16, 3)
        trace = recording.read(tmp_path)
        assert len(told(page_history(trace))) == 3
        assert len(told(page_history(trace, kernel="5.0"))) == 4

    def test_pages_of_alloc_pages_bulk_are_handed_out_together(self, recording, tmp_path):
        for pfn in (16, 17, 18):
            recording.lock(pfn)
        recording.alloc(40, task="other-7")
        for pfn in (18, 17, 16):
            recording.free(pfn, task="cat-203").batched(pfn, task="cat-203")
        steps = told(page_history(recording.read(tmp_path)))[4:]
        assert steps[:3] == [("hand out", pfn, "derived") for pfn in (18, 17, 16)]
        assert steps[3:] == [("give back", pfn, "event") for pfn in (18, 17, 16)]

    def test_a_batched_line_without_its_free(self, recording, tmp_path):
        recording.alloc(16).batched(16)
        assert told(page_history(recording.read(tmp_path)))[1] == ("give back", 16, "event")

    def test_a_huge_page_is_printed_as_order_0_when_batched(self, recording, tmp_path):
        recording.alloc(512, 9).free(512, 9).batched(512).drain(512, 9)
        found = page_history(recording.read(tmp_path))
        assert all_steps(found).order.tolist() == [9, 9, 9]
        assert [order_at(found.trace, found.paired, row) for row in range(4)] == [9, 9, 9, 9]
        assert found.derived == ()

    def test_lost_events_are_made_up_for(self, recording, tmp_path):
        recording.alloc(16).alloc(16).drain(16).drain(16).alloc(16)
        steps = told(page_history(recording.read(tmp_path)))
        assert steps == [
            ("hand out", 16, "event"),
            ("give back", 16, "derived"),
            ("hand out", 16, "event"),
            ("give back", 16, "derived"),
            ("return", 16, "event"),
            ("take", 16, "derived"),
            ("return", 16, "event"),
            ("take", 16, "derived"),
            ("hand out", 16, "event"),
        ]

    def test_destinations_of_compaction(self, recording, tmp_path):
        trace = recording.compaction().read(tmp_path)
        free = flags(2048, (1025, 1027), (1030, 1100))
        found = page_history(trace, free, begin=4)
        assert found.derived_counts() == {"compaction": 6}
        taken = [
            pfn for name, pfn, derived in told(found) if (name, derived) == ("take", "derived")
        ]
        assert taken == [1025, 1026, 1027], (
            "in the free scanner's order, before their sources' frees"
        )
        assert [name for name, _, _ in told(found)[:3]] == ["take", "hand out", "give back"]

    def test_compaction_leaves_wholly_free_pageblocks_alone(self, recording, tmp_path):
        trace = recording.compaction().read(tmp_path)
        found = page_history(trace, flags(4096, (1025, 1100), (3072, 4095)), begin=4)
        assert max(step.pfn for step in found.derived) < 3072

    def test_the_dump_decides_where_pages_were(self, recording, tmp_path):
        recording.alloc(16).free(17).mark("kpageflags-dumped kpf0").free(16).lock(20).alloc(17)
        trace = recording.read(tmp_path)
        begin, end = replayed_rows(trace)
        assert (begin, end) == (3, 6)
        found = page_history(trace, flags(64, (20, 23)), begin=begin, end=end)
        assert found.derived == ()
        assert [int(found.first[pfn]) for pfn in (16, 17, 20, 24)] == [3, 2, 1, 0]

    def test_rows_between_two_dumps(self, recording, tmp_path):
        recording.alloc(16).mark("kpageflags-dumped kpf0").free(16)
        recording.mark("kpageflags-dumped kpf1").alloc(16)
        assert replayed_rows(recording.read(tmp_path)) == (2, 3)
