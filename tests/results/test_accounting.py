"""Who pays: CPU time, lock holds and interrupts-off times of kernel and strategy, by hand."""

import pytest

from hintbench import Block, HookFilter, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle
from small_guest import BLOCK, START, costs, host, run, small_guest, zone

KERNELS = ["5.0", "6.12"]
LOCKED = costs(lock_take_ns=20, block_hot_ns=10, block_cold_ns=10)


def pages(slots, **given):
    return allocate(slots, flags=Flag.TOUCHED, **given)


def measured(strategy, *tapes, **given):
    given.setdefault("config", small_guest(max(1, len(tapes)), kernel="5.0", costs=LOCKED))
    running = run(strategy, *tapes, **given)
    assert running.result.violations == {}
    return running.result.metrics


def sums_up(metrics):
    """Nothing is booked twice, and nothing is lost."""
    payers = ("thread", "hook", "task", "interrupt", "kernel")
    assert metrics["lock_takes"] == sum(metrics[f"lock_takes_{payer}"] for payer in payers)
    for what in ("lock_wait", "lock_hold"):
        assert metrics[f"{what}_ns"] == sum(metrics[f"{what}_{payer}_ns"] for payer in payers)
    for what in ("longest_hold", "longest_irqs_off"):
        assert metrics[f"{what}_ns"] == max(metrics[f"{what}_{payer}_ns"] for payer in payers)


class Spending(Strategy):
    """Plain hooks, each with its own price."""

    name = "spending"
    prices = {}
    narrowed = {}

    def __init__(self, narrowed=None, **prices):
        super().__init__()
        self.prices = prices
        self.narrowed = narrowed or {}
        self.calls = dict.fromkeys(prices, 0)

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest

    def hook_filters(self):
        return self.narrowed

    def spend(self, hook):
        if hook in self.prices:
            self.calls[hook] += 1
            self.guest.spend(self.prices[hook])

    @hookimpl
    def page_freeing(self, pfn):
        self.spend("page_freeing")

    @hookimpl
    def block_merged(self, pfn):
        self.spend("block_merged")

    @hookimpl
    def block_freed(self, pfn):
        self.spend("block_freed")

    @hookimpl
    def block_taken(self, pfn):
        self.spend("block_taken")

    @hookimpl
    def free_completed(self, cpu):
        self.spend("free_completed")

    @hookimpl
    def page_allocated(self, pfn):
        self.spend("page_allocated")


OUTSIDE = ("page_freeing", "page_allocated", "free_completed")
UNDER_THE_LOCK = ("block_freed", "block_merged", "block_taken")


