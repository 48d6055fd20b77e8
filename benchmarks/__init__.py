"""hintbench's history: what strategies cost and the simulator's own speed, commit by commit (asv).

* `strategies`: what each strategy costs and leaves, in virtual time, exact to the last digit;
* `tapes`, `traces`, `startup`, `memory`: how fast and how large the simulator is, in wall time;
* `peers`: the same beside other simulators, as ratios;
* `figures`: no benchmark, but ``python -m benchmarks.figures``: the project's targets, measured.

Every class has a fixed `version`: numbers of other commits stay comparable when comments change.
Raise it by hand when a benchmark measures something else than before. Parameters are frozen, too:
asv's summary graph is a mean over all of them, and would jump if one were added. A new strategy
gets a class of its own.
"""
