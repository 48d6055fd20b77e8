cimport cython

from hintbench.core.blockhooks cimport BlockHooks
from hintbench.core.pages cimport Pages
from hintbench.core.retained cimport RetainedSplit


cdef class Buddy(BlockHooks):
    cdef readonly Pages pages
    cdef readonly int kernel
    cdef readonly int start_pfn
    cdef readonly int end_pfn
    cdef readonly int first_list
    cdef public long long free_pages
    cdef public long long free_highatomic, reserved_highatomic
    cdef readonly set recorded_highatomic
    cdef readonly int[::1] nr_free
    cdef public bint allow_boost
    cdef public long long watermark_boost
    cdef public bint below_high
    cdef public bint boosted
    cdef public bint reclaim_active
    cdef public bint quiet
    cdef public object claim
    cdef public long long visits
    cdef public int claim_order
    cdef public long long high_watermark_pages
    cdef public RetainedSplit split
    # where a merge stands whose block_merged hook waits
    cdef public object waiting
    cdef public int merge_pfn, merge_order, merge_type
    @cython.final
    cdef int free_one_page(self, int pfn, int order, int migratetype, bint to_tail, int origin) except -1
    @cython.final
    cdef inline int merge(self, int pfn, int order, int migratetype, bint to_tail, int origin, int freed_pfn, int freed_order) except -1
    @cython.final
    cdef inline int finish_free(self, int pfn, int order, int migratetype, int to_tail, int origin, int freed_pfn, int freed_order) except -1
    @cython.final
    cdef int rmqueue_smallest(self, int order, int migratetype) except -2
    @cython.final
    cdef inline int take_block(self, int pfn, int block_order, int order, int migratetype, int reason) except -1
    @cython.final
    cdef int take_part(self, int head, int block_order, int pfn, int order, int migratetype, int kind) except -1
    @cython.final
    cdef inline int list_of(self, int order, int migratetype) noexcept
    @cython.final
    cdef inline int charge_block(self, int pfn) except -1
    @cython.final
    cdef inline int call_block_taken(self, int pfn, int order, int reason) except -1
    @cython.final
    cdef int set_pageblock_types(self, int pfn, int order, int migratetype) except -1
    @cython.final
    cdef inline bint has_free(self, int order, int migratetype) noexcept
