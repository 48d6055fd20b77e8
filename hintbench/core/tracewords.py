"""Words of kernel traces, and the kinds and bits that they become in columns.

This module holds no code. The kernel's names stand in ``include/trace/events/kmem.h`` and
``mmflags.h``.
"""

# Kinds of rows.
PAGE_ALLOC = 1
PAGE_FREE = 2
PAGE_FREE_BATCHED = 3
ZONE_LOCKED = 4
PCPU_DRAIN = 5
EXTFRAG = 6
PCPU_REFILL = 7
MARK = 8
PROBE = 9

# What an allocation asked for: bits of the column `flags`.
GFP_ZERO = 1 << 0
GFP_COMP = 1 << 1
GFP_DIRECT_RECLAIM = 1 << 2
GFP_KSWAPD_RECLAIM = 1 << 3
GFP_NORETRY = 1 << 4
GFP_DMA = 1 << 5
GFP_DMA32 = 1 << 6
GFP_MOVABLE = 1 << 7
GFP_HIGHMEM = 1 << 8
GFP_HIGH = 1 << 9
GFP_NOWARN = 1 << 10
GFP_UNKNOWN = 1 << 15
# Who caused the event.
IN_IRQ = 1 << 16
BY_KCOMPACTD = 1 << 17
BY_KSWAPD = 1 << 18
BY_KWORKER = 1 << 19
BY_KHUGEPAGED = 1 << 20

# Column `aux` of EXTFRAG rows; of ZONE_LOCKED rows it is percpu_refill.
AUX_ORDER_MASK = 0xF
AUX_MIGRATETYPE_SHIFT = 4
AUX_FRAGMENTING = 1 << 7
AUX_CHANGE_OWNERSHIP = 1 << 8

COLUMNS = {
    "time_ns": "int64",
    "pfn": "int64",
    "flags": "uint32",
    "aux": "int32",
    "pid": "int32",
    "cpu": "int16",
    "kind": "uint8",
    "order": "int8",
    "migratetype": "int8",
}
# "[0]1:a:(" and a line feed is the shortest line that makes a row.
SHORTEST_ROW = 8

