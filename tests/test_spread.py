"""python -m benchmarks.spread: how far a modelled replay varies for no reason."""

from benchmarks import spread


def test_the_spread_of_replays_is_told() -> None:
    kernel = [100.0, 10.0, *(50.0,) * 4]
    measured = [[90.0 + n, 20.0 + n, *(49.0 + n,) * 4] for n in (0, 5, 10)]
    lines = list(spread.table(kernel, measured))
    assert len(lines) == 2 + len(kernel)
    assert lines[2] == "| order 0 | 100 | 95 (-5%) | 5.0 | 85 to 105 | yes |"
    assert lines[3] == "| order 1 | 10 | 25 (+150%) | 5.0 | 15 to 35 | no |"


def test_variations_are_apart() -> None:
    shifts, lengths = zip(*spread.variations(16, 4), strict=True)
    assert len(set(shifts)) == len(set(lengths)) == 16
    assert all(0 < shift <= 2_000 for shifts_of in shifts for shift in shifts_of)
    assert 300_000 < min(lengths) < max(lengths) < 4_000_000


def test_a_shifted_replay_is_the_same_program() -> None:
    kernel, measured = spread.measure({}, "sample-trace", 2, kswapd=False)
    assert len(measured) == 2
    # One CPU with memory to spare: nothing depends on some hundred nanoseconds.
    assert measured[0] == measured[1]
    assert sum(kernel) > 0
