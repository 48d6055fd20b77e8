cdef class SlotWalk:
    cdef int[::1] page_record
    cdef int[::1] slot
    cdef int[::1] left
    cdef int[::1] pages
    cdef int[::1] unused
    cdef Py_ssize_t unused_count
    cdef long long slot_count
    cdef int[::1] emptied
    cdef int emptied_count
    cdef list starts
    cdef int _check(self, long long pfn, int order) except -1
    cdef int _note(self, int record) noexcept
    cdef int _leave(self, Py_ssize_t page) noexcept
    cdef int _new(self, long long pfn, int order) except -1
    cpdef int fill(self, long long pfn, int order) except -1
    cpdef int empty(self, long long pfn, int order) except -1
    cpdef int move(self, long long source, long long pfn) except -1
    cdef int _start(self, long long pfn, int order) except -1

cdef class DeferredFrees:
    cdef int[::1] first
    cdef int[::1] last
    cdef int[::1] following
    cdef int[::1] slot
    cdef int unused
    cdef Py_ssize_t waiting
    cdef int wait(self, long long page, int slot) except -1
    cdef int release(self, int cell) noexcept
