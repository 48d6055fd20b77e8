from hintbench.core.simulation cimport Simulation
from hintbench.core.vcpu cimport Vcpu

cpdef int step_vcpu(Simulation sim, int number) except? -1
cpdef bint run_tapes(Simulation sim) except? -1
