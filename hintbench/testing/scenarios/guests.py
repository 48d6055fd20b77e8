"""The small guests that scenarios run on: 16 to 64 MiB, two to four vCPUs, every kind of host."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from hintbench.config.costs import Costs, HostConfig
from hintbench.config.guest import GuestConfig

BLOCK: Final = 1024
"""Pages of the largest free block."""
ZONE_LAYOUTS: Final = {
    "one": (("DMA32", 4, 16, 0),),
    "half": (("DMA32", 4, 8, 0),),
    "two": (("DMA32", 4, 8, 0), ("Normal", 16, 8, 0)),
    "halves": (("DMA32", 4, 4, 0), ("Normal", 8, 4, 0)),
    "half-nodes": (("Normal", 4, 4, 0), ("Normal", 8, 4, 1)),
    "tiny": (("DMA32", 4, 4, 0),),
    "large": (("Normal", 4, 256, 0),),
}
"""(name, first pfn, size, node) of each zone; pfn and size in blocks of 1,024 pages. The two
nodes' Normal zones share a zone number, as v9's sort does not know."""
HOSTS: Final[dict[str, dict[str, Any]]] = {
    "device": {},
    "small-granule": {"granule": "4KiB"},
    "vcpu-thread": {"kick": "vcpu-thread"},
    "hypercall": {"kick": "hypercall"},
    "slow": {"unmap_huge_ns": 100_000, "device_latency_ns": 200_000},
    "slower": {"unmap_huge_ns": 1_000_000, "unmap_small_ns": 3_000, "device_latency_ns": 300_000},
    "fast": {"device_latency_ns": 2_000, "unmap_huge_ns": 1_000, "call_device_thread_ns": 500},
    "short-queue": {"queue_capacity": 1, "granule": "4KiB"},
}
"""Hosts by name: what differs from the default."""


def layout_pages(layout: str) -> int:
    """The size of a guest with one of `ZONE_LAYOUTS` [pages]."""
    return sum(blocks for _, _, blocks, _ in ZONE_LAYOUTS[layout]) * BLOCK


KHUGEPAGED_SHARE: Final = 20
"""khugepaged raises min_free_kbytes, to a twentieth of a small guest's memory."""


@cache
def small_guest(
    kernel: str, layout: str, host: str, vcpus: int = 4, *, khugepaged: bool = False
) -> GuestConfig:
    """A guest for scenarios.

    Args:
        kernel: whose page allocator it has.
        layout: one of `ZONE_LAYOUTS`.
        host: one of `HOSTS`.
        vcpus: how many CPUs.
        khugepaged: with the watermarks that it raises, which blocks of order 9 can reach.
    """
    least = BLOCK // KHUGEPAGED_SHARE if khugepaged else 8
    zones = tuple(
        {
            "name": name,
            "start_pfn": first * BLOCK,
            "spanned_pages": blocks * BLOCK,
            "node": node,
            "watermark_min": blocks * least,
            "watermark_low": blocks * least * 5 // 4,
            "watermark_high": blocks * least * 3 // 2,
        }
        for name, first, blocks, node in ZONE_LAYOUTS[layout]
    )
    return GuestConfig.model_validate(
        {
            "zones": zones,
            "vcpus": vcpus,
            "kernel": kernel,
            "host": HostConfig(**HOSTS[host]),
            "costs": Costs(),
        }
    )
