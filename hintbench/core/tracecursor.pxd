cdef class Words:
    cdef long long[::1] keys
    cdef long long[::1] values
    cdef int find(self, long long word) except -2

cdef class Cursor:
    cdef unsigned char[::1] buffer
    cdef Py_ssize_t at
    cdef long long word
    cdef long long value
    cdef long long last_ns
    cdef long long line_ns
    cdef long long offset_ns
    cdef long long line
    cdef long long bad_line
    cdef Words tasks
    cdef int context
    cdef int line_cpu
    cdef int line_pid
    cdef long long untimed
    cdef dict counts
    cdef dict lines
    cdef int skip_line(self) except -1
    cdef int skip_spaces(self) except -1
    cdef int skip_to_space(self) except -1
    cdef int at_digit(self) except -1
    cdef int at_word(self) except -1
    cdef int read_word(self) except -1
    cdef int read_number(self) except -1
    cdef int read_time(self) except -1
    cdef int set_clock(self, long long read_ns) except -1
    cdef int read_prefix(self) except -1
    cdef int read_task(self, Py_ssize_t head, Py_ssize_t bracket) except -1
    cdef int read_graph_prefix(self, Py_ssize_t head) except -1
