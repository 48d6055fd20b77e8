"""The modelled guest, as it is configured: by a preset, a TOML file or a mapping.

A guest is a frozen pydantic model that refuses unknown names. What is wrong is told by a
`HintbenchError` of one sentence.
"""

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hintbench.config.costs import Costs, HostConfig
from hintbench.config.explain import explain
from hintbench.config.layout import PAGE_SIZE, ZoneConfig, check_zones, lay_out, with_watermarks
from hintbench.config.quantities import parse_bytes
from hintbench.errors import GuestError, UnknownNameError

ByteSize = Annotated[int, BeforeValidator(parse_bytes)]
"""A number of bytes; also reads "8GiB"."""
_BLOCK_BYTES: Final = 4 << 20
_MOST_FILE_BYTES: Final = 1 << 20


def _version(value: object) -> object:
    """TOML reads ``kernel = 6.12`` as a number; nobody who writes that means one."""
    return str(value) if isinstance(value, float) else value


class GuestConfig(BaseModel):
    """The modelled virtual machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: ByteSize = Field(
        default=8 << 30,
        ge=64 << 20,
        le=8 << 40,
        description="size of the guest, such as '8GiB'; with zones: what they manage [bytes]",
        json_schema_extra={"unit": "bytes"},
    )
    vcpus: int = Field(default=4, ge=1, le=256, description="virtual CPUs")
    kernel: Annotated[Literal["5.0", "6.12"], BeforeValidator(_version)] = Field(
        default="6.12",
        description="whose allocator: 5.0 (per-CPU lists for order 0 only) or 6.12.95 (orders 0..3"
        " and 9, lists that grow and decay)",
    )
    huge_pages: bool = Field(
        default=True,
        description="whether khugepaged runs and raises the watermarks (never under 512 MiB)",
    )
    nodes: int = Field(default=1, ge=1, le=8, description="memory nodes, of equal size")
    movable: ByteSize = Field(
        default=0,
        ge=0,
        description="size of the Movable zones, such as '2GiB' [bytes]",
        json_schema_extra={"unit": "bytes"},
    )
    zones: tuple[ZoneConfig, ...] | None = Field(
        default=None, description="the zones one by one; none: laid out as on a PC"
    )
    lock: Literal["fifo"] = Field(
        default="fifo",
        description="the kind of zone lock, which results carry with their waits: fifo is a queued"
        " spinlock",
    )
    cache_slice: ByteSize = Field(
        default=2 << 20,
        ge=0,
        description="a CPU's share of the data caches: 6.12 keeps a batch of freed blocks of order"
        " 1 to 3 where three fit (PCPF_FREE_HIGH_BATCH) [bytes]",
        json_schema_extra={"unit": "bytes"},
    )
    host: HostConfig = Field(default=HostConfig(), description="how the host takes reports")
    costs: Costs = Field(default=Costs(), description="what each step costs")
    discarded_at_start: bool = Field(
        default=False,
        description="whether the host has already taken back every free block of order 9 or more",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.zones is not None:
            given = "memory" in self.model_fields_set
            check_zones(self.zones, self.memory if given else None)
            if "movable" in self.model_fields_set and self.movable:
                raise ValueError("movable and zones exclude each other: list a Movable zone")
            if not given:
                managed = sum(zone.managed for zone in self.zones) * PAGE_SIZE
                self.__dict__["memory"] = managed
        for name in ("memory", "movable"):
            if self.zones is None and getattr(self, name) % _BLOCK_BYTES:
                raise ValueError(f"{name} must be a multiple of 4 MiB, the largest free block")
        for zone in self.layout():
            if (zone.watermark_high or 0) >= zone.managed:
                raise ValueError(
                    f"the guest is too small for its zones: {zone.name} manages {zone.managed}"
                    f" pages, and its watermark high is {zone.watermark_high}"
                )
        return self

    def layout(self) -> tuple[ZoneConfig, ...]:
        """The guest's zones with managed pages and watermarks filled in, by node and number."""
        zones = self.zones
        if zones is None:
            zones = lay_out(self.memory, self.nodes, self.movable)
        return _filled_in(zones, self.kernel, self.huge_pages)

    @property
    def memory_pages(self) -> int:
        """Pages that all zones manage together."""
        return sum(zone.managed for zone in self.layout())


@lru_cache(maxsize=64)
def _filled_in(
    zones: tuple[ZoneConfig, ...], kernel: str, huge_pages: bool
) -> tuple[ZoneConfig, ...]:
    """Zones with watermarks, by node and number; a test explores thousands of runs of a few."""
    ordered = sorted(zones, key=lambda zone: (zone.node, zone.number))
    return with_watermarks(ordered, kernel, huge_pages)


