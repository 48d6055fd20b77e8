from hintbench.core.simulation cimport Simulation
from hintbench.core.vcpu cimport Vcpu

cdef bint run_fast(Simulation sim) except? -1
cdef int look_ahead(Simulation sim, Vcpu vcpu) noexcept
