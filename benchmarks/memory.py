"""How much memory a guest takes in the simulator, by its size."""

from typing import Any

from .simulations import unit

PAGE_BYTES = 4096


def resident_bytes(field: str) -> int:
    """A field of this process's memory, such as VmRSS, or VmHWM for its peak."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith(f"{field}:"))
    except OSError:
        raise NotImplementedError("resident memory is read from Linux's /proc") from None
    return int(line.split()[1]) << 10


def boot(gib: int) -> Any:
    """A guest of so many GiB, booted, with 8 vCPUs and nothing to do."""
    from hintbench import GuestConfig

    try:
        from hintbench.guest.boot import Machine
    except ImportError:  # an older commit
        from hintbench.boot import Machine  # type: ignore[import-not-found,no-redef]

    config = GuestConfig(memory=gib << 30, vcpus=8, kernel="6.12")
    return Machine(config, [iter(()) for _ in range(8)], 1, seed=1)


def bytes_per_page(gib: int) -> float:
    """What this process's peak grows by for each page of a guest, Python's own objects included."""
    boot(1)
    before = resident_bytes("VmRSS")
    machine = boot(gib)
    pages = sum(zone.managed_pages for zone in machine.zones)
    if not 0.9 < pages * PAGE_BYTES / (gib << 30) <= 1:
        raise RuntimeError(f"the guest of {gib} GiB has {pages} pages")
    return (resident_bytes("VmHWM") - before) / pages


class Guest:
    """A booted guest."""

    params = (4, 64, 1024)
    param_names = ["GiB"]
    version = "1"
    timeout = 120

    def setup(self, gib: int) -> None:
        resident_bytes("VmRSS")

    def peakmem_boot(self, gib: int) -> None:
        boot(gib)

    @unit("bytes")
    def track_bytes_per_guest_page(self, gib: int) -> float:
        return bytes_per_page(gib)
