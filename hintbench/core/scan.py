"""What struct page says of a page that somebody looks at without owning it."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.buddy import Buddy
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        COMPOUND,
        COMPOUND_MOVABLE,
        HELD,
        IN_USE,
        IN_USE_MOVABLE,
        ISOLATED,
        KIND_MASK,
        ORDER_MASK,
        SLAB,
        TRANSIT,
    )
    from cython.cimports.hintbench.core.hooks import make_block
    from cython.cimports.hintbench.core.pages import Pages
else:
    from hintbench.core.buddy import Buddy
    from hintbench.core.constants import (
        BUDDY,
        COMPOUND,
        COMPOUND_MOVABLE,
        HELD,
        IN_USE,
        IN_USE_MOVABLE,
        ISOLATED,
        KIND_MASK,
        ORDER_MASK,
        SLAB,
        TRANSIT,
    )
    from hintbench.core.hooks import make_block
    from hintbench.core.pages import Pages


@cython.ccall
def ref_count(pages: Pages, pfn: cython.int) -> cython.int:
    """page_ref_count(): 1 on the first page of a block in use, else 0.

    Zero does not mean free: tails of blocks in use, slab tails, pages on per-CPU lists and
    isolated pages all have it.
    """
    kind: cython.int = pages.state[pfn] & KIND_MASK
    return kind in (IN_USE, IN_USE_MOVABLE, COMPOUND, COMPOUND_MOVABLE, SLAB, HELD)


@cython.ccall
def compound_head(pages: Pages, pfn: cython.int) -> cython.int:
    """compound_head() of a page of a compound page; -1 when it is in none.

    Slab pages above order 0 are compound.
    """
    head: cython.int = pages.head_of(pfn)
    state: cython.int
    if head < 0:
        return -1
    state = pages.state[head]
    if (state & KIND_MASK) in (COMPOUND, COMPOUND_MOVABLE, SLAB) and state & ORDER_MASK:
        return head
    return -1


@cython.ccall
def first_used(pages: Pages, pfn: cython.int, count: cython.int) -> cython.int:
    """The first of ``count`` pages from ``pfn`` on that a caller has been handed; -1 if none."""
    here: cython.int = pfn
    end: cython.int = pfn + count
    head: cython.int
    state: cython.int
    kind: cython.int
    if end > pages.page_count:
        end = pages.page_count
    while here < end:
        head = pages.head_of(here)
        if head < 0:
            here += 1
            continue
        state = pages.state[head]
        kind = state & KIND_MASK
        if kind in (IN_USE, IN_USE_MOVABLE, COMPOUND, COMPOUND_MOVABLE, SLAB):
            return here
        here = head + (1 << (state & ORDER_MASK))
    return -1


@cython.ccall
def order_of(pages: Pages, pfn: cython.int, kind: cython.int) -> cython.int:
    """The order of the block around a page if that is of this kind, else -1."""
    head: cython.int = pages.head_of(pfn)
    if head < 0 or pages.state[head] & KIND_MASK != kind:
        return -1
    return pages.state[head] & ORDER_MASK


@cython.ccall
def lies_in(pages: Pages, pfn: cython.int, count: cython.int, kind: cython.int) -> cython.bint:
    """Whether all of ``count`` pages from ``pfn`` on belong to one block of this kind."""
    head: cython.int = pages.head_of(pfn)
    if head < 0 or pages.state[head] & KIND_MASK != kind:
        return False
    return pfn + count <= head + (1 << (pages.state[head] & ORDER_MASK))


@cython.ccall
def largest_in_hand(pages: Pages, start_pfn: cython.int, end_pfn: cython.int) -> cython.int:
    """The order of the largest block of a range that is isolated or held; -1 if none is."""
    largest: cython.int = -1
    here: cython.int = start_pfn
    state: cython.int
    kind: cython.int
    while here < end_pfn:
        state = pages.state[here]
        kind = state & KIND_MASK
        if state and (kind == ISOLATED or kind == HELD):
            largest = max(largest, state & ORDER_MASK)
        here += 1
    return largest


@cython.ccall
def scan_range(zone: Buddy, pfn: cython.int, end_pfn: cython.int, min_order: cython.int) -> Any:
    """Walk over struct pages as v9's guest_free_page_hinting() does, the zone lock held.

    A compound page is stepped over, a page with a reference count is passed, and a page inside a
    free block of ``min_order`` or more ends the walk. Every visit is charged, and a head look-up
    for each page that is neither.

    Returns:
        The first such block, or None when the range has none.
    """
    pages: Pages = zone.pages
    clock = zone.clock
    head: cython.int
    state: cython.int
    kind: cython.int
    if end_pfn > pages.page_count:
        end_pfn = pages.page_count
    while pfn < end_pfn:
        clock.now += clock.costs.page_visit_ns
        zone.visits += 1
        head = pages.head_of(pfn)
        state = pages.state[head] if head >= 0 else 0
        kind = state & KIND_MASK
        if kind in (COMPOUND, COMPOUND_MOVABLE, SLAB) and state & ORDER_MASK:
            pfn = head + (1 << (state & ORDER_MASK))
            continue
        if head == pfn and ref_count(pages, pfn):
            pfn += 1
            continue
        if kind == BUDDY and (state & ORDER_MASK) >= min_order:
            if head != pfn:
                clock.now += clock.costs.head_lookup_ns
            return make_block(head, state & ORDER_MASK, zone)
        if kind != TRANSIT:
            clock.now += clock.costs.head_lookup_ns
        pfn += 1
    return None