class TestPlainHooks:
    # The last ten go past the per-CPU lists, and merge.
    tape = (
        pages(range(700)),
        pages(range(700, 710), order=4),
        free(range(700)),
        free(range(700, 710)),
    )

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("hook", OUTSIDE + UNDER_THE_LOCK)
    def test_their_time_is_the_strategys(self, hook, kernel):
        config = small_guest(kernel=kernel, costs=LOCKED)
        spending = Spending(**{hook: 7})
        without = measured(None, self.tape, config=config)
        metrics = measured(spending, self.tape, config=config)
        spent_ns = 7 * spending.calls[hook]
        assert spent_ns > 0
        assert metrics["guest_cpu_hook_ns"] == spent_ns
        assert metrics["guest_cpu_task_ns"] == metrics["guest_cpu_interrupt_ns"] == 0
        assert metrics["virtual_ns"] == without["virtual_ns"] + spent_ns
        # The kernel's own part of the holds is what it is without a strategy.
        assert metrics["lock_hold_thread_ns"] == without["lock_hold_thread_ns"]
        assert metrics["lock_hold_hook_ns"] == (spent_ns if hook in UNDER_THE_LOCK else 0)
        sums_up(metrics)

    @pytest.mark.parametrize("hook", ["page_allocated", "page_freeing"])
    @pytest.mark.parametrize("shared", [False, True])
    def test_so_is_that_of_a_test_that_never_hits(self, hook, shared):
        watching = type("Watching", (), {hook: getattr(Spending, hook), "spend": lambda *_: None})
        spending = Spending({hook: HookFilter(min_order=5, cost_ns=3)}, **{hook: 1000})
        observers = [watching()] if shared else []
        metrics = measured(spending, self.tape, observers=observers)
        assert spending.calls[hook] == 0
        assert metrics["guest_cpu_hook_ns"] == 3 * 710

    def test_a_test_under_the_lock_prolongs_the_hold(self):
        freed = Spending(block_freed=1)
        without = measured(freed, self.tape)
        found = freed.calls["block_freed"]
        spending = Spending({"block_freed": HookFilter(min_order=10, cost_ns=3)}, block_freed=7)
        metrics = measured(spending, self.tape)
        spent_ns = 3 * found + 7 * spending.calls["block_freed"]
        assert metrics["lock_hold_hook_ns"] == metrics["guest_cpu_hook_ns"] == spent_ns
        assert metrics["lock_hold_thread_ns"] == without["lock_hold_thread_ns"]

    def test_a_hook_inside_another_is_booked_once(self):
        class Taking(Spending):
            @hookimpl
            def block_freed(self, zone, pfn, order):
                self.spend("block_freed")
                if order == 10:
                    zone.put_back(zone.isolate(pfn))

        taking = Taking(block_freed=5, block_taken=11)
        config = small_guest(kernel="5.0")
        metrics = measured(taking, [pages([0], order=10), free([0])], config=config)
        # One by the tape's allocation, one by the isolation inside block_freed.
        assert taking.calls == {"block_freed": 1, "block_taken": 2}
        assert metrics["guest_cpu_hook_ns"] == metrics["lock_hold_ns"] == 5 + 2 * 11

    def test_what_the_strategy_itself_sets_off_is_its_tasks(self):
        class Moving(Spending):
            @hookimpl
            async def guest_started(self, guest):
                self.guest = guest
                zone = guest.zones[0]
                async with zone.lock:
                    zone.put_back(zone.isolate(START), notify=True)

        metrics = measured(Moving(block_freed=5, block_taken=11), [idle([1])], config=small_guest())
        assert metrics["guest_cpu_task_ns"] == metrics["lock_hold_task_ns"] == 5 + 11
        assert metrics["guest_cpu_hook_ns"] == metrics["lock_hold_hook_ns"] == 0


class TestKernel:
    def test_vmstat_is_the_kernels_and_hooks_in_it_are_not(self):
        tape = [pages(range(4000)), free(range(4000)), compute([5 * 10**9])]
        config = small_guest(costs=costs(lock_take_ns=20, task_switch_ns=500))
        without = measured(None, tape, config=config)
        assert without["guest_cpu_kernel_ns"] > 0
        # Without a price for blocks the kernel holds the lock for no time.
        assert without["lock_takes_kernel"] > 0
        assert without["lock_hold_kernel_ns"] == 0
        for hook in ("block_freed", "free_completed"):
            spending = Spending(**{hook: 7})
            metrics = measured(spending, tape, config=config)
            spent_ns = 7 * spending.calls[hook]
            assert metrics["guest_cpu_hook_ns"] == spent_ns
            assert metrics["guest_cpu_kernel_ns"] == without["guest_cpu_kernel_ns"]
            assert metrics["lock_takes_kernel"] == without["lock_takes_kernel"]
            assert metrics["lock_hold_hook_ns"] == spent_ns * (hook == "block_freed")
            assert metrics["virtual_ns"] == without["virtual_ns"] + spent_ns
            sums_up(metrics)

    @pytest.mark.parametrize("waits", [False, True])
    def test_direct_reclaim_and_memory_low(self, waits):
        class Low(Strategy):
            name = "low"

            @hookimpl
            def memory_low(self, guest):
                guest.spend(300)
                return self.sleep(guest) if waits else None

            async def sleep(self, guest):
                guest.spend(30)
                await guest.sleep(5_000)
                guest.spend(3)

        config = small_guest(zones=(zone(4),), costs=costs(direct_reclaim_ns=10_000))
        tape = [pages(range(5), order=10)]
        without = measured(None, tape, config=config)
        assert without["guest_cpu_kernel_ns"] == 10_000 * without["failed_allocations"]
        metrics = measured(Low(), tape, config=config)
        assert metrics["guest_cpu_kernel_ns"] == without["guest_cpu_kernel_ns"]
        each = 333 if waits else 300
        assert metrics["guest_cpu_hook_ns"] == each * metrics["failed_allocations"]


