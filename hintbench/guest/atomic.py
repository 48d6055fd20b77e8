"""A value that all CPUs share, of which every single access is atomic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hintbench.guest.sharing import Sharing

Value = TypeVar("Value")
_CHANGEABLE = (list, dict, set, bytearray)


class Atomic(Generic[Value]):
    """atomic_t, or any word that is read by READ_ONCE() and written by WRITE_ONCE().

    Each call is one atomic operation, and others may come between any two: what is read, and then
    set from what was read, loses what another CPU has written in between. `add`, `exchange` and
    `compare_exchange` do not.

    Whatever writes costs `Costs.flag_ns` where this CPU wrote last, else `Costs.flag_contended_ns`.
    To read costs what its caller says, with `Guest.spend`.

    Args:
        sharing: whose CPUs share it.
        value: what it is at first: a number, a member of an Enum, None, a tuple ...

    Raises:
        TypeError: the value is a list or another that can change without a call.
    """

    def __init__(self, sharing: Sharing, value: Value) -> None:
        _check_value(value)
        self._sharing = sharing
        self._value = value
        self._writer: int | None = None

    def read(self) -> Value:
        """READ_ONCE(): what it is now, which may be over before it is acted on."""
        value = self._value
        self._sharing.overtaken("act on the value it has read")
        return value

    def set(self, value: Value) -> None:
        """WRITE_ONCE(): whatever it was.

        Args:
            value: what it is from now on.
        """
        _check_value(value)
        self._come()
        self._write(value)

    def exchange(self, value: Value) -> Value:
        """xchg().

        Args:
            value: what it is from now on.

        Returns:
            What it was.
        """
        _check_value(value)
        self._come()
        before = self._value
        self._write(value)
        return before

    def compare_exchange(self, expected: Value, value: Value) -> Value:
        """cmpxchg(): write, but only if nobody else has.

        Args:
            expected: what it has to be.
            value: what it is from now on, if it is that.

        Returns:
            What it was: ``expected``, if and only if it was written.
        """
        _check_value(value)
        self._come()
        before = self._value
        self._write(value if before == expected else before)
        return before

    def add(self: Atomic[int], number: int = 1) -> int:
        """atomic_add_return().

        Args:
            number: how much is added; may be negative.

        Returns:
            What it is then.

        Raises:
            TypeError: it is no number.
        """
        if not all(isinstance(each, int) for each in (self._value, number)):
            raise TypeError(f"Atomic.add: {self._value!r} and {number!r} must be whole numbers")
        self._come()
        after = self._value + number
        self._write(after)
        return after

    def peek(self) -> Value:
        """What it is, for observers, which are no CPU's and change nothing."""
        return self._value

    def _come(self) -> None:
        """What was done before, to other things perhaps, others may have seen by now."""
        self._sharing.overtaken("write an atomic")

    def _write(self, value: Value) -> None:
        sharing = self._sharing
        self._writer = sharing.write(self._writer)
        self._value = value
        sharing.written()
        sharing.overtaken("go on after an atomic operation")

    def __bool__(self) -> bool:
        raise TypeError("an Atomic is neither true nor false: read() tells what it is")

    def __repr__(self) -> str:
        return f"<Atomic {self._value!r}>"


def _check_value(value: object) -> None:
    if isinstance(value, _CHANGEABLE):
        kind = type(value).__name__
        raise TypeError(
            f"Atomic: a {kind} can change without a call: keep it under a lock, by"
            " guest.guarded(), or exchange tuples"
        )
