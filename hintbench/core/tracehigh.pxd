cdef class PcpHigh:
    cdef long long[:, :, ::1] bounds
    cdef long long[::1] zone_high
    cdef long long[::1] zone_free
    cdef object kswapd
    cdef bint awake
    cdef long long next_turn_ns
    cdef long long[::1] boost
    cdef long long[:, ::1] pending_ns
    cdef unsigned char[::1] below
    cdef long long[:, ::1] count
    cdef long long[:, ::1] high
    cdef long long[:, ::1] raised
    cdef long long[:, ::1] hidden
    cdef long long[:, ::1] free_count
    cdef long long[:, ::1] factor
    cdef unsigned char[:, ::1] high_order
    cdef unsigned char[:, ::1] flush
    cdef unsigned char[:, ::1] settled
    cdef long long[:, ::1] pending
    cdef long long[:, ::1] pending_order
    cdef long long[:, ::1] drained
    cdef long long[:, ::1] expected
    cdef long long[:, ::1] reached
    cdef long long[::1] possible_ns
    cdef short[::1] possible_cpu
    cdef unsigned char[::1] refuted
    cdef long long[:, ::1] decayed_by
    cdef long long[::1] certain
    cdef Py_ssize_t next_possible
    cdef int cpus
    cdef int zones
    cdef int hold(self, int cpu, int zone, long long pages) noexcept
    cdef long long _clamp(self, int cpu, int zone, long long pages) noexcept
    cdef int refill(self, int cpu, int zone, int order) noexcept
    cdef int give_back(self, int cpu, int zone, int order, bint in_background) noexcept
    cdef int begin_decay(self, int cpu, int zone) except? -1
    cdef int go_on_decaying(self, int cpu, int zone) noexcept
    cdef int go_on(self, long long until_ns) except? -1
    cdef int refill_shows(self, int zone, long long size, long long at_ns) except? -1
    cdef int settle(self, int cpu, int zone) except? -1
    cdef bint _reclaims(self, int cpu, int zone, long long high) except? -1
    cdef long long _correct(self, int cpu, int zone, long long high, long long seen) noexcept
    cdef int heed(self, int cpu, int zone) noexcept
    cdef int _possible_decay(self, Py_ssize_t number) except? -1
    cdef int _be_certain(self, int cpu, int zone) noexcept
    cdef long long _undo_decays(self, int cpu, int zone, long long missing) noexcept
    cdef long long _decayed(self, int cpu, int zone) noexcept
