"""Results: from the counters of one simulation to figures, files of them, and comparisons."""
