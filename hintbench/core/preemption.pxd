cdef class Preemptions:
    cdef long long[::1] step_numbers, step_delays
    cdef long long[::1] hold_numbers, hold_delays
    cdef long long[::1] edit_numbers, edit_delays
    cdef long long[::1] event_numbers, event_delays
    cdef readonly long long steps, holds, edits, events, taken
    cdef Py_ssize_t step_at, hold_at, edit_at, event_at
    cdef Py_ssize_t at_step(self) except? -1
    cdef Py_ssize_t at_event(self) except? -1
    cdef Py_ssize_t at_hold(self) except? -1
    cpdef Py_ssize_t at_edit(self) except? -1
    cdef public long long most_steps
