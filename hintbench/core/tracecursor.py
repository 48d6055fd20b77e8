"""A place in the text of a trace: reads words, numbers, times and what precedes an event.

Every method stops at a line feed at the latest, so a buffer that ends with one is never overrun.
"""

import cython
import numpy

from hintbench.core import tracewords as words

KEPT_FAULT_LINES = 20
TABLE_SIZE = 1024

_TABLE_MASK = cython.declare(cython.longlong, TABLE_SIZE - 1)
# A literal of 2**31 or more would be a Python object inside a compiled function.
_HASH_MASK = cython.declare(cython.longlong, 0xFFFFFFFF)
_NUMBER_MASK = cython.declare(cython.longlong, 0xFFFFFFFFFFFF)
_MOST_SECONDS = cython.declare(cython.longlong, 4_000_000_000)
_IN_IRQ = cython.declare(cython.int, words.IN_IRQ)
_SECOND_NS = cython.declare(cython.longlong, 1_000_000_000)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_digit(letter: cython.int) -> cython.bint:
    return 48 <= letter <= 57


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_word(letter: cython.int) -> cython.bint:
    """Letter, digit or underscore."""
    return 97 <= letter <= 122 or 48 <= letter <= 57 or letter == 95 or 65 <= letter <= 90


@cython.final
@cython.cclass
class Words:
    """An open hash table from words, given as `Cursor.read_word` hashes them, to numbers.

    Args:
        words: what each word stands for, 0 or more.
    """

    def __init__(self, words: dict) -> None:
        self.keys = memoryview(numpy.zeros(TABLE_SIZE, dtype=numpy.int64))
        self.values = memoryview(numpy.zeros(TABLE_SIZE, dtype=numpy.int64))
        for text, value in words.items():
            word = 0
            for letter in text.encode():
                word = (word * 131 + letter) & 0xFFFFFFFF
            place = word % TABLE_SIZE
            while self.keys[place]:
                place = (place + 1) % TABLE_SIZE
            self.keys[place], self.values[place] = word, value

    def find(self, word: cython.longlong) -> cython.int:
        """The number of a word, or -1."""
        place: cython.Py_ssize_t = word & _TABLE_MASK
        while self.keys[place]:
            if self.keys[place] == word:
                return cython.cast(cython.int, self.values[place])
            place = (place + 1) & _TABLE_MASK
        return -1


