"""`hintbench trace verify`: a strategy held against what a kernel reported, block by block."""

import functools
import gzip
import re

import pytest

from hintbench.cli import main
from hintbench.core import BUILD
from hintbench.errors import TraceError
from hintbench.strategies.page_reporting import PageReporting
from hintbench.traces import SAMPLE, SAMPLE_PAGES, read_trace
from hintbench.traces.reported import Batch, Pass, in_passes, read_recorded
from hintbench.traces.verify import VerifyRequest, verify
from recordings import ABSENT, RECORDINGS

pytestmark = pytest.mark.skipif(BUILD == "interpreted", reason="takes minutes interpreted")

# What page-reporting tells on the sample trace, which no kernel recorded: seconds, pfn and order.
TOLD = (
    (16.512, ((0x3000, 10), (0x3400, 10), (0x3800, 9))),
    (20.096, ((0x3800, 10),)),
    (26.016, ((0x3800, 10), (0x3400, 10), (0x3C00, 10), (0x3200, 9))),
)


class Recording:
    """The sample trace with probe hits, and the list of what the host was told."""

    def __init__(self, folder, told, process=True):
        self.trace = folder / "trace.txt"
        self.reported = folder / "reported.csv"
        with gzip.open(SAMPLE, "rt") as file:
            lines = file.readlines()
        for seconds, blocks in told:
            lines += self.probes(seconds, blocks, process)
        stamped = [(self.stamp(line), place, line) for place, line in enumerate(lines)]
        self.trace.write_text("".join(line for _, _, line in sorted(stamped)))
        rows = [
            f"{number},{pfn << 12:#x},{4096 << order}"
            for number, (pfn, order) in enumerate(
                (block for _, blocks in told for block in blocks), 1
            )
        ]
        self.reported.write_text("\n".join(["sequence,address,length", *rows, ""]))

    @staticmethod
    def stamp(line):
        found = re.search(r" (\d+\.\d{6}): ", line)
        return float(found[1]) if found else 0.0

    @staticmethod
    def probes(seconds, blocks, process, late=0.0):
        head = f"     kworker/0:1-10      [000] ..... {seconds:12.6f}: "
        if process:
            yield f"{head}pr_process: (page_reporting_process+0x4/0x570)\n"
        if blocks:
            head = head.replace(f"{seconds:12.6f}", f"{seconds + late:12.6f}")
            call = "virtballoon_free_page_report+0x4/0x120 [virtio_balloon]"
            yield f"{head}pr_vbreport: ({call}) nents={len(blocks)}\n"
            yield f"{head}pr_vbreport_ret: (page_reporting_process+0x3f3/0x570 <- virtballoon)\n"

    def request(self, **given):
        return VerifyRequest(str(self.trace), str(SAMPLE_PAGES), str(self.reported), **given)

    def command(self, *options):
        files = ["--pages", str(SAMPLE_PAGES), "--reported", str(self.reported)]
        return main(["trace", "verify", str(self.trace), *files, *options])


@pytest.fixture
def recording(tmp_path):
    return Recording(tmp_path, TOLD)


def test_agreement(recording, capsys):
    assert recording.command() == 0
    out = capsys.readouterr().out
    assert "passes      3 of 3 in both, at most" in out
    assert "blocks      8 of the kernel's 8 in the same pass" in out
    assert "places      8 of 8 at the same place of the same call" in out
    assert "differences none" in out


def test_what_a_guest_of_another_size_is_told_to_do_can_be_done(recording, capsys):
    small = ("--guest", "seed", "--memory", "64MiB")
    assert recording.command(*small) == 2
    (option,) = re.findall(r"\((--memory \d+MiB)", capsys.readouterr().err)
    assert recording.command(*small[:2], *option.split()) == 0
    assert recording.command("--guest", "linux-6.12-1cpu-1gib") == 2
    assert "--memory" not in capsys.readouterr().err, "its zones are given one by one"
    assert recording.command("--vcpus", "0") == 2
    assert "vcpus: 0 is out of range" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("0x80000000000000", r"line 10: 0x80000000000000 is no guest-physical address"),
        ("-4194304", r"line 10: -0x400000 is no guest-physical address"),
        ("0x40000000", r"told of 0x40000 of order 10, which is in no zone of the guest"),
        ("0x80000000000", r"told of 0x80000000 of order 10, which is in no zone of the guest"),
    ],
)
def test_a_block_that_the_guest_has_not_is_refused(tmp_path, capsys, address, said):
    recording = Recording(tmp_path, (*TOLD[:2], (26.016, (*TOLD[2][1], (0x5000, 10)))))
    text = recording.reported.read_text().replace("0x5000000", address)
    assert address in text
    recording.reported.write_text(text)
    assert recording.command() == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_file_stands_for_a_strategy(recording, tmp_path, capsys):
    file = tmp_path / "quiet.py"
    file.write_text(
        "from hintbench import Strategy\n\n\n"
        'class Quiet(Strategy):\n    """Says nothing."""\n\n    name = "quiet-in-its-file"\n'
    )
    assert recording.command("-s", str(file)) == 1
    assert "passes      0 of 3 in both" in capsys.readouterr().out


