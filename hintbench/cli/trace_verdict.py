"""What `hintbench trace verify` prints: passes side by side, and an account of each difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import typer

from hintbench.traces.reported import Block, Pass, block_name
from hintbench.traces.verify import Verification, VerifyRequest, verify

_MOST_LINES: Final = 60
_DIFFERENT: Final = 1


def print_verification(request: VerifyRequest, *, everything: bool = False) -> int:
    """Hold a strategy against a recording, and print the account.

    Args:
        request: What is held against what.
        everything: Print all differences, however many there are.

    Returns:
        The exit status: 0 when they agree, 1 when they do not.

    Raises:
        HintbenchError: An input is wrong, or the strategy is at fault.
    """
    verification = verify(request)
    typer.echo(f"{request.strategy} on the free lists of {request.trace}")
    typer.echo("\n".join(describe(verification, everything=everything)))
    return 0 if verification.agrees else _DIFFERENT


def describe(found: Verification, *, everything: bool = False) -> Iterator[str]:
    """Say how a strategy did against a recorded kernel.

    Args:
        found: The passes of both.
        everything: Tell all differences, however many there are.

    Yields:
        Lines of text.
    """
    yield ""
    yield f"{'pass':<6}{'kernel [s]':>12}{'model [s]':>12}{'apart [ms]':>12}  blocks a call"
    for number, (kernel, model) in enumerate(found.pairs, 1):
        gap = ""
        if kernel is not None and model is not None:
            gap = f"{(model.time_ns - kernel.time_ns) / 1e6:+.3f}"
        times = f"{_seconds(kernel):>12}{_seconds(model):>12}{gap:>12}"
        yield f"{number:<6}{times}  {_sizes(kernel, model)}"
    recorded = len(found.recorded)
    both = sum(None not in pair for pair in found.pairs)
    yield ""
    allowed = f"(allowed: {found.tolerance_ns / 1e6:g} ms)"
    apart = f", at most {found.largest_gap_ns / 1e6:.3f} ms apart {allowed}"
    yield f"passes      {both} of {len(found.pairs)} in both{apart if both else ''}"
    first_ns, any_ns = found.largest_first_call_gap_ns, found.largest_call_gap_ns
    if any_ns:
        later = f"; later ones, which wait for the host, {any_ns / 1e6:.3f} ms"
        yield (
            f"calls       the first of a pass at most {first_ns / 1e6:.3f} ms apart {allowed}"
            f"{later if any_ns > first_ns else ''}"
        )
    yield f"blocks      {found.same_blocks} of the kernel's {recorded} in the same pass"
    yield f"places      {found.same_places} of {recorded} at the same place of the same call"
    if found.violations:
        told = ", ".join(f"{count} {rule}" for rule, count in found.violations.items())
        yield f"violations  {told}"
    lines = list(_differences(found))
    yield f"differences {len(lines) or 'none'}"
    shown = lines if everything else lines[:_MOST_LINES]
    yield from (f"  {line}" for line in shown)
    if len(lines) > len(shown):
        yield f"  and {len(lines) - len(shown)} more: --all tells them"
    if found.notes:
        yield ""
        yield from found.notes


def _differences(found: Verification) -> Iterator[str]:
    """One line for each thing that is not the same."""
    kernel_pass = _passes_by_block(found, 0)
    model_pass = _passes_by_block(found, 1)
    # The kernel's passes are numbered by themselves where the model looked at them.
    recorded_number = -1
    for number, (kernel, model) in enumerate(found.pairs, 1):
        recorded_number += kernel is not None
        if kernel is None or model is None:
            whose = "kernel" if model is None else "model"
            yield f"pass {number}: only the {whose} made one"
        elif abs(model.time_ns - kernel.time_ns) > found.tolerance_ns:
            yield f"pass {number}: {(model.time_ns - kernel.time_ns) / 1e6:+.3f} ms apart"
        elif kernel.batches and model.batches:
            gap_ns = model.batches[0].time_ns - kernel.batches[0].time_ns
            if abs(gap_ns) > found.tolerance_ns:
                yield f"pass {number}: its first call is {gap_ns / 1e6:+.3f} ms apart"
        mine = Counter(kernel.blocks if kernel is not None else ())
        theirs = Counter(model.blocks if model is not None else ())
        for block in mine - theirs:
            where = _in_passes(model_pass, block, "by the model")
            state = found.found.get((recorded_number, block))
            had = f"the model had it {state}" if state else "it lies outside the replay"
            yield f"pass {number}: {block_name(block)} told by the kernel alone; {where}; {had}"
        for block in theirs - mine:
            where = _in_passes(kernel_pass, block, "by the kernel")
            yield f"pass {number}: {block_name(block)} told by the model alone; {where}"
        if kernel is not None and model is not None:
            order = _order if mine == theirs else _order_of_common
            yield from order(number, kernel, model)


def _order(number: int, kernel: Pass, model: Pass) -> Iterator[str]:
    """The same blocks, but in other calls or at other places."""
    if [len(each.blocks) for each in kernel.batches] != [
        len(each.blocks) for each in model.batches
    ]:
        yield f"pass {number}: calls of {kernel.sizes} blocks, in the model {model.sizes}"
    for place, (one, other) in enumerate(zip(kernel.blocks, model.blocks, strict=True), 1):
        if one != other:
            here, there = block_name(one), block_name(other)
            yield f"pass {number}, place {place}: {here}, in the model {there}"


def _order_of_common(number: int, kernel: Pass, model: Pass) -> Iterator[str]:
    """Where what both told of stands in another order, beside what only one of them told of."""
    both = Counter(kernel.blocks) & Counter(model.blocks)
    ones, others = ([block for block in each.blocks if block in both] for each in (kernel, model))
    moved = [(one, other) for one, other in zip(ones, others, strict=False) if one != other]
    if moved:
        one, other = moved[0]
        yield (
            f"pass {number}: of the {both.total()} blocks that both told of {len(moved)} stand in"
            f" another order, first {block_name(one)}, in the model {block_name(other)}"
        )


def _passes_by_block(found: Verification, side: int) -> dict[Block, list[int]]:
    passes: dict[Block, list[int]] = {}
    for number, pair in enumerate(found.pairs, 1):
        one = pair[side]
        for block in one.blocks if one is not None else ():
            passes.setdefault(block, []).append(number)
    return passes


def _in_passes(passes: dict[Block, list[int]], block: Block, by: str) -> str:
    numbers = passes.get(block, [])
    told = ", ".join(map(str, numbers))
    return f"{by} in pass {told}" if numbers else f"never as such {by}"


def _seconds(one: Pass | None) -> str:
    return f"{one.time_ns / 1e9:.6f}" if one is not None else "-"


def _sizes(kernel: Pass | None, model: Pass | None) -> str:
    """Blocks a call of both, once when they are the same."""
    if kernel is None or model is None:
        return kernel.sizes if kernel is not None else f"model {model.sizes if model else ''}"
    if kernel.sizes == model.sizes:
        return kernel.sizes
    return f"{kernel.sizes}; model {model.sizes}"
