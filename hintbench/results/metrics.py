"""From the core's counters to named figures, each with its unit in the name."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.accounts import PAYERS
from hintbench.core.backing import EARLY_NS
from hintbench.core.constants import (
    BUCKETS,
    CAUSE_LOCK_WAIT,
    CAUSE_REFAULT,
    CAUSE_SLOW_PATH,
    CAUSE_SPIN,
    CAUSE_TOTAL,
    CAUSE_ZEROING,
    NR_PAGE_ORDERS,
    PAGE_SIZE,
    PAGEBLOCK_ORDER,
)
from hintbench.core.contexts import HOOK, HOST, INTERRUPT, KERNEL, TASK, THREAD
from hintbench.core.measures import bucket_upper_ns
from hintbench.results.accounting import guest_cpu_ns, hold_of_hooks_ns
from hintbench.results.retention import split_of, times_to_reclaim

if TYPE_CHECKING:
    from hintbench.guest.boot import Machine
    from hintbench.guest.guest import Guest
    from hintbench.kernel.threads import KernelThreads

GIB: Final = 1 << 30
ORDER_CLASSES: Final = ("order0", "order1_3", "order4_8", "order9", "order10")
CAUSES: Final = {
    "lock_wait": CAUSE_LOCK_WAIT,
    "spin": CAUSE_SPIN,
    "refault": CAUSE_REFAULT,
    "zeroing": CAUSE_ZEROING,
    "slow_path": CAUSE_SLOW_PATH,
}
_LOCK_PAYERS: Final = {payer: PAYERS[payer] for payer in (THREAD, HOOK, TASK, INTERRUPT, KERNEL)}
_SHARES: Final = (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))

Metrics = dict[str, int | float | None]


def percentile_ns(histogram: list[int], share: float) -> int | None:
    """The upper bound of the bucket that holds a percentile; None for an empty histogram."""
    total = sum(histogram)
    if not total:
        return None
    wanted = share * total
    for bucket, so_far in enumerate(accumulate(histogram)):
        if so_far >= wanted:
            return bucket_upper_ns(bucket)
    return bucket_upper_ns(BUCKETS - 1)


def collect(
    machine: Machine, guest: Guest, threads: KernelThreads, start_ns: int, end_ns: int
) -> Metrics:
    """Read everything that one simulation counted.

    Args:
        machine: the booted guest after its run.
        guest: with the host's and the strategy's counters.
        threads: the kernel's own.
        start_ns: when the workload began [virtual ns].
        end_ns: when it ended [virtual ns].
    """
    simulation = machine.simulation
    virtual_ns = end_ns - start_ns
    # Throughput is of the time that the busiest vCPU's tape was not idle by its own wish.
    busy_ns = max(vcpu.finished_ns - start_ns - vcpu.idle_ns for vcpu in simulation.vcpus)
    metrics: Metrics = {
        "operations": simulation.operations,
        "allocations": simulation.allocations,
        "frees": simulation.frees,
        "virtual_ns": virtual_ns,
        "busy_ns": busy_ns,
        "throughput_ops_s": simulation.operations * 1e9 / busy_ns if busy_ns > 0 else None,
    }
    metrics |= _latencies(simulation.latencies)
    metrics |= _locks(machine, guest)
    metrics |= _memory(machine, end_ns)
    metrics |= _host(guest)
    metrics |= _failures(machine, guest, threads)
    metrics |= _per_gib(metrics, machine)
    return metrics


def _latencies(latencies: Any) -> Metrics:
    """Allocation latency over all orders, by class of orders, and by cause."""
    metrics: Metrics = {}
    everything = latencies.histogram(None, CAUSE_TOTAL)
    for name, share in _SHARES:
        metrics[f"alloc_{name}_ns"] = percentile_ns(everything, share)
    metrics["alloc_max_ns"] = latencies.max_ns(None, CAUSE_TOTAL)
    for index, label in enumerate(ORDER_CLASSES):
        histogram = latencies.histogram(index, CAUSE_TOTAL)
        if sum(histogram):
            for name, share in _SHARES:
                metrics[f"alloc_{label}_{name}_ns"] = percentile_ns(histogram, share)
            metrics[f"alloc_{label}_max_ns"] = latencies.max_ns(index, CAUSE_TOTAL)
    for label, cause in CAUSES.items():
        metrics[f"alloc_{label}_total_ns"] = latencies.total_ns(None, cause)
        histogram = latencies.histogram(None, cause)
        for name, share in _SHARES:
            metrics[f"alloc_{label}_{name}_ns"] = percentile_ns(histogram, share)
        metrics[f"alloc_{label}_max_ns"] = latencies.max_ns(None, cause)
    return metrics


def _locks(machine: Machine, guest: Guest) -> Metrics:
    """Zone locks, by payer; what hooks do under a lock that the kernel holds is the hooks'."""
    locks = [zone.lock for zone in machine.zones]
    metrics: Metrics = {
        "lock_takes": sum(lock.takes for lock in locks),
        "lock_contended": sum(lock.contended for lock in locks),
        "lock_wait_ns": sum(sum(lock.wait_ns) for lock in locks),
        "lock_hold_ns": sum(sum(lock.hold_ns) for lock in locks),
        "longest_lock_wait_ns": max(lock.longest_wait_ns for lock in locks),
    }
    holds = _holds_ns(machine, guest)
    longest_off = guest.scheduler.accounts.longest_irqs_off_ns
    for payer, index in _LOCK_PAYERS.items():
        metrics[f"lock_takes_{payer}"] = sum(lock.takes_of[index] for lock in locks)
        metrics[f"lock_wait_{payer}_ns"] = sum(lock.wait_ns[index] for lock in locks)
        metrics[f"lock_hold_{payer}_ns"] = holds[payer]
        metrics[f"longest_hold_{payer}_ns"] = max(lock.longest_hold_ns[index] for lock in locks)
        metrics[f"longest_irqs_off_{payer}_ns"] = max(
            longest_off[payer], *(lock.longest_irqs_off_ns[index] for lock in locks)
        )
    for name in ("longest_hold", "longest_irqs_off"):
        metrics[f"{name}_ns"] = max(metrics[f"{name}_{payer}_ns"] or 0 for payer in _LOCK_PAYERS)
    return metrics