class Reporting(Strategy):
    """Posts the first block from a task or a thread of the host; the answer costs something."""

    name = "reporting"

    def __init__(self, cpu=0, handler_ns=11):
        super().__init__()
        self.cpu, self.handler_ns = cpu, handler_ns

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        guest.spawn(self.work(), cpu=self.cpu, name="work")

    async def work(self):
        self.guest.spend(170)
        await self.guest.host.post([Block(START, 10, self.guest.zones[0])], self.answered)

    def answered(self):
        self.guest.spend(self.handler_ns)


class TestInterruptsAndThreads:
    config = small_guest(costs=costs(interrupt_ns=1000), host=host(descriptor_ns=40))

    def test_an_interrupt_is_the_strategys(self):
        metrics = measured(Reporting(), [compute([10_000])], config=self.config)
        assert metrics["guest_cpu_interrupt_ns"] == 1000 + 11
        assert metrics["guest_cpu_task_ns"] == 170
        assert metrics["host_cpu_ns"] == 40
        assert metrics["longest_irqs_off_interrupt_ns"] == 1011

    def test_a_thread_of_the_host_is_not_the_guest(self):
        metrics = measured(Reporting(cpu=-1), [compute([10_000])], config=self.config)
        assert metrics["guest_cpu_task_ns"] == metrics["guest_cpu_interrupt_ns"] == 0
        assert metrics["host_cpu_ns"] == 170 + 40 + 11

    def test_costs_per_gib_that_was_taken_back(self):
        prices = {"descriptor_ns": 40, "vcpu_kick_ns": 5}
        config = small_guest(2, costs=costs(interrupt_ns=1000), host=host(**prices))
        tapes = [[compute([10_000])]] * 2
        metrics = measured(Reporting(), *tapes, config=config)
        per_gib = (1 << 30) / (BLOCK << 12)
        assert metrics["host_cpu_per_gib_ns"] == 40 * per_gib
        assert metrics["host_calls_per_gib"] == metrics["discards_per_gib"] == per_gib
        assert metrics["vcpu_kicks_per_gib"] == 2 * per_gib
        assert metrics["guest_cpu_task_per_gib_ns"] == 170 * per_gib
        assert metrics["guest_cpu_interrupt_per_gib_ns"] == 1011 * per_gib
        assert metrics["guest_cpu_hook_per_gib_ns"] == 0
        assert metrics["guest_cpu_per_gib_ns"] == (170 + 1011) * per_gib
        none = measured(None, *tapes, config=config)
        assert none["host_cpu_per_gib_ns"] is none["guest_cpu_per_gib_ns"] is None


