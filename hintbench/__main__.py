"""Where the command starts: ``hintbench``, or ``python -m hintbench``.

Importing what the command line needs takes a tenth of a second, in which Ctrl-C is to end it as
quietly as later. So this module imports next to nothing before it can catch that.
"""

import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line; the exit status, 130 after Ctrl-C and 143 after SIGTERM."""
    asked: list[int] = []

    def terminate(number: int, _frame: FrameType | None) -> None:
        # As Ctrl-C: finished results are kept, and workers ended.
        asked.append(number)
        raise KeyboardInterrupt

    try:
        # A signal that whoever started us has ignored stays so.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, terminate)
        from hintbench.cli import main as command_line

        status = command_line()
    except KeyboardInterrupt:
        sys.stderr.write("hintbench: stopped\n")
        status = 130
    if status == 130:
        # An interrupt that passes through exec() of a text, as dataclasses do while modules are
        # imported, lets Python end by the signal even when it is caught; the next text undoes that
        # (run_eval_code_obj() in pythonrun.c).
        exec("")
    return 128 + asked[0] if asked and status == 130 else status


if __name__ == "__main__":
    sys.exit(main())
