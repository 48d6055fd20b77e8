from hintbench.core.simulation cimport Simulation
from hintbench.core.vcpu cimport Vcpu
from hintbench.core.zone cimport Zone


cdef int begin_allocation(Simulation sim, Vcpu vcpu) except? -1
cdef int find_zone(Simulation sim, Vcpu vcpu) except? -1
cdef int after_slow_path(Simulation sim, Vcpu vcpu) except? -1
cdef int refill_step(Simulation sim, Vcpu vcpu) except? -1
cdef int direct_take_step(Simulation sim, Vcpu vcpu) except? -1
cdef int reserve_step(Simulation sim, Vcpu vcpu) except? -1
cpdef bint would_do(Zone zone, int order, int highest_zone) except? -1
