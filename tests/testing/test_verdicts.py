"""How a check comes to its verdicts, whoever asks for it: the command or a test suite."""

import re
import textwrap
import time
from dataclasses import replace

import pytest
from pydantic import BaseModel

from hintbench import Claims, Strategy, hookimpl
from hintbench.errors import PluginError
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from hintbench.testing import comparisons, pool
from hintbench.testing.checking import check_here, check_strategy
from hintbench.testing.comparisons import compare
from hintbench.testing.exploration import Exploration
from hintbench.testing.mutants.bases import Isolating
from hintbench.testing.subjects import Subject
from hintbench.testing.tasks import tasks_of
from hintbench.testing.verdicts import ENOUGH_SCHEDULES, RuleVerdict, Verdict, judge
from program import hintbench


class RaisesAlone(ZoneConfinedBatching):
    """Fails with its own constants, and only with them."""

    name = "raises-alone"

    @hookimpl
    def guest_started(self, guest):
        if self.parameters == type(self)().parameters:
            raise OSError("too large")
        super().guest_started(guest)


class BreaksAlone(ZoneConfinedBatching):
    """Claims what it cannot keep, with its own constants only."""

    name = "breaks-alone"

    def claims(self):
        if self.parameters == type(self)().parameters:
            return Claims(min_order=0, liveness_bound_ns=1)
        return super().claims()


class MissesDeclaration(ZoneConfinedBatching):
    """Declares to break what is no rule."""

    name = "misses-declaration"
    declared_failures = {"locked-list": "misspelt"}


class NeverTells(Isolating):
    """Tells of what is free at the start and of nothing afterwards; says nothing of time."""

    name = "never-tells"

    @hookimpl
    def block_freed(self, zone, pfn, order, freed):
        """It does not look."""

    def claims(self):
        return Claims(min_order=super().claims().min_order, any_pfn=True)


def small(strategy_class):
    return lambda: strategy_class(**strategy_class.check_parameters)


def both_ways(strategy_class):
    """The same check by the command's workers and in this process."""
    effort = {"schedules": 20, "seconds": 20.0}
    subject = Subject(f"{__name__}:{strategy_class.__name__}")
    return [
        check_strategy(subject, **effort),
        check_here(small(strategy_class), strategy_class, **effort),
    ]


def test_a_fault_with_its_own_constants_is_the_strategys_own():
    for check in both_ways(RaisesAlone):
        assert not check.passed
        assert "with its own constants: " in check.error
        assert "too large" in check.error


def test_what_breaks_with_its_own_constants_says_how():
    for check in both_ways(BreaksAlone):
        assert not check.passed
        verdict = next(each for each in check.verdicts if each.rule == "liveness")
        assert verdict.verdict == Verdict.BROKEN
        assert verdict.why.startswith("with its own constants: ")


def test_what_breaks_with_its_own_constants_only_is_replayed_with_them(tmp_path):
    (tmp_path / "alone.py").write_text(
        textwrap.dedent(
            """
            from hintbench import Claims
            from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching


            class Alone(ZoneConfinedBatching):
                name = "alone"

                def claims(self):
                    if self.parameters == type(self)().parameters:
                        return Claims(min_order=0, liveness_bound_ns=1)
                    return super().claims()
            """
        )
    )
    done = hintbench("check", "alone", "-p", "alone.py", "--schedules", "20", cwd=tmp_path)
    assert done.returncode == 1
    assert "with its own constants: " in done.stdout
    (saved,) = sorted((tmp_path / "counterexamples").glob("*-liveness*"))
    again = hintbench("replay", str(saved), cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "as saved" in again.stdout


def verdicts_of(check):
    """Those on rules that apply to it."""
    return {
        each.rule: each.verdict for each in check.verdicts if each.verdict != Verdict.NOT_APPLICABLE
    }


def test_nothing_holds_where_nothing_was_explored():
    class Raises(ZoneConfinedBatching):
        name = "raises"

        @hookimpl
        def guest_started(self):
            raise OSError("no")

    check = check_here(small(Raises), schedules=3)
    assert "OSError" in check.error
    assert set(verdicts_of(check).values()) == {Verdict.UNEXPLORED}


def test_nothing_holds_for_good_where_another_rule_was_broken():
    class Slow(ZoneConfinedBatching):
        name = "slow"

        def claims(self):
            return replace(super().claims(), liveness_bound_ns=1)

    check = check_here(small(Slow), schedules=20)
    found = verdicts_of(check)
    assert found.pop("liveness") == Verdict.BROKEN
    assert set(found.values()) == {Verdict.SO_FAR}


@pytest.mark.parametrize(
    ("with_reports", "cut_short", "verdict", "of_what_is_compared"),
    [
        (0, False, Verdict.UNEXPLORED, Verdict.UNEXPLORED),
        (ENOUGH_SCHEDULES - 1, False, Verdict.SO_FAR, Verdict.HOLDS),
        (ENOUGH_SCHEDULES, False, Verdict.HOLDS, Verdict.HOLDS),
        (ENOUGH_SCHEDULES, True, Verdict.SO_FAR, Verdict.SO_FAR),
    ],
)
def test_few_schedules_prove_nothing(with_reports, cut_short, verdict, of_what_is_compared):
    explored = Exploration(schedules=10_000, with_reports=with_reports)
    found = {each.rule: each for each in judge(explored, Claims(), {}, cut_short)}
    assert found["conservation"].verdict is verdict
    assert found["deterministic"].verdict is of_what_is_compared
    assert found["once"].verdict is Verdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("gates_open", "gates_shut", "with_reports", "verdict"),
    [
        (0, 9, ENOUGH_SCHEDULES, Verdict.UNTESTED),
        (1, 9, ENOUGH_SCHEDULES, Verdict.HOLDS),
        (0, 0, ENOUGH_SCHEDULES, Verdict.HOLDS),
        (0, 9, ENOUGH_SCHEDULES - 1, Verdict.SO_FAR),
    ],
)
def test_a_gate_that_is_never_open_proves_nothing(gates_open, gates_shut, with_reports, verdict):
    part = Exploration(with_reports=with_reports, gates_open=gates_open, gates_shut=gates_shut)
    explored = Exploration()
    explored.merge(part)
    claims = Claims(min_order=9, liveness_bound_ns=1, gate=lambda zone: True)
    found = {each.rule: each for each in judge(explored, claims, {}, cut_short=False)}
    assert found["liveness"].verdict is found["no-silent-drop"].verdict is verdict


