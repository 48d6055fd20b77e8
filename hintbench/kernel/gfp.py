"""The flags of an allocation in the kernel's words."""

from __future__ import annotations

from typing import Final

from hintbench.core.constants import (
    FLAG_COMPOUND,
    FLAG_DMA,
    FLAG_DMA32,
    FLAG_MOVABLE_ZONE,
    FLAG_NO_KSWAPD,
    FLAG_ZERO,
)

_GFP_WORDS: Final = {
    FLAG_ZERO: "|__GFP_ZERO",
    FLAG_COMPOUND: "|__GFP_COMP",
    FLAG_DMA: "|__GFP_DMA",
    FLAG_DMA32: "|__GFP_DMA32",
    FLAG_MOVABLE_ZONE: "|__GFP_HIGHMEM|__GFP_MOVABLE",
    FLAG_NO_KSWAPD: "&~__GFP_KSWAPD_RECLAIM",
}
"""What of a blocking allocation's flags the kernel has words for."""


def gfp_of(flags: int) -> str:
    """What a blocking allocation asks for.

    Args:
        flags: Its flags, FLAG_* of the core.
    """
    return "GFP_KERNEL" + "".join(word for flag, word in _GFP_WORDS.items() if flags & flag)
