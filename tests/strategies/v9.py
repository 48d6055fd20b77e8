"""percpu-array-v9 on stage, with small arrays."""

from hintbench.strategies.percpu_array_v9 import PercpuArrayV9
from small_guest import MS

from .stage import Reports, number_of, play

LATER = 10 * MS
FIELDS = PercpuArrayV9.Parameters.model_fields


def v9(*tapes, kernel="5.0", **given):
    """Run v9 with an array of 8 and a threshold of 4, unless it is given otherwise."""
    parameters = {"array_entries": 8, "threshold": 4}
    parameters |= {name: given.pop(name) for name in list(given) if name in FIELDS}
    strategy = PercpuArrayV9(**parameters)
    reports = []
    running = play(
        strategy,
        *tapes,
        kernel=kernel,
        before=lambda running: reports.append(Reports(running)),
        **given,
    )
    running.reports = reports[0]
    return running


def captured(running, cpu=0):
    """The blocks in the array of a CPU, by number."""
    array = running.strategy.arrays[cpu]
    return [number_of(pfn) for pfn in array.pfns[: array.index]]
