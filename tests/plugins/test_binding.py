"""Binding hooks: validated by pluggy, called without it."""

import pytest

from hintbench.errors import PluginError, UsageError
from hintbench.hookspecs import HOOKS, Origin, Reason
from hintbench.plugins.binding import FanOut, bind_hooks, check_hooks, hook_owner, native_filters
from hintbench.strategy import HookFilter, Strategy, hookimpl


def strategy_with(**members):
    """An instance of a strategy "mine" that has these members."""
    return type("Mine", (Strategy,), {"name": "mine", **members})()


def drive(coroutine):
    """Run a coroutine that never really waits."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


class TestContract:
    def test_every_hook_is_documented_where_it_is_declared(self):
        from hintbench.hookspecs import HintbenchHooks

        for name, info in HOOKS.items():
            text = getattr(HintbenchHooks, name).__doc__
            assert "Kernel:" in text, name
            assert "Context:" in text, name
            assert f"May wait: {info.waits}" in text, name
            for argument in info.arguments:
                assert f"            {argument}: " in text, f"{name}: {argument}"

    def test_signatures(self):
        block = ("guest", "cpu", "zone", "pfn", "order")
        assert {name: info.arguments for name, info in HOOKS.items()} == {
            "guest_started": ("guest",),
            "page_freeing": ("guest", "cpu", "pfn", "order"),
            "block_merged": block,
            "block_freed": (*block, "freed", "origin"),
            "block_taken": ("guest", "zone", "pfn", "order", "reason"),
            "free_completed": ("guest", "cpu"),
            "page_allocated": ("guest", "cpu", "pfn", "order"),
            "memory_low": ("guest", "zone"),
            "guest_stopping": ("guest",),
        }

    def test_numbers_are_those_of_the_core(self):
        from hintbench.core import constants

        assert {f"ORIGIN_{item.name}": item.value for item in Origin} == {
            name: value for name, value in vars(constants).items() if name.startswith("ORIGIN_")
        }
        assert {f"REASON_{item.name}": item.value for item in Reason} == {
            name: value for name, value in vars(constants).items() if name.startswith("REASON_")
        }


class TestOne:
    def test_nobody_implements_anything(self):
        assert bind_hooks(strategy_with()) == dict.fromkeys(HOOKS)

    def test_all_arguments_in_order_is_the_method_itself(self):
        @hookimpl
        def free_completed(self, guest, cpu):
            return guest, cpu

        strategy = strategy_with(free_completed=free_completed)
        call = bind_hooks(strategy)["free_completed"]
        assert call == strategy.free_completed
        assert call("guest", 3) == ("guest", 3)
        assert hook_owner(call) == "mine"

    def test_fewer_arguments_in_another_order(self):
        @hookimpl
        def block_freed(self, order, pfn):
            return pfn, order

        call = bind_hooks(strategy_with(block_freed=block_freed))["block_freed"]
        assert call("guest", 0, "zone", 1024, 10, "freed", 0) == (1024, 10)
        assert hook_owner(call) == "mine"

    def test_static_and_class_methods(self):
        @staticmethod
        @hookimpl
        def free_completed(guest, cpu):
            return cpu

        @classmethod
        @hookimpl
        def memory_low(cls, guest, zone):
            return cls.name, zone

        strategy = strategy_with(free_completed=free_completed, memory_low=memory_low)
        hooks = bind_hooks(strategy)
        assert hooks["free_completed"]("guest", 5) == 5
        assert hooks["memory_low"]("guest", "zone") == ("mine", "zone")
        assert hook_owner(hooks["free_completed"]) == "mine"
        assert hook_owner(hooks["memory_low"]) == "mine"

    def test_a_hook_that_waits_returns_its_coroutine(self):
        seen = []

        @hookimpl
        async def guest_started(self, guest):
            seen.append(guest)

        waiting = bind_hooks(strategy_with(guest_started=guest_started))["guest_started"]("guest")
        assert seen == []
        drive(waiting)
        assert seen == ["guest"]

    def test_another_name_through_specname(self):
        @hookimpl(specname="free_completed")
        def mine(self, cpu):
            return cpu

        assert bind_hooks(strategy_with(mine=mine))["free_completed"]("guest", 2) == 2

    def test_an_inherited_hook(self):
        class Base(Strategy):
            @hookimpl
            def free_completed(self, cpu):
                return cpu

        class Child(Base):
            name = "child"

        assert bind_hooks(Child())["free_completed"]("guest", 2) == 2


async def waits(self):
    pass


def yields(self):
    yield


def wraps(self):
    yield


class TestFaults:
    @pytest.mark.parametrize(
        ("members", "hook", "text"),
        [
            ({"blok_freed": hookimpl(lambda self: 0)}, "blok_freed", "did you mean 'block_freed'"),
            ({"on_tick": hookimpl(lambda self: 0)}, "on_tick", "there is no hook 'on_tick'"),
            ({"block_freed": lambda self: 0}, "block_freed", "lacks @hookimpl"),
            (
                {"block_freed": hookimpl(lambda self, ordr: 0)},
                "block_freed",
                "no argument 'ordr': did you mean 'order'",
            ),
            (
                {"block_taken": hookimpl(lambda self, origin: 0)},
                "block_taken",
                "no argument 'origin'.*has guest, zone, pfn, order, reason",
            ),
            (
                {"block_taken": hookimpl(lambda self, *arguments: 0)},
                "block_taken",
                r"takes \*arguments",
            ),
            (
                {"block_taken": hookimpl(lambda self, *, pfn: 0)},
                "block_taken",
                "name the arguments plainly",
            ),
            (
                {"block_taken": hookimpl(lambda self, pfn=0: 0)},
                "block_taken",
                "'pfn' has a default",
            ),
            ({"block_freed": hookimpl(waits)}, "block_freed", "may not wait"),
            ({"block_taken": hookimpl(waits)}, "block_taken", "write def, not async def"),
            ({"guest_started": hookimpl(yields)}, "guest_started", "must not yield"),
            (
                {"guest_started": hookimpl(wraps, wrapper=True)},
                "guest_started",
                "wrappers are not supported",
            ),
        ],
    )
    def test_plugin_hook_and_cause_are_named(self, members, hook, text):
        with pytest.raises(PluginError, match=text) as caught:
            bind_hooks(strategy_with(**members))
        assert (caught.value.plugin, caught.value.hook) == ("mine", hook)

    def test_a_mark_lost_in_a_subclass(self):
        class Base(Strategy):
            @hookimpl
            def free_completed(self, cpu):
                pass

        class Child(Base):
            name = "child"

            def free_completed(self, cpu):
                pass

        with pytest.raises(PluginError, match="lacks @hookimpl"):
            bind_hooks(Child())

    @pytest.mark.parametrize("name", [n for n, info in HOOKS.items() if info.waits != "never"])
    def test_every_other_hook_may_be_async(self, name):
        assert bind_hooks(strategy_with(**{name: hookimpl(waits)}))[name] is not None


class Watcher:
    """An observer that writes down what it sees."""

    def __init__(self, name, log):
        self.name = name
        self.log = log

    @hookimpl
    def free_completed(self, cpu):
        self.log.append((self.name, cpu))

    @hookimpl
    def block_freed(self, guest, pfn, order):
        self.log.append((self.name, pfn))


class TestObservers:
    def test_an_observer_alone_is_called_directly(self):
        log = []
        hooks = bind_hooks(strategy_with(), [Watcher("a", log)])
        assert not isinstance(hooks["free_completed"], FanOut)
        hooks["free_completed"]("guest", 1)
        assert log == [("a", 1)]
        assert hook_owner(hooks["free_completed"]) == "a"

    def test_observers_run_first_in_their_order(self):
        log = []

        @hookimpl(tryfirst=True)
        def free_completed(self, guest, cpu):
            log.append(("mine", cpu))

        strategy = strategy_with(free_completed=free_completed)
        call = bind_hooks(strategy, [Watcher("b", log), Watcher("a", log)])["free_completed"]
        assert call("guest", 1) is None
        assert log == [("b", 1), ("a", 1), ("mine", 1)]
        assert hook_owner(call) == "mine"

    def test_what_waits_is_awaited_in_order(self):
        log = []

        @hookimpl
        async def free_completed(self, cpu):
            log.append(("mine", cpu))

        observers = [Watcher("a", log), Watcher("a", log)]
        strategy = strategy_with(free_completed=free_completed)
        call = bind_hooks(strategy, observers)["free_completed"]
        coroutine = call("guest", 1)
        assert log == [("a", 1), ("a", 1)]
        drive(coroutine)
        assert log[2:] == [("mine", 1)]

    def test_calls_behind_one_that_waits(self):
        log = []

        async def first(number):
            log.append(first)

        async def third(number):
            log.append(third)

        drive(FanOut(HOOKS["memory_low"], [first, log.append, third])(5))
        assert log == [first, 5, third]

    def test_an_observer_may_not_wait(self):
        observer = type("Late", (), {"memory_low": hookimpl(waits)})()
        with pytest.raises(PluginError, match=r"'Late'.*an observer may not wait"):
            bind_hooks(strategy_with(), [observer])

    @pytest.mark.parametrize("kind", ["plain", "waiting"])
    def test_the_right_one_is_blamed(self, kind):
        @hookimpl
        def plain(self, cpu):
            return 1 / 0

        @hookimpl
        async def waiting(self, cpu):
            return 1 / 0

        strategy = strategy_with(free_completed={"plain": plain, "waiting": waiting}[kind])
        call = bind_hooks(strategy, [Watcher("a", [])])["free_completed"]
        with pytest.raises(PluginError, match="'mine': free_completed: ZeroDivisionError"):
            drive(call("guest", 1))

    def test_our_own_errors_pass_through(self):
        @hookimpl
        def free_completed(self, cpu):
            raise UsageError("enough")

        strategy = strategy_with(free_completed=free_completed)
        call = bind_hooks(strategy, [Watcher("a", [])])["free_completed"]
        with pytest.raises(UsageError, match="enough"):
            call("guest", 1)


class Guest:
    """Counts what it is charged."""

    charged = 0

    def spend(self, duration_ns):
        self.charged += duration_ns


@hookimpl
def seen(self, pfn):
    self.__dict__.setdefault("pfns", []).append(pfn)


def filtered(filters):
    return strategy_with(block_freed=seen, hook_filters=lambda self: filters)


class TestFilters:
    def test_the_core_gets_them_when_nobody_shares_the_hook(self):
        wanted = HookFilter(min_order=9, cost_ns=11)
        strategy = filtered({"block_freed": wanted})
        assert native_filters(strategy, bind_hooks(strategy), Guest()) == {"block_freed": wanted}

    def test_an_observer_still_sees_everything(self):
        log, guest = [], Guest()
        strategy = filtered({"block_freed": HookFilter(min_order=9, cost_ns=11)})
        hooks = bind_hooks(strategy, [Watcher("a", log)])
        assert native_filters(strategy, hooks, guest) == {}
        for pfn, order in ((5, 0), (512, 9)):
            hooks["block_freed"](guest, 0, "zone", pfn, order, "freed", 0)
        assert log == [("a", 5), ("a", 512)]
        assert strategy.pfns == [512]
        assert guest.charged == 22
        assert hook_owner(hooks["block_freed"]) == "mine"

    def test_flags_are_tested_too(self):
        class Flags:
            def any(self, pfn, order):
                return pfn == 7

        strategy = filtered({"block_freed": HookFilter(flags=Flags())})
        hooks = bind_hooks(strategy, [Watcher("a", [])])
        native_filters(strategy, hooks, Guest())
        for pfn in (6, 7):
            hooks["block_freed"]("guest", 0, "zone", pfn, 0, "freed", 0)
        assert strategy.pfns == [7]

    @pytest.mark.parametrize(
        ("filters", "text"),
        [
            ({"blok_freed": HookFilter()}, "did you mean 'block_freed'"),
            ({"memory_low": HookFilter()}, "memory_low cannot be narrowed"),
            ({"block_taken": HookFilter()}, "block_taken is not implemented"),
            ({"block_freed": 9}, "block_freed: int is not a HookFilter"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, filters, text):
        strategy = filtered(filters)
        with pytest.raises(PluginError, match=text) as caught:
            native_filters(strategy, bind_hooks(strategy), Guest())
        assert (caught.value.plugin, caught.value.hook) == ("mine", "hook_filters")

    def test_an_observers_hook_is_not_the_strategys_to_narrow(self):
        strategy = strategy_with(hook_filters=lambda self: {"block_freed": HookFilter()})
        hooks = bind_hooks(strategy, [Watcher("a", [])])
        with pytest.raises(PluginError, match="block_freed is not implemented"):
            native_filters(strategy, hooks, Guest())

    @pytest.mark.parametrize("wrong", [{"min_order": 11}, {"min_order": "9"}, {"cost_ns": -1}])
    def test_a_filter_checks_its_numbers(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HookFilter(**wrong)

    def test_an_exception_while_asking_is_the_plugins(self):
        strategy = strategy_with(hook_filters=lambda self: 1 / 0)
        with pytest.raises(PluginError, match="hook_filters: ZeroDivisionError"):
            native_filters(strategy, bind_hooks(strategy), Guest())


class TestMethods:
    """What is called is no attribute, as check_parameters and declared_failures are."""

    @pytest.mark.parametrize("name", ["hook_filters", "claims"])
    def test_a_value_instead_of_a_method(self, name):
        plugin = type("Given", (Strategy,), {"name": "given", name: {}})
        with pytest.raises(PluginError, match=rf"{name}: must be a method: def {name}\(self\)"):
            check_hooks(plugin)
