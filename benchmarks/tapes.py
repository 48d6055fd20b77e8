"""The standard tapes of ``hintbench speed``, in wall time."""

from typing import Any

KEYS = ("bare", "churn", "hook")


def standard_tape(key: str) -> Any:
    """One of the standard tapes.

    Raises:
        NotImplementedError: this commit does not name them.
    """
    try:
        from hintbench.speed import TAPES
    except ImportError:
        raise NotImplementedError("this commit has no hintbench.speed.TAPES") from None
    return next(tape for tape in TAPES if tape.key == key)


class StandardTapes:
    """One whole tape each: 2.0 M bare, 2.4 M churn and 0.4 M hooked operations."""

    params = KEYS
    param_names = ["tape"]
    version = "1"
    # A tape runs once: asv prepares another one for every sample.
    number = 1
    repeat = (3, 5, 8.0)

    def setup_cache(self) -> dict[str, str]:
        digests = {}
        for key in KEYS:
            try:
                tape = standard_tape(key)
            except NotImplementedError:
                continue
            prepared = tape.prepare(tape.operations)
            prepared.run()
            digests[key] = prepared.digest()
        return digests

    def setup(self, digests: dict[str, str], key: str) -> None:
        self.ran = False
        tape = standard_tape(key)
        self.prepared = tape.prepare(tape.operations)

    def time_tape(self, digests: dict[str, str], key: str) -> None:
        self.prepared.run()
        self.ran = True

    def teardown(self, digests: dict[str, str], key: str) -> None:
        if self.ran and self.prepared.digest() != digests[key]:
            raise RuntimeError(f"{key}: two runs ended in different states")