def test_rules_on_state_do_not_apply_where_there_is_none():
    explored = Exploration(schedules=10_000, with_reports=ENOUGH_SCHEDULES)
    explored.coverage["per-cpu"] = 1
    found = {each.rule: each for each in judge(explored, Claims(), {}, cut_short=False)}
    assert found["per-cpu"].verdict is Verdict.HOLDS
    assert found["locked-state"].verdict is Verdict.NOT_APPLICABLE
    assert found["locked-state"].why == "it has no state of guest.guarded()"


def test_what_state_a_strategy_keeps_is_counted():
    class Keeps(ZoneConfinedBatching):
        """Beside its rings it keeps a list under a lock of its own."""

        name = "keeps"

        @hookimpl
        def guest_started(self, guest):
            super().guest_started(guest)
            self.kept = guest.guarded([], by=guest.spinlock("kept"))

    ours = check_here(small(ZoneConfinedBatching), schedules=3).exploration.coverage
    theirs = check_here(small(Keeps), schedules=3).exploration.coverage
    assert ours["per-cpu"]
    assert not ours["locked-state"]
    assert theirs["locked-state"] == theirs["per-cpu"] > 0


def test_gates_are_asked_for_when_everything_has_settled():
    class Shut(Isolating):
        """Tells of everything, and says that it need not."""

        name = "shut"

        def claims(self):
            return replace(super().claims(), gate=lambda zone: True)

    found = check_here(Shut, schedules=20).exploration
    assert found.gates_shut
    assert not found.gates_open


def test_who_reports_nothing_needs_no_reports():
    explored = Exploration(schedules=ENOUGH_SCHEDULES)
    found = judge(explored, Claims(reports_nothing=True), {}, cut_short=False)
    assert {each.verdict for each in found} == {Verdict.HOLDS, Verdict.NOT_APPLICABLE}


def test_a_short_check_says_that_it_was_short():
    check = check_here(small(ZoneConfinedBatching), schedules=3)
    assert check.passed
    assert set(verdicts_of(check).values()) == {Verdict.SO_FAR, Verdict.HOLDS}
    assert f"too few to say that a rule holds: that takes {ENOUGH_SCHEDULES}" in check.few


def test_parameters_with_which_nothing_happens_are_named():
    class Patient(Strategy):
        """Waits for longer than it lives."""

        name = "patient"
        check_parameters = {"delay_ns": 5}

        class Parameters(BaseModel):
            delay_ns: int = 1_000
            batch: int = 8

    check = check_here(lambda: Patient(delay_ns=7_000), schedules=3)
    assert not check.passed
    assert "with delay_ns=7000 (of itself: 5), so nothing was checked" in check.idle
    assert "batch" not in check.idle
    assert "give it check_parameters" in check_here(lambda: Patient(delay_ns=5), schedules=3).idle