_RECLAIM = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM
_HIGHUSER_MOVABLE = _RECLAIM | GFP_HIGHMEM | GFP_MOVABLE
# include/trace/events/mmflags.h and include/linux/gfp_types.h; names that say nothing here are 0.
GFP_NAMES = {
    "GFP_TRANSHUGE": _HIGHUSER_MOVABLE & ~GFP_KSWAPD_RECLAIM | GFP_COMP | GFP_NOWARN,
    "GFP_TRANSHUGE_LIGHT": GFP_HIGHMEM | GFP_MOVABLE | GFP_COMP | GFP_NOWARN,
    "GFP_HIGHUSER_MOVABLE": _HIGHUSER_MOVABLE,
    "GFP_HIGHUSER": _RECLAIM | GFP_HIGHMEM,
    "GFP_USER": _RECLAIM,
    "GFP_KERNEL_ACCOUNT": _RECLAIM,
    "GFP_KERNEL": _RECLAIM,
    "GFP_NOFS": _RECLAIM,
    "GFP_NOIO": _RECLAIM,
    "GFP_TEMPORARY": _RECLAIM,
    "GFP_ATOMIC": GFP_HIGH | GFP_KSWAPD_RECLAIM,
    "GFP_NOWAIT": GFP_KSWAPD_RECLAIM | GFP_NOWARN,
    "GFP_DMA": GFP_DMA,
    "__GFP_DMA": GFP_DMA,
    "GFP_DMA32": GFP_DMA32,
    "__GFP_DMA32": GFP_DMA32,
    "__GFP_HIGHMEM": GFP_HIGHMEM,
    "__GFP_MOVABLE": GFP_MOVABLE,
    "__GFP_HIGH": GFP_HIGH,
    "__GFP_ATOMIC": GFP_HIGH,
    "__GFP_ZERO": GFP_ZERO,
    "__GFP_COMP": GFP_COMP,
    "__GFP_NORETRY": GFP_NORETRY,
    "__GFP_NOWARN": GFP_NOWARN,
    "__GFP_DIRECT_RECLAIM": GFP_DIRECT_RECLAIM,
    "__GFP_WAIT": GFP_DIRECT_RECLAIM,
    "GFP_WAIT": GFP_DIRECT_RECLAIM,
    "__GFP_KSWAPD_RECLAIM": GFP_KSWAPD_RECLAIM,
    "__GFP_RECLAIM": _RECLAIM,
    **dict.fromkeys(
        "none __GFP_IO __GFP_FS __GFP_WRITE __GFP_RETRY_MAYFAIL __GFP_REPEAT __GFP_NOFAIL"
        " __GFP_MEMALLOC __GFP_NOMEMALLOC __GFP_HARDWALL __GFP_THISNODE __GFP_ACCOUNT"
        " __GFP_RECLAIMABLE __GFP_NOTRACK __GFP_ZEROTAGS __GFP_SKIP_ZERO __GFP_SKIP_KASAN"
        " __GFP_NOLOCKDEP __GFP_NO_OBJ_EXT __GFP_COLD __GFP_OTHER_NODE".split(),
        0,
    ),
}
# Bit number of ___GFP_* (include/linux/gfp_types.h of 6.12) to ours, for raw hexadecimal flags.
RAW_GFP_BITS = (
    (0, GFP_DMA),
    (1, GFP_HIGHMEM),
    (2, GFP_DMA32),
    (3, GFP_MOVABLE),
    (5, GFP_HIGH),
    (8, GFP_ZERO),
    (10, GFP_DIRECT_RECLAIM),
    (11, GFP_KSWAPD_RECLAIM),
    (13, GFP_NOWARN),
    (16, GFP_NORETRY),
    (18, GFP_COMP),
)
EVENTS = {
    "mm_page_alloc": PAGE_ALLOC,
    "mm_page_free": PAGE_FREE,
    "mm_page_free_direct": PAGE_FREE,
    "mm_page_free_batched": PAGE_FREE_BATCHED,
    "mm_pagevec_free": PAGE_FREE_BATCHED,
    "mm_page_alloc_zone_locked": ZONE_LOCKED,
    "mm_page_pcpu_drain": PCPU_DRAIN,
    "mm_page_alloc_extfrag": EXTFRAG,
    "mm_page_pcpu_refill": PCPU_REFILL,
}
# Fields of events, each a bit that says "seen"; a field of no interest is not among them.
FIELD_PFN = 1
FIELD_ORDER = 2
FIELD_MIGRATETYPE = 4
FIELD_GFP = 8
FIELD_PAGE = 16
FIELD_FALLBACK_ORDER = 32
FIELD_FALLBACK_TYPE = 64
FIELD_FRAGMENTING = 128
FIELD_OWNERSHIP = 256
FIELD_REFILL = 512
FIELDS = {
    "page": FIELD_PAGE,
    "pfn": FIELD_PFN,
    "order": FIELD_ORDER,
    "alloc_order": FIELD_ORDER,
    "migratetype": FIELD_MIGRATETYPE,
    "alloc_migratetype": FIELD_MIGRATETYPE,
    "gfp_flags": FIELD_GFP,
    "fallback_order": FIELD_FALLBACK_ORDER,
    "fallback_migratetype": FIELD_FALLBACK_TYPE,
    "fragmenting": FIELD_FRAGMENTING,
    "change_ownership": FIELD_OWNERSHIP,
    "percpu_refill": FIELD_REFILL,
}
TASKS = {
    "kcompactd": BY_KCOMPACTD,
    "kswapd": BY_KSWAPD,
    "kworker": BY_KWORKER,
    "khugepaged": BY_KHUGEPAGED,
}
