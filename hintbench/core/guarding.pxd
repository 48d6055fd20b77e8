from hintbench.core.scheduler cimport CoreScheduler


cdef class Gate:
    cdef CoreScheduler scheduler
    cdef int cpu
    cdef object ask
    cdef bint ask_always
    cdef int come(self) except -1


cdef class Guard:
    cdef object guarded_target, guarded_touched


cpdef object target_of(Guard value)
cpdef object touch(object value)


cdef class Joined:
    cdef list calls


cdef class HookWatch:
    cdef CoreScheduler scheduler
    cdef str name
    cdef object function
    cdef bint off
    cdef list told
