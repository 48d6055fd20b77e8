cimport cython

from hintbench.core.clock cimport VirtualClock
from hintbench.core.hooks cimport Block, CoreHooks, HookPoint


cdef class BlockHooks:
    cdef readonly VirtualClock clock
    cdef public CoreHooks hooks
    cdef public bint editing_refused
    cdef Block last_block
    @cython.final
    cdef object tell_merged(self, HookPoint point, int pfn, int order)
    @cython.final
    cdef int tell_freed(self, int pfn, int order, int freed_pfn, int freed_order, int origin) except -1
    @cython.final
    cdef int tell_taken(self, int pfn, int order, int reason) except -1
    @cython.final
    cdef inline Block block_at(self, int pfn, int order)
    @cython.final
    cdef inline bint concerns(self, HookPoint point, int pfn, int order) except? -1
