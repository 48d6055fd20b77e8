"""Reports on their way to the host, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.hooks import Block


class Completion:
    """The host's answer to one report.

    Attributes:
        blocks: as they were reported.
        ok: False when the host refused or the device was reset; nothing can be said of the
            memory then.
    """

    __slots__ = ("blocks", "ok")

    def __init__(self, blocks: tuple[Block, ...], ok: bool) -> None:
        self.blocks = blocks
        self.ok = ok

    def __repr__(self) -> str:
        return f"Completion({len(self.blocks)} blocks, ok={self.ok})"


def blocks_of(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The blocks of a call of the host's.

    Args:
        blocks: those.

    Raises:
        TypeError: it is a single one, or nothing that has blocks.
    """
    if isinstance(blocks, Block) or not isinstance(blocks, Iterable):
        raise TypeError(f"{blocks!r} is no list: report [block], also of a single one")
    return tuple(blocks)


class Report:
    """A report on its way: its descriptors, and what to do when it is done.

    Args:
        blocks: what is reported.
        cpu: where it was submitted; -1 on the host's side.
        joined: neighbours in the list share a descriptor.

    Raises:
        TypeError: there is something else among the blocks.

    Attributes:
        descriptors: (first pfn, pages) of each.
        pages: of all its blocks.
        next: the descriptor that the host works at.
        finished: called when it has worked through all.
        ok: the host took them.
        queued: it waits for its turn in the device's queue; a hypercall does not.
        posted: its end is told by a completion, which somebody has to fetch.
        synchronous: its caller is held until the host has done with it.
        reset: the device was reset under it: nothing more is discarded, and it has failed.
        arrived: the host has seen it.
        overwritten: its descriptor was overwritten before the host saw it.
    """

    __slots__ = (
        "arrived",
        "blocks",
        "cpu",
        "descriptors",
        "finished",
        "next",
        "ok",
        "overwritten",
        "pages",
        "posted",
        "queued",
        "reset",
        "synchronous",
    )

    def __init__(self, blocks: tuple[Block, ...], cpu: int, joined: bool) -> None:
        for block in blocks:
            if not isinstance(block, Block):
                raise TypeError(
                    f"{block!r} is not a Block: report what isolate() or free_blocks() returned"
                )
        self.blocks = blocks
        self.cpu = cpu
        self.descriptors = _descriptors(blocks, joined)
        self.pages = sum([pages for _, pages in self.descriptors])
        self.next = 0
        self.ok = True
        self.finished: Callable[[], Any] = nothing
        self.queued = True
        self.posted = False
        self.synchronous = False
        self.reset = False
        self.arrived = False
        self.overwritten = False


def nothing() -> None:
    """What a report calls at its end when nobody waits for it."""


def _descriptors(blocks: Iterable[Block], joined: bool) -> list[tuple[int, int]]:
    """(first pfn, pages) for each descriptor; joined: neighbours in the list share one."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        if joined and found and sum(found[-1]) == block.pfn:
            found[-1] = (found[-1][0], found[-1][1] + block.pages)
        else:
            found.append((block.pfn, block.pages))
    return found


def aligned(pfn: int, pages: int) -> list[tuple[int, int]]:
    """A range as aligned blocks (pfn, order), none above the pageblock order."""
    found = []
    end = pfn + pages
    while pfn < end:
        order = PAGEBLOCK_ORDER
        while order and (pfn & ((1 << order) - 1) or pfn + (1 << order) > end):
            order -= 1
        found.append((pfn, order))
        pfn += 1 << order
    return found
