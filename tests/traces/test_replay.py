"""The tapes that are made of a trace, modelled and exact."""

from collections import Counter

import numpy as np
import pytest

import hintbench.strategies.none
from hintbench.errors import TraceError
from hintbench.guest.validation import validate
from hintbench.operations import Flag, OperationBlock, concatenate
from hintbench.runner import Run
from hintbench.tasks.jiffies import GRID_NS
from hintbench.traces.program import (
    exact_program,
    modelled_program,
)
from hintbench.traces.start import UNKNOWN_TYPE
from hintbench.traces.ticks import seen_ticks
from hintbench.traces.truth import AllocatorTruth
from hintbench.workloads.trace import TraceReplay
from recording import KERNEL_PAGE, USER_PAGE, Recording, flags, tape
from small_guest import Silent, small_guest, zone


@pytest.fixture
def recording():
    return Recording()


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
        assert block.flags[:-1].tolist() == [int(flag) for flag in wanted.values()]
        assert block.migratetype[:-1].tolist() == [pfn % 3 for pfn in range(16, 22)]

    def test_cpus_of_the_guest(self, recording, tmp_path):
        trace = recording.alloc(16).alloc(17, cpu=2).read(tmp_path)
        program = modelled_program(trace, vcpus=4)
        assert [len(tape(program, cpu)) for cpu in range(2)] == [1, 0]
        with pytest.raises(TraceError, match="of 3 CPUs, the guest has 2: give it at least 3"):
            modelled_program(trace, vcpus=2)

    def test_moves_of_compaction_cost_nothing(self, recording, tmp_path):
        trace = recording.compaction().read(tmp_path)
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
        seconds = seen_ticks(trace, 0, len(trace))[0] / 1e9 - 1.000001
        assert seconds.round(3).tolist() == [6.0, 7.024]


class TestEnd:
    """A replay lasts as long as its trace, whatever happened in the last part of it."""

    def ended(self, recording, tmp_path, **given):
        recording.read(tmp_path)
        replay = TraceReplay(path=str(tmp_path / "trace.txt"), **given)
        config = small_guest(2, zones=(zone(2, start_pfn=0),))
        metrics = Run(Silent(), replay, config, seed=1).execute().metrics
        assert metrics["operations"] == 3
        return metrics

    def test_the_last_event_is_of_no_use_to_the_guest(self, recording, tmp_path):
        recording.alloc(16).free(16).alloc(17).mark("the end", wait=5_000_000, cpu=1)
        metrics = self.ended(recording, tmp_path)
        # An event a microsecond: the first is at 0.
        assert metrics["virtual_ns"] == 5_000_002 * 1000
        assert metrics["busy_ns"] < 10_000

    def test_it_ends_where_the_page_flags_were_dumped_again(self, recording, tmp_path):
        recording.mark("kpageflags-dumped").alloc(16).free(16).alloc(17)
        recording.mark("kpageflags-dumped", wait=3_000_000).alloc(18, wait=2_000_000)
        free = np.arange(2048) < 1000
        (tmp_path / "free").write_bytes(
            (free.astype("<u8") << np.uint64(10) | np.uint64(8)).tobytes()
        )
        metrics = self.ended(recording, tmp_path, pages=str(tmp_path / "free"))
        assert metrics["virtual_ns"] == 3_000_002 * 1000


