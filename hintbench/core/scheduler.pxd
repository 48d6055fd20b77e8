cimport cython

from hintbench.core.accounts cimport Accounts
from hintbench.core.clock cimport VirtualClock
from hintbench.core.contexts cimport Context
from hintbench.core.locks cimport LockRequest, LockTimeline
from hintbench.core.processors cimport Processors
from hintbench.core.simulation cimport Simulation
from hintbench.core.takes cimport LockTakes


cdef extern from *:
    """
    /* The next step of a coroutine: what it yields, or what it returned when it has ended. */
    static CYTHON_INLINE PyObject *hintbench_send(PyObject *coroutine, int *ended) {
        PyObject *result = NULL;
        *ended = PyIter_Send(coroutine, Py_None, &result) == PYGEN_RETURN;
        return result;
    }
    """
    object send "hintbench_send"(object coroutine, int *ended)


cdef class CoreScheduler:
    cdef readonly Simulation simulation
    cdef readonly VirtualClock clock
    cdef readonly Processors processors
    cdef readonly Accounts accounts
    cdef readonly LockTakes takes
    cdef readonly object rules
    cdef readonly list hooks
    cdef readonly list contexts
    cdef public Context current
    cdef public object look_again
    cdef public object restored
    cdef public object atomic_hooks
    cdef public long long next_number
    cdef public int off_in_hook
    cdef public object plain_hook
    cdef public bint off_by_hook
    cdef long long wake_ns
    cdef int take_lock(self, Context context, LockTimeline lock) except -1
    cpdef int resume(self, Context context, long long began_ns=*) except -1
    cpdef int enter(self, Context context) except -1
    cdef int advance(self, Context context, long long began_ns) except -1
    cdef int _wait(self, Context context, object request) except -1
    cdef int take_inside(self, Context context, LockRequest asked) except -1
    cdef bint holds_lock(self, Context context) except -1
    cpdef int come_back(self, Context context, long long at_ns) except -1
    cdef int _turn(self, Context context) except -1
    cdef int _finished(self, Context context) except -1
    cpdef int dismiss(self, Context context) except -1
    cpdef object unpark(self, Context context, object outcome, object at_ns=*)
    cdef int _waited(self, Context context, long long now) except -1
    cpdef int interrupts_on(self, Context context) except -1


cdef class Turn:
    cdef CoreScheduler scheduler
    cdef Context context
