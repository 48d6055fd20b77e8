"""percpu-array-v9 on stage, with small arrays."""

from hintbench.strategies.percpu_array_v9 import PercpuArrayV9
from small_guest import MS

from .stage import number_of, play

LATER = 10 * MS


def v9(*tapes, kernel="5.0", **given):
    """Run v9 with an array of 8 and a threshold of 4, unless it is given otherwise."""
    given = {"array_entries": 8, "threshold": 4, **given}
    return play(PercpuArrayV9, *tapes, kernel=kernel, **given)


def captured(running, cpu=0):
    """The blocks in the array of a CPU, by number."""
    array = running.strategy.arrays[cpu]
    return [number_of(pfn) for pfn in array.pfns[: array.index]]