class TestNotes:
    """What a replay says of itself in the result's notes."""

    def notes(self, recording, tmp_path, guest, **given):
        recording.read(tmp_path)
        replay = TraceReplay(path=str(tmp_path / "trace.txt"), **given)
        return Run(Silent(), replay, guest, seed=1).execute()

    def pages(self, tmp_path, free):
        path = tmp_path / "free"
        path.write_bytes((free.astype("<u8") << np.uint64(10)).tobytes())
        return str(path)

    def test_a_guest_that_is_not_the_traced_machine(self, recording, tmp_path):
        recording.alloc(16).free(16).alloc(1700)
        fitting = small_guest(1, zones=(zone(2, start_pfn=0),))
        assert not any("traced" in n for n in self.notes(recording, tmp_path, fitting).notes)
        large = small_guest(4, zones=(zone(64, start_pfn=0),))
        (note,) = [n for n in self.notes(recording, tmp_path, large).notes if "traced" in n]
        assert "4 vCPUs for 1 CPU and pages up to 0xffff for 0x6a4 of the trace" in note
        assert "(--memory 64MiB" in note

    def test_an_end_that_nobody_dumped_is_no_kernels(self, recording, tmp_path):
        recording.lock(16).alloc(16).alloc(1030).free(1030).drain(1030)
        guest = small_guest(1, zones=(zone(2, start_pfn=0),))
        known = flags(2048, (16, 1000))
        known[1030] = False
        given = {"exact": True, "pages": self.pages(tmp_path, known)}
        result = self.notes(recording, tmp_path, guest, **given)
        assert any("by order: by the events" in note for note in result.notes)
        assert any(note.startswith("no pages_end=") for note in result.notes)
        assert result.metrics["trace_free_pages_end_kernel"] is None
        assert result.metrics["trace_pages_different_end"] is None

    def test_steps_that_are_inferred_are_told_apart(self, recording, tmp_path):
        recording.lock(16).alloc(16).alloc(17)  # no take of 17
        guest = small_guest(1, zones=(zone(2, start_pfn=0),))
        given = {"exact": True, "pages": self.pages(tmp_path, flags(2048, (16, 1000)))}
        notes = self.notes(recording, tmp_path, guest, **given).notes
        assert any("(1 of the kernel's are inferred, not recorded)" in note for note in notes)


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
        assert [[len(block) for block in of_cpu] for of_cpu in blocks] == [[1, 1], [1]]
        assert isinstance(blocks[0][0], OperationBlock)

    def test_a_strategy_allocates_what_the_recording_never_names(self, recording, tmp_path):
        class Holding(hintbench.Strategy):
            name = "holding"

            @hintbench.hookimpl
            async def guest_started(self, guest):
                (zone,) = guest.zones
                async with zone.lock:
                    self.held = [zone.hold(order) for order in (9, 9, 8, 8, 8)]
                    zone.let_go(self.held[0])

        strategy = Holding()
        recording.lock(1030).alloc(1030).lock(2600)
        machine = self.replay(
            recording, tmp_path, flags(4096, (1024, 2047), (2560, 2815)), strategy
        )
        held = [block and block.pfn for block in strategy.held]
        assert held == [1536, None, 1280, None, None], "neither what is named nor what is around it"
        simulation = machine.simulation
        assert (simulation.exact_taken_again, simulation.exact_waits) == (0, 0)
        assert validate(machine) == []

    def replay(self, recording, tmp_path, free, strategy=None):
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
        strategy = strategy or hintbench.strategies.none.Nothing()
        running = Run(strategy, Replay(), config, seed=1)
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

    def test_page_flags_of_another_moment(self, recording, tmp_path):
        recording.mark("kpageflags-dumped")
        for pfn in range(40, 60):
            recording.lock(pfn)
        for pfn in range(20, 36):
            recording.alloc(pfn).free(pfn).drain(pfn)
        trace = recording.read(tmp_path)
        right = flags(64, (40, 63))
        exact_program(trace, right, vcpus=1)
        moved = right.copy()
        moved[20:27] = True  # less than eight pages may have moved while the flags were read
        modelled_program(trace, free=moved, vcpus=1)
        for wrong, text in (
            (flags(64), "20 blocks that it takes from free lists first, 20 are not free"),
            (flags(64, (0, 63)), "16 that it first finds in use or on a per-CPU list, 16 are free"),
        ):
            with pytest.raises(TraceError, match=text):
                exact_program(trace, wrong, vcpus=1)
            with pytest.raises(TraceError, match="pages= must be the copy"):
                modelled_program(trace, free=wrong, vcpus=1)

    def test_events_that_were_not_recorded_contradict_nothing(self, recording, tmp_path):
        for pfn in range(20, 36):
            recording.alloc(pfn).free(pfn)
        trace = recording.read(tmp_path)
        program = modelled_program(trace, free=flags(64, (16, 63)), vcpus=1)
        assert program.operations == 2 * 16

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

    def test_a_single_difference_among_many_choices_is_not_rounded_away(self):
        truth = AllocatorTruth.__new__(AllocatorTruth)
        truth.counts = Counter(
            {("hits", "agree"): 99_999, ("hits", "differ"): 1, ("takes", "agree"): 5}
        )
        truth.told = {"hits": [], "takes": []}
        _, (hits, takes) = truth.report()
        assert hits.startswith("pages from per-CPU lists: all but 1 of 100,000 chosen as")
        assert takes.startswith("blocks from free lists: 100.00% of 5 chosen as")

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
