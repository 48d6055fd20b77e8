from hintbench.core.simulation cimport Simulation
from hintbench.core.vcpu cimport Drain, Vcpu
from hintbench.core.zone cimport Zone


cdef int begin_free(Simulation sim, Vcpu vcpu) except? -1
cdef int commit_free(Simulation sim, Vcpu vcpu) except? -1
cdef int drain_step(Simulation sim, Vcpu vcpu, bint again) except? -1
cdef int direct_step(Simulation sim, Vcpu vcpu, bint again) except? -1
cdef int free_completed(Simulation sim, Vcpu vcpu) except? -1
cdef int end_free(Simulation sim, Vcpu vcpu) except? -1
cdef int leave_user(Simulation sim, int pfn, int order) except? -1
cpdef bint run_drain(Simulation sim, Drain drain) except? -1
cpdef int check_below_high(Simulation sim, Zone zone) except? -1
