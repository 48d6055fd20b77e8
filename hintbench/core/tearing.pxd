from hintbench.core.preemption cimport Preemptions


cdef class Between:
    cdef Preemptions preemptions
    cdef object late, done
