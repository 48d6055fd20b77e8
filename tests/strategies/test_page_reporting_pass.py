"""page-reporting beside a transcript of the kernel's own C: how a pass leaves the lists."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench.operations import Migratetype
from hintbench.strategies.page_reporting import PageReporting, State
from small_guest import SECOND

from .stage import block_at, number_of, play, rest
from .test_page_reporting import FIRST, on_list, told


class KernelList:
    """One free list as include/linux/list.h has it, and page_reporting_cycle() over it.

    Written after the C line by line: the iterator keeps its own next entry.
    """

    HEAD = "head"

    def __init__(self, blocks, reported):
        self.blocks = list(blocks)
        self.reported = set(reported)

    def next_of(self, entry):
        ring = [self.HEAD, *self.blocks]
        return ring[(ring.index(entry) + 1) % len(ring)]

    def rotate_to_front(self, entry):
        at = self.blocks.index(entry)
        self.blocks = self.blocks[at:] + self.blocks[:at]

    def is_first(self, entry):
        return self.next_of(self.HEAD) == entry


def kernel_pass(lists, capacity, may_take, tail=True):
    """page_reporting_process_zone() over lists of one zone that has one order.

    Args:
        lists: the free lists, by migratetype.
        capacity: of the scatter list.
        may_take: how many blocks the min watermark allows to be in hand.
        tail: whether __putback_isolated_page() adds at the tail, as since 5.10.

    Returns:
        The batches, and whether another pass is asked for.
    """
    sgl, batches, requested = [], [], False

    def drain(where):
        for block in sgl:
            where.blocks.insert(len(where.blocks) if tail else 0, block)
            where.reported.add(block)
        sgl.clear()

    free = sum(len(each.blocks) for each in lists)
    for each in lists:
        if not each.blocks:
            continue
        budget = -(-free_now(lists) // (capacity * 16))
        page = each.next_of(KernelList.HEAD)
        following = each.next_of(page)
        while page != KernelList.HEAD:
            if page in each.reported:
                page, following = following, each.next_of(following)
                continue
            if budget < 0:
                requested, following = True, page
                break
            if len(sgl) < capacity:
                if len(sgl) >= may_take:
                    following = page
                    break
                each.blocks.remove(page)
                sgl.insert(0, page)
                page, following = following, each.next_of(following)
                continue
            if not each.is_first(page):
                each.rotate_to_front(page)
            batches.append(list(sgl))
            budget -= 1
            drain(lists[MOVABLE])
            following = each.next_of(KernelList.HEAD)
            page, following = following, each.next_of(following)
        if following != KernelList.HEAD and not each.is_first(following):
            each.rotate_to_front(following)
    if sgl:
        batches.append(list(sgl))
        drain(lists[MOVABLE])
    assert free == free_now(lists)
    return batches, requested


def free_now(lists):
    """nr_free of the order, which counts all migratetypes."""
    return sum(len(each.blocks) for each in lists)


MOVABLE = Migratetype.MOVABLE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    blocks=st.integers(6, 40),
    reported=st.sets(st.integers(0, 39)),
    first=st.integers(0, 39),
    capacity=st.integers(1, 5),
    tail=st.booleans(),
)
def test_a_pass_leaves_the_list_as_the_kernels_does(blocks, reported, first, capacity, tail):
    reported = {number for number in reported if number < blocks}
    first %= blocks
    started = []

    def prepare(running):
        only = running.machine.zones[0]
        only.lock.take()
        only.rotate_to_front(only.free_block_of(block_at(first)))
        only.lock.release()

    def flag(guest):
        for number in reported:
            running_strategy.reported.set(block_at(number), 10)
        started.append(on_list(holder[0]))

    strategy = PageReporting(capacity=capacity, tail=tail)
    running_strategy, holder = strategy, []

    def before(running):
        holder.append(running)
        prepare(running)

    running = play(
        strategy, [rest(FIRST + SECOND)], at={SECOND: flag}, before=before, blocks=blocks
    )
    lists = [KernelList([], []) for _ in Migratetype]
    lists[MOVABLE] = KernelList(started[0], reported)
    batches, requested = kernel_pass(lists, capacity, blocks - 1, tail)
    assert [[number_of(pfn) for pfn, _ in batch] for _, batch in running.reports.batches] == batches
    assert on_list(running) == lists[MOVABLE].blocks
    assert set(told(running)) == lists[MOVABLE].reported
    assert (strategy.state.peek() is State.REQUESTED) == requested
