from hintbench.core.measures cimport Integral
from hintbench.core.ownmemory cimport OwnMemory


cdef class Zone(OwnMemory):
    cdef readonly long long isolated_pages
    cdef readonly long long isolations
    cdef readonly int isolated_from
    cdef public Integral in_flight
    cdef public object refuse_isolation