def _recorded_zones(*zones: tuple[str | int, ...]) -> tuple[dict[str, Any], ...]:
    """Zones by the figures of a machine's /proc/zoneinfo; the last one may be left out."""
    names = (
        "name",
        "start_pfn",
        "spanned_pages",
        "managed_pages",
        "watermark_min",
        "watermark_low",
        "watermark_high",
        "pcp_high_max",
    )
    return tuple(dict(zip(names, zone, strict=False)) for zone in zones)


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {"memory": "8GiB", "vcpus": 4, "kernel": "6.12"},
    "small": {"memory": "1GiB", "vcpus": 1, "kernel": "6.12"},
    "seed": {
        "memory": "8GiB",
        "vcpus": 4,
        "kernel": "5.0",
        "host": {"kick": "vcpu-thread", "descriptor_bytes": 4096},
    },
    "numa": {"memory": "16GiB", "vcpus": 8, "kernel": "6.12", "nodes": 2},
    "large": {"memory": "64GiB", "vcpus": 32, "kernel": "6.12"},
    "sample-trace": {
        "vcpus": 2,
        "kernel": "6.12",
        # tests/make_sample_trace.py wrote it with PCPF_FREE_HIGH_BATCH clear.
        "cache_slice": 0,
        "zones": _recorded_zones(
            ("DMA", 1, 4095, 3840, 45, 56, 67),
            ("DMA32", 4096, 28672, 24576, 291, 363, 435),
        ),
    },
    "linux-6.12-1cpu-1gib": {
        "vcpus": 1,
        "kernel": "6.12",
        "zones": _recorded_zones(
            ("DMA", 1, 4095, 3840, 176, 220, 264),
            ("DMA32", 4096, 258010, 243996, 11087, 13858, 16629),
        ),
    },
    "linux-6.12-4cpu-512mib": {
        "vcpus": 4,
        "kernel": "6.12",
        "zones": _recorded_zones(
            ("DMA", 1, 4095, 3840, 22, 27, 32),
            # high_max was set before 9 MiB of initrd and init sections were freed: CPU 1, whose
            # lists the recording knows to a page, drains at 3,522, where 114,960 / 8 / 4 is 3,592.
            ("DMA32", 4096, 126938, 114960, 659, 823, 987, 3522),
        ),
    },
}
"""Guests by name; "seed" is what the review of the series v9 talked about.

Those with zones are the machines of recorded traces, as their /proc/zoneinfo tells.
"""


def load_guest(
    source: GuestConfig | Mapping[str, Any] | str | os.PathLike[str] = "default",
    memory: int | str | None = None,
    vcpus: int | str | None = None,
    kernel: str | None = None,
) -> GuestConfig:
    """Build a guest from a preset, a TOML file or a mapping.

    A file holds the fields of `GuestConfig`, with tables ``[host]`` and ``[costs]`` and an array of
    tables ``[[zones]]``; ``preset = "seed"`` starts from that preset instead of the default.

    Args:
        source: A preset's name, the path of a ``.toml`` file, a mapping, or a finished guest.
        memory: Replaces the size of the guest; bytes, or text such as "8GiB".
        vcpus: Replaces the number of vCPUs.
        kernel: Replaces the kernel preset.

    Raises:
        UnknownNameError: No preset has that name.
        GuestError: The file cannot be read, or describes an impossible guest.
    """
    if isinstance(source, GuestConfig):
        where, values = "", source.model_dump(exclude_unset=True)
    elif isinstance(source, Mapping):
        where, values = "guest", _on_preset(dict(source), "guest")
    elif _is_path(source):
        where, values = str(source), _on_preset(_read_toml(Path(source)), str(source))
    elif str(source) in PRESETS:
        where, values = "", dict(PRESETS[str(source)])
    else:
        raise UnknownNameError("guest", str(source), PRESETS, "or the path of a FILE.toml")
    given = {"memory": memory, "vcpus": vcpus, "kernel": kernel}
    overrides = {name: value for name, value in given.items() if value is not None}
    guest = _validated(values, where)
    if not overrides:
        return guest
    if memory is not None and guest.zones is not None:
        raise GuestError(
            f"{where or 'guest'}: memory cannot be replaced, because the zones are given one by one"
        )
    return _validated({**values, **overrides}, "")


def _validated(values: Mapping[str, Any], where: str) -> GuestConfig:
    try:
        return GuestConfig.model_validate(values)
    except ValidationError as error:
        raise GuestError(explain(error, where, GuestConfig)) from None


def _is_path(source: str | os.PathLike[str]) -> bool:
    if not isinstance(source, str):
        return True
    if source in PRESETS:
        return False
    return source.endswith(".toml") or "/" in source or os.sep in source or Path(source).exists()


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, telling each way in which it may not be one."""
    try:
        # A guest file is a page of text; whatever is larger was named by mistake.
        with path.open("rb") as file:
            content = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GuestError(f"{path}: cannot be read: {reason}") from None
    if not content.strip():
        raise GuestError(
            f"{path}: the file is empty; a guest is described by lines such as vcpus = 4"
        )
    if len(content) > _MOST_FILE_BYTES or b"\0" in content:
        raise GuestError(f"{path}: this is not a TOML file, but binary or larger than 1 MiB")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise GuestError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise GuestError(f"{path}: not TOML: {error}") from None


def _on_preset(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Lay values over the preset that they name, tables entry by entry."""
    name = values.pop("preset", "default")
    if not isinstance(name, str):
        raise GuestError(f"{where}: preset is {name!r}, not a name such as 'default'")
    if name not in PRESETS:
        raise GuestError(f"{where}: {UnknownNameError('preset', name, PRESETS)}")
    merged = dict(PRESETS[name])
    if "zones" in values:
        merged.pop("memory", None)
        merged.pop("nodes", None)
    for key, value in values.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = {**below, **value}
        else:
            merged[key] = value
    return merged
