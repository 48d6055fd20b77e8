"""The guests in which the core is compared with the reference."""

from __future__ import annotations

from typing import Any

import pytest

from reference.lists import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE

from .driver import Setup, zone_config

KERNELS = ("5.0", "6.12")
MIB = 256  # pages
both_kernels = pytest.mark.parametrize("kernel", KERNELS)

MIXED_TYPES = {
    number: (UNMOVABLE, RECLAIMABLE, MOVABLE, MOVABLE, UNMOVABLE)[number % 5]
    for number in range(64)
}
RESERVED_TYPES = {**MIXED_TYPES, 3: HIGHATOMIC, 10: HIGHATOMIC, 11: HIGHATOMIC}

SETUPS: dict[str, dict[str, Any]] = {
    "one zone": {"zones": (zone_config("Normal", 0, 16 * MIB),)},
    "four zones": {
        "zones": (
            zone_config("DMA", 1, 4095, managed=3840),
            zone_config("DMA32", 4096, 8 * MIB),
            zone_config("Normal", 8192, 16 * MIB),
            zone_config("Movable", 16384, 8 * MIB),
        ),
        "vcpus": 2,
    },
    "two nodes": {
        "zones": (
            zone_config("DMA32", 0, 8 * MIB),
            zone_config("Normal", 2048, 8 * MIB),
            zone_config("Normal", 8192, 8 * MIB, node=1),
        ),
        "vcpus": 2,
    },
    "crooked zones": {
        "zones": (
            zone_config("DMA32", 700, 3000, marks=(20, 40, 60)),
            zone_config("Normal", 4300, 4001, managed=3700, marks=(30, 60, 90)),
        ),
    },
    "all types": {
        "zones": (zone_config("DMA32", 0, 8 * MIB), zone_config("Normal", 4096, 16 * MIB)),
        "types": MIXED_TYPES,
        "pcp": (15, 90, 90),
    },
    "no watermarks": {
        "zones": (zone_config("Normal", 0, 8 * MIB, marks=(0, 0, 0)),),
        "types": MIXED_TYPES,
    },
    "high watermarks": {
        "zones": (zone_config("Normal", 0, 24 * MIB, marks=(800, 1400, 2600)),),
        "pcp": (31, 186, 600),
        "free_high_batch": True,
    },
    "small lists": {
        "zones": (zone_config("Normal", 0, 8 * MIB),),
        "types": MIXED_TYPES,
        "pcp": (2, 12, 40),
        "vcpus": 2,
    },
    "large lists": {
        "zones": (zone_config("Normal", 0, 32 * MIB, marks=(100, 150, 200)),),
        "pcp": (63, 378, 2000),
    },
}


def setup(name: str, kernel: str) -> Setup:
    return Setup(kernel=kernel, **SETUPS[name])
