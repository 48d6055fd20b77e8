"""hintbench: how should a VM guest tell its host which pages are free?

Strategies answer that question as plugins, workloads drive the modelled guest, and every run is
exact and repeatable in virtual time. Everything public is a name of this package::

    import hintbench

    result = hintbench.run(strategy="bitmap-and-spin", workload="memhog", seed=1)
    print(result.metrics["retained_gib_s"])

Names are imported when they are first used, so that ``import hintbench`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hintbench import operations, replay, tapes
    from hintbench.config.costs import Costs, HostConfig
    from hintbench.config.experiment import Experiment
    from hintbench.config.guest import GuestConfig
    from hintbench.config.layout import ZoneConfig
    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import Block
    from hintbench.core.locks import SpinLock
    from hintbench.core.zone import Zone
    from hintbench.errors import HintbenchError, PluginError
    from hintbench.guest.atomic import Atomic
    from hintbench.guest.guest import Guest
    from hintbench.guest.per_cpu import PerCpu
    from hintbench.guest.validation import validate
    from hintbench.hookspecs import Freed, Origin, Reason
    from hintbench.host.host import Host
    from hintbench.host.reports import Completion
    from hintbench.named_run import run
    from hintbench.operations import Migratetype, OperationBlock
    from hintbench.results.result import Result
    from hintbench.strategy import Claims, HookFilter, Strategy, hookimpl
    from hintbench.tasks.events import Event
    from hintbench.tasks.scheduler import Task
    from hintbench.workload import (
        LONGEST_NS,
        MOST_OPERATIONS,
        PAGES_PER_MIB,
        InitialState,
        Program,
        Workload,
        WorkloadParameters,
        WorkloadSetting,
    )

__version__ = "0.2.0.dev0"

_HOMES = {
    "Atomic": "guest.atomic",
    "Block": "core.hooks",
    "Claims": "strategy",
    "Completion": "host.reports",
    "Costs": "config.costs",
    "Event": "tasks.events",
    "Experiment": "config.experiment",
    "Freed": "hookspecs",
    "Guest": "guest.guest",
    "GuestConfig": "config.guest",
    "HintbenchError": "errors",
    "HookFilter": "strategy",
    "Host": "host.host",
    "HostConfig": "config.costs",
    "InitialState": "workload",
    "LONGEST_NS": "workload",
    "MOST_OPERATIONS": "workload",
    "PAGES_PER_MIB": "workload",
    "Migratetype": "operations",
    "OperationBlock": "operations",
    "Origin": "hookspecs",
    "PerCpu": "guest.per_cpu",
    "PluginError": "errors",
    "Program": "workload",
    "Reason": "hookspecs",
    "Result": "results.result",
    "SpinLock": "core.locks",
    "Strategy": "strategy",
    "Task": "tasks.scheduler",
    "UnitFlags": "core.flags",
    "Workload": "workload",
    "WorkloadParameters": "workload",
    "WorkloadSetting": "workload",
    "Zone": "core.zone",
    "ZoneConfig": "config.layout",
    "hookimpl": "strategy",
    "operations": "",
    "replay": "",
    "run": "named_run",
    "tapes": "",
    "validate": "guest.validation",
}

__all__ = [
    "LONGEST_NS",
    "MOST_OPERATIONS",
    "PAGES_PER_MIB",
    "Atomic",
    "Block",
    "Claims",
    "Completion",
    "Costs",
    "Event",
    "Experiment",
    "Freed",
    "Guest",
    "GuestConfig",
    "HintbenchError",
    "HookFilter",
    "Host",
    "HostConfig",
    "InitialState",
    "Migratetype",
    "OperationBlock",
    "Origin",
    "PerCpu",
    "PluginError",
    "Program",
    "Reason",
    "Result",
    "SpinLock",
    "Strategy",
    "Task",
    "UnitFlags",
    "Workload",
    "WorkloadParameters",
    "WorkloadSetting",
    "Zone",
    "ZoneConfig",
    "__version__",
    "hookimpl",
    "operations",
    "replay",
    "run",
    "tapes",
    "validate",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hintbench' has no attribute {name!r}")
    if not home:
        return import_module(f"hintbench.{name}")
    value = getattr(import_module(f"hintbench.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
