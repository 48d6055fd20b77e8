"""What vmstat's work gives back of the per-CPU lists, once a second."""

import pytest

from hintbench import Strategy, hookimpl
from hintbench.operations import Flag, allocate, free, idle
from small_guest import BLOCK, SECOND, START, boot, costs, run, small_guest, zone


class TestVmstat:
    tape = [allocate(range(8000), flags=Flag.TOUCHED), free(range(8000)), idle([20 * SECOND])]

    def pcp_pages(self, seconds, kernel="6.12", cpu=0):
        tape = [*self.tape[:-1], idle([seconds * SECOND])]
        running = run(None, *[[]] * cpu, tape, config=small_guest(cpu + 1, kernel=kernel))
        return running.machine.simulation.vcpus[cpu].pcps[0]

    def test_once_a_second_the_list_shrinks_towards_its_least_size(self):
        counts = [self.pcp_pages(seconds).count for seconds in (0, 1, 2, 3, 10)]
        assert counts == sorted(set(counts), reverse=True)
        pcp = self.pcp_pages(60)
        assert pcp.count <= pcp.high == pcp.high_min

    def test_the_cpus_ticks_are_spread(self):
        class Watching(Strategy):
            name = "watching"

            def __init__(self):
                super().__init__()
                self.ticks = set()

            @hookimpl
            def block_freed(self, guest, cpu):
                if guest.now > SECOND // 2:
                    self.ticks.add((cpu, guest.now % SECOND))

        watching = Watching()
        tapes = [
            [
                allocate(range(first, first + 8000), flags=Flag.TOUCHED),
                free(range(first, first + 8000)),
                idle([3 * SECOND]),
            ]
            for first in (0, 8000)
        ]
        run(watching, *tapes)
        assert sorted(watching.ticks) == [(0, 0), (1, 12_000_000)]

    def test_there_is_no_decay_in_5_0(self):
        assert self.pcp_pages(0, "5.0").count == self.pcp_pages(20, "5.0").count > 0

    def test_it_takes_the_cpus_time_and_is_the_kernels(self):
        config = small_guest(costs=costs(task_switch_ns=1500, block_hot_ns=10, block_cold_ns=10))
        metrics = run(None, self.tape, config=config).result.metrics
        assert metrics["guest_cpu_kernel_ns"] > 0
        assert metrics["guest_cpu_task_ns"] == metrics["guest_cpu_hook_ns"] == 0
        assert metrics["strategy_lock_takes"] == 0


class TestListsForOtherNodes:
    """pcp->expire: vmstat lets go of what a CPU keeps of another node's zone."""

    @staticmethod
    def kept(kernel, seconds, *, node=1):
        """What vCPU 0, of node 0, keeps of a zone some seconds after freeing 70 pages there."""
        zones = (zone(4, node=1 - node), zone(8, START + 4 * BLOCK, "DMA32", node=node))
        dma32 = {"order": 0, "migratetype": 1, "flags": Flag.DMA32}
        tape = [allocate(range(70), **dma32), free(range(70)), idle([int(seconds * SECOND)])]
        config = small_guest(vcpus=2, zones=zones, kernel=kernel)
        running = boot(None, tape, config=config)
        running.execute()
        return running.machine.simulation.vcpus[0].pcps[1]

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_a_batch_goes_every_third_second(self, kernel):
        before, after, later = (self.kept(kernel, seconds) for seconds in (2.5, 3.5, 6.5))
        assert before.count >= 2 * before.batch
        assert before.count - after.count == before.batch
        assert before.count - later.count == 2 * before.batch

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_those_of_the_own_node_stay(self, kernel):
        assert self.kept(kernel, 2.5, node=0).count == self.kept(kernel, 9.5, node=0).count > 0
