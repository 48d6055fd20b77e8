"""What every step of guest and host costs in virtual time, with where each figure comes from.

The figures were measured on, or derived from, servers of 2019 to 2022. Take them as parameters: a
ranking of strategies that changes when one of them is halved or doubled is not a result.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_LIMIT_NS = 1_000_000_000


def _cost(
    default: int, low: int, high: int, what: str, source: str, *, unit: str = "ns", least: int = 0
) -> Any:
    """Declare one cost: its default, the plausible range, what it pays for and who measured it.

    0 is allowed, since "what if this were free" is a fair question, and so is much more than the
    plausible range; a second is not.
    """
    limit = _LIMIT_NS if unit.startswith("ns") else 1_000
    return Field(
        default=default,
        ge=least,
        le=limit,
        description=f"{what} [{unit}; plausible {low}..{high}]. Source: {source}.",
        json_schema_extra={
            "unit": unit,
            "plausible_low": low,
            "plausible_high": high,
            "source": source,
        },
    )


class Costs(BaseModel):
    """What the guest pays, in virtual time but for one number of attempts.

    Every field names its unit, its plausible range and its source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pcp_hit_ns: int = _cost(
        50, 25, 120, "an allocation served by a per-CPU list", "LLFree bench repeat, 112 ns a pair"
    )
    pcp_free_ns: int = _cost(
        50, 25, 120, "a free that ends on a per-CPU list", "LLFree bench repeat, 112 ns a pair"
    )
    direct_path_ns: int = _cost(
        60,
        30,
        150,
        "what an allocation or free past the per-CPU lists pays outside the zone lock",
        "LLFree bench bulk, 94 ns per order-0 allocation less 38 under the lock",
    )
    lock_take_ns: int = _cost(
        20,
        10,
        40,
        "taking and releasing a zone lock that is free",
        "atomic on a warm line, estimate",
    )
    lock_handoff_ns: int = _cost(
        100,
        50,
        300,
        "a zone lock that comes from another CPU",
        "50..100 same socket, 100..300 across",
    )
    block_hot_ns: int = _cost(
        38,
        20,
        80,
        "a block linked or unlinked under the lock, its page last touched by this CPU",
        "slope of LLFree bench bulk, order 0",
    )
    block_cold_ns: int = _cost(
        151,
        75,
        300,
        "a block linked or unlinked under the lock, its page last touched by another CPU",
        "slope of LLFree bench random free, 3933 ns / 26",
    )
    list_walk_block_ns: int = _cost(
        60,
        30,
        120,
        "looking at one block of a free list",
        "free-list walk on a server of the 2020s",
    )
    head_lookup_ns: int = _cost(
        11, 5, 25, "finding a page's free block through 11 orders", "server of the 2020s"
    )
    page_visit_ns: int = _cost(
        4, 2, 8, "looking at one struct page in a linear scan", "3.8 us for 1,024 pages"
    )
    clear_page_ns: int = _cost(
        190, 100, 400, "clearing 4 KiB", "khugepaged, 97 us for 2 MiB, lkml 2403.1/02705"
    )
    memory_page_ns: int = _cost(
        114,
        40,
        230,
        "the share of the machine's memory bandwidth that clearing 4 KiB takes",
        "36 GB/s: huge-page faults go from 506 to 928 us from 1 to 16 tasks",
    )
    refault_small_ns: int = _cost(
        3_750,
        1_900,
        7_500,
        "the first touch of a 4 KiB granule that the host does not back",
        "HyperAlloc raw data, unbacked less backed",
    )
    refault_huge_ns: int = _cost(
        110_000,
        55_000,
        360_000,
        "the first touch of a 2 MiB granule that the host does not back",
        "server of the 2020s; HyperAlloc on a Xeon 6252 has 360 us",
    )
    touch_page_ns: int = _cost(
        20, 5, 100, "touching 4 KiB that the host backs", "one cache and TLB miss, estimate"
    )
    zone_fallback_ns: int = _cost(
        30, 10, 60, "passing over one zone or migratetype without success", "estimate"
    )
    direct_reclaim_ns: int = _cost(
        1_000_000,
        100_000,
        10_000_000,
        "one attempt of direct reclaim that finds nothing",
        "estimate: one scan of the inactive lists",
    )
    reclaim_retries: int = _cost(
        1,
        1,
        16,
        "rounds of direct reclaim before an allocation that may block fails: should_reclaim_retry()"
        " gives up at once when neither free nor reclaimable memory would do, and up to 16 rounds"
        " are a guest with a page cache",
        "MAX_RECLAIM_RETRIES in mm/internal.h",
        unit="attempts",
        least=1,
    )
    kswapd_wake_ns: int = _cost(500, 200, 2_000, "waking kswapd", "a wake-up and its IPI, estimate")
    task_wake_ns: int = _cost(
        500,
        200,
        2_000,
        "waking a task of the strategy that sleeps, or queueing a work item; paid by whoever wakes,"
        " under the zone lock if he holds it",
        "a wake-up and its IPI, as of kswapd, estimate",
    )
    interrupt_ns: int = _cost(
        1_000,
        500,
        3_000,
        "entering and leaving an interrupt in the guest",
        "posted interrupt, estimate",
    )
    task_switch_ns: int = _cost(
        1_500, 1_000, 5_000, "switching to a kernel thread or work item and back", "estimate"
    )
    context_spin_wake_ns: int = _cost(
        100, 50, 300, "seeing that what one spun for has come", "one cache line between CPUs"
    )
    flag_ns: int = _cost(
        1, 1, 5, "testing, setting or clearing a flag whose line is warm", "one warm load"
    )
    flag_contended_ns: int = _cost(
        50,
        30,
        300,
        "setting or clearing a flag whose line another CPU wrote last",
        "one line between CPUs",
    )
    buffer_ns: int = _cost(200, 50, 1_000, "allocating a small buffer with kmalloc", "estimate")


