"""The compiled part: pages, zones, per-CPU lists, vCPUs, locks; and which build of it runs.

The modules in here are Python that Cython compiles. They run unchanged, slowly, where they were
not compiled: either all of them compiled or all of them interpreted. The environment variable
HINTBENCH_CORE chooses:

* unset: the compiled core if it is there, complete and made from these very sources; otherwise
  the interpreted one, with a warning if there was a build that cannot be used;
* `interpreted`: the interpreted core, for the debugger and for coverage;
* a folder: the build that `setup.py build_ext --build-lib FOLDER` made there (the checked one).
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

from hintbench.core._builds import INTERPRETED, choose

__all__ = ["BUILD"]


def _select() -> tuple[str, list[str]]:
    """Choose a build and see to it that only its modules are found."""
    folder = Path(os.path.abspath(__path__[0]))
    choice = choose(folder, os.environ.get("HINTBENCH_CORE", ""))
    if choice.complaint:
        import warnings

        warnings.warn(choice.complaint, RuntimeWarning, stacklevel=1)
    if choice.build == INTERPRETED:
        # Python prefers an extension to the source beside it: this finder sees sources only.
        sys.path_importer_cache[str(folder)] = FileFinder(
            str(folder), (SourceFileLoader, SOURCE_SUFFIXES)
        )
    return choice.build, [str(entry) for entry in choice.folders]


BUILD: str
"""Which core runs: `release`, `checked` or `interpreted`."""

BUILD, __path__ = _select()