def test_those_who_hang_too_do_not_keep_the_check_waiting(tmp_path, monkeypatch):
    # One hangs in a scenario, the other in its comparisons, which may take 15 times as long.
    monkeypatch.setattr(pool, "_LEAST_SECONDS", 2.0)
    monkeypatch.setattr(pool, "COMPARE_SECONDS", 15 * pool.SILENCE_SECONDS)
    path = tmp_path / "hangs.py"
    path.write_text(
        textwrap.dedent(
            """
            import time

            from hintbench import Strategy, hookimpl


            class Hangs(Strategy):
                name = "hangs"

                @hookimpl
                def block_freed(self):
                    while True:
                        time.sleep(0.01)
            """
        )
    )
    began = time.monotonic()
    check = check_strategy(Subject(str(path)), schedules=20, seconds=1, jobs=2)
    said = "does not come back within 2 s, at hangs.py:13 in block_freed (schedule 1000001)"
    assert said in check.error
    # The second would take 30 s; processes that start and end meanwhile may well take some.
    assert time.monotonic() - began < 20


def test_a_misspelt_declaration_is_refused():
    with pytest.raises(PluginError, match=r"'locked-list' is no rule: did you mean 'locked-lists'"):
        check_strategy(Subject(f"{__name__}:MissesDeclaration"), schedules=20)
    check = check_here(small(MissesDeclaration), MissesDeclaration, schedules=20, seconds=20.0)
    assert not check.passed
    assert check.error == "declares to fail locked-list, which is no rule"


def test_a_claim_that_cannot_be_put_to_the_test_does_not_hold():
    found = compare(NeverTells, 1_000_000)
    assert found.counts == {}
    assert list(found.unshown) == ["any-pfn"]
    check = check_here(NeverTells, schedules=4)
    assert RuleVerdict("any-pfn", Verdict.UNTESTED, 0, found.unshown["any-pfn"]) in check.verdicts
    assert not check.passed


def test_a_strategy_that_waits_for_several_blocks_shows_that_it_finds_any_pfn():
    make = Subject("percpu-array-v9").maker()
    assert compare(make, 1_000_000).unshown == {}


def test_a_block_that_is_never_allocated_shows_nothing(monkeypatch):
    class Largest(NeverTells):
        name = "largest"

        def claims(self):
            return Claims(min_order=10, any_pfn=True)

    # Nothing that the guest hands out makes a whole block.
    monkeypatch.setattr(comparisons, "_allocated", lambda make, before: list(range(1, 1024)))
    assert "no whole block of order 10" in compare(Largest, 1_000_000).unshown["any-pfn"]


def test_the_tasks_do_not_depend_on_who_does_them():
    alone, shared = tasks_of(3, 100, 8.0), tasks_of(3, 100, 8.0, 2)
    assert alone[:3] == shared[:3]
    parts = [set(arguments[0]) for name, arguments in shared if name == "explore"]
    assert parts[0] | parts[1] == set(alone[3][1][0])
    assert not parts[0] & parts[1]


def test_a_strategy_that_hangs_in_a_shrunk_scenario_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SILENCE_SECONDS", 2.0)
    (tmp_path / "hangs.py").write_text(
        textwrap.dedent(
            '''
            import sys

            from hintbench import Claims
            from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching


            class Hangs(ZoneConfinedBatching):
                """Claims too much, and hangs where its counterexample is made smaller."""

                name = "hangs"

                def claims(self):
                    frame = sys._getframe()
                    while frame is not None and frame.f_code.co_name != "shrink":
                        frame = frame.f_back
                    while frame is not None:
                        pass
                    return Claims(min_order=4, liveness_bound_ns=1)
            '''
        )
    )
    check = check_strategy(Subject(str(tmp_path / "hangs.py")), schedules=20)
    assert not check.passed
    assert re.search(r"does not come back within \d+ s, at hangs\.py:\d+ in claims", check.error)


FOLLOWS_HASHES = '''
from hintbench import hookimpl
from hintbench.testing.mutants.bases import Isolating


class FollowsHashes(Isolating):
    """Begins when the hash of its name says so, which differs from process to process."""

    name = "follows-hashes"

    async def work(self, zone):
        await self.guest.sleep(hash(self.name) % 100_000)
        await super().work(zone)
'''


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_follows_from_hashes_of_texts_is_not_deterministic(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    (tmp_path / "hashes.py").write_text(FOLLOWS_HASHES)
    check = check_strategy(Subject(str(tmp_path / "hashes.py")), schedules=20, jobs=jobs)
    assert check.failing(Verdict.BROKEN) == ["deterministic"]
    why = next(each.why for each in check.verdicts if each.rule == "deterministic")
    assert "hash() of a text differs" in why
