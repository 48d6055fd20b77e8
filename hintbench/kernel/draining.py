"""drain_all_pages(): all per-CPU lists go back to the buddy allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core.constants import KERNEL_6_12

if TYPE_CHECKING:
    from hintbench.kernel.threads import KernelThreads


async def drain_all_pages(threads: KernelThreads, cpu: int) -> None:
    """Empty the lists of every CPU, unless somebody does so already.

    6.12 does it in the caller's thread (since 6.0, commit 443c2accd1b6: the lists have a lock of
    their own). 5.0 sends a work item to each CPU that has pages, and waits for all of them.

    Args:
        threads: the kernel's work, whose drains it uses.
        cpu: whose thread calls.
    """
    if threads.draining:
        # mutex_trylock(&pcpu_drain_mutex)
        return
    threads.draining = True
    vcpus = threads.simulation.vcpus
    if threads.machine.kernel >= KERNEL_6_12:
        for owner in threads.guest.cpus:
            await _drain_pages(threads, cpu, owner)
    else:
        with_pages = [
            owner for owner in threads.guest.cpus if any(pcp.count for pcp in vcpus[owner].pcps)
        ]
        tasks = []
        for owner in with_pages:
            threads.guest.spend(threads.guest.costs.task_wake_ns)
            work = _drain_pages(threads, owner, owner)
            tasks.append(threads.scheduler.spawn(work, owner, "drain_local_pages_wq", kernel=True))
        for task in tasks:
            await task.join()  # flush_work()
    threads.draining = False


async def _drain_pages(threads: KernelThreads, cpu: int, owner: int) -> None:
    """drain_pages(): a CPU's lists of all zones, by a thread of ``cpu``."""
    for pcp in threads.simulation.vcpus[owner].pcps:
        await threads.frees.drain_all_of(cpu, pcp.zone, owner)
