"""`hintbench.run`: one simulation, by the names of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hintbench.config.experiment import MOST_SEED
from hintbench.config.guest import GuestConfig, load_guest
from hintbench.errors import UsageError
from hintbench.plugins.finding import load_plugin, make
from hintbench.plugins.places import resolve
from hintbench.results.result import Result
from hintbench.runner import Run
from hintbench.strategy import Strategy
from hintbench.workload import Workload


def run(
    strategy: str | type[Strategy] | Strategy = "none",
    workload: str | type[Workload] | Workload = "churn",
    guest: GuestConfig | Mapping[str, Any] | str = "default",
    seed: int = 1,
    *,
    plugins: Iterable[str] = (),
    attached_but_off: bool = False,
    observers: Iterable[object] = (),
) -> Result:
    """Run one strategy on one workload in a fresh guest.

    Args:
        strategy: as on the command line, a name or ``FILE.py``, with parameters
            (``"zone-bitmap,batch=8"``); or a class or an instance.
        workload: likewise; also ``"trace:FILE,key=value"``.
        guest: a configuration, its fields by name, a preset or the path of a TOML file.
        seed: of every random choice.
        plugins: files or modules to look names up in, as ``-p``.
        attached_but_off: attach the strategy's hooks as behind a static key that is off, and probe
            no device: the result must be that of `none`, the events to the last digit.
        observers: objects with hooks that watch; they are called first and change nothing.

    Raises:
        HintbenchError: wrong input; `PluginError` when a plugin is at fault.
    """
    for plugin in plugins:
        load_plugin(plugin)
    number: object = seed
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed: {seed!r} is not a whole number in 0..{MOST_SEED}")
    config = guest if isinstance(guest, GuestConfig) else load_guest(guest)
    return Run(
        _instance("strategy", Strategy, strategy),
        _instance("workload", Workload, workload),
        config,
        seed,
        attached_but_off=attached_but_off,
        observers=tuple(observers),
    ).execute()


def _instance(kind: str, base: type, plugin: Any) -> Any:
    """A name or place with parameters, a class or an instance, as an instance."""
    parameters = None
    if isinstance(plugin, str):
        plugin, parameters = resolve(kind, plugin)
    if isinstance(plugin, type) and issubclass(plugin, base):
        plugin = make(kind, plugin, parameters)
    if not isinstance(plugin, base):
        raise UsageError(
            f"{kind}: {plugin!r} is none: pass a name, a subclass of {base.__name__}, or an"
            " instance of one"
        )
    return plugin