def test_without_the_probe_of_a_pass_calls_are_passes(tmp_path):
    recording = Recording(tmp_path, TOLD, process=False)
    assert verify(recording.request()).agrees


def test_a_recording_in_which_nothing_was_told(tmp_path, capsys):
    empty = Recording(tmp_path, ((16.512, ()), (20.096, ()), (26.016, ())))
    assert empty.command() == 1
    out = capsys.readouterr().out
    assert "passes      3 of 3 in both, at most" in out
    assert "blocks      0 of the kernel's 0 in the same pass" in out
    assert "pass 1: 0x3000 of order 10 told by the model alone; never as such by the kernel" in out


def test_passes_that_only_one_side_made_are_not_apart(recording, capsys):
    assert recording.command("-s", "none") == 1
    assert "passes      0 of 3 in both\n" in capsys.readouterr().out


def test_every_difference_is_told(tmp_path, capsys):
    told = (
        (16.512, ((0x3400, 10), (0x3000, 10), (0x3800, 9))),  # two changed places
        (20.120, ((0x3800, 10),)),  # late
        (22.000, ()),  # a pass that the model does not make
        (26.016, ((0x3800, 10), (0x3400, 10), (0x3C00, 9), (0x5000, 10))),  # two others
    )
    assert Recording(tmp_path, told).command() == 1
    out = capsys.readouterr().out
    assert "passes      3 of 4 in both" in out
    assert "blocks      6 of the kernel's 8 in the same pass" in out
    assert "pass 1, place 1: 0x3400 of order 10, in the model 0x3000 of order 10" in out
    assert re.search(r"pass 2: -2[34]\.\d+ ms apart", out)
    assert "pass 3: only the kernel made one" in out
    assert (
        "pass 4: 0x3c00 of order 9 told by the kernel alone; never as such by the model;"
        " the model had it inside 0x3c00 of order 10, not told" in out
    )
    assert re.search(r"0x5000 of order 10 told by the kernel alone; never .* told before", out)
    assert "pass 4: 0x3200 of order 9 told by the model alone; never as such by the kernel" in out


def test_another_order_is_told_beside_other_blocks(tmp_path, capsys):
    last = ((0x3400, 10), (0x3800, 10), (0x3C00, 10), (0x1000, 9))  # two changed, one in use
    assert Recording(tmp_path, (*TOLD[:2], (26.016, last))).command() == 1
    out = capsys.readouterr().out
    assert (
        "pass 3: of the 3 blocks that both told of 2 stand in another order, first 0x3400 of order"
        " 10, in the model 0x3800 of order 10\n" in out
    )
    told = (
        "0x1000 of order 9 told by the kernel alone; never as such by the model; the model had it "
    )
    assert re.search(f"{told}(not free|free only in parts)", out)


def test_a_pass_outside_the_replay_says_so(tmp_path, capsys):
    begin = read_trace(SAMPLE).time_ns[0] / 1e9
    assert Recording(tmp_path, ((begin - 1, ((0x3000, 10),)), *TOLD)).command() == 1
    out = capsys.readouterr().out
    assert re.search(
        r"0x3000 of order 10 told by the kernel alone; .*; it lies outside the replay\n", out
    )


def test_a_first_call_that_comes_late_is_a_difference(tmp_path, capsys, monkeypatch):
    late = functools.partial(Recording.probes, late=0.015)
    monkeypatch.setattr(Recording, "probes", staticmethod(late))
    recording = Recording(tmp_path, TOLD)
    assert recording.command() == 1
    out = capsys.readouterr().out
    late_call = (
        r"\ncalls       the first of a pass at most 1[4-6]\.\d+ ms apart \(allowed: 10 ms\)\n"
    )
    assert re.search(late_call, out)
    assert re.search(r"\n  pass 1: its first call is -1[4-6]\.\d+ ms apart\n", out)
    assert recording.command("--tolerance-ms", "20") == 0