@cython.cclass
class Cursor:
    """Reads forward through a buffer; `at` is where it is. Counts what is wrong with the text."""

    def __init__(self) -> None:
        self.at = 0
        self.word = self.value = 0
        self.last_ns = -1
        self.line_ns = self.offset_ns = 0
        self.line = self.bad_line = 0
        self.tasks = Words(words.TASKS)
        self.context = self.line_cpu = self.line_pid = 0
        self.untimed = 0
        self.counts = {}
        self.lines = {}

    def skip_line(self) -> cython.int:
        """Go behind the next line feed."""
        at: cython.Py_ssize_t = self.at
        while self.buffer[at] != 10:
            at += 1
        self.at = at + 1
        return 0

    def skip_spaces(self) -> cython.int:
        """Go to the next byte that is no space."""
        at: cython.Py_ssize_t = self.at
        while self.buffer[at] == 32 or self.buffer[at] == 9:
            at += 1
        self.at = at
        return 0

    def skip_to_space(self) -> cython.int:
        """Go to the next space or end of line."""
        at: cython.Py_ssize_t = self.at
        while self.buffer[at] > 32:
            at += 1
        while self.buffer[at] != 32 and self.buffer[at] != 10:
            at += 1
        self.at = at
        return 0

    def at_digit(self) -> cython.int:
        """Whether a digit comes next."""
        return _is_digit(self.buffer[self.at])

    def at_word(self) -> cython.int:
        """Whether a letter, a digit or an underscore comes next."""
        return _is_word(self.buffer[self.at])

    def read_word(self) -> cython.int:
        """Hash the word that comes next into `word`; 0 when there is none."""
        at: cython.Py_ssize_t = self.at
        first: cython.Py_ssize_t = at
        word: cython.longlong = 0
        while _is_word(self.buffer[at]):
            word = (word * 131 + self.buffer[at]) & _HASH_MASK
            at += 1
        self.at = at
        self.word = word
        return at > first

    def read_number(self) -> cython.int:
        """Read a number into `value`, hexadecimal if 0x or a letter says so; 0 if it is none."""
        at: cython.Py_ssize_t = self.at
        first: cython.Py_ssize_t
        letter: cython.int
        decimal: cython.longlong = 0
        hexadecimal: cython.longlong = 0
        is_hexadecimal: cython.bint = False
        if self.buffer[at] == 48 and self.buffer[at + 1] == 120:  # "0x"
            is_hexadecimal = True
            at += 2
        first = at
        while True:
            letter = self.buffer[at]
            if _is_digit(letter):
                letter -= 48
            elif 97 <= letter <= 102:
                letter -= 87
                is_hexadecimal = True
            else:
                break
            decimal = (decimal * 10 + letter) & _NUMBER_MASK
            hexadecimal = (hexadecimal * 16 + letter) & _NUMBER_MASK
            at += 1
        if at == first or _is_word(self.buffer[at]):
            return 0
        self.at = at
        self.value = hexadecimal if is_hexadecimal else decimal
        return 1

    def read_time(self) -> cython.int:
        """Read ``seconds.fraction``, or a plain count of a counter clock, into `value` [ns].

        Returns:
            Whether there was a time.
        """
        at: cython.Py_ssize_t = self.at
        first: cython.Py_ssize_t = at
        whole: cython.longlong = 0
        fraction: cython.longlong = 0
        digits: cython.int = 0
        while _is_digit(self.buffer[at]):
            if at - first >= 18:
                return 0
            whole = whole * 10 + self.buffer[at] - 48
            at += 1
        if at == first:
            return 0
        if self.buffer[at] == 46:  # "."
            if whole > _MOST_SECONDS:
                return 0
            at += 1
            while _is_digit(self.buffer[at]):
                if digits < 9:
                    fraction = fraction * 10 + self.buffer[at] - 48
                    digits += 1
                at += 1
            while digits < 9:
                fraction *= 10
                digits += 1
            whole = whole * _SECOND_NS + fraction
        self.at = at
        self.value = whole
        return 1

    def set_clock(self, read_ns: cython.longlong) -> cython.int:
        """Let time never go back: a second or more is a clock that wrapped, less is disorder."""
        now_ns: cython.longlong = read_ns + self.offset_ns
        if now_ns < self.last_ns:
            if self.last_ns - now_ns >= _SECOND_NS:
                self.fault("wrapped", 1)
                self.offset_ns += self.last_ns - now_ns
            else:
                self.fault("backward", 1)
            now_ns = self.last_ns
        self.last_ns = now_ns
        self.line_ns = now_ns
        return 0

    def read_prefix(self) -> cython.int:
        """Read ``task-pid [cpu] flags time:`` and stop at the event's name; 0 if it is not that."""
        head: cython.Py_ssize_t = self.at
        bracket: cython.Py_ssize_t = head
        at: cython.Py_ssize_t
        number: cython.int
        self.context = 0
        while True:
            while self.buffer[bracket] != 91:  # "["
                if self.buffer[bracket] == 10:
                    return self.read_graph_prefix(head)
                bracket += 1
            at = bracket + 1
            number = 0
            while _is_digit(self.buffer[at]) and at < bracket + 6:
                number = number * 10 + self.buffer[at] - 48
                at += 1
            if at > bracket + 1 and self.buffer[at] == 93 and number <= 32766:  # "]"
                break
            bracket += 1
        self.line_cpu = number
        self.read_task(head, bracket)
        self.at = at + 1
        self.skip_spaces()
        if not self.at_digit():
            at = self.at
            self.skip_to_space()
            # irqs-off, need-resched, hardirq or softirq, preempt depth
            if self.at > at + 3 and self.buffer[at + 2] != 46:
                self.context |= _IN_IRQ
            self.skip_spaces()
        if not self.read_time() or self.buffer[self.at] != 58:  # ":"
            return 0
        self.at += 1
        self.set_clock(self.value)
        self.skip_spaces()
        if self.at_digit():  # perf's period
            self.skip_to_space()
            self.skip_spaces()
        return 1

    def read_task(self, head: cython.Py_ssize_t, bracket: cython.Py_ssize_t) -> cython.int:
        """Read the pid before the bracket, and whether the task is one of the kernel's own."""
        at: cython.Py_ssize_t = bracket - 1
        scale: cython.longlong = 1
        pid: cython.longlong = 0
        found: cython.int
        while at > head and (self.buffer[at] == 32 or self.buffer[at] == 9):
            at -= 1
        if at > head and self.buffer[at] == 41:  # "(tgid)"
            while at > head and self.buffer[at] != 40:
                at -= 1
            if at > head:
                at -= 1
            while at > head and self.buffer[at] == 32:
                at -= 1
        while at > head and _is_digit(self.buffer[at]) and scale < 1_000_000_000:
            pid += (self.buffer[at] - 48) * scale
            scale *= 10
            at -= 1
        self.line_pid = cython.cast(cython.int, pid)
        if self.buffer[head] == 107:  # "k"
            at = head
            self.word = 0
            while 97 <= self.buffer[at] <= 122 and at < head + 16:
                self.word = (self.word * 131 + self.buffer[at]) & _HASH_MASK
                at += 1
            found = self.tasks.find(self.word)
            if found > 0:
                self.context |= found
        return 0

    def read_graph_prefix(self, head: cython.Py_ssize_t) -> cython.int:
        """Read `` 1)   |  /* event: ...``, the comment of the function_graph tracer.

        With the option funcgraph-abstime a time and a bar come before the CPU. Without it the
        lines get times a microsecond apart.
        """
        number: cython.longlong
        timed: cython.bint = False
        self.at = head
        if self.read_time() and self.at > head + 2:
            number = self.value
            self.skip_spaces()
            if self.buffer[self.at] == 124:  # "|"
                self.at += 1
                self.skip_spaces()
                timed = True
                self.set_clock(number)
        if not timed:
            self.at = head
        if not self.at_digit() or not self.read_number() or self.value > 32766:
            return 0
        if self.buffer[self.at] != 41:  # ")"
            return 0
        self.line_cpu = cython.cast(cython.int, self.value)
        self.line_pid = 0
        while self.buffer[self.at] != 10:
            if self.buffer[self.at] == 47 and self.buffer[self.at + 1] == 42:  # "/*"
                self.at += 2
                self.skip_spaces()
                if not timed:
                    self.untimed += 1
                    self.set_clock(self.last_ns + 1000 if self.last_ns >= 0 else 0)
                return 1
            self.at += 1
        return 0

    def fault(self, name: str, count: int) -> None:
        """Count something wrong, and keep the number of the line if it is one of the first."""
        self.counts[name] = self.counts.get(name, 0) + count
        if name == "malformed" or name == "other":
            self.bad_line = self.line
        lines = self.lines.setdefault(name, [])
        if len(lines) < KEPT_FAULT_LINES:
            lines.append(self.line)
