"""What a strategy sees of the free lists."""

import pytest

from hintbench import Migratetype, Strategy, hookimpl, validate
from small_guest import BLOCK, START, boot, costs, small_guest
from small_guest import zone as zone_config


def zone_of(**given):
    running = boot(config=small_guest(**given))
    zone = running.machine.zones[0]
    zone.lock.take()
    return running, zone


def pfns(blocks):
    return [block.pfn for block in blocks]


class TestFreeList:
    def test_one_list_in_its_order(self):
        _, zone = zone_of()
        taken = [zone.allocate(9, Migratetype.MOVABLE) for _ in range(5)]
        for pfn in (taken[0], taken[2]):
            zone.free(pfn, 9)
        on_list = zone.blocks_of(9, Migratetype.MOVABLE)
        assert on_list == [START + BLOCK, START, START + 2 * BLOCK + 512]
        assert pfns(zone.free_list(9, Migratetype.MOVABLE)) == on_list
        assert all(
            block.order == 9 and block.zone is zone
            for block in zone.free_list(9, Migratetype.MOVABLE)
        )
        assert zone.free_list(9, Migratetype.UNMOVABLE) == []
        assert not zone.list_empty(9, Migratetype.MOVABLE)
        assert zone.list_empty(9, Migratetype.UNMOVABLE)

    def test_flags_leave_blocks_out_and_every_look_is_paid(self):
        running, zone = zone_of(costs=costs(list_walk_block_ns=60))
        flags = running.guest.flags("told", order=9)
        first, second, third = pfns(zone.free_list(10, Migratetype.MOVABLE, limit=3))
        flags.set(first, 10)
        flags.set(second, 9)  # half of it
        began = running.guest.now
        found = zone.free_list(10, Migratetype.MOVABLE, without=flags, limit=2)
        assert pfns(found) == [second, third]
        assert running.guest.now - began == 3 * 60

    def test_a_rotation_lets_the_search_begin_there(self):
        _, zone = zone_of()
        before = pfns(zone.free_list(10, Migratetype.MOVABLE))
        zone.rotate_to_front(zone.free_block_of(before[5]))
        assert pfns(zone.free_list(10, Migratetype.MOVABLE)) == before[5:] + before[:5]

    @pytest.mark.parametrize(("order", "migratetype"), [(-1, 1), (11, 1), (9, -1), (9, 4)])
    def test_lists_that_do_not_exist(self, order, migratetype):
        _, zone = zone_of()
        for look in (zone.free_list, zone.list_empty):
            with pytest.raises(ValueError, match=f"order {order} or migratetype {migratetype}"):
                look(order, migratetype)


def test_the_guest_says_what_the_host_has_from_the_start():
    assert not boot(config=small_guest()).guest.discarded_at_start
    assert boot(config=small_guest(discarded_at_start=True)).guest.discarded_at_start


class TestHolding:
    def test_a_held_block_is_nobodys_but_the_strategys(self):
        running, zone = zone_of()
        free = zone.free_pages
        block = zone.hold(9)
        assert (zone.held_pages, zone.free_pages) == (512, free - 512)
        assert not zone.free_block_of(block.pfn)
        assert running.guest.page_ref_count(block.pfn) == 1
        assert zone.let_go(block) == 10
        assert (zone.held_pages, zone.free_pages) == (0, free)
        assert validate(running.machine) == []

    def test_it_is_forgotten_as_told(self):
        running, zone = zone_of()
        flags = running.guest.flags("told", order=10, meaning="told", forget="allocated")
        for block in zone.free_list(10, Migratetype.MOVABLE):
            flags.set(block.pfn, 10)
        block = zone.hold(10)
        assert not flags.test(block.pfn)

    def test_only_above_the_low_watermark(self):
        running, zone = zone_of()
        zone.watermark_low = zone.free_pages - 1023
        assert zone.hold(10) is None
        assert zone.refusals == 1
        zone.watermark_low -= 1
        assert zone.hold(10) is not None
        assert running.guest.violations == {}

    def test_low_zones_keep_their_reserve(self):
        """A movable allocation leaves lowmem_reserve[] of DMA32 to those that need DMA32."""
        far = zone_config(64, START + 64 * BLOCK)
        running = boot(config=small_guest(zones=(zone_config(64, name="DMA32"), far)))
        low, normal = running.machine.zones
        low.lock.take()
        low.watermark_low = 0
        reserve = low.lowmem_reserve[3]
        assert reserve == normal.managed_pages // 256 > 0
        while low.hold(0) is not None:
            pass
        assert low.free_pages == reserve

    def test_without_the_lock_or_twice_it_breaks_a_rule(self):
        running, zone = zone_of()
        block = zone.hold(9)
        zone.let_go(block)
        assert zone.let_go(block) == -1
        assert running.guest.violations == {"returned": 1}
        zone.lock.release()
        zone.hold(9)
        assert running.guest.violations["locked-lists"] == 1

    def test_what_is_kept_to_the_end_breaks_teardown(self):
        class Keeps(Strategy):
            @hookimpl
            async def guest_started(self, guest):
                async with guest.zones[0].lock:
                    guest.zones[0].hold(9)

        running = boot(Keeps(), config=small_guest())
        assert running.execute().violations == {"teardown": 1}

    def test_an_order_that_does_not_exist(self):
        _, zone = zone_of()
        with pytest.raises(ValueError, match="order 11"):
            zone.hold(11)
