cimport cython

from hintbench.core.clock cimport VirtualClock
from hintbench.core.flags cimport UnitFlags


cdef extern from *:
    """
    /* The hook that is called most often: its arguments without a tuple or a reference to each.
       CPUs, orders and origins are the same few numbers every time; their objects are kept. */
    static PyObject *hintbench_small_numbers[64];
    static CYTHON_INLINE PyObject *hintbench_small_number(long value) {
        if (!hintbench_small_numbers[value])
            hintbench_small_numbers[value] = PyLong_FromLong(value);
        return hintbench_small_numbers[value];
    }
    static CYTHON_INLINE PyObject *hintbench_call_block_freed(
            PyObject *function, PyObject *guest, long cpu, PyObject *zone, long pfn, long order,
            PyObject *freed, long origin) {
        PyObject *result = NULL;
        PyObject *arguments[8];
        int other_cpu = cpu < 0 || cpu >= 64;
        arguments[0] = NULL;
        arguments[1] = guest;
        arguments[2] = other_cpu ? PyLong_FromLong(cpu) : hintbench_small_number(cpu);
        arguments[3] = zone;
        arguments[4] = PyLong_FromLong(pfn);
        arguments[5] = hintbench_small_number(order);
        arguments[6] = freed;
        arguments[7] = hintbench_small_number(origin);
        if (arguments[2] && arguments[4] && arguments[5] && arguments[7])
            result = PyObject_Vectorcall(
                function, arguments + 1, 7 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        if (other_cpu)
            Py_XDECREF(arguments[2]);
        Py_XDECREF(arguments[4]);
        return result;
    }
    """
    object call_block_freed "hintbench_call_block_freed"(
        object function, object guest, long cpu, object zone, long pfn, long order, object freed,
        long origin)


cdef class HookPoint:
    cdef readonly str name
    cdef public object function
    cdef readonly int min_order
    cdef readonly UnitFlags flags
    cdef readonly long long cost_ns
    cdef long long[::1] spent
    cdef Py_ssize_t begin(self, VirtualClock clock) except -1
    cdef int end(self, VirtualClock clock, long long begun) except -1
    cdef int charge_test(self, VirtualClock clock) except -1


cdef class CoreHooks:
    cdef public object guest
    cdef public HookPoint page_freeing, block_merged, block_freed, block_taken
    cdef public HookPoint free_completed, page_allocated, memory_low
    cdef public bint in_block_freed
    cdef public list forget_when_taken
    cdef public list forget_when_allocated


cdef class Block:
    cdef readonly int pfn
    cdef readonly int order
    cdef readonly object zone


cdef int check_range(str what, str name, long long value, long long least, long long most) except? -1
cdef int refuse_to_wait(HookPoint point, object result) except? -1
cdef Block make_block(int pfn, int order, object zone)
