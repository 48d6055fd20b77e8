"""Where the command starts: ``hintbench``, or ``python -m hintbench``.

Importing what the command line needs takes a tenth of a second, in which Ctrl-C is to end it as
quietly as later. So this module imports next to nothing before it can catch that.
"""

import sys


def main() -> int:
    """Run the command line; the exit status, 130 after Ctrl-C."""
    try:
        from hintbench.cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        sys.stderr.write("hintbench: stopped\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