def _holds_ns(machine: Machine, guest: Guest) -> dict[str, int]:
    """How long zone locks were held, by payer."""
    holds = {
        payer: sum(zone.lock.hold_ns[index] for zone in machine.zones)
        for payer, index in _LOCK_PAYERS.items()
    }
    for payer in (THREAD, KERNEL):
        of_hooks = hold_of_hooks_ns(guest.hooks, _LOCK_PAYERS[payer])
        holds[payer] -= of_hooks
        holds[HOOK] += of_hooks
    return holds


def locks_per_batch(machine: Machine, guest: Guest) -> Metrics:
    """Takes, waits and holds of zone locks by the strategy, over the whole run.

    Read them when the strategy has stopped: a batch that is still in flight has not cost all that
    it will. Takes that find nothing to isolate, mark or give back belong to no batch, and are only
    in the second of the two figures a batch.
    """
    strategy = (HOOK, TASK, INTERRUPT)
    holds = _holds_ns(machine, guest)
    hold_ns = sum(holds[payer] for payer in strategy)
    wait_ns = sum(
        zone.lock.wait_ns[_LOCK_PAYERS[payer]] for zone in machine.zones for payer in strategy
    )
    reported = guest.host.reported_pages * PAGE_SIZE / GIB
    empty = guest.scheduler.takes.empty
    useful = guest.scheduler.takes.total - empty
    batches = guest.host.reported_batches
    blocks = guest.host.reported_blocks
    return {
        "strategy_lock_takes": useful + empty,
        "strategy_empty_lock_takes": empty,
        "lock_takes_per_batch": useful / batches if batches else None,
        "strategy_lock_takes_per_batch": (useful + empty) / batches if batches else None,
        "lock_takes_per_reported_block": useful / blocks if blocks else None,
        "strategy_lock_wait_ns": wait_ns,
        "strategy_lock_hold_ns": hold_ns,
        "lock_wait_per_batch_ns": wait_ns / batches if batches else None,
        "lock_hold_per_batch_ns": hold_ns / batches if batches else None,
        "lock_hold_per_reported_gib_ns": hold_ns / reported if reported else None,
    }


def _memory(machine: Machine, end_ns: int) -> Metrics:
    """Footprint, reclaimed, retained; integrals over virtual time from its start."""
    backing = machine.backing
    gib = PAGE_SIZE / GIB
    split = split_of(machine)
    free_by_order = [
        sum(zone.nr_free[order] for zone in machine.zones) for order in range(NR_PAGE_ORDERS)
    ]
    integrals = {name: part.page_seconds(end_ns) * gib for name, part in split.items()}
    return {
        "footprint_gib_s": backing.backed.page_seconds(end_ns) * gib,
        "reclaimed_gib_s": backing.reclaimed.page_seconds(end_ns) * gib,
        **{f"{name}_gib_s": value for name, value in integrals.items()},
        "footprint_end_bytes": backing.backed.value * PAGE_SIZE,
        "reclaimed_end_bytes": backing.reclaimed.value * PAGE_SIZE,
        **{f"{name}_end_bytes": part.value * PAGE_SIZE for name, part in split.items()},
        "reclaimed_peak_bytes": backing.reclaimed.peak * PAGE_SIZE,
        "pcp_end_bytes": sum(pcp.count for vcpu in machine.simulation.vcpus for pcp in vcpu.pcps)
        * PAGE_SIZE,
        "free_fragments_end_bytes": sum(
            count << order for order, count in enumerate(free_by_order[:PAGEBLOCK_ORDER])
        )
        * PAGE_SIZE,
        "free_blocks_order9_end": sum(free_by_order[PAGEBLOCK_ORDER:]),
        **times_to_reclaim(machine, end_ns),
        "refaults": backing.small_refaults + backing.huge_refaults,
        "refaulted_bytes": backing.refaulted_pages * PAGE_SIZE,
        "refault_stall_ns": machine.simulation.refault_stall_ns,
        "discarded_bytes": backing.discarded_pages * PAGE_SIZE,
    }