class HostConfig(BaseModel):
    """How the host takes a report, and what that costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kick: Literal["vcpu-thread", "device-thread", "hypercall"] = Field(
        default="device-thread",
        description="who serves a report: the kicking vCPU's own thread (QEMU without ioeventfd,"
        " so in all published tables), a thread of the device (vhost, Firecracker,"
        " cloud-hypervisor, newer QEMU), or a hypercall",
    )
    discard: bool = Field(
        default=True, description="whether reports take memory back; false only acknowledges them"
    )
    granule: Literal["4KiB", "2MiB"] = Field(
        default="2MiB", description="the size in which the host backs the guest's memory"
    )
    descriptor_bytes: int | None = Field(
        default=None,
        ge=4096,
        le=1 << 30,
        description="bytes that one madvise covers; none: one for each block; 4096: one for each"
        " page, as QEMU did for the series v9 [bytes]",
    )
    queue_capacity: int = Field(
        default=128,
        ge=1,
        le=32_768,
        description="reports that may wait for the host at once [reports]",
    )
    acknowledge: Literal["interrupt", "poll"] = Field(
        default="interrupt", description="how the guest learns that a report has been served"
    )
    call_vcpu_thread_ns: int = _cost(
        15_000, 10_000, 25_000, "a report served in the vCPU's thread", "server of the 2020s"
    )
    call_device_thread_ns: int = _cost(
        5_000, 2_000, 5_000, "kicking a device thread", "ioeventfd exit, server of the 2020s"
    )
    device_latency_ns: int = _cost(
        40_000, 20_000, 60_000, "until the device thread starts serving", "server of the 2020s"
    )
    hypercall_ns: int = _cost(
        2_000, 1_000, 5_000, "entering and leaving a hypercall", "KVM exit and entry, 2012.2/00527"
    )
    descriptor_ns: int = _cost(
        440, 200, 7_600, "madvise of a range that is not mapped", "MADV_DONTNEED of untouched 2 MiB"
    )
    unmap_huge_ns: int = _cost(
        10_000,
        5_800,
        20_000,
        "discarding 2 MiB mapped huge",
        "MADV_DONTNEED; HyperAlloc 5.8..8.3 us",
    )
    unmap_small_ns: int = _cost(
        400, 200, 1_800, "discarding 4 KiB mapped small", "200 us for 2 MiB mapped as 4 KiB"
    )
    unmap_call_ns: int = _cost(
        1_700,
        1_700,
        3_000,
        "discarding 4 KiB by a madvise of its own, as QEMU did for the series v9",
        "MADV_DONTNEED of 4 KiB, server of the 2020s",
    )
    split_huge_ns: int = _cost(
        20_000, 10_000, 40_000, "the first discard of 4 KiB inside a huge mapping", "MADV_DONTNEED"
    )
    vcpu_kick_ns: int = _cost(
        1_500,
        1_000,
        2_000,
        "what a discard of mapped memory costs every other running vCPU",
        "remote TLB flush, 1..2 us",
    )
