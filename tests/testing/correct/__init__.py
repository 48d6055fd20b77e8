"""Correct strategies in many styles, as a stranger might write them: `check` must refute none."""

from .answers import BottomHalf, HoldsForAShrinker
from .queues import QueuePerZone, SmallBlocks, ThreadPerNode
from .scans import Ages, Gated, OneAtATime, RingAndScan
from .threads import AfterTheLock, AtTheFree, CountsOnly, MarkAndCall

CORRECT = {
    strategy.name: strategy
    for strategy in (
        QueuePerZone,
        ThreadPerNode,
        SmallBlocks,
        RingAndScan,
        Ages,
        OneAtATime,
        Gated,
        AfterTheLock,
        MarkAndCall,
        AtTheFree,
        CountsOnly,
        BottomHalf,
        HoldsForAShrinker,
    )
}
"""By name."""
