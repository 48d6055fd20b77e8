"""What a trace says of single pages, and the tapes that are made of it."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hintbench.strategies.none
from hintbench.core.tracepages import GIVE_BACK, HAND_OUT, RETURN, TAKE
from hintbench.errors import TraceError
from hintbench.jiffies import GRID_NS
from hintbench.operations import Flag, Operation, OperationBlock, concatenate
from hintbench.trace_history import history
from hintbench.trace_program import (
    exact_program,
    modelled_program,
    replayed_rows,
    steps_in_order,
)
from hintbench.trace_start import UNKNOWN_TYPE, vmstat_ticks
from hintbench.trace_state import free_blocks, read_page_flags, read_page_types
from hintbench.traces import read_trace

KERNEL_PAGE = "GFP_KERNEL_ACCOUNT|__GFP_COMP|__GFP_ZERO"
USER_PAGE = "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"
NAMES = {TAKE: "take", HAND_OUT: "hand out", GIVE_BACK: "give back", RETURN: "return"}


class Recording:
    """Writes the text of a trace, an event a microsecond."""

    def __init__(self):
        self.lines = []
        self.now = 1_000_000

    def event(self, text, cpu=0, task="work-200", wait=1):
        self.now += wait
        seconds = f"{self.now // 10**6}.{self.now % 10**6:06}"
        self.lines.append(f"{task} [{cpu:03}] ..... {seconds}: {text}\n")
        return self

    def block(self, event, pfn, order=0, tail="", **where):
        return self.event(f"{event}: page=0 pfn={pfn:#x} order={order}{tail}", **where)

    def lock(self, pfn, order=0, kind=1, **where):
        tail = f" migratetype={kind} percpu_refill=1"
        return self.block("mm_page_alloc_zone_locked", pfn, order, tail, **where)

    def alloc(self, pfn, order=0, kind=1, gfp=USER_PAGE, **where):
        return self.block(
            "mm_page_alloc", pfn, order, f" migratetype={kind} gfp_flags={gfp}", **where
        )

    def free(self, pfn, order=0, **where):
        return self.block("mm_page_free", pfn, order, **where)

    def batched(self, pfn, **where):
        return self.block("mm_page_free_batched", pfn, **where)

    def drain(self, pfn, order=0, kind=1, **where):
        return self.block("mm_page_pcpu_drain", pfn, order, f" migratetype={kind}", **where)

    def extfrag(self, pfn, block_order, kind=1, fallback=0, change=0, **where):
        return self.event(
            f"mm_page_alloc_extfrag: page=0 pfn={pfn:#x} alloc_order=0 fallback_order={block_order}"
            f" pageblock_order=9 alloc_migratetype={kind} fallback_migratetype={fallback}"
            f" fragmenting=1 change_ownership={change}",
            **where,
        )

    def mark(self, text, **where):
        return self.event(f"tracing_mark_write: {text}", **where)

    def read(self, tmp_path):
        file = tmp_path / "trace.txt"
        file.write_text("".join(self.lines))
        return read_trace(file)


@pytest.fixture
def recording():
    return Recording()


def told(found):
    """The steps of a history in words."""
    steps = steps_in_order(found)
    return [
        (NAMES[action], pfn, "derived" if derived else "event")
        for action, pfn, derived in zip(
            steps.action.tolist(), steps.pfn.tolist(), steps.derived.tolist(), strict=True
        )
    ]


def tape(program, cpu=0):
    block = concatenate(program.tapes[cpu])
    return [
        (Operation(int(operation)).name, int(value), int(time))
        for operation, value, time in zip(block.operation, block.value, block.time_ns, strict=True)
    ]


def flags(count, *free):
    known = np.zeros(count, dtype=bool)
    for first, last in free:
        known[first : last + 1] = True
    return known


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
        found = history(recording.read(tmp_path))
        assert told(found) == [
            (name, 16, "event") for name in ("take", "hand out", "give back", "return")
        ]
        assert found.commit[2] == 3

    def test_a_steal_takes_its_block_and_a_small_claim_does_not_take_twice(
        self, recording, tmp_path
    ):
        recording.extfrag(16, 0).lock(64).extfrag(64, 8, change=1).extfrag(1024, 10, change=1)
        assert told(history(recording.read(tmp_path))) == [
            ("take", pfn, "event") for pfn in (16, 64, 1024)
        ]

    def test_a_free_that_missed_the_lists(self, recording, tmp_path):
        recording.alloc(16).free(16).mark("later").lock(16)
        assert told(history(recording.read(tmp_path))) == [
            ("hand out", 16, "event"),
            ("give back", 16, "event"),
            ("return", 16, "derived"),
            ("take", 16, "event"),
        ]

    def test_orders_without_lists_return_at_once(self, recording, tmp_path):
        recording.lock(16, 4).alloc(16, 4).free(16, 4)
        steps = told(history(recording.read(tmp_path)))
        assert [name for name, _, _ in steps] == ["take", "hand out", "give back", "return"]
        recording.lines.clear()
        recording.lock(16, 3).alloc(16, 3).free(16, 3)
        trace = recording.read(tmp_path)
        assert len(told(history(trace))) == 3
        assert len(told(history(trace, kernel="5.0"))) == 4

    def test_pages_of_alloc_pages_bulk_are_handed_out_together(self, recording, tmp_path):
        for pfn in (16, 17, 18):
            recording.lock(pfn)
        recording.alloc(40, task="other-7")
        for pfn in (18, 17, 16):
            recording.free(pfn, task="cat-203").batched(pfn, task="cat-203")
        steps = told(history(recording.read(tmp_path)))[4:]
        assert steps[:3] == [("hand out", pfn, "derived") for pfn in (18, 17, 16)]
        assert steps[3:] == [("give back", pfn, "event") for pfn in (18, 17, 16)]

    def test_a_batched_line_without_its_free(self, recording, tmp_path):
        recording.alloc(16).batched(16)
        assert told(history(recording.read(tmp_path)))[1] == ("give back", 16, "event")

    def test_a_huge_page_is_printed_as_order_0_when_batched(self, recording, tmp_path):
        recording.alloc(512, 9).free(512, 9).batched(512).drain(512, 9)
        found = history(recording.read(tmp_path))
        assert found.order.tolist() == [9, 9, 9, 9]
        assert found.derived == ()

    def test_lost_events_are_made_up_for(self, recording, tmp_path):
        recording.alloc(16).alloc(16).drain(16).drain(16).alloc(16)
        steps = told(history(recording.read(tmp_path)))
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

    def compaction(self, recording):
        """Three movable pages move up from the second pageblock; one destination is seen again."""
        kcompactd = {"task": "kcompactd0-51", "cpu": 1}
        for pfn in (512, 513, 514):
            recording.alloc(pfn)
        recording.mark("kpageflags-dumped /tmp/kpf0")
        for pfn in (514, 513, 512):
            recording.free(pfn, **kcompactd)
        recording.free(1026, wait=500_000)
        return recording

    def test_destinations_of_compaction(self, recording, tmp_path):
        trace = self.compaction(recording).read(tmp_path)
        free = flags(2048, (1025, 1027), (1030, 1100))
        found = history(trace, free, begin=4)
        assert found.derived_counts() == {"compaction": 6}
        taken = [
            pfn for name, pfn, derived in told(found) if (name, derived) == ("take", "derived")
        ]
        assert taken == [1025, 1026, 1027], (
            "in the free scanner's order, before their sources' frees"
        )
        assert [name for name, _, _ in told(found)[:3]] == ["take", "hand out", "give back"]

    def test_compaction_leaves_wholly_free_pageblocks_alone(self, recording, tmp_path):
        trace = self.compaction(recording).read(tmp_path)
        found = history(trace, flags(4096, (1025, 1100), (3072, 4095)), begin=4)
        assert max(step.pfn for step in found.derived) < 3072

    def test_the_dump_decides_where_pages_were(self, recording, tmp_path):
        recording.alloc(16).free(17).mark("kpageflags-dumped kpf0").free(16).lock(20).alloc(17)
        trace = recording.read(tmp_path)
        begin, end = replayed_rows(trace)
        assert (begin, end) == (3, 6)
        found = history(trace, flags(64, (20, 23)), begin=begin, end=end)
        assert found.derived == ()
        assert [int(found.first[pfn]) for pfn in (16, 17, 20, 24)] == [3, 2, 1, 0]

    def test_rows_between_two_dumps(self, recording, tmp_path):
        recording.alloc(16).mark("kpageflags-dumped kpf0").free(16)
        recording.mark("kpageflags-dumped kpf1").alloc(16)
        assert replayed_rows(recording.read(tmp_path)) == (2, 3)


class TestModelled:
    def test_nothing_is_freed_twice(self, recording, tmp_path):
        recording.alloc(16).free(16).free(17).batched(16).batched(17)
        program = modelled_program(recording.read(tmp_path), vcpus=1)
        assert tape(program) == [("ALLOCATE", 0, 0), ("FREE", 0, 3000), ("FREE", 1, 4000)]
        assert (program.slots, program.operations) == (2, 3)

    def test_what_the_trace_frees_first_is_in_use_from_the_start(self, recording, tmp_path):
        recording.free(16, 2).free(8).alloc(16, 1)
        program = modelled_program(recording.read(tmp_path), vcpus=1)
        start = program.initial
        assert start.in_use_pfn.tolist() == [16, 8]
        assert start.in_use_order.tolist() == [2, 0]
        assert start.in_use_slot.tolist() == [0, 1]
        assert [entry[:2] for entry in tape(program)] == [
            ("FREE", 0),
            ("FREE", 1),
            ("ALLOCATE", 2),
        ]

    def test_pages_on_the_lists_at_the_start(self, recording, tmp_path):
        recording.alloc(16).alloc(17).lock(20).alloc(18, kind=0).drain(9).drain(8)
        recording.drain(30, 1, task="kworker/1:0-9", cpu=1).alloc(512, 9)
        pcp = modelled_program(recording.read(tmp_path), vcpus=2).initial.pcp
        listed = zip(*(getattr(pcp, n).tolist() for n in ("cpu", "order", "migratetype", "pfn")),
                     strict=True)  # fmt: skip
        assert list(listed) == [
            (0, 0, 0, 18),
            (0, 0, 1, 16),
            (0, 0, 1, 17),
            (0, 0, 1, 8),
            (0, 0, 1, 9),
            (0, 9, 1, 512),
            (1, 1, 1, 30),
        ]
        assert pcp.pages(1) == 2

    def test_a_block_freed_in_parts_is_freed_with_the_last(self, recording, tmp_path):
        recording.alloc(16, 1).free(17).alloc(40).free(16)
        program = modelled_program(recording.read(tmp_path), vcpus=1)
        assert [entry[:2] for entry in tape(program)] == [
            ("ALLOCATE", 0),
            ("ALLOCATE", 1),
            ("FREE", 0),
        ]

    def test_a_lost_free(self, recording, tmp_path):
        recording.alloc(16).alloc(16).free(16)
        program = modelled_program(recording.read(tmp_path), vcpus=1)
        assert [entry[:2] for entry in tape(program)] == [
            ("ALLOCATE", 0),
            ("FREE", 0),
            ("ALLOCATE", 1),
            ("FREE", 1),
        ]

    def test_flags_of_allocations(self, recording, tmp_path):
        slab = "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP"
        wanted = {
            USER_PAGE: Flag.ZERO | Flag.COMPOUND | Flag.MOVABLE_ZONE,
            slab: Flag.TOUCHED | Flag.COMPOUND | Flag.SLAB | Flag.NORETRY,
            "GFP_ATOMIC": Flag.TOUCHED | Flag.ATOMIC,
            "GFP_NOWAIT": Flag.TOUCHED | Flag.NORETRY,
            "GFP_TRANSHUGE_LIGHT|__GFP_NORETRY": Flag.TOUCHED | Flag.COMPOUND | Flag.NORETRY
            | Flag.NO_KSWAPD | Flag.MOVABLE_ZONE,
            "GFP_KERNEL|GFP_DMA32": Flag.TOUCHED | Flag.DMA32,
        }  # fmt: skip
        for pfn, gfp in enumerate(wanted, 16):
            recording.alloc(pfn, 0, pfn % 3, gfp)
        block = concatenate(modelled_program(recording.read(tmp_path), vcpus=1).tapes[0])
        assert block.flags.tolist() == [int(flag) for flag in wanted.values()]
        assert block.migratetype.tolist() == [pfn % 3 for pfn in range(16, 22)]

    def test_cpus_of_the_guest(self, recording, tmp_path):
        trace = recording.alloc(16).alloc(17, cpu=2).read(tmp_path)
        program = modelled_program(trace, vcpus=4)
        assert [len(tape(program, cpu)) for cpu in range(2)] == [1, 0]
        with pytest.raises(TraceError, match="of 3 CPUs, the guest has 2: give it at least 3"):
            modelled_program(trace, vcpus=2)

    def test_moves_of_compaction_cost_nothing(self, recording, tmp_path):
        trace = TestHistory().compaction(recording).read(tmp_path)
        program = modelled_program(trace, vcpus=2, free=flags(2048, (1025, 1027), (1030, 1100)))
        # Only the destination that was freed in the end, under its source's slot.
        assert [entry[0] for entry in tape(program, 0)] == ["FREE"]
        assert tape(program, 1) == []

    def test_types_of_pageblocks_before_they_were_claimed(self, recording, tmp_path):
        recording.lock(512, kind=1).extfrag(512, 8, fallback=2, change=1).drain(1024, kind=0)
        types = modelled_program(recording.read(tmp_path), vcpus=1).initial.pageblock_type
        assert types.tolist()[:3] == [UNKNOWN_TYPE, 2, 0]

    def test_ticks_of_vmstat(self, recording, tmp_path):
        worker = {"task": "kworker/0:1-10", "wait": 6_000_000}
        recording.alloc(16).drain(40, **worker).drain(41, task="kworker/0:1-10")
        recording.drain(42, task="kworker/0:1-10", wait=1_024_000)
        trace = recording.read(tmp_path)
        seconds = vmstat_ticks(trace, 0, len(trace))[0] / 1e9 - 1.000001
        # Three guessed ones, and none right before the two that were seen.
        assert seconds.round(3).tolist() == [2.048, 3.072, 4.096, 6.0, 7.024]


class TestExact:
    def test_operations_name_pages_in_distinct_order(self, recording, tmp_path):
        recording.lock(16).alloc(16, gfp=KERNEL_PAGE, wait=0).free(16, wait=0).drain(16, wait=0)
        trace = recording.read(tmp_path)
        program = exact_program(trace, flags(64, (16, 31)), vcpus=1)
        assert tape(program) == [
            ("TAKE", 16, 0),
            ("HAND_OUT", 16, 1),
            ("GIVE_BACK", 16, 2),
            ("RETURN", 16, 3),
        ]
        block = concatenate(exact_program(trace, flags(64, (16, 31)), vcpus=1).tapes[0])
        assert block.flags[1] == Flag.ZERO | Flag.COMPOUND
        start = program.initial
        assert start.exact
        assert start.vmstat_ticks_ns == {}
        assert (start.free.pfn.tolist(), start.free.order.tolist()) == ([16], [4])
        assert sorted(start.in_use_pfn.tolist()) == [*range(16), *range(32, 64)]

    def test_page_flags_of_another_machine(self, recording, tmp_path):
        trace = recording.lock(64).read(tmp_path)
        with pytest.raises(TraceError, match=r"cover 64 pages, trace .*trace.txt names page 0x40:"):
            exact_program(trace, flags(64), vcpus=1)

    def test_tapes_come_in_blocks(self, recording, tmp_path):
        program = exact_program(recording.lock(16).read(tmp_path), flags(64, (16, 16)), vcpus=2)
        blocks = [list(tape) for tape in program.tapes]
        assert [len(of_cpu) for of_cpu in blocks] == [1, 0]
        assert isinstance(blocks[0][0], OperationBlock)

    def replay(self, recording, tmp_path, free):
        """Follow a trace on a guest of 16 MiB; the machine at its end."""
        from hintbench.runner import Run
        from hintbench.workload import Workload
        from small_guest import small_guest, zone

        program = exact_program(recording.read(tmp_path), free, vcpus=1)

        class Replay(Workload):
            name = "replay"

            def program(self, setting):
                return program

        config = small_guest(zones=(zone(4, 0, low=40),))
        running = Run(hintbench.strategies.none.Nothing(), Replay(), config, seed=1)
        running.execute()
        return running.machine

    def test_a_claimed_block_changes_the_type_of_what_is_left_of_it(self, recording, tmp_path):
        recording.lock(3000, kind=1)
        recording.extfrag(1024, 10, kind=0, fallback=1, change=1)
        zone = self.replay(recording, tmp_path, flags(4096, (1024, 2047), (3000, 3000))).zones[0]
        assert zone.blocks_of(9, 0) == [1536]
        assert zone.blocks_of(0, 0) == [1025]
        assert list(zone.pages.pageblock_type[2:4]) == [0, 0]

    def test_a_claimed_pageblock_moves_with_all_that_is_free_in_it(self, recording, tmp_path):
        recording.lock(1024, kind=0)
        recording.extfrag(1024, 8, kind=0, fallback=1, change=1)
        machine = self.replay(recording, tmp_path, flags(4096, (1024, 1279), (1400, 1407)))
        zone = machine.zones[0]
        assert (zone.blocks_of(7, 0), zone.blocks_of(3, 0)) == ([1152], [1032, 1400])
        assert list(zone.pages.pageblock_type[2:4]) == [0, 1]

    def test_a_steal_changes_no_type(self, recording, tmp_path):
        recording.extfrag(1024, 8, kind=1, fallback=0).drain(1300, kind=0)
        zone = self.replay(recording, tmp_path, flags(4096, (1024, 1279))).zones[0]
        assert zone.blocks_of(7, 0) == [1152]
        assert zone.pages.pageblock_type[2] == 0

    def test_the_phase_of_the_timers(self, recording, tmp_path):
        recording.lock(16)
        for wait_ms in (1023, 1024, 1031, 1024, 1017):  # the third and fourth are late
            recording.drain(40, task="kworker/0:1-10", wait=wait_ms * 1000)
        start = self.program_of(recording, tmp_path).initial
        assert start.timer_phase_ns == 1023 * 1_000_000 % GRID_NS

    def program_of(self, recording, tmp_path):
        return exact_program(recording.read(tmp_path), flags(64, (16, 31)), vcpus=1)

    def checked(self, recording, tmp_path, free):
        """The model's account of a replay: what agreed, differed, and was unknown."""
        from hintbench.runner import Run
        from hintbench.workload import Workload
        from small_guest import small_guest, zone

        program = exact_program(recording.read(tmp_path), free, vcpus=2, check=True)

        class Replay(Workload):
            name = "replay"

            def program(self, setting):
                return program

        running = Run(
            hintbench.strategies.none.Nothing(),
            Replay(),
            small_guest(2, zones=(zone(4, 0, low=40),)),
            seed=1,
        )
        result = running.execute()
        assert result.violations == {}
        counts = running.machine.simulation.truth.counts
        return {
            kind: tuple(counts[kind, what] for what in ("agree", "differ", "unknown"))
            for kind in ("takes", "hits")
        }, result.notes

    def test_check_foretells_takes_once_a_block_was_split(self, recording, tmp_path):
        for pfn in (1024, 1025, 1026, 1030, 1027, 1028):
            recording.lock(pfn)
        counts, notes = self.checked(recording, tmp_path, flags(4096, (1024, 2047)))
        # The first block is of the beginning. 1030 is taken where 1027 was expected, and 1027 when
        # it was not expected any more.
        assert counts["takes"] == (3, 2, 1)
        assert any("60.00% of 5 chosen as the model would have; 1 more" in line for line in notes)
        assert any("0x406 of order 0 and type 1 is taken" in line for line in notes)

    def test_check_foretells_pages_from_per_cpu_lists(self, recording, tmp_path):
        recording.alloc(40)  # there from the beginning
        for pfn in (1024, 1025, 1026):
            recording.lock(pfn)
        recording.alloc(1024).free(1024).alloc(1024).alloc(1026).alloc(1025)
        recording.lock(1027, cpu=1).alloc(1027, cpu=1)
        counts, _ = self.checked(recording, tmp_path, flags(4096, (1024, 2047)))
        # 1026 comes before 1025, which then counts as gone.
        assert counts["hits"] == (3, 1, 2)

    def test_check_leaves_out_fallbacks(self, recording, tmp_path):
        recording.lock(1024).lock(1025)
        recording.extfrag(1026, 1, kind=0, fallback=1)
        counts, _ = self.checked(recording, tmp_path, flags(4096, (1024, 2047)))
        assert counts["takes"] == (1, 0, 1)
