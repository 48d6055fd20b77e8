"""The workload `build`: compilers come and go, the page cache grows, and is dropped."""

import numpy as np
import pytest

from hintbench.errors import ParameterError
from hintbench.operations import Flag, Migratetype, Operation, concatenate
from hintbench.workload import WorkloadSetting
from hintbench.workloads.build import Build

MIB = 256


class TestBuild:
    def wave(self, cpu=0, **parameters):
        setting = WorkloadSetting(512 * MIB, 2, operations=1)
        program = Build({"jobs": 2, **parameters}).program(setting)
        return concatenate(list(program.tapes)[cpu])

    def test_compilers_are_short_and_free_what_they_touched(self):
        wave = self.wave(cpu=1)
        pages = (wave.operation == Operation.ALLOCATE) & (wave.migratetype == Migratetype.MOVABLE)
        anonymous = pages & (wave.flags & int(Flag.ZERO) != 0)
        assert 2 * 4096 <= np.count_nonzero(anonymous) <= 2 * 8192 + 1
        pauses = wave.time_ns[wave.operation == Operation.COMPUTE]
        assert 0 < pauses.mean() < 400_000

    def test_the_page_cache_stays_until_it_is_dropped(self):
        wave = self.wave()
        idle = np.flatnonzero(wave.operation == Operation.IDLE)
        assert len(idle) == 3
        freed = wave.operation == Operation.FREE
        objects = np.count_nonzero(freed[idle[0] : idle[1]])
        others = np.count_nonzero(freed[idle[1] : idle[2]])
        cache = int(512 * MIB * 0.1)
        assert objects == pytest.approx(cache / 3, rel=0.02)
        assert others == pytest.approx(cache * 2 / 3 + 4 * 24, rel=0.02)

    def test_the_linker_waits_for_all_compilers(self):
        wave = self.wave()
        other = self.wave(cpu=1)
        told = other.value[other.operation == Operation.ALLOCATE][-1]
        freed = wave.operation == Operation.FREE
        huge = (wave.operation == Operation.ALLOCATE) & (wave.order == 9)
        assert np.flatnonzero(freed & (wave.value == told))[0] < np.flatnonzero(huge)[0]

    @pytest.mark.parametrize(("jobs", "slabs"), [(8, 24), (500, 3), (1500, 1), (4000, 0)])
    def test_slabs_of_many_jobs_do_not_outgrow_the_memory(self, jobs, slabs):
        wave = self.wave(cpu=1, jobs=jobs, job_mib=1)
        inodes = np.count_nonzero(wave.order == 1)
        assert inodes == slabs * jobs
        assert 2 * 2 * inodes <= 0.05 * 512 * MIB

    def test_a_guest_that_is_too_small(self):
        with pytest.raises(ParameterError, match="no 64 pages for each compiler"):
            Build().program(WorkloadSetting(800, 4))
