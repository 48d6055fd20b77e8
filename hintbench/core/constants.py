"""Constants of the page allocator, and the encodings that the compiled modules share.

This module stays plain Python; ``constants.pxd`` gives the compiled modules the same values as
C constants, and a test holds the two together.  Kernel names are kept (``include/linux/mmzone.h``).
"""

PAGE_SHIFT = 12
PAGE_SIZE = 4096
MAX_PAGE_ORDER = 10
NR_PAGE_ORDERS = 11
PAGEBLOCK_ORDER = 9
PAGEBLOCK_PAGES = 512
PAGE_ALLOC_COSTLY_ORDER = 3

# Migratetypes since 4.4 (commit 016c13daa5c9).
UNMOVABLE = 0
MOVABLE = 1
RECLAIMABLE = 2
HIGHATOMIC = 3
MIGRATE_TYPES = 4

# Zone numbers (enum zone_type), the index of lowmem_reserve.
ZONE_DMA = 0
ZONE_DMA32 = 1
ZONE_NORMAL = 2
ZONE_MOVABLE = 3
MAX_NR_ZONES = 4

# Kernel presets.
KERNEL_5_0 = 0
KERNEL_6_12 = 1

# Per-CPU lists: 3 types x orders 0..3, then the two lists of huge pages.
NR_LOWORDER_PCP_LISTS = 12
NR_PCP_LISTS = 14
PCP_BATCH_SCALE_MAX = 5

# The state byte of a page: kind in the high nibble, order in the low one.  Only the head of a
# block carries a kind; every other page is TAIL (inside a block, reserved or absent).
TAIL = 0x00
BUDDY = 0x10
PCP = 0x20
IN_USE = 0x30
IN_USE_MOVABLE = 0x40
COMPOUND = 0x50
COMPOUND_MOVABLE = 0x60
SLAB = 0x70
ISOLATED = 0x80
HELD = 0x90
TRANSIT = 0xA0
KIND_MASK = 0xF0
ORDER_MASK = 0x0F

# Operations of a tape (low four bits of the code word).
ALLOCATE = 0
FREE = 1
TOUCH = 2
COMPUTE = 3
IDLE = 4
TAKE = 5
RETURN = 6
HAND_OUT = 7
GIVE_BACK = 8
IDLE_UNTIL = 9

# Flags of an operation.
FLAG_ZERO = 1 << 11
FLAG_TOUCHED = 1 << 12
FLAG_COMPOUND = 1 << 13
FLAG_SLAB = 1 << 14
FLAG_ATOMIC = 1 << 15
FLAG_NORETRY = 1 << 16
FLAG_DMA = 1 << 17
FLAG_DMA32 = 1 << 18
FLAG_MOVABLE_ZONE = 1 << 19
FLAG_NO_KSWAPD = 1 << 20
FLAG_CLAIM = 1 << 21
FLAG_SILENT = 1 << 22

# What a slot holds when it holds no pfn.  A vCPU that waits for slot s to be filled leaves
# SLOT_WAITED - cpu there.
SLOT_EMPTY = -1
SLOT_FAILED = -2
SLOT_WAITED = -16

# Where a freed block came from (hookspecs.Origin) and why a block left its list (Reason).
ORIGIN_PCP_DRAIN = 0
ORIGIN_DIRECT_FREE = 1
ORIGIN_PUT_BACK = 2
ORIGIN_SPLIT = 3
REASON_ALLOCATION = 0
REASON_SPLIT = 1
REASON_MERGE = 2
REASON_ISOLATION = 3

# Who pays for virtual time: the kernel in the thread that allocates or frees, the strategy's tasks,
# its interrupts, its hooks, and the kernel in the background and in direct reclaim.
PAYER_THREAD = 0
PAYER_TASK = 1
PAYER_INTERRUPT = 2
PAYER_HOOK = 3
PAYER_KERNEL = 4
PAYERS = 5

# Events of the digest.
EVENT_ALLOCATED = 1
EVENT_FREED = 2
EVENT_TAKEN = 3
EVENT_RETURNED = 4
EVENT_LOCKED = 5
EVENT_ISOLATED = 6
EVENT_PUT_BACK = 7
EVENT_DISCARDED = 8
EVENT_ACKNOWLEDGED = 9
EVENT_FAILED = 10
EVENT_REPORTED = 11

# Latency histograms: classes of orders, causes, log-linear buckets.
ORDER_CLASSES = 5
CAUSE_TOTAL = 0
CAUSE_LOCK_WAIT = 1
CAUSE_SPIN = 2
CAUSE_REFAULT = 3
CAUSE_ZEROING = 4
CAUSE_SLOW_PATH = 5
CAUSES = 6
SUB_BUCKET_BITS = 4
BUCKETS = 704

# A clock that never comes up: the vCPU waits for something.
NEVER = 0x3FFFFFFFFFFFFFFF

# Who has a page, in the books of hintbench.core.audit.
OWNER_NOWHERE = 0
OWNER_BUDDY = 1
OWNER_OUTSIDE = 2
OWNER_CALLER = 3
OWNER_STRATEGY = 4

# What comes first of what happens at one virtual time, besides the tapes.
RANK_HOST = 0
RANK_INTERRUPT = 1
RANK_TASK = 2

# What a context is (hintbench.core.contexts).
ROLE_HOOK = 0
ROLE_TASK = 1
ROLE_INTERRUPT = 2

# From here on not all vCPUs find room in the simulating processor's own caches.
MANY_VCPUS = 32
