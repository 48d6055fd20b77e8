"""What runs inside the step of another: interrupts where they are on, and nothing in the past."""

import pytest

from hintbench import Strategy, hookimpl
from hintbench.plugins.finding import find_strategy
from hintbench.testing.exploration import run_scenario
from hintbench.testing.runs.explored import ExploredRun
from hintbench.testing.runs.outcome import ScheduleStoppedError
from hintbench.testing.scenarios.families import draw_scenario, tiny_scenario
from hintbench.testing.scenarios.scenario import Fault
from hintbench.testing.schedules.preemption import EDIT, Preemption

RESTORES = tuple(Fault("interrupt-at-restore", number) for number in range(1, 200))


class Sections(Strategy):
    """Switches interrupts off and on in a task, in a waiting hook and in a plain one."""

    name = "sections"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.seen = guest, []
        self.inside = dict.fromkeys(guest.cpus, "")
        self.task = guest.spawn(self.work(), cpu=0, name="worker")
        self.other = guest.spawn(self.idle(), cpu=0, name="other")

    def section(self, where):
        """One that an interrupt waits for, whose hooks then run before this goes on."""
        cpu = self.guest.cpu
        self.inside[cpu] = where
        with self.guest.interrupts_off():
            self.guest.spend(10)
        self.inside[cpu] = ""

    async def work(self):
        await self.guest.sleep(3_000)
        self.section("task")
        await self.guest.sleep(3_000)

    async def idle(self):
        for _ in range(40):
            self.note("other task")
            await self.guest.sleep(100)

    def note(self, what):
        """Whether this comes inside a section of the same CPU."""
        where = self.inside[self.guest.cpu]
        if where:
            self.seen.append((where, what))
        return bool(where)

    @hookimpl
    async def page_allocated(self, pfn):
        if not self.note("allocation"):
            self.section("waiting hook")

    @hookimpl
    def page_freeing(self, pfn):
        if not self.note("free"):
            self.section("plain hook")

    @hookimpl
    def block_freed(self, pfn):
        # Under the lock with interrupts off: nobody comes here.
        if not self.inside[self.guest.cpu]:
            self.section("under the lock")

    @hookimpl
    async def guest_stopping(self):
        await self.task.join()
        await self.other.join()


def sections(faults):
    made = []

    def make():
        made.append(Sections())
        return made[-1]

    outcome = run_scenario(make, tiny_scenario(1, ("6.12",)).but(faults=faults))
    assert (outcome.counts, outcome.error) == ({}, "")
    return made[-1].seen


def test_interrupts_come_where_they_are_switched_on_again():
    seen = set(sections(RESTORES))
    for where in ("task", "waiting hook", "plain hook"):
        assert {(where, "allocation"), (where, "free")} <= seen
    assert not any(where == "under the lock" for where, _ in seen)
    assert sections(()) == []


def test_no_task_runs_on_the_cpu_of_a_step_in_which_others_run():
    assert not any(what == "other task" for _, what in sections(RESTORES))


class Spins(Strategy):
    """Its interrupt spins for what only the interrupted task will do."""

    name = "spins"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.busy = guest, False
        self.task = guest.spawn(self.work(), cpu=0, name="worker")

    async def work(self):
        self.busy = True
        with self.guest.interrupts_off():
            self.guest.spend(10)
        self.busy = False

    @hookimpl
    async def page_allocated(self, pfn):
        await self.guest.spin_while(lambda: self.busy)

    @hookimpl
    async def guest_stopping(self):
        await self.task.join()


def test_an_interrupt_that_waits_for_what_it_interrupted_is_a_deadlock():
    scenario = tiny_scenario(1, ("6.12",)).but(faults=RESTORES)
    outcome = run_scenario(Spins, scenario)
    assert (
        "for what it has interrupted" in outcome.violations["progress-under-spin", "deadlock"].text
    )
    # Without interrupts there it is right.
    assert run_scenario(Spins, scenario.but(faults=())).counts == {}


