"""Do the tests of the core notice when the core is wrong?

Each mutant is a copy of the core with one change of its text, run interpreted.  It is killed when
``tests/core/test_against_reference.py`` fails on it.  All of them must be::

    python tests/mutants_of_the_core.py              # one line a mutant; a minute or two
    python tests/mutants_of_the_core.py steal drain  # those whose names contain one of the words

``tests/core/test_mutants.py`` does the same, marked ``long``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hintbench

PACKAGE = Path(hintbench.__file__).parent
TESTS = Path(__file__).resolve().parent
LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """One change of the text of one module.

    Attributes:
        name: what is wrong in it.
        module: the file under ``hintbench/``.
        old: text that stands there exactly once.
        new: what it is replaced by.
    """

    name: str
    module: str
    old: str
    new: str


def _core(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"core/{module}.py", old, new)


MUTANTS = (
    # Merging and splitting.
    _core("buddy of the wrong order", "buddy", "buddy = pfn ^ (1 << order)", "buddy = pfn ^ 1"),
    _core(
        "merging stops below the pageblock",
        "buddy",
        "while order < MAX_PAGE_ORDER:",
        "while order < PAGEBLOCK_ORDER:",
    ),
    _core(
        "merging regardless of HIGHATOMIC",
        "buddy",
        "if migratetype >= HIGHATOMIC or buddy_type >= HIGHATOMIC:",
        "if migratetype > HIGHATOMIC or buddy_type > HIGHATOMIC:",
    ),
    _core(
        "a merge retypes nothing",
        "buddy",
        "                        self.set_pageblock_types(buddy, order, migratetype)\n",
        "",
    ),
    _core(
        "a merge retypes what is freed",
        "buddy",
        "self.set_pageblock_types(buddy, order, migratetype)",
        "self.set_pageblock_types(pfn, order, buddy_type)",
    ),
    _core(
        "merged buddies stay counted",
        "buddy",
        "            self.nr_free[order] -= 1\n            self.call_block_taken(buddy",
        "            self.call_block_taken(buddy",
    ),
    _core(
        "taken blocks stay counted",
        "buddy",
        "        self.nr_free[block_order] -= 1\n",
        "",
    ),
    _core(
        "upper halves at the tail",
        "buddy",
        "pages.add_head(self.list_of(high, migratetype), upper)",
        "pages.add_tail(self.list_of(high, migratetype), upper)",
    ),
    _core(
        "the upper half is handed out",
        "buddy",
        "            upper = pfn + (1 << high)\n",
        "            upper = pfn + (1 << high) if high > order else pfn\n",
    )
    if False
    else _core(
        "a block's last page is taken for its order",
        "buddy",
        "for current in range(order, NR_PAGE_ORDERS):\n            head",
        "for current in range(order + (order == 4), NR_PAGE_ORDERS):\n            head",
    ),
)
