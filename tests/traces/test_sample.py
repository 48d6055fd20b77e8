"""The trace that hintbench ships: it can be made again, and both replays follow it."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

import hintbench
import make_sample_trace
from hintbench.config.defaults import STRATEGIES
from hintbench.config.guest import load_guest
from hintbench.core import BUILD, tracewords
from hintbench.core.tracepages import RETURN, TAKE
from hintbench.errors import ParameterError, TraceError
from hintbench.traces import SAMPLE, SAMPLE_PAGES, SAMPLE_PAGES_END, read_trace
from hintbench.traces.compare import counted, refill_sizes
from hintbench.traces.history import page_history
from hintbench.traces.program import replayed_rows
from hintbench.traces.state import free_blocks, read_page_flags
from hintbench.workloads.trace import TraceReplay

GUEST = "sample-trace"
MOST_BYTES = 150_000
slow_interpreted = pytest.mark.skipif(
    BUILD == "interpreted", reason="takes half a minute interpreted"
)


@pytest.fixture(scope="module")
def trace():
    return read_trace(SAMPLE)


@pytest.fixture(scope="module")
def replays():
    """The result under `none`, by whether it was exact."""
    return {
        exact: hintbench.run(workload=TraceReplay(exact=exact), guest=GUEST)
        for exact in (False, True)
    }


class TestFiles:
    @pytest.mark.parametrize("name", make_sample_trace.NAMES)
    def test_are_what_the_script_writes(self, name):
        packed = (make_sample_trace.FOLDER / name).read_bytes()
        # gzip's own output depends on the version of zlib.
        assert gzip.decompress(packed) == make_sample_trace.files()[name]
        assert packed[4:8] == bytes(4), "the time of packing is part of the file"

    def test_are_those_that_the_workload_reads(self):
        found = {path.name for path in (SAMPLE, SAMPLE_PAGES, SAMPLE_PAGES_END)}
        assert found == set(make_sample_trace.NAMES)
        assert SAMPLE.parent == make_sample_trace.FOLDER

    def test_are_small(self):
        assert sum(path.stat().st_size for path in SAMPLE.parent.iterdir()) <= MOST_BYTES

    def test_the_preset_is_the_guest_that_made_it(self):
        zones = load_guest(GUEST).layout()
        made = zip(
            make_sample_trace.SPANS.values(),
            make_sample_trace.MANAGED.values(),
            make_sample_trace.sample().watermarks,
            strict=True,
        )
        for zone, ((start, spanned), (_, managed), marks) in zip(zones, made, strict=True):
            assert (zone.start_pfn, zone.spanned_pages, zone.managed) == (start, spanned, managed)
            assert (zone.watermark_min, zone.watermark_low, zone.watermark_high) == marks
        assert load_guest(GUEST).vcpus == make_sample_trace.CPUS


class TestImport:
    def test_finds_no_fault(self, trace):
        assert trace.faults == ()
        assert trace.ignored == {}
        assert trace.cpus == make_sample_trace.CPUS
        assert replayed_rows(trace) == (1, len(trace) - 1)

    def test_every_kind_of_event_is_there(self, trace):
        kinds = set(trace.kind.tolist())
        assert kinds >= {
            tracewords.PAGE_ALLOC,
            tracewords.PAGE_FREE,
            tracewords.PAGE_FREE_BATCHED,
            tracewords.ZONE_LOCKED,
            tracewords.PCPU_DRAIN,
            tracewords.EXTFRAG,
        }
        by_worker = trace.flags & tracewords.BY_KWORKER != 0
        assert (by_worker & (trace.kind == tracewords.PCPU_DRAIN)).any()
        drained = trace.order[trace.kind == tracewords.PCPU_DRAIN]
        assert set(drained.tolist()) == {0, 1, 2, 9}

    def test_nothing_happens_without_an_event(self, trace):
        begin, end = replayed_rows(trace)
        found = page_history(trace, read_page_flags(SAMPLE_PAGES), begin=begin, end=end)
        assert found.derived == ()


class TestReplay:
    def test_modelled_repeats_every_refill_and_drain(self, trace, replays):
        begin, end = replayed_rows(trace)
        found = page_history(trace, read_page_flags(SAMPLE_PAGES), begin=begin, end=end)
        result = replays[False]
        assert result.violations == {}
        lines = "\n".join(result.notes)
        for event, action in (("mm_page_alloc_zone_locked", TAKE), ("mm_page_pcpu_drain", RETURN)):
            orders = " ".join(map(str, counted(found, action)))
            assert f"{event} by order: kernel {orders}; model {orders}\n" in lines
        sizes = refill_sizes(found)
        assert Counter(sizes).total() == result.metrics["trace_refills_of_equal_size"]
        assert result.metrics["trace_refills_model"] == Counter(sizes).total()
        assert set(sizes) == {2, 3, 7, 14, 28, 56, 112, 224}, "batch 7 doubles five times"

    def test_modelled_ends_with_as_many_free_blocks_of_each_order(self, replays):
        orders = " ".join(map(str, free_blocks(read_page_flags(SAMPLE_PAGES_END)).by_order()))
        ends = f"free blocks at the end by order: kernel {orders}; model {orders}"
        assert ends in replays[False].notes

    def test_page_flags_of_another_machine_are_no_end(self, tmp_path):
        other = tmp_path / "other.u64"
        other.write_bytes(gzip.decompress(SAMPLE_PAGES_END.read_bytes())[: 8 << 12])
        replay = TraceReplay(path=str(SAMPLE), pages=str(SAMPLE_PAGES), pages_end=str(other))
        with pytest.raises(ParameterError, match="pages_end 4096: they are not of one machine"):
            hintbench.run(workload=replay, guest=GUEST)

    def test_exact_ends_with_the_recorded_page_flags(self, replays):
        result = replays[True]
        assert result.violations == {}
        assert result.metrics["trace_pages_different_end"] == 0
        assert result.metrics["trace_takes_ratio"] == result.metrics["trace_drains_ratio"] == 1
        free = read_page_flags(SAMPLE_PAGES_END)
        assert result.metrics["trace_free_pages_end_model"] == np.count_nonzero(free)

    @slow_interpreted
    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_under_every_strategy(self, strategy, exact, replays):
        result = hintbench.run(strategy, TraceReplay(exact=exact), GUEST)
        assert set(result.violations) <= set(
            hintbench.plugins.finding.find_strategy(strategy).declared_failures
        )
        assert result.metrics["failed_allocations"] == 0
        if strategy == "none":
            assert result.digest == replays[exact].digest
        elif not exact:
            # A strategy only ever adds to what the kernel does with the trace.
            kernel = replays[exact].metrics["trace_takes_kernel"]
            assert result.metrics["trace_takes_model"] == pytest.approx(kernel, rel=0.01)


class TestGuests:
    """A guest that does not fit is refused in a sentence that says which one would."""

    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize(
        ("guest", "sentence"),
        [
            ({"memory": "64MiB", "vcpus": 2}, "trace sample-trace uses page 0x7fff, which is in no"
             " zone of the guest (DMA 0x1..0xfff, DMA32 0x1000..0x3fff): give it at least 128 MiB"
             " (--memory 128MiB, or --guest sample-trace)"),
            ({"memory": "128MiB", "vcpus": 1}, "trace sample-trace is of 2 CPUs, the guest has 1:"
             " give it at least 2 vCPUs (--vcpus 2, or --guest sample-trace)"),
            ("default", "trace sample-trace comes with the flags of pages up to 0x7fff, and the"
             " guest has more (DMA 0x1..0xfff, DMA32 0x1000..0xbffff, Normal 0x100000..0x23ffff):"
             " give it 128 MiB (--memory 128MiB, or --guest sample-trace)"),
        ],
    )  # fmt: skip
    def test_that_does_not_fit(self, guest, sentence, exact):
        with pytest.raises(TraceError) as caught:
            hintbench.run(workload=TraceReplay(exact=exact), guest=guest)
        assert str(caught.value) == sentence

    @slow_interpreted
    def test_without_page_flags_may_be_larger(self):
        result = hintbench.run(workload=TraceReplay(path=str(SAMPLE)), guest="default")
        assert result.metrics["failed_allocations"] == 0

    @pytest.mark.parametrize(
        ("pfn", "advice"),
        [
            (0x50000, "at least 1284 MiB (--memory 1284MiB)"),
            (0x140000, "at least 4100 MiB (--memory 4100MiB)"),
            (0xD0000, "the traced machine's zones (--guest FILE.toml with [[zones]])"),
        ],
    )
    def test_that_lacks_a_page(self, tmp_path, pfn, advice):
        file = tmp_path / "trace.txt"
        event = f"mm_page_alloc: page=0 pfn={pfn:#x} order=0 migratetype=1 gfp_flags=GFP_KERNEL"
        file.write_text(f"a-1 [0] 1.0: {event}\n")
        with pytest.raises(TraceError) as caught:
            hintbench.run(workload=TraceReplay(path=str(file)), guest="small")
        assert str(caught.value) == (
            f"trace {file} uses page {pfn:#x}, which is in no zone of the guest (DMA 0x1..0xfff,"
            f" DMA32 0x1000..0x3ffff): give it {advice}"
        )

    def test_page_flags_need_their_trace(self):
        with pytest.raises(ParameterError, match="there is no path: write trace:FILE"):
            hintbench.run(workload=TraceReplay(pages=str(SAMPLE_PAGES)), guest=GUEST)


class TestCommandLine:
    @slow_interpreted
    def test_prints_the_comparison(self, tmp_path, capsys):
        from hintbench.cli import main

        file = tmp_path / "out.json"
        arguments = ("-s", "none", "-w", "trace", "-w", "trace,exact=true", "--guest", GUEST)
        status = main(["run", *arguments, "--jobs", "1", "--json", str(file)])
        output = capsys.readouterr().out
        assert status == 0
        for line in ("mm_page_alloc_zone_locked by order: kernel", "mm_page_pcpu_drain by order:",
                     "refills by size: kernel", "free blocks at the end by order: kernel",
                     "pages free in only one of the two at the end: 0 of"):  # fmt: skip
            assert line in output
        modelled, exact = json.loads(file.read_text())["results"]
        assert modelled["metrics"]["trace_drains_ratio"] == 1
        assert exact["metrics"]["trace_pages_different_end"] == 0
