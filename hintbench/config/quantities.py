"""Byte sizes, durations and counts: from what people write, and into what people read."""

import math
import re

_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?P<binary>i?)(?P<byte>B?)", re.I)
_DURATION_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_SIZE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_COUNT_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def parse_bytes(value: object) -> int:
    """Read a byte size.

    Args:
        value: A number of bytes, or text such as "8GiB", "512 MiB" or "8G" (binary, as in QEMU).

    Returns:
        The number of bytes.

    Raises:
        ValueError: When it is not a size; the text says what one looks like.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size such as '8GiB' or '512MiB'")
    unit = match["unit"].upper()
    if unit and match["byte"] and not match["binary"]:
        # A memory-management engineer means 2^30 and a disk vendor 10^9: do not guess.
        number = match["number"]
        raise ValueError(f"{value!r} can be read in two ways: did you mean '{number}{unit}iB'?")
    whole, _, fraction = match["number"].partition(".")
    scale: int = 10 ** len(fraction)
    scaled, rest = divmod(int(whole + fraction) * _BINARY[unit], scale)
    if rest:
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return scaled


def format_bytes(size: float) -> str:
    """Write a byte size with a binary unit, such as "4 MiB" or "1.5 GiB".

    Args:
        size: Bytes.
    """
    for factor, unit in _SIZE_UNITS:
        if abs(size) >= factor * 0.9995:
            return f"{_three_digits(size / factor)} {unit}"
    return f"{_three_digits(size)} B"


def format_ns(duration_ns: float) -> str:
    """Write a duration with the unit that suits it, such as "113 ns" or "2.41 ms".

    Args:
        duration_ns: Nanoseconds.
    """
    if duration_ns == 0:
        return "0"
    for factor, unit in _DURATION_UNITS:
        # 999.6 us would be printed as "1000 us": it belongs to the next unit.
        if abs(duration_ns) >= factor * 0.9995 or unit == "ns":
            return f"{_three_digits(duration_ns / factor)} {unit}"
    raise AssertionError("unreachable")


def format_count(count: float) -> str:
    """Write a count: whole up to 99,999, then with "k", "M" or "G".

    Args:
        count: How many.
    """
    if abs(count) < 100_000 and float(count).is_integer():
        return f"{int(count):,}"
    for factor, unit in _COUNT_UNITS:
        if abs(count) >= factor:
            return f"{_three_digits(count / factor)}{unit}"
    return _three_digits(count)


def counted(number: float, noun: str) -> str:
    """Write a number of things: "1 page", "2,048 pages", "no page".

    Args:
        number: How many.
        noun: What one of them is called.
    """
    if number == 0:
        return f"no {noun}"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_amount(amount: float) -> str:
    """Write a plain quantity such as GiB·s with about three significant digits.

    Args:
        amount: The quantity.
    """
    return f"{amount:,.0f}" if abs(amount) >= 1000 else _three_digits(amount)


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent, and no zeros that say nothing."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    if decimals > 4:
        return f"{value:.1e}"
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
