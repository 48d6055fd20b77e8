"""Whose fault it is when something raises, exits, or hands back what it should not."""

import sys

import pytest

import hintbench
from hintbench import PluginError, Program, Strategy, Workload, hookimpl
from hintbench.errors import UsageError
from hintbench.operations import Flag, allocate, free, idle, touch
from small_guest import Silent, run, small_guest

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0]), idle([3 * 10**9])]
HOOKS = [
    "guest_started",
    "page_freeing",
    "block_merged",
    "block_freed",
    "block_taken",
    "free_completed",
    "page_allocated",
    "guest_stopping",
]


class Leaving(Strategy):
    """Calls sys.exit() somewhere."""

    name = "leaving"


class Watcher:
    """An observer of everything."""


for hook in HOOKS:

    def watch(self):
        """Look on."""

    watch.__name__ = hook
    setattr(Watcher, hook, hookimpl(watch))


class Wrong(Workload):
    """Goes wrong as a test says."""

    name = "wrong"

    def __init__(self, program=None, tape=()):
        super().__init__()
        self.make, self.tape = program, tape

    def program(self, setting):
        if self.make is not None:
            return self.make()
        return Program(1, (iter(self.tape),), operations=0)


def blames(strategy, workload=None, **given):
    with pytest.raises(PluginError) as caught:
        if workload is None:
            run(strategy, TAPE, **given)
        else:
            hintbench.run(strategy, workload, small_guest(), **given)
    return caught.value


class TestExits:
    """An exit is the plugin's fault, not the end of everything with status 0."""

    @pytest.mark.parametrize("hook", HOOKS)
    @pytest.mark.parametrize("observers", [[], [Watcher()]], ids=["alone", "observed"])
    def test_a_hook(self, hook, observers):
        def leave(self):
            sys.exit()

        leave.__name__ = hook
        error = blames(type("Leaving", (Leaving,), {hook: hookimpl(leave)})(), observers=observers)
        assert (error.plugin, error.hook) == ("leaving", hook)
        assert isinstance(error.__cause__, SystemExit)

    @pytest.mark.parametrize("hook", ["page_allocated", "free_completed"])
    @pytest.mark.parametrize("observers", [[], [Watcher()]], ids=["alone", "observed"])
    def test_a_coroutine_of_a_hook(self, hook, observers):
        async def leave(self, guest):
            await guest.step()
            sys.exit(3)

        leave.__name__ = hook
        error = blames(type("Leaving", (Leaving,), {hook: hookimpl(leave)})(), observers=observers)
        assert (error.plugin, error.hook) == ("leaving", hook)

    def test_a_task(self):
        class Tasking(Leaving):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(self.work(guest), cpu=0, name="worker")

            async def work(self, guest):
                await guest.sleep(1)
                sys.exit()

        assert blames(Tasking()).hook == "worker"

    @pytest.mark.parametrize("method", ["hook_filters", "__init__"])
    def test_a_method(self, method):
        strategy = type("Leaving", (Leaving,), {method: lambda self: sys.exit()})
        where = "making the strategy" if method == "__init__" else method
        assert blames(strategy, Wrong(tape=TAPE)).hook == where

    def test_a_workload(self):
        assert blames(Silent, Wrong(program=sys.exit)).hook == "program"

    def test_a_tape(self):
        error = blames(Silent, Wrong(tape=(sys.exit() for _ in range(1))))
        assert (error.plugin, error.hook) == ("wrong", "a tape")


class TestWorkloads:
    def test_a_tape_that_raises_is_not_the_strategys_fault(self):
        error = blames(Silent, Wrong(tape=(1 / 0 for _ in range(1))))
        assert (error.plugin, error.hook) == ("wrong", "a tape")
        assert isinstance(error.__cause__, ZeroDivisionError)

    def test_a_tape_of_something_else(self):
        error = blames(Silent, Wrong(tape=["allocate"]))
        assert "wrong': a tape: yielded str, not an OperationBlock" in str(error)

    def test_a_program_of_something_else(self):
        error = blames(Silent, Wrong(program=dict))
        assert "wrong': program: returned dict, not a Program" in str(error)


class TestOff:
    """Attached but off: every place finds a hook, and no hook does anything."""

    class Loud(Leaving):
        """Whatever is called raises."""

    for hook in HOOKS:

        def shout(self):
            raise AssertionError

        shout.__name__ = hook
        setattr(Loud, hook, hookimpl(shout))

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    @pytest.mark.parametrize("observers", [[], [Watcher()]], ids=["alone", "observed"])
    def test_no_hook_is_called_though_all_are_attached(self, kernel, observers):
        config = small_guest(kernel=kernel)
        given = {"config": config, "observers": observers}
        off = run(self.Loud(), TAPE, attached_but_off=True, **given)
        assert None not in [getattr(off.guest.hooks, hook) for hook in HOOKS[1:-1]]
        none = run(None, TAPE, **given).result
        assert (off.result.digest, off.result.metrics) == (none.digest, none.metrics)
        assert off.result.notes == ["attached but switched off: the strategy did nothing"]

    def test_hooks_are_validated(self):
        class Misspelt(Leaving):
            @hookimpl
            def block_fred(self):
                """There is no such hook."""

        with pytest.raises(PluginError, match="did you mean 'block_freed'"):
            run(Misspelt(), TAPE, attached_but_off=True)

    def test_a_hook_that_did_something_would_show(self):
        class Busy(Leaving):
            @hookimpl
            def page_freeing(self, guest):
                guest.spend(1)

        none = run(None, TAPE).result.digest
        assert run(Busy(), TAPE, attached_but_off=True).result.digest == none
        assert run(Busy(), TAPE).result.digest != none


def test_an_instance_serves_one_run():
    strategy = Silent()
    run(strategy, TAPE)
    with pytest.raises(UsageError, match="'silent': this instance has had its run: make another"):
        run(strategy, TAPE)


class TestSeveralWaitForOneSlot:
    """vCPUs may wait for the allocation of another, and for the same one."""

    WHEN = 5_000

    def waiting(self, *tapes, fails=False):
        """Two vCPUs want what the third allocates later, or fails to."""
        flags = Flag.TOUCHED | (Flag.NORETRY if fails else Flag(0))
        order = 10 if fails else 0
        full = [allocate(range(1, 65), order=10, flags=Flag.TOUCHED | Flag.NORETRY)]
        last = [
            *(full if fails else []),
            idle([self.WHEN]),
            allocate([0], order=order, flags=flags),
        ]
        return run(None, *tapes, last, config=small_guest(3))

    def test_both_touch_it_then(self):
        running = self.waiting([touch([0])], [touch([0])])
        metrics = running.result.metrics
        # An allocation and two touches.
        assert running.machine.simulation.operations == 3
        assert metrics["failed_allocations"] == 0
        finished = [vcpu.finished_ns for vcpu in running.machine.simulation.vcpus]
        assert min(finished) >= self.WHEN

    def test_one_touches_and_one_frees(self):
        running = self.waiting([touch([0])], [idle([1]), free([0])])
        simulation = running.machine.simulation
        assert (simulation.operations, simulation.allocations, simulation.frees) == (3, 1, 1)

    def test_all_go_on_when_it_fails(self):
        running = self.waiting([touch([0])], [touch([0])], fails=True)
        assert running.result.metrics["failed_allocations"] > 0

    def test_two_frees_of_one_allocation_are_the_workloads_fault(self):
        with pytest.raises(PluginError, match=r"tapes wait for each other .*slot 0") as caught:
            self.waiting([free([0])], [free([0])])
        assert "internal error" not in str(caught.value)
