"""What can go wrong around a strategy: the kinds of faults, and drawing some."""

import random
from collections.abc import Sequence
from typing import Final

from hintbench.testing.scenarios.scenario import Fault

KINDS: Final = {
    "queue-allocates": "the queue takes a page for a table of descriptors",
    "queue-full": "a report finds no room in the queue",
    "host-refuses": "the host refuses a report",
    "host-stalls": "the host is slow at one descriptor",
    "answer-late": "the guest hears late of a report's end, perhaps after that of a later one",
    "interrupt-late": "an acknowledgement's interrupt is late, so that several share one",
    "device-missing": "there is no device from some report on",
    "device-reset": "the device is reset while a report is with it",
    "isolation-refused": "the guest refuses to isolate",
    "buffer-fails": "allocate_buffer() finds no memory",
    "interrupt-in-allocation": "an interrupt frees while memory for a buffer is sought",
    "interrupt-in-hand": "an interrupt allocates right after the strategy has taken a block",
    "large-interrupt-in-hand": (
        "an interrupt allocates and frees a large block right after the strategy has taken a block"
    ),
    "interrupt-at-answer": "an interrupt allocates right after an answer of the host was fetched",
    "interrupt-at-restore": "an interrupt frees a large block as soon as interrupts are on again",
    "interrupt-in-between": "an interrupt frees a large block between two uses of what CPUs share",
    "interrupt-at-stop": "an interrupt drains a CPU's lists while the strategy is being stopped",
    "interrupt": "an interrupt drains a per-CPU list in the middle of something",
    "interrupt-allocates": "an interrupt allocates pages (GFP_ATOMIC) in the middle of something",
}
"""Kinds of faults, as stories tell of them.

What `Fault.number` counts, from 1 on:

* queue-allocates: submissions of several descriptors; queue-full, device-missing and device-reset:
  all submissions;
* host-refuses: reports served; host-stalls: descriptors; answer-late: answers; interrupt-late:
  interrupts of acknowledgements;
* isolation-refused: isolations; buffer-fails and interrupt-in-allocation: buffers;
* interrupt-in-hand and large-interrupt-in-hand: blocks isolated or marked; interrupt-at-answer:
  answers fetched; interrupt-at-restore: ends of sections with interrupts off; interrupt-in-between:
  uses of what CPUs share;
* interrupt-at-stop: nothing, there is but one stop: always 1;
* interrupt and interrupt-allocates: nothing, it is their time [virtual ns].

`Fault.amount` is how long [virtual ns] what is late or slow takes more, and how many batches or
pages, at least one, an interrupt drains or allocates; that of interrupt-at-stop is how long after
the stop's begin it comes [virtual ns]."""

TIMED: Final = frozenset({"interrupt", "interrupt-allocates"})
"""Kinds that happen at a time, on a CPU."""
AT_STOP: Final = "interrupt-at-stop"
IN_BETWEEN: Final = "interrupt-in-between"
"""Not drawn either: it comes where `AT_RESTORE` is drawn, counted by itself."""
ON_REQUEST: Final = "queue-allocates"
"""Never drawn: a strategy may ask for a queue that allocates nothing, and those that mark what they
report and let takers spin have to. It is what virtqueue_add_split() does with more than one
descriptor and VIRTIO_RING_F_INDIRECT_DESC: alloc_indirect_split() calls kmalloc_array()."""
AT_ANSWER: Final = "interrupt-at-answer"
"""Drawn for itself, where memory is small enough that the interrupt meets what was told."""
COUNTED: Final = tuple(
    kind
    for kind in KINDS
    if kind not in TIMED and kind not in (AT_STOP, AT_ANSWER, IN_BETWEEN, ON_REQUEST)
)
"""Kinds that happen the so-manieth time that they could."""
INTERRUPTING: Final = (
    *("interrupt-in-allocation", "interrupt-in-hand", "large-interrupt-in-hand"),
    "interrupt-at-restore",
)
"""Of these, interrupts at the moments when code that lets them in forgets about them: drawn twice
as often as others."""
IN_HAND_PAGES: Final = 16
"""Most pages that an interrupt allocates which finds a block in the strategy's hands: the first few
come out of what is told first, and more would only leave less memory for what follows."""
ALL_BATCHES: Final = 1_000
"""Batches of a list that is emptied."""
IN_HAND: Final = frozenset({"interrupt-in-hand", "large-interrupt-in-hand"})
"""Those that come when the strategy has taken or marked a block."""
AT_RESTORE: Final = "interrupt-at-restore"
FAILURES: Final = frozenset(
    {
        *("host-refuses", "device-missing", "device-reset", "queue-full"),
        *("isolation-refused", "buffer-fails"),
    }
)
"""After these a strategy has to try again."""
HINDERS_TELLING: Final = frozenset({"host-refuses", "device-missing"})
"""After these a block may wait for ever: no later pass follows a synchronous call that the host
refuses, and a device that is gone is told nothing. What else fails, memory for a list of blocks or
room in the queue, is no excuse: the declared time is long enough for a back-off."""


def draw_counted(rng: random.Random, kinds: Sequence[str], most: int) -> list[Fault]:
    """Draw one of some kinds of `COUNTED`, and when it happens: once, or several times in a row.

    Args:
        rng: of all choices.
        kinds: the kinds to choose from.
        most: the highest number of the first time; sections with interrupts off end more often.
    """
    kind, amount = rng.choice(kinds), 1 << rng.randint(12, 26)
    first, times = rng.randint(1, most), rng.choice((1, 1, 2, 5))
    if kind == AT_RESTORE:
        first, times = rng.randint(1, 1 << rng.randint(0, 6)), rng.choice((2, 2, 3, 4, 8, 64))
    return [Fault(kind, first + extra, amount) for extra in range(times)]
