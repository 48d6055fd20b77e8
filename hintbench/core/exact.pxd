from hintbench.core.simulation cimport Simulation
from hintbench.core.vcpu cimport Vcpu


cdef int exact_step(Simulation sim, Vcpu vcpu) except? -1
