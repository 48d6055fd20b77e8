"""Strategies that are wrong on purpose: what the rules and the schedules have to find.

Each is a small correct strategy (`hintbench.testing.mutants.bases`) with one thing done wrong, and
names the rules which that breaks. A checker that misses one, or that flags another rule, is wrong.
"""

from hintbench.testing.mutants import (
    answers,
    batching,
    family,
    hoards,
    leftovers,
    locking,
    looks,
    ownership,
    progress,
    records,
    sharing,
    slips,
    spinning,
    truth,
)
from hintbench.testing.mutants.bases import BASES, Mutant

__all__ = ["BASES", "MUTANTS", "Mutant"]

_MODULES = (
    *(ownership, answers, locking, progress, truth, family, slips),
    *(records, spinning, batching, leftovers, looks, hoards, sharing),
)
MUTANTS = {mutant.name: mutant for module in _MODULES for mutant in module.MUTANTS}
"""Every mutant by name."""
