"""Commands in processes of their own, which tests stop or kill, and plugins that keep them busy."""

import os
import signal
import subprocess
import sys
import time

# Half a second is promised; a loaded machine gets four.
PATIENCE_SECONDS = 4
SMALL = ("--memory", "64MiB", "--vcpus", "1")
QUICK = ("-w", "churn,operations=2000,final_idle_ns=1000")

PLUGINS = """
import os, time
from hintbench import Program, Strategy, Workload, hookimpl, operations


class Python(Strategy):
    "Stays in a loop of its own."
    name = "python"

    @hookimpl
    def guest_started(self, guest):
        open(f"begun-{os.getpid()}", "w").close()
        while True:
            pass


class Program_(Workload):
    "Stays in a loop while it is laid out."
    name = "laid-out"

    def program(self, setting):
        open(f"begun-{os.getpid()}", "w").close()
        while True:
            pass


class Delayed(Workload):
    "Waits while there is a file `slow`."
    name = "delayed"

    def program(self, setting):
        open(f"begun-{os.getpid()}", "w").close()
        end = time.monotonic() + 20
        while os.path.exists("slow") and time.monotonic() < end:
            time.sleep(0.01)
        slots = [0] * 300
        block = operations.interleave(operations.allocate(slots), operations.free(slots))
        return Program(1, (iter([block]),) * setting.vcpus, operations=600)


class Core(Workload):
    "Keeps the compiled core busy."
    name = "core"

    def program(self, setting):
        slots = [0] * 30_000
        block = operations.interleave(operations.allocate(slots), operations.free(slots))

        def tape():
            open(f"begun-{os.getpid()}", "w").close()
            while True:
                yield block

        return Program(1, (tape(),) * setting.vcpus, operations=1)


class Hungry(Strategy):
    "Is out of memory."
    name = "hungry"

    @hookimpl
    def guest_started(self, guest):
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        self.much = bytearray(1 << 33)
"""


class Command:
    """A command in a session of its own, as a shell starts it."""

    def __init__(self, folder, *arguments, **options):
        self.folder = folder
        environment = {
            **os.environ,
            "HINTBENCH_DISABLE_PLUGINS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **options.pop("env", {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hintbench", *map(str, arguments)],
            cwd=folder,
            env=environment,
            start_new_session=True,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def begun(self, count=1):
        """The processes in which plugins have begun, once there are so many."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = [int(path.name[6:]) for path in self.folder.glob("begun-*")]
            if len(found) >= count:
                return found
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        raise AssertionError("the plugin has not begun")

    def stop(self, number=signal.SIGINT, to_group=True):
        """Send a signal as a terminal does; exit status, what was printed, errors."""
        began = time.monotonic()
        if to_group:
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.process.pid, number)
        output, error = self.process.communicate(timeout=30)
        assert time.monotonic() - began < PATIENCE_SECONDS
        return self.process.returncode, output, error

    def nobody_is_left(self):
        """Whether the whole group ends."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.02)
        return False


def stoppable(folder):
    """The folder, with the plugins in it that say when they have begun."""
    (folder / "plugins.py").write_text(PLUGINS)
    return folder


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