class TestWaitingHooks:
    def test_a_lock_that_a_hook_takes_is_the_strategys(self):
        class Locking(Strategy):
            name = "locking"

            @hookimpl
            async def free_completed(self, guest):
                async with guest.zones[0].lock:
                    guest.spend(500)

        tape = [pages([0], order=10), free([0])]
        metrics = measured(Locking(), tape)
        # Taken out and freed; then by the hook, which pays for the take as well.
        assert (metrics["lock_takes_thread"], metrics["lock_takes_hook"]) == (2, 1)
        assert (metrics["lock_hold_thread_ns"], metrics["lock_hold_hook_ns"]) == (2 * 10, 500)
        assert metrics["guest_cpu_hook_ns"] == 20 + 500
        assert metrics["strategy_lock_takes"] == 1
        assert metrics["strategy_lock_hold_ns"] == 500
        sums_up(metrics)

    def test_after_a_hook_that_waited_the_kernel_pays_again(self):
        class Spinning(Strategy):
            name = "spinning"

            @hookimpl
            async def page_freeing(self, guest):
                await guest.step()

        tape = [pages(range(16), order=4), free(range(16))]
        metrics = measured(Spinning(), tape)
        assert metrics["lock_takes_hook"] == metrics["lock_hold_hook_ns"] == 0
        assert metrics["lock_takes_thread"] == 32

    def test_waits_and_holds_of_a_batch(self):
        class Batching(Strategy):
            name = "batching"

            @hookimpl
            async def guest_started(self, guest):
                zone = guest.zones[0]
                for _ in range(2):
                    async with zone.lock:
                        block = zone.isolate(START)
                        guest.spend(30)
                    await guest.host.report([block])
                    async with zone.lock:
                        zone.put_back(block)

        metrics = measured(Batching(), [compute([10_000])])
        assert metrics["lock_takes_per_batch"] == 2
        assert metrics["lock_wait_per_batch_ns"] == 0
        assert metrics["lock_hold_per_batch_ns"] == 10 + 30 + 10
        reported = 2 * (BLOCK << 12) / (1 << 30)
        assert metrics["lock_hold_per_reported_gib_ns"] == 2 * 50 / reported


class TestInterruptsOff:
    def test_a_lock_has_them_off_while_it_waits(self):
        tapes = [[pages([cpu], order=10)] for cpu in range(3)]
        metrics = measured(None, *tapes)
        # 30 each, one after the other.
        assert metrics["longest_irqs_off_thread_ns"] == metrics["longest_irqs_off_ns"] == 90
        assert metrics["longest_hold_ns"] == 10

    def test_5_0_has_them_off_from_the_drain_to_the_end_of_free_completed(self):
        tape = [pages([0], order=10), compute([1000]), free([0])]
        metrics = measured(Spending(free_completed=500), tape)
        assert metrics["longest_irqs_off_hook_ns"] == 30 + 500
        assert metrics["longest_irqs_off_thread_ns"] == 30
        config = small_guest(kernel="6.12", costs=LOCKED)
        metrics = measured(Spending(free_completed=500), tape, config=config)
        assert metrics["longest_irqs_off_hook_ns"] == 0

    def test_also_when_the_hook_waits(self):
        class Waiting(Strategy):
            name = "waiting"

            @hookimpl
            async def free_completed(self, guest):
                guest.spend(100)
                await guest.step()
                guest.spend(200)

        tape = [pages([0], order=10), compute([1000]), free([0])]
        assert measured(Waiting(), tape)["longest_irqs_off_hook_ns"] == 30 + 300

    @pytest.mark.parametrize("nested", [False, True])
    def test_a_section_of_a_task(self, nested):
        class Section(Strategy):
            name = "section"

            @hookimpl
            async def guest_started(self, guest):
                guest.spend(1000)
                with guest.interrupts_off():
                    guest.spend(70)
                    if nested:
                        with guest.interrupts_off():
                            guest.spend(7)
                    await guest.step()
                    guest.spend(4)
                guest.spend(2000)

        metrics = measured(Section(), [idle([1])])
        assert metrics["longest_irqs_off_task_ns"] == 74 + 7 * nested
        assert metrics["longest_irqs_off_ns"] == 74 + 7 * nested

    def test_a_section_of_a_plain_hook(self):
        class Section(Strategy):
            name = "section"

            @hookimpl
            def page_allocated(self, guest):
                guest.spend(1000)
                with guest.interrupts_off():
                    guest.spend(70)

        assert measured(Section(), [pages([0])])["longest_irqs_off_hook_ns"] == 70
