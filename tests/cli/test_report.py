"""The comparison table: numbers, marks, widths, notes."""

import io
import re

import pytest
from rich.console import Console

from hintbench.cli.report import Row, print_comparison
from hintbench.results.result import Result

DEFAULTS = {
    "throughput_ratio": 1.0,
    "alloc_p99_ns": 113,
    "lock_wait_ns": 2_410_000,
    "reported_blocks": 1234,
    "reclaimed_gib_s": 12.34,
    "retained_gib_s": 1234.5,
    "refaults": 77,
    "false_ooms": 0,
}


def row(strategy, workload="churn", seed=1, violations=None, notes=(), **metrics):
    found = Result(
        strategy=strategy.split(",")[0],
        workload=workload.split(":")[0],
        seed=seed,
        metrics={**DEFAULTS, **metrics},
        violations=violations or {},
        digest="0" * 16,
        notes=list(notes),
    )
    return Row(workload, strategy, found, found.strategy)


def printed(rows, width=120, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_comparison(console, rows)
    return console.file.getvalue()


def cells_of(text, strategy):
    line = next(line for line in text.splitlines() if line.strip().startswith(strategy + " "))
    return line.replace(" ns", "ns").replace(" ms", "ms").replace(" µs", "µs").split()[1:]


class TestValues:
    def test_human_units(self):
        assert cells_of(printed([row("mine")]), "mine") == (
            ["1.000", "113ns", "2.41ms", "1,234", "12.3", "1,234", "77", "0", "0"]
        )

    def test_what_does_not_apply_is_a_dash(self):
        text = printed([row("mine", throughput_ratio=None)])
        assert cells_of(text, "mine")[0] == "-"
        assert "add -s none" in text.replace("\n", " ")

    def test_a_failed_cell_has_its_row(self):
        text = printed([row("none"), Row("churn", "mine", None, "mine")])
        assert cells_of(text, "mine") == ["failed", *"--------"]

    def test_several_seeds_are_one_row_of_means(self):
        text = printed([row("mine", seed=1, refaults=10), row("mine", seed=2, refaults=20)])
        assert cells_of(text, "mine")[6] == "15"
        assert "mean of 2 seeds" in text

    def test_digits_stand_below_digits(self):
        text = printed([row("a", refaults=1), row("b", refaults=20_000), row("c", refaults=300)])
        ends = {
            line.index(number) + len(number)
            for line in text.splitlines()
            for number in (" 1 ", "20,000", "300")
            if line.strip()[:2] in ("a ", "b ", "c ") and number in line[80:]
        }
        assert text.index("a ") < text.index("b ") < text.index("c ")
        columns = [
            re.search(r"(\d[\d,]*)(?=\*? +0\*? +0)", line).end()
            for line in text.splitlines()
            if line.strip()[:2] in ("a ", "b ", "c ")
        ]
        assert len(set(columns)) == 1 and ends


class TestMarks:
    def test_the_best_of_each_column_is_marked(self):
        text = printed(
            [
                row(
                    "none",
                    throughput_ratio=1.0,
                    lock_wait_ns=0,
                    reported_blocks=0,
                    reclaimed_gib_s=0,
                ),
                row("a", throughput_ratio=0.9, alloc_p99_ns=200, reclaimed_gib_s=9, refaults=5),
                row("b", throughput_ratio=0.8, alloc_p99_ns=100, reclaimed_gib_s=3, refaults=5),
                row("oracle", throughput_ratio=0.99, alloc_p99_ns=1, reclaimed_gib_s=99),
            ]
        )
        a, b = cells_of(text, "a"), cells_of(text, "b")
        assert (a[0], b[0]) == ("0.900*", "0.800")
        assert (a[1], b[1]) == ("200ns", "100ns*")
        assert (a[4], b[4]) == ("9*", "3")
        assert (a[6], b[6]) == ("5", "5")
        assert not any("*" in cell for name in ("none", "oracle") for cell in cells_of(text, name))

    def test_what_reads_the_same_is_marked_alike(self):
        rows = [row("a", retained_gib_s=5.001), row("b", retained_gib_s=5.002), row("c"), row("d")]
        text = printed(rows)
        assert [cells_of(text, name)[5] for name in "abcd"] == ["5*", "5*", "1,234", "1,234"]

    def test_where_most_are_equally_good_nobody_stands_out(self):
        rows = [row("a", retained_gib_s=5), row("b", retained_gib_s=5), row("c")]
        text = printed(rows)
        assert [cells_of(text, name)[5] for name in "abc"] == ["5", "5", "1,234"]

    def test_who_does_not_compete_is_not_marked_for_the_same_text(self):
        rows = [
            row("a", reported_blocks=0, refaults=7),
            row("b", refaults=7),
            row("c", refaults=8),
        ]
        assert [cells_of(printed(rows), name)[6] for name in "abc"] == ["7", "7*", "8"]

    def test_nobody_is_best_alone(self):
        text = printed([row("none"), row("mine", throughput_ratio=0.5), row("oracle")])
        assert "*" not in text.split("How to read it")[0]

    def test_who_reports_nothing_has_not_done_it_cheaply(self):
        rows = [
            row("a", reported_blocks=0, refaults=0),
            row("b", reported_blocks=10, refaults=7),
            row("c", refaults=8),
        ]
        text = printed(rows)
        assert [cells_of(text, name)[6] for name in "abc"] == ["0", "7*", "8"]
        # How much was reported is a means: neither few nor many reports are best.
        assert [cells_of(text, name)[3] for name in "abc"] == ["0", "10", "1,234"]

    def test_each_workload_has_its_own_best(self):
        rows = [
            row("a", "churn", refaults=1),
            row("b", "churn", refaults=2),
            row("a", "bulk", refaults=2),
            row("b", "bulk", refaults=1),
        ]
        churn, bulk = printed(rows).split("bulk")[:2]
        assert cells_of(churn, "a")[6] == "1*"
        assert cells_of(bulk, "b")[6] == "1*"

    def test_baseline_first_and_bound_last(self):
        text = printed([row("oracle"), row("mine"), row("none")])
        assert text.index("  none ") < text.index("  mine ") < text.index("  oracle ")

    def test_marks_are_also_coloured_on_a_terminal(self):
        rows = [row("a", refaults=1), row("b", refaults=2)]
        assert "\x1b[" in printed(rows, force_terminal=True)
        assert "\x1b[" not in printed(rows)


class TestLayout:
    ROWS = tuple(
        row(
            strategy,
            workload,
            violations={"locked-lists": 3},
            lock_wait_ns=9_990_000_000,
            reported_blocks=99_999,
            refaults=99_999,
            retained_gib_s=12_345.6,
        )
        for workload in ("churn", "trace:/some/long/path/to/a/trace.txt.gz,exact=true")
        for strategy in (
            "none",
            "percpu-array-v9",
            "percpu-array-v9,locked_return=true",
            "bitmap-and-spin",
        )
    )

    @pytest.mark.parametrize("width", [80, 90, 100, 120, 160, 200])
    def test_it_fits(self, width):
        table = printed(self.ROWS, width).split("rule violations")[0]
        lines = [line.rstrip() for line in table.splitlines() if not line.startswith("trace:")]
        assert max(map(len, lines)) <= width
        assert "…" not in table
        assert table.count("99,999") == 16

    def test_long_names_are_whole_where_there_is_room(self):
        assert "percpu-array-v9,locked_return=true " in printed(self.ROWS, 160)

    def test_the_rest_is_folded_too(self):
        text = printed(self.ROWS, 80)
        assert max(map(len, text.splitlines())) <= 80

    def test_an_explanation_stands_below(self):
        assert "How to read it" in printed([row("mine")])


class TestNotes:
    def test_a_note_of_all_strategies_is_printed_once(self):
        rows = [row(name, "trace:x", notes=["drains 5 / 6"]) for name in ("none", "mine")]
        assert printed(rows).count("drains 5 / 6") == 1

    def test_a_note_of_one_names_it(self):
        rows = [row("none"), row("mine", notes=["look"])]
        assert re.search(r"churn, mine\n +look", printed(rows))

    def test_violations_are_named(self):
        rows = [
            row("mine", violations={"returned": 2}),
            row("mine", "bulk", violations={"returned": 1}),
        ]
        assert "mine: returned 3" in printed(rows)


class TestNarrowTerminals:
    def test_no_figure_is_cut(self):
        rows = [row("none"), row("zone-confined-batching", retained_gib_s=5.25), row("other")]
        text = printed(rows, width=60)
        assert "\u2026" not in text
        assert all(len(line) <= 60 for line in text.splitlines())
        block = text[text.index("  zone-confined-batching") :].splitlines()
        assert "throughput ratio to none \u2191    1.000" in block[1]
        assert block[6].split()[-1] == "5.25*"

    def test_a_row_is_kept_while_it_fits(self):
        assert cells_of(printed([row("mine")], width=80), "mine")[0] == "1.000"


def test_who_reports_nothing_wins_nothing():
    lazy = row("lazy", reported_blocks=0, refaults=0, lock_wait_ns=0)
    text = printed([lazy, row("a", refaults=5), row("b", refaults=6)])
    assert not any("*" in cell for cell in cells_of(text, "lazy"))
    assert "5*" in "".join(cells_of(text, "a"))
