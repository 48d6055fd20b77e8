from hintbench.core.simulation cimport Simulation

cdef bint run_direct(Simulation sim) except? -1
