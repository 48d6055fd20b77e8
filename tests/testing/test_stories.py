"""What a story tells: marks, refaults, refusals, in the order of time and with units."""

import re

import pytest

from hintbench.testing.counterexamples.stories import tell
from hintbench.testing.exploration import explore_handfuls, run_scenario
from hintbench.testing.mutants.bases import Isolating
from hintbench.testing.mutants.family import ClearsTheMarkFirst
from hintbench.testing.scenarios.families import tiny_scenario
from hintbench.testing.scenarios.faults import KINDS
from hintbench.testing.scenarios.scenario import Fault

FIRST = 1_000_000
KEY = ("flag-truth", "backed")


@pytest.fixture(scope="module")
def scenario():
    """One in which a mark says what is not so."""
    found = explore_handfuls(ClearsTheMarkFirst, range(FIRST, FIRST + 1_500)).found
    return found[KEY][1]


def times_of(lines):
    return [int(re.match(r" *\d+\. +([\d,]+) ns  ", line)[1].replace(",", "")) for line in lines]


def test_a_belief_that_is_not_true_is_told_with_what_led_to_it(scenario):
    lines, outcome = tell(ClearsTheMarkFirst, scenario, KEY)
    pfn = outcome.violations[KEY].pfn
    last = [line.partition("ns  ")[2] for line in lines[-12:]]
    assert f"clears the mark mid-hint of pfn {pfn:#x}, order 9" in "\n".join(last)
    assert re.search(
        r"touches it and refaults: the host backs [\d,]+ pages? there", "\n".join(last)
    )
    assert last[-2].endswith(f"marks pfn {pfn:#x}, order 9, as told")
    assert "flag-truth: unit" in last[-1]
    assert outcome.error == ""


def test_listening_changes_nothing(scenario):
    _, told = tell(ClearsTheMarkFirst, scenario, KEY)
    plain = run_scenario(ClearsTheMarkFirst, scenario, stop_at=KEY)
    assert told.digest == plain.digest


@pytest.mark.parametrize("everything", [True, False])
def test_a_story_follows_the_time(scenario, everything):
    lines, _ = tell(ClearsTheMarkFirst, scenario, KEY, everything)
    numbered = [line for line in lines if " ns  " in line]
    times = times_of(numbered)
    assert times[:-1] == sorted(times[:-1])
    numbers = [int(line.split(".")[0]) for line in numbered]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_refused_isolation_names_its_block():
    scenario = tiny_scenario(1, ("6.12",)).but(faults=(Fault("isolation-refused", 1),), settle=True)
    told = []
    run_scenario(Isolating, scenario, told=lambda what, text: told.append(text))
    (fault,) = [text for text in told if text.startswith("fault")]
    assert re.fullmatch(r"fault: the guest refuses to isolate pfn 0x[0-9a-f]+", fault)


def test_a_story_counts_what_it_leaves_out(scenario):
    first, *story = tell(ClearsTheMarkFirst, scenario, KEY)[0]
    everything, _ = tell(ClearsTheMarkFirst, scenario, KEY, everything=True)
    assert all(" ns  " in line for line in everything)
    counts = re.fullmatch(
        r" +\((?:(\d+) steps? before, )?(\d+) steps? of other pages or rules left out:"
        r" replay --trace tells all\)",
        first,
    )
    assert int(counts[1] or 0) + int(counts[2]) + len(story) == len(everything)


def test_no_fault_is_told_by_way_of_another():
    assert [text for text in KINDS.values() if "same" in text.replace(",", "").split()] == []


def test_durations_have_separators(scenario):
    lines, _ = tell(ClearsTheMarkFirst, scenario, KEY, everything=True)
    for line in lines:
        assert not re.search(r"\d{4,} ns", line), line