def _host(guest: Guest) -> Metrics:
    host = guest.host
    return {
        # The oracle's claims count as reports, one block each.
        "reported_blocks": host.reported_blocks + host.backing.claimed_blocks,
        "reported_batches": host.reported_batches,
        "reported_bytes": (host.reported_pages + host.backing.claimed_pages) * PAGE_SIZE,
        "redundant_reported_bytes": host.unmapping.redundant_pages * PAGE_SIZE,
        "refused_reports": host.refused_reports,
        # Threads of the host that the strategy has started work for the host, too.
        "host_cpu_ns": host.cpu_ns + guest.scheduler.accounts.cpu_ns[HOST],
        "host_calls": host.calls,
        "installs": host.shared.installs,
        "discards": host.unmapping.discards,
        "vcpu_kicks": host.unmapping.kicks,
        "dropped_hints": sum(guest.drops.values()),
        "isolation_refusals": sum(zone.refusals for zone in guest.zones),
        "held_peak_bytes": guest.held.peak * PAGE_SIZE,
        "peak_in_flight_bytes": max(guest.host.in_flight.peak, guest.isolated.peak) * PAGE_SIZE,
        "isolated_end_bytes": sum(zone.isolated_pages for zone in guest.zones) * PAGE_SIZE,
    }


def _failures(machine: Machine, guest: Guest, threads: KernelThreads) -> Metrics:
    simulation = machine.simulation
    accounts = guest.scheduler.accounts
    spent = guest_cpu_ns(accounts, guest.hooks)
    return {
        "failed_allocations": simulation.failed,
        "blocking_failures": threads.ooms,
        "nonblocking_failures": simulation.failed - threads.ooms,
        "false_ooms": threads.false_ooms,
        "stalls": threads.stalls,
        "stall_ns": threads.stall_ns,
        "kswapd_wakes": simulation.kswapd_wakes,
        "slow_paths": simulation.slow_paths,
        **{f"guest_cpu_{payer}_ns": ns for payer, ns in spent.items()},
        "spin_ns": accounts.spin_ns,
        "held_ns": accounts.held_ns,
        "exact_taken_again": simulation.exact_taken_again,
        "exact_returned_again": simulation.exact_returned_again,
        "exact_waits": simulation.exact_waits,
    }


def _per_gib(metrics: Metrics, machine: Machine) -> Metrics:
    """Costs for each GiB that the host was able to take back."""
    discarded = metrics["discarded_bytes"] or 0
    refaulted = metrics["refaulted_bytes"] or 0
    stall = metrics["refault_stall_ns"] or 0
    taken = discarded / GIB
    early = {
        f"refault_ratio_{age_ns // 1_000_000_000}_s": pages * PAGE_SIZE / discarded
        if discarded
        else None
        for age_ns, pages in zip(EARLY_NS, machine.backing.refaulted_within, strict=True)
    }
    prices = {
        "host_cpu_per_gib_ns": metrics["host_cpu_ns"],
        "host_calls_per_gib": metrics["host_calls"],
        "discards_per_gib": metrics["discards"],
        "vcpu_kicks_per_gib": metrics["vcpu_kicks"],
    }
    payers = [HOOK, TASK, INTERRUPT]
    for payer in payers:
        prices[f"guest_cpu_{payer}_per_gib_ns"] = metrics[f"guest_cpu_{payer}_ns"]
    prices["guest_cpu_per_gib_ns"] = sum(metrics[f"guest_cpu_{payer}_ns"] or 0 for payer in payers)
    per_gib = {name: (price or 0) / taken if taken else None for name, price in prices.items()}
    return {
        **early,
        **per_gib,
        "refault_stall_per_refaulted_gib_ns": stall / (refaulted / GIB) if refaulted else None,
    }
