"""per-cpu: state from guest.per_cpu() is touched only by its CPU, with interrupts off.

Source: this_cpu_ptr() and Documentation/core-api/this_cpu_ops.rst; Duyck on v9: the index of the
array lacks protection against interrupts.
"""

from hintbench.testing.checker import Checker


class RuleChecker(Checker):
    """Looks at who touches it."""

    rule = "per-cpu"
    rightful_touches = False
    """The core itself lets that CPU pass while it has interrupts off."""

    def per_cpu_touched(self, cpu: int) -> None:
        """Somebody fetches the state of a CPU."""
        here = self.run.machine.clock.cpu
        if here != cpu:
            self.violate(f"CPU {here} touches the state of CPU {cpu}", "other-cpu")
        elif not self.run.interrupts_off:
            self.violate(f"the state of CPU {cpu} is touched with interrupts on", "interrupts")