def test_all_differences_are_an_option(tmp_path, capsys):
    calls = [(26.1 + at / 1000, ((0x3000 + 2 * at, 1),)) for at in range(62)]
    recording = Recording(tmp_path, (*TOLD, *calls))
    assert recording.command() == 1
    short = capsys.readouterr().out
    assert recording.command("--all") == 1
    whole = capsys.readouterr().out
    assert re.search(r"\n  and \d+ more: --all tells them\n", short)
    differences = int(re.search(r"differences (\d+)", whole)[1])
    assert sum(line.startswith("  pass") for line in whole.splitlines()) == differences > 60


def test_what_is_missing_from_the_recording_is_told(recording, capsys):
    lines = recording.trace.read_text().splitlines(keepends=True)
    drain = next(at for at, line in enumerate(lines) if "mm_page_pcpu_drain" in line)
    recording.trace.write_text("".join([*lines[:drain], *lines[drain + 1 :], "no event"]))
    recording.command()
    out = capsys.readouterr().out
    assert re.search(r"steps that the trace does not name and its events imply: .*\b1 lost", out)
    assert re.search(r"\ntrace: 1 truncated input \(.*trace.txt: line \d+\)\n$", out)


def test_the_tolerance_is_an_option(tmp_path):
    told = ((16.520, TOLD[0][1]), *TOLD[1:])
    recording = Recording(tmp_path, told)
    assert recording.command("--tolerance-ms", "1") == 1
    assert recording.command("--tolerance-ms", "9") == 0


@pytest.mark.parametrize("given", ["-1", "nan", "inf"])
def test_a_tolerance_that_is_none(recording, capsys, given):
    assert recording.command("--tolerance-ms", given) == 2
    told = f"hintbench: --tolerance-ms: {given} is not a number from 0 on\n"
    assert capsys.readouterr().err == told


def test_another_strategy(recording, capsys):
    assert recording.command("-s", "page-reporting,order=10") == 1
    assert recording.command("-s", "none") == 1
    assert "pass 1: only the kernel made one" in capsys.readouterr().out


class FromTheStart(PageReporting):
    """Fills its scatter list from the start."""

    def _isolate(self, zone, blocks, sgl):
        refused = super()._isolate(zone, blocks, sgl)
        sgl.reverse()
        return refused


class FromTheTail(PageReporting):
    """Goes through the orders, but takes the blocks of a list from its tail."""

    def _isolate(self, zone, blocks, sgl):
        return super()._isolate(zone, blocks[::-1], sgl)


@pytest.mark.parametrize("wrong", [FromTheStart, FromTheTail])
def test_it_can_tell_a_wrong_kernel(recording, monkeypatch, wrong):
    monkeypatch.setattr("hintbench.traces.verify.resolve", lambda kind, text: (wrong, {}))
    assert not verify(recording.request()).agrees


