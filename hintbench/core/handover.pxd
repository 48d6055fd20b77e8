from hintbench.core.simulation cimport Simulation
from hintbench.core.vcpu cimport Vcpu


cdef int hand_over(Simulation sim, Vcpu vcpu) except? -1
cdef int state_of(unsigned int flags, int migratetype, int order) noexcept
cdef int touch_pages(Simulation sim, Vcpu vcpu, int pfn, int order, bint clear) except? -1
cdef int wait_for_slot(Simulation sim, Vcpu vcpu) except? -1
cdef int finish_allocation(Simulation sim, Vcpu vcpu) except? -1
cdef int fail_allocation(Simulation sim, Vcpu vcpu) except? -1
