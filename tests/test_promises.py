"""What the README and the contract promise of a run as a whole, each in a bounded form."""

import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest

import hintbench
from hintbench import GuestConfig
from hintbench.config.defaults import STRATEGIES, WORKLOADS
from hintbench.config.guest import PRESETS, load_guest
from hintbench.core import BUILD
from hintbench.core.constants import KERNEL_6_12
from hintbench.core.hugepages import mapped_bytes
from hintbench.guest.boot import pcp_bounds
from hintbench.replay import read_trace
from hintbench.runner import Run
from hintbench.workloads.trace import TraceReplay
from recordings import ABSENT, RECORDINGS
from small_guest import Silent, Tapes

ROOT = Path(__file__).parents[1]
REPORTING = [name for name in STRATEGIES if name != "none"]
MOST_BYTES_A_PAGE = 9.25


@pytest.mark.skipif(BUILD == "interpreted", reason="a default cell takes minutes interpreted")
@pytest.mark.parametrize("strategy", REPORTING)
def test_every_strategy_gives_memory_back_in_a_default_cell(strategy: str) -> None:
    assert "memhog" in WORKLOADS
    metrics = hintbench.run(strategy, "memhog", "default").metrics
    assert metrics["reported_blocks"] > 0
    assert metrics["reclaimed_gib_s"] > 1


def bytes_of_a_guest(memory: int) -> tuple[int, int]:
    """Bytes that a booted guest takes, and its pages."""
    mapped = mapped_bytes()
    tracemalloc.start()
    try:
        run = Run(Silent(), Tapes([]), GuestConfig(memory=memory, vcpus=2), seed=1)
        used = tracemalloc.get_traced_memory()[0] + mapped_bytes() - mapped
    finally:
        tracemalloc.stop()
    return used, sum(zone.end_pfn - zone.start_pfn for zone in run.guest.zones)


def test_a_page_takes_at_most_so_many_bytes() -> None:
    small, large = bytes_of_a_guest(16 << 30), bytes_of_a_guest(48 << 30)
    # The difference: what a guest takes besides, histograms mostly, does not grow.
    assert (large[0] - small[0]) / (large[1] - small[1]) <= MOST_BYTES_A_PAGE


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=ABSENT)
@pytest.mark.skipif(BUILD == "interpreted", reason="reading them takes minutes interpreted")
@pytest.mark.parametrize("exact", [False, True], ids=["modelled", "exact"])
@pytest.mark.parametrize(
    "name",
    ["linux-6.12-1cpu-1gib", pytest.param("linux-6.12-4cpu-512mib", marks=pytest.mark.long)],
)
def test_a_real_trace_is_replayed_under_every_strategy(
    name: str, exact: bool, tmp_path: Path
) -> None:
    from hintbench.traces import save_trace

    folder = RECORDINGS / name
    imported = tmp_path / "trace.npz"
    save_trace(read_trace(folder / "trace.txt.gz"), imported)  # reading the text takes longest
    pages = str(folder / "kpageflags-before.u64.gz")
    operations = set()
    for strategy in STRATEGIES:
        workload = TraceReplay(path=str(imported), pages=pages, exact=exact)
        result = hintbench.run(strategy, workload, name)
        assert result.violations == {}, strategy
        operations.add(result.metrics["operations"])
        if exact:
            # A block in a strategy's hands may be one that the kernel takes: it waits then.
            assert result.metrics["exact_taken_again"] == 0, strategy
    assert len(operations) == 1


ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 120
  pages free     2816
        boost    0
        min      22
        low      27
        high     32
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 449, 449, 449)
      nr_free_pages 2816
  pagesets
    cpu: 0
              count:    0
              high:     24
              batch:    1
              high_min: 6
              high_max: 120
    cpu: 1
              count:    0
              high:     24
              batch:    1
              high_min: 6
              high_max: 120
  vm stats threshold: 2
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone    DMA32
  pages free     90000
        boost    0
        min      659
        low      823
        high     987
        spanned  126938
        present  126938
        managed  114960
  pagesets
    cpu: 0
              count:    63
              high:     947
              batch:    31
              high_min: 205
              high_max: 3522
  vm stats threshold: 14
  node_unreclaimable:  0
  start_pfn:           4096
Node 0, zone   Normal
  pages free     0
        min      32
        low      32
        high     32
        spanned  0
        present  0
        managed  0
"""


def _guest_of(zoneinfo: str, folder: Path) -> GuestConfig:
    """What the README's command makes of a machine's /proc/zoneinfo."""
    readme = (ROOT / "README.md").read_text()
    script = next(s for s in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "awk" in s)
    (folder / "zoneinfo").write_text(zoneinfo)
    (folder / "nproc").write_text("#!/bin/sh\necho 4\n")
    (folder / "nproc").chmod(0o755)
    script = script.replace("/proc/zoneinfo", "zoneinfo").replace("nproc", "./nproc")
    subprocess.run(["sh", "-e", "-c", script], cwd=folder, check=True)
    return load_guest(str(folder / "guest.toml"))


@pytest.mark.skipif(shutil.which("awk") is None, reason="the README's command needs awk")
def test_the_readme_makes_a_guest_of_proc_zoneinfo(tmp_path: Path) -> None:
    found = _guest_of(ZONEINFO, tmp_path)
    name = "linux-6.12-4cpu-512mib"
    assert name in PRESETS
    # The preset leaves the DMA zone's to the formula, which says the same.
    assert [zone.pcp_high_max for zone in found.layout()] == [120, 3522]
    dma, dma32 = found.layout()
    assert (dma.model_copy(update={"pcp_high_max": None}), dma32) == load_guest(name).layout()
    assert pcp_bounds(KERNEL_6_12, dma.managed, 27, found.vcpus)[2] == 120
    assert found.vcpus == 4


@pytest.mark.skipif(shutil.which("awk") is None, reason="the README's command needs awk")
def test_a_kernel_before_6_13_prints_no_high_max(tmp_path: Path) -> None:
    old = "".join(line for line in ZONEINFO.splitlines(True) if "high_m" not in line)
    found = _guest_of(old, tmp_path)
    assert [zone.pcp_high_max for zone in found.layout()] == [None, None]
    assert [zone.watermark_high for zone in found.layout()] == [32, 987]
