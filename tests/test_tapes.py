"""Draws, shuffles and mappings, of which workloads make their tapes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench.operations import Migratetype
from hintbench.tapes import AnonymousMapping, Draws, Shuffle


class TestDraws:
    def test_the_raw_stream_is_pcg64(self):
        assert Draws(1, 2).raw(2).tolist() == [8271799387826207682, 7948369750201702571]

    def test_streams_differ(self):
        streams = {tuple(Draws(1, stream).raw(4).tolist()) for stream in range(50)}
        assert len(streams) == 50

    def test_below_is_even(self):
        counts = np.bincount(Draws(5).below(10, 100_000), minlength=10)
        assert counts.min() > 9_500 and counts.max() < 10_500
        bounds = np.arange(1, 1001)
        assert (Draws(5).below(bounds, 1000) < bounds).all()

    def test_choice_follows_the_weights(self):
        counts = np.bincount(Draws(6).choose([1, 0, 3], 40_000), minlength=3)
        assert counts[1] == 0
        assert 2.8 < counts[2] / counts[0] < 3.2


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**62))
def test_a_shuffle_keeps_every_number(size, seed):
    shuffle = Shuffle(size, Draws(seed))
    assert sorted(shuffle(np.arange(size)).tolist()) == list(range(size))


def test_a_shuffle_leaves_few_neighbours():
    order = Shuffle(100_000, Draws(9))(np.arange(100_000))
    assert np.count_nonzero(np.abs(np.diff(order)) == 1) < 100
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.05


def test_a_mapping_has_a_page_table_for_every_2_mib():
    mapping = AnonymousMapping(100, np.array([False, True, False]))
    (block,) = mapping.fault_in()
    assert len(block) == mapping.slots == 512 + 1 + 512 + 3
    assert sorted(block.value.tolist()) == list(range(100, mapping.stop))
    tables = np.flatnonzero(block.migratetype == Migratetype.UNMOVABLE)
    assert tables.tolist() == [0, 513, 515]
    assert np.flatnonzero(block.order == 9).tolist() == [514]
    freed = np.concatenate([part.value for part in mapping.unmap()])
    assert freed.tolist()[-3:] == [100, 101, 102], "page tables go last"
