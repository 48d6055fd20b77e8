"""A strategy that consists of the coroutines which a test gives it."""

from hintbench import Strategy, hookimpl
from hintbench.operations import idle
from small_guest import run, small_guest


class Script(Strategy):
    """Coroutines of a test, each a task: name, CPU, function of the script."""

    name = "script"

    def __init__(self, *tasks):
        super().__init__()
        self.to_spawn = tasks
        self.log = []
        self.tasks = []

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        self.event = guest.event()
        self.flags = guest.flags("busy", order=10)
        for number, (cpu, task) in enumerate(self.to_spawn):
            self.tasks.append(guest.spawn(task(self), cpu=cpu, name=f"task {number}"))

    def note(self, what):
        self.log.append((what, self.guest.now))


def play(*tasks, tapes=None, **given):
    """Run a script on as many idle vCPUs as it needs."""
    script = Script(*tasks)
    vcpus = 1 + max((cpu for cpu, _ in tasks), default=0)
    run(script, *(tapes or [[idle([20_000])]] * vcpus), config=small_guest(max(1, vcpus), **given))
    return script.log
