"""Where recordings of real kernels are: beside the repository, or in HINTBENCH_TRACES."""

import os
from pathlib import Path

_BESIDE = Path(__file__).parents[2] / "shared" / "traces"
RECORDINGS = Path(os.environ.get("HINTBENCH_TRACES") or _BESIDE)
"""A folder with a folder for each recorded machine; perhaps it is not there."""
ABSENT = f"no recordings of real kernels in {RECORDINGS}: HINTBENCH_TRACES=FOLDER names another"
