"""Correct strategies in many styles, as a stranger might write them: `check` must refute none."""

from .answers import BottomHalf, HoldsForAShrinker
from .pieces import (
    BackInSlices,
    BuiltLate,
    ManyHands,
    OnlyWhenTight,
    TwoGenerations,
)
from .queues import CallsWithItsBatch, PerNode, QueuePerZone, SmallBlocks, ThreadPerNode
from .resets import (
    ChainedByAnswers,
    PollsOnly,
    ResetsTheSlow,
    ResetsUnderPressure,
    ResetsUnseen,
)
from .scans import Ages, Gated, OneAtATime, RingAndScan
from .shared import RequestedPasses
from .styles import HostsThreads, RipensInAHeap, TaskPerBlock, TaskPerOrder
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
        ResetsTheSlow,
        ResetsUnseen,
        ResetsUnderPressure,
        PollsOnly,
        ChainedByAnswers,
        BackInSlices,
        PerNode,
        TwoGenerations,
        BuiltLate,
        ManyHands,
        OnlyWhenTight,
        CallsWithItsBatch,
        TaskPerOrder,
        TaskPerBlock,
        RipensInAHeap,
        HostsThreads,
        RequestedPasses,
    )
}
"""By name."""
