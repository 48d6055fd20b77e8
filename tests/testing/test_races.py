"""Every listed race is provoked by the default check, every story of the posted v9 is told."""

import json

import pytest

from hintbench import cli
from hintbench.testing import checking
from hintbench.testing.counterexamples.shrinking import shrink
from hintbench.testing.counterexamples.stories import describe_violation, tell
from hintbench.testing.exploration import explore, explore_handfuls, run_scenario
from hintbench.testing.races import RACES, races_of
from hintbench.testing.races.race import Race
from hintbench.testing.rules import RULES
from hintbench.testing.runs.outcome import RACE
from hintbench.testing.scenarios.families import draw_scenario
from hintbench.testing.scenarios.handfuls import MADE_EVERY, PURPOSEFUL
from hintbench.testing.subjects import Subject
from program import hintbench

REVIEWED = ("bitmap-and-spin", "zone-confined-batching", "percpu-array-v9")
RARE = {
    "bitmap-and-spin": {
        "refilled-drained-merged",
        "split-and-merged-while-mid",
        "everybody-spins",
        "interrupt-spins-on-worker-cpu",
        "two-zones-acks-swapped",
        "failure-free-reallocation",
        "order-0-taker-through-pcp",
    },
    "zone-confined-batching": {"interrupt-appends-at-swap", "refusal-in-mid-batch"},
    "percpu-array-v9": {name for name in RACES if name[0].isdigit()}
    - {"5-swallowed-completion", "8-sleeping-allocation-nested-pass", "11-residue-never-told"},
}
"""What fewer than one in twenty schedules provokes: the bounded run looks for the others."""
STORIES_TOLD = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15}


@pytest.mark.parametrize("name", REVIEWED)
def test_common_races_are_provoked_by_few_schedules(name):
    exploration = explore(Subject(name).maker(), range(1_000_000, 1_000_120), stop=False)
    expected = {race.name for race in races_of(Subject(name).strategy_class())}
    assert expected - set(exploration.races) <= RARE[name]


def test_the_rarest_races_are_provoked_from_any_seed():
    make = Subject("bitmap-and-spin").maker()
    for base in range(1, 21):
        seeds = range(base * 1_000_000, base * 1_000_000 + MADE_EVERY)
        purposeful = [seed for seed in seeds if seed % MADE_EVERY in PURPOSEFUL]
        exploration = explore_handfuls(make, purposeful, stop=False)
        assert {"everybody-spins", "split-and-merged-while-mid"} <= set(exploration.races)
        assert (exploration.counts, exploration.error) == ({}, None)


@pytest.mark.long
@pytest.mark.parametrize("name", REVIEWED)
def test_every_race_is_provoked_by_the_default_check(name, tmp_path):
    done = hintbench("check", name, "--json", "out.json", "--seconds", "90", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    races = json.loads((tmp_path / "out.json").read_text())["checks"][0]["races"]
    assert set(races) == {race.name for race in races_of(Subject(name).strategy_class())}
    assert all(races.values()), races


def test_the_table_says_how_often_and_never(tmp_path):
    done = hintbench("check", "bitmap-and-spin", "--schedules", "4", cwd=tmp_path)
    assert "races provoked" in done.stdout
    for race in races_of(Subject("bitmap-and-spin").strategy_class()):
        assert race.name in done.stdout
    assert "never" in done.stdout
    done = hintbench("check", "none", "--schedules", "4", cwd=tmp_path)
    assert "races provoked" not in done.stdout


def test_the_stories_are_those_of_the_posted_v9():
    numbers = [race.number for race in RACES.values() if hasattr(race, "number")]
    assert set(numbers) == STORIES_TOLD
    for race in RACES.values():
        assert race.text
        assert set(race.strategies) <= set(REVIEWED)
        if hasattr(race, "number"):
            assert race.name.startswith(f"{race.number}-")


@pytest.mark.parametrize("name", ["8-sleeping-allocation-nested-pass", "11-residue-never-told"])
def test_a_story_is_shrunk_and_told_to_its_end(name):
    make = Subject("percpu-array-v9").maker()
    exploration = explore(make, range(1, 120), stop=False)
    key = (RACE, name)
    _, scenario = exploration.raced[name]
    small = shrink(make, scenario, key, seconds=4.0)
    assert small.size < scenario.size
    lines, outcome = tell(make, small, key)
    assert RACES[name].text in lines[-1]
    assert describe_violation(outcome.shown(key))[0] == f"race: {name}"
    again = run_scenario(make, small, frozenset(RULES), stop_at=key)
    assert again.digest == outcome.digest


def test_stories_are_saved_and_replayed(tmp_path, monkeypatch, capsys):
    # Here it is not about how small they become.
    monkeypatch.setattr(checking, "SHRINK_SECONDS", 1.0)
    monkeypatch.chdir(tmp_path)
    # So few schedules do not show all that it declares to break.
    assert cli.main(["check", "percpu-array-v9", "--stories", "--schedules", "25"]) == 1
    assert "11-residue-never-told, shrunk to" in capsys.readouterr().out
    folder = tmp_path / "counterexamples"
    (saved,) = folder.glob("percpu-array-v9-race-11-residue-never-told-*.json")
    again = hintbench("replay", str(saved), cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "as saved" in again.stdout
    assert "race: 11-residue-never-told" in again.stdout


class InterruptsALockHolder(Race):
    """An acknowledgement interrupts whoever holds the zone lock on its own CPU."""

    name = "impossible"
    strategies = REVIEWED

    def __init__(self, run):
        super().__init__(run)
        self.acknowledgements = 0

    def fetched(self, completion):
        self.look()

    def put_back(self, zone, pfn, order):
        self.look()

    def look(self):
        if not self.in_interrupt:
            return
        self.acknowledgements += 1
        cpu, here = self.current.cpu, self.run.machine.clock.context
        scheduler = self.run.scheduler
        of_this_cpu = {cpu} | {each.number for each in scheduler.contexts if each.cpu == cpu}
        for zone in self.run.guest.zones:
            if zone.lock.held and zone.lock.holder != here:
                assert zone.lock.holder not in of_this_cpu


def test_no_acknowledgement_ever_interrupts_a_lock_holder_on_its_own_cpu():
    make = Subject("percpu-array-v9").maker()
    seen = []

    def attach(run):
        detector = InterruptsALockHolder(run)
        seen.append(detector)
        for event in ("fetched", "put_back"):
            called, mine = getattr(run.watcher, event), getattr(detector, event)

            def both(*arguments, called=called, mine=mine):
                called(*arguments)
                mine(*arguments)

            setattr(run.watcher, event, both)

    for seed in range(1, 60):
        run_scenario(make, draw_scenario(seed, ("5.0",)), attach=attach)
    assert sum(each.acknowledgements for each in seen) > 500
