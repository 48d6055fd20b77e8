"""zone-bitmap: bits that a free sets, a work item at 16, a take of the lock for each bit.

Sources: the patches "mm: page_hinting: core infrastructure" of v10 (2019-06-03) and v11
(2019-07-10), and "mm: page_reporting: core infrastructure" of v12 (2019-08-12).
"""

import pytest

from hintbench.operations import allocate
from hintbench.strategies.zone_bitmap import ZoneBitmap
from small_guest import BLOCK, MS, START, US, costs, host, trace_lock, zone

from .stage import FAST, block_at, give, number_of, play, rest, take

SERVICE = 100 * US
END = 10 * MS


def scan(*tapes, **given):
    """Run it with batches of 4 on a host of 100 us; the run with its `reports`."""
    given = {"batch": 4, "host": host(device_latency_ns=SERVICE), **given}
    running = play(ZoneBitmap, *tapes, **given)
    assert running.result.violations == {}
    return running


def area_of(running, index=0):
    return running.strategy.area_of[running.guest.zones[index]]


def bits(running, index=0):
    bitmap = area_of(running, index).bitmap
    assert bitmap.count == len(bitmap.set_units())
    return [number_of(pfn) for pfn in bitmap.set_units()]


def spread(numbers, then=()):
    """Take 16 blocks, give some that do not merge, one after the other, and rest."""
    return [take(range(16)), give(numbers), rest(END // 2), *then, rest(END // 2)]


def test_constants_are_those_of_the_mails():
    assert ZoneBitmap().parameters.model_dump() == {
        "version": "v12",
        "order": 9,
        "batch": 16,
        "swap": False,
        "clear_on_allocation": False,
    }


class TestCapture:
    def test_what_was_free_at_the_start_is_in_no_bitmap(self):
        assert scan([rest(END)]).reports.batches == []

    def test_a_bit_stands_for_the_first_page_of_the_merged_block(self):
        running = scan([take(range(2)), take([2], order=9), give([0]), give([2]), rest(END)])
        set_units = area_of(running).bitmap.set_units()
        assert START in set_units
        assert START + 512 not in set_units

    def test_smaller_blocks_set_none(self):
        running = scan([take(range(8), order=8), give([1, 3, 5, 7]), rest(END)])
        assert bits(running) == []

    def test_the_same_block_freed_twice_counts_once(self):
        tape = [take(range(3)), give([0]), take([0]), give([0]), rest(END)]
        assert bits(scan(tape)) == [0]

    def test_a_residue_is_never_told(self):
        running = scan(spread(range(3)))
        assert running.reports.batches == []
        assert bits(running) == [0, 1, 2]


class TestWork:
    def test_it_starts_with_a_batch_of_bits_and_tells_the_rest_too(self):
        running = scan(spread(range(4)))
        assert [sorted(map(number_of, dict(batch))) for _, batch in running.reports.batches] == [
            [0, 1, 2, 3]
        ]
        assert bits(running) == []

    def test_bits_are_scanned_upwards_and_told_in_that_order(self):
        running = scan(spread([9, 2, 7, 4, 3, 12]), costs=costs(pcp_free_ns=1))
        told = running.reports.blocks
        assert told == sorted(told)

    def test_a_lock_hold_for_each_bit_and_one_to_return(self):
        running = scan(spread(range(4)))
        assert running.result.metrics["strategy_lock_takes"] == 4 + 1

    def test_a_stale_bit_costs_a_hold_too(self):
        # Block 0 is freed, and taken again before there are enough.
        tape = [take(range(8)), give([0]), take([0]), give([1, 2, 3]), rest(END)]
        running = scan(tape)
        assert running.reports.blocks == [1, 2, 3]
        assert running.result.metrics["strategy_lock_takes"] == 4 + 1
        assert running.result.metrics["strategy_empty_lock_takes"] == 1
        assert bits(running) == []

    def test_a_smaller_free_block_at_a_stale_bit_is_left_alone(self):
        # Block 0 is freed, and all of it but its first quarter taken again.
        parts = [take([0]), take([20], order=8), take([21], order=8), take([22], order=9)]
        tape = [take(range(8)), give([0]), *parts[1:], give([20]), give([1, 2, 3]), rest(END)]
        running = scan(tape, blocks=8)
        assert running.guest.zones[0].free_order(block_at(0)) == 8
        assert running.reports.blocks == [1, 2, 3]

    def test_frees_during_the_scan_are_seen_if_they_lie_ahead_and_ask_for_nothing(self):
        # While blocks 4 to 7 are with the host, 2 lies behind the scan and 9 ahead of it.
        tape = [take(range(16)), give(range(4, 8)), rest(SERVICE // 2), give([2, 9]), rest(END)]
        running = scan(tape, [])
        assert running.reports.blocks == [4, 5, 6, 7, 9]
        assert bits(running) == [2]

    def test_blocks_come_back_to_the_heads_of_their_lists_and_set_no_bit(self):
        running = scan(spread(range(4)))
        first = running.machine.zones[0].blocks_of(10, 1)[:4]
        assert sorted(map(number_of, first)) == [0, 1, 2, 3]

    def test_zones_are_told_apart_and_each_needs_its_own_batch(self):
        zones = (zone(16, START), zone(16, START + 16 * BLOCK, name="Normal", node=1))
        other = [take(range(20, 30)), give(range(20, 24)), rest(END)]
        running = scan(spread(range(3)), other, zones=zones)
        assert all(number >= 16 for number in running.reports.blocks)
        assert bits(running) == [0, 1, 2]

    def test_what_the_watermark_forbids_is_forgotten(self):
        low = 8 * BLOCK
        running = scan(spread(range(16)), zones=(zone(16, low=low),))
        told = running.reports.blocks
        assert len(told) < 16
        assert bits(running) == []

    def test_refused_blocks_come_back_and_are_not_told_again(self):
        def refuse(running):
            running.guest.host.accepts = False

        running = scan(spread(range(4)), before=refuse)
        assert running.reports.sizes == [4]
        assert bits(running) == []

    def test_stopping_waits_for_it(self):
        tape = [take(range(8)), give(range(4))]
        running = scan(tape)
        assert running.strategy.work.done
        assert running.guest.zones[0].isolated_pages == 0

    def test_after_stopping_a_free_sets_no_bit(self):
        running = scan([rest(END)])
        running.strategy.block_freed(0, running.guest.zones[0], block_at(0))
        assert bits(running) == []


ALL = ("v10", "v11", "v12")


class TestVersions:
    """What the three postings do differently."""

    @pytest.mark.parametrize(("version", "to_return"), [("v10", 4), ("v11", 4), ("v12", 1)])
    def test_blocks_go_back_one_by_one_until_v12(self, version, to_return):
        """release_buddy_pages() locks for each page, return_isolated_page() of v12 once."""
        metrics = scan(spread(range(4)), version=version).result.metrics
        assert metrics["strategy_lock_takes"] == 4 + to_return
        assert metrics["lock_takes_per_batch"] == 4 + to_return

    @pytest.mark.parametrize("version", ALL)
    def test_takes_for_stale_bits_are_in_the_second_figure(self, version):
        """A take of the lock for each bit, free or not, is what Duyck objected to."""
        tape = [take(range(8)), give([0]), take([0]), give([1, 2, 3]), rest(END)]
        metrics = scan(tape, version=version).result.metrics
        useful = metrics["lock_takes_per_batch"]
        assert metrics["strategy_lock_takes_per_batch"] == useful + 1

    @pytest.mark.parametrize(("version", "left"), [("v10", 1), ("v11", 1), ("v12", 0)])
    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_v12_alone_keeps_the_migratetype(self, version, left, kernel):
        """process_free_page(): set_pageblock_migratetype() after __isolate_free_page()."""
        unmovable = allocate(range(4), order=9, migratetype=0, flags=FAST)
        tape = [unmovable, take(range(4, 8)), give([0]), give([1, 2, 3]), rest(END)]
        running = scan(tape, batch=1, version=version, kernel=kernel)
        blocks = {pfn for _, batch in running.reports.batches for pfn, _ in batch}
        assert blocks
        assert {running.machine.pages.pageblock_type[pfn >> 9] for pfn in blocks} == {left}

    @pytest.mark.parametrize(("kernel", "second"), [("5.0", 1), ("6.12", 0)])
    def test_v12_restores_one_pageblock_of_two(self, kernel, second):
        """set_pageblock_migratetype() is called for the first page; 6.12 needs both."""
        unmovable = allocate(range(8), order=10, migratetype=0, flags=FAST)
        running = scan([unmovable, give([0]), rest(END)], batch=1, kernel=kernel)
        ((pfn, order),) = running.reports.batches[0][1]
        types = running.machine.pages.pageblock_type
        assert order == 10
        assert (types[pfn >> 9], types[(pfn >> 9) + 1]) == (0, second)

    @pytest.mark.parametrize(("version", "kept"), [("v10", [0]), ("v11", [0]), ("v12", [])])
    def test_v12_loses_what_is_freed_before_it_clears_the_bit(self, version, kept):
        """scan_zone_bitmap() of v12 clears the bit after spin_unlock(): here it is preempted."""

        def preempt(running):
            step = running.guest.step

            async def preempted():
                await running.guest.sleep(20 * US)
                await step()

            running.guest.step = preempted

        # The bit of block 0 is stale, until CPU 1 frees it.
        tape = [take(range(8)), give([0]), take([0]), give([1, 2, 3]), rest(END)]
        running = scan(tape, [rest(10 * US), give([0])], before=preempt, version=version)
        assert running.reports.blocks == [1, 2, 3]
        assert running.guest.zones[0].free_order(block_at(0)) == 10
        assert bits(running) == kept
        assert area_of(running).free_pages.peek() == len(kept)

    @pytest.mark.parametrize(("version", "kept"), [("v10", []), ("v11", [0, 1, 2, 3]), ("v12", 4)])
    def test_v10_alone_is_queued_while_it_runs(self, version, kept):
        """queue_work_on() of v10 is not held back by a flag, and a running item runs again."""
        # Blocks 4 to 7 are with the host when those behind the scan are freed.
        tape = [take(range(16)), give(range(4, 8)), rest(SERVICE // 2), give(range(4)), rest(END)]
        running = scan(tape, version=version)
        assert bits(running) == (list(range(4)) if kept == 4 else kept)
        assert area_of(running).free_pages.peek() == len(bits(running))
        assert running.reports.sizes == ([4, 4] if version == "v10" else [4])

    def test_v10_counts_what_it_scanned_beyond_what_it_found_counted(self):
        """atomic_sub(scanned_pages - free_pages) at the end of scan_hinting_bitmap()."""
        tape = [take(range(16)), give(range(4, 8)), rest(SERVICE // 2), give([2, 9]), rest(END)]
        running = scan(tape, version="v10")
        assert running.reports.blocks == [4, 5, 6, 7, 9]
        assert (bits(running), area_of(running).free_pages.peek()) == ([2], 1)

    def test_v10_counts_no_more_what_it_had_no_memory_to_scan(self):
        """prepare() fails after atomic_sub(): the bits stay, and do not count."""

        def no_memory(running):
            running.guest.buffer_fails = lambda: True

        running = scan(spread(range(4)), before=no_memory, version="v10")
        assert running.reports.batches == []
        assert (bits(running), area_of(running).free_pages.peek()) == ([0, 1, 2, 3], 0)

    def test_v10_gives_back_untold_what_it_had_no_memory_to_ask_for(self):
        """page_hinting_report() of v10 returns when kmalloc() of its request fails."""
        answers = iter([False, True])

        def no_request(running):
            running.guest.buffer_fails = lambda: next(answers)

        running = scan(spread(range(4)), before=no_request, version="v10")
        assert running.reports.batches == []
        assert bits(running) == []
        assert running.guest.zones[0].isolated_pages == 0

    @pytest.mark.parametrize("version", ["v11", "v12"])
    def test_later_versions_need_no_memory(self, version):
        def no_memory(running):
            running.guest.buffer_fails = lambda: True

        assert scan(spread(range(4)), before=no_memory, version=version).reports.sizes == [4]

    @pytest.mark.parametrize(
        ("version", "told"), [("v10", []), ("v11", [0, 1, 17, 18]), ("v12", [])]
    )
    def test_v11_joins_the_zones_of_a_type(self, version, told):
        """free_area[MAX_NR_ZONES] is indexed by page_zonenum(), which all nodes share."""
        zones = (zone(16, START), zone(16, START + 16 * BLOCK, node=1))
        # 15 blocks of the first zone, as its watermark will have it, and some of the second.
        tape = [take(range(20)), give([0, 1, 16, 17]), rest(END)]
        assert scan(tape, zones=zones, version=version).reports.blocks == told

    def test_v10_has_bits_for_the_first_zone_of_a_type_only(self):
        """bm_zone[MAX_NR_ZONES]: what lies beyond the bits of the first zone is not set."""
        zones = (zone(16, START), zone(16, START + 16 * BLOCK, node=1))
        tape = [take(range(30)), give(range(30)), rest(END)]
        told = scan(tape, zones=zones, version="v10").reports.blocks
        assert sorted(told) == list(range(15))


class TestOptions:
    def test_swap_takes_all_bits_under_one_hold(self):
        tape = [take(range(16)), give(range(4, 8)), rest(SERVICE // 2), give([2, 9]), rest(END)]
        running = scan(tape, [], swap=True)
        # What is freed meanwhile is in the new bitmap, wherever it lies.
        assert running.reports.blocks == [4, 5, 6, 7]
        assert bits(running) == [2, 9]
        assert running.result.metrics["strategy_lock_takes"] == 1 + 4 + 1

    @pytest.mark.parametrize(("swap", "kept"), [(True, [12]), (False, [])])
    def test_a_bit_set_again_meanwhile_is_the_new_bitmaps(self, swap, kept):
        """The scan works on a private copy; with one bitmap it clears what it comes across."""
        runs = []

        def set_again(guest):
            runs[0].strategy.area_of[guest.zones[0]].bitmap.set(block_at(12), 9)

        # While the first batch is told, before the scan has come to block 12.
        looks = {END // 4: set_again, END // 2 + SERVICE // 2: set_again}
        tape = [take(range(16)), give([0, 2, 4]), rest(END // 2), give([6]), rest(END)]
        running = scan(tape, before=runs.append, at=looks, swap=swap)
        assert sorted(running.reports.blocks) == [0, 2, 4, 6]
        assert bits(running) == kept

    def test_swapped_bits_start_the_next_run_by_themselves(self):
        tape = [take(range(16)), give(range(4)), rest(END // 2), give(range(8, 12)), rest(END)]
        assert scan(tape, swap=True).reports.sizes == [4, 4]

    @pytest.mark.parametrize(("clear", "bit"), [(True, []), (False, [0])])
    def test_allocation_may_clear_bits(self, clear, bit):
        tape = [take(range(3)), give([0]), take([0]), rest(END)]
        assert bits(scan(tape, clear_on_allocation=clear)) == bit

    def test_cleared_bits_do_not_start_the_work(self):
        tape = [take(range(8)), give([0]), take([0]), give([1, 2, 3]), rest(END)]
        running = scan(tape, clear_on_allocation=True)
        assert running.reports.batches == []
        assert bits(running) == [1, 2, 3]

    def test_the_order_is_a_parameter(self):
        tape = [take(range(16), order=8), give(range(1, 9, 2)), rest(END)]
        assert {order for _, b in scan(tape, order=8).reports.batches for _, order in b} == {8}


def test_holds_are_short():
    locks = []
    running = scan(
        spread(range(4)),
        before=lambda running: locks.append(trace_lock(running)),
        costs=costs(flag_ns=5, block_cold_ns=150),
    )
    assert running.result.metrics["longest_hold_task_ns"] <= 4 * (150 + 5)
    assert block_at(0) in [pfn for _, batch in running.reports.batches for pfn, _ in batch]