class TestInputs:
    def test_passes_with_and_without_calls(self):
        batches = [Batch(at, ((at, 9),)) for at in (5, 6, 30)]
        assert in_passes([4, 20, 29], batches) == [
            Pass(4, tuple(batches[:2])),
            Pass(20),
            Pass(29, tuple(batches[2:])),
        ]

    def test_a_recording_that_begins_in_the_middle_of_a_pass_loses_no_call(self):
        batches = [Batch(at, ((at, 9),)) for at in (50, 60, 150)]
        assert in_passes([100], batches) == [Pass(50, tuple(batches[:2])), Pass(100, (batches[2],))]

    def test_where_no_probe_tells_of_passes_a_pause_parts_them(self):
        pause = 600_000_000
        batches = [Batch(at, ((at, 9),)) for at in (5, 6, 6 + pause)]
        assert in_passes([], batches) == [
            Pass(5, tuple(batches[:2])),
            Pass(6 + pause, (batches[2],)),
        ]

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("1,0x1000,8192", "0x2000 bytes at 0x1000 are no block"),
            ("1,0x1000,4095", "0xfff bytes at 0x1000 are no block"),
            ("1,0x0,8388608", "are no block"),
            ("1,here,4096", "line 2: has no address and length in numbers"),
            ("1", "line 2: has no address and length in numbers"),
        ],
    )
    def test_lines_that_are_no_blocks(self, recording, line, sentence):
        recording.reported.write_text(f"sequence,address,length\n{line}\n")
        with pytest.raises(TraceError, match=sentence):
            verify(recording.request())

    def test_an_empty_list(self, recording):
        recording.reported.write_text("sequence,address,length\n")
        with pytest.raises(TraceError, match="lists 0 blocks, the trace's probes tell of 8"):
            verify(recording.request())

    def test_a_list_of_another_recording(self, recording):
        lines = recording.reported.read_text().splitlines()
        recording.reported.write_text("\n".join(lines[:-1]))
        with pytest.raises(TraceError, match="lists 7 blocks, the trace's probes tell of 8"):
            read_recorded(read_trace(recording.trace), recording.reported)

    def edit(self, file, old, new):
        file.write_text(re.sub(old, new, file.read_text()), encoding="utf-8")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (r"pfn=0x([0-9a-f]+)", lambda found: f"pfn={int(found[1], 16)}"),
            (r"nents=(\d+)", lambda found: f"nents={int(found[1]):#x}"),
            ("pr_process|pr_vbreport", "another"),
            ("virtballoon_free_page_report", "hv_free_page_report"),
            (r".*kpageflags-dumped.*\n", ""),
            ("\n", "\r\n"),
        ],
        ids=["decimal", "hexadecimal", "names", "driver", "no marker", "line ends"],
    )
    def test_recordings_of_other_people(self, recording, old, new):
        self.edit(recording.trace, old, new)
        assert verify(recording.request()).agrees

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (r"0x([0-9a-f]+)", lambda found: str(int(found[1], 16))),
            (",", " , "),
            ("sequence,address", "\ufeffsequence,Address"),
            (r"(?m)(?<=\d|h)$", ",more"),
            ("\n", "\r\n"),
        ],
        ids=["decimal", "spaces", "mark", "columns", "line ends"],
    )
    def test_lists_of_other_people(self, recording, old, new):
        self.edit(recording.reported, old, new)
        assert verify(recording.request()).agrees

    @pytest.mark.parametrize(
        "name", ["mm_page_alloc", "mm_page_free", "mm_page_alloc_zone_locked", "mm_page_pcpu_drain"]
    )
    def test_a_kind_of_event_that_was_not_recorded(self, recording, name):
        ends = "(_batched)?" if name == "mm_page_free" else ""
        self.edit(recording.trace, rf".* {name}{ends}: .*\n", "")
        with pytest.raises(TraceError, match=f"trace.txt has no event {name}: "):
            verify(recording.request())

    def test_no_probe_of_the_calls(self, recording):
        self.edit(recording.trace, "nents=", "n=")
        with pytest.raises(TraceError, match=r"no probe that says nents=N: .* the 8 blocks of "):
            verify(recording.request())

    def test_columns_of_other_names(self, recording):
        self.edit(recording.reported, "address,length", "gpa,bytes")
        with pytest.raises(TraceError, match=r"no column address and no column length: .*,gpa"):
            verify(recording.request())

    def test_a_machine_that_no_preset_is_like(self, recording):
        self.edit(recording.trace, r"\[000\]", "[031]")
        with pytest.raises(TraceError, match=r"no preset is like the traced machine: .*\[\[zones"):
            verify(recording.request())

    def test_a_missing_file(self, recording, capsys):
        recording.reported.unlink()
        assert recording.command() == 2
        assert "reported.csv: cannot be read" in capsys.readouterr().err


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=ABSENT)
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("linux-6.12-1cpu-1gib", ["32 + 27", "5"]),
        ("linux-6.12-4cpu-512mib", ["32 + 2", "none", "1"]),
    ],
)
def test_page_reporting_is_the_recorded_kernels_block_by_block(name, sizes):
    folder = RECORDINGS / name
    found = verify(
        VerifyRequest(
            str(folder / "trace.txt.gz"),
            str(folder / "kpageflags-before.u64.gz"),
            str(folder / "reported-blocks.csv"),
        )
    )
    assert found.agrees
    assert found.modelled == found.recorded
    assert [kernel.sizes for kernel, _ in found.pairs] == sizes
    assert found.largest_gap_ns < 1_000_000
    assert found.violations == {}
