"""The class that a module of workloads/ holds."""

import importlib

from hintbench.workload import Workload


def workload_class(module):
    namespace = importlib.import_module(f"hintbench.workloads.{module}")
    found = [
        value
        for value in vars(namespace).values()
        if isinstance(value, type)
        and issubclass(value, Workload)
        and value.__module__ == namespace.__name__
    ]
    assert len(found) == 1, "a module of workloads/ holds exactly one workload"
    return found[0]