@pytest.mark.parametrize("seed", [1, 3, 164, 201])
def test_a_spinner_that_polls_in_an_event_of_the_hosts_is_not_preempted_in_its_past(seed):
    """It was once: others ran ahead, the event went on before that, and so did whom it woke."""
    strategy = find_strategy("bitmap-and-spin")
    late = tuple(Preemption(EDIT, number, 3_000_000) for number in range(1, 60, 4))
    outcome = run_scenario(
        lambda: strategy(**strategy.check_parameters),
        draw_scenario(seed, ("6.12", "5.0")).but(preemptions=late),
    )
    assert (outcome.counts, outcome.error) == ({}, "")
    assert outcome.coverage["preemptions"] > 0


@pytest.mark.parametrize("seed", [102_513, 113_107])
def test_steps_that_stand_inside_each_other_refute_nobody(seed):
    """Seeds that once did.

    In the first an interrupt inside the inner step spun for the outer one, which cannot go on
    before. In the second the inner one let everybody run beyond where the outer one went on.
    """
    strategy = find_strategy("bitmap-and-spin")
    outcome = run_scenario(
        lambda: strategy(**strategy.check_parameters), draw_scenario(seed, ("6.12", "5.0"))
    )
    assert (outcome.counts, outcome.error) == ({}, "")
    assert outcome.coverage["preemptions"] > 0


class Counting(Strategy):
    """A task touches shared state in one step, while another CPU's counts its own."""

    name = "counting"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.counted, self.seen = guest, 0, set()
        self.lock = guest.spinlock("own")
        self.list, self.number = guest.guarded([], by=self.lock), guest.atomic(0)
        tasks = self.touch(), self.count()
        self.tasks = [
            guest.spawn(task, cpu=cpu, name=f"task {cpu}") for cpu, task in enumerate(tasks)
        ]

    async def count(self):
        for _ in range(200):
            self.counted += 1
            await self.guest.sleep(100)

    async def touch(self):
        await self.guest.sleep(1_000)
        for _ in range(10):
            await self.look()
            await self.guest.sleep(100)

    def note(self, touched):
        """Remember whether others came, and how much time went by, while something is done."""
        counted, now = self.counted, self.guest.now
        touched()
        self.seen.add((self.counted > counted, self.guest.now > now))

    @hookimpl
    async def guest_stopping(self):
        for task in self.tasks:
            await task.join()


class Reads(Counting):
    async def look(self):
        self.note(self.number.read)


class ReadsLocked(Counting):
    async def look(self):
        async with self.lock:
            self.note(self.number.read)


class ReadsInACondition(Counting):
    async def look(self):
        await self.guest.spin_while(lambda: self.note(self.number.read))


class TouchesUnlocked(Counting):
    async def look(self):
        self.note(lambda: self.list.append(1))


@pytest.mark.parametrize(
    ("strategy", "others_come"),
    [
        (Reads, True),
        # Who waits for the lock would run into it.
        (ReadsLocked, False),
        # A look of a spinner's is one access, however many its condition makes.
        (ReadsInACondition, False),
        (TouchesUnlocked, True),
    ],
)
def test_others_come_after_an_access_to_what_cpus_share(strategy, others_come):
    made = []

    def make():
        made.append(strategy())
        return made[-1]

    late = tuple(Preemption(EDIT, number, 2_000) for number in range(1, 100))
    scenario = tiny_scenario(1, ("6.12",)).but(preemptions=late)
    outcome = run_scenario(make, scenario, frozenset({"locked-state"}))
    assert outcome.error == ""
    assert set(outcome.counts) == ({"locked-state"} if strategy is TouchesUnlocked else set())
    assert made[-1].seen == {(others_come, others_come)}


@pytest.mark.parametrize("name", ["other", "block_merged"])
def test_a_tasks_name_excuses_no_list(name):
    """Lists that are out of order are excused while a hook of that name waits, not a task."""

    class Sleeps(Strategy):
        """Has a task that waits."""

        @hookimpl
        def guest_started(self, guest):
            guest.spawn(guest.event().wait(), cpu=0, name=name)

    Sleeps.name = "sleeps"
    run = ExploredRun(Sleeps(), tiny_scenario(1, ("6.12",)), [])
    run._start()
    run.machine.pages.state[run.machine.zones[0].blocks_of(10, 1)[0]] = 0
    with pytest.raises(ScheduleStoppedError):
        run.check_lists()
    run.scheduler.close()
    assert run.outcome.counts == {"conservation": 1}
