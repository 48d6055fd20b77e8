from hintbench.core.zone cimport Zone


cdef class HoldMeter:
    cdef Zone zone
    cdef long long bound
    cdef long long visits
    cdef object exceeded
