from hintbench.core.buddy cimport Buddy


cdef int take_spared(Buddy zone, int order, int migratetype, object named) except? -2
