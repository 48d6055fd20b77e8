"""The same work in other simulators, as jobs whose end state can be checked.

* simpy: vCPUs that take one FIFO lock for every operation, hold it and let it go: no more of the
  model than that, while hintbench simulates an allocator and its host besides. The waiting times
  must be those that arithmetic gives.
* libCacheSim: a cache whose policy is Python, called for every request: hit, miss or eviction. Its
  misses must be those of the same LRU without libCacheSim.
"""

import random
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy

from .side_by_side import Job

VCPUS = 8
_HOLD_NS = 100
_HANDOFF_NS = 100
_OBJECTS = 20_000
_CAPACITY = 1_000


def simpy_lock(operations: int) -> Job:
    """Eight vCPUs that compute, queue for a lock, hold it, and start again.

    Raises:
        NotImplementedError: simpy is not installed.
    """
    try:
        import simpy
    except ImportError:
        raise NotImplementedError("simpy is not installed: pip install simpy") from None
    each = operations // VCPUS
    thinking = [[random.Random(cpu).randrange(2000) for _ in range(each)] for cpu in range(VCPUS)]
    environment = simpy.Environment()
    lock = simpy.Resource(environment, capacity=1)
    waited: list[float] = [0]
    holder = [-1]

    def vcpu(number: int) -> Any:
        for think_ns in thinking[number]:
            yield environment.timeout(think_ns)
            asked = environment.now
            with lock.request() as request:
                yield request
                waited[0] += environment.now - asked
                handoff = _HANDOFF_NS if holder[0] != number else 0
                holder[0] = number
                yield environment.timeout(handoff + _HOLD_NS)

    for number in range(VCPUS):
        environment.process(vcpu(number))

    def end() -> float:
        expected = _fifo_wait_ns(thinking)
        if waited[0] != expected:
            raise RuntimeError(f"simpy waited {waited[0]} ns where a FIFO lock takes {expected}")
        return waited[0]

    return Job(environment.run, each * VCPUS, end)


def _fifo_wait_ns(thinking: list[list[int]]) -> int:
    """How long all wait together: the lock is one number, when it is free again."""
    import heapq

    free_ns = waited = order = 0
    holder = -1
    queue = [(times[0], number, number, 0) for number, times in enumerate(thinking)]
    heapq.heapify(queue)
    order = len(queue)
    while queue:
        asked, _, number, index = heapq.heappop(queue)
        granted = max(asked, free_ns)
        waited += granted - asked
        free_ns = granted + _HOLD_NS + (_HANDOFF_NS if number != holder else 0)
        holder = number
        if index + 1 < len(thinking[number]):
            order += 1
            heapq.heappush(queue, (free_ns + thinking[number][index + 1], order, number, index + 1))
    return waited


class _Lru:
    """The state of an LRU policy in Python."""

    def __init__(self) -> None:
        self.order: OrderedDict[int, None] = OrderedDict()
        self.misses = 0


def plugin_cache(requests: int) -> Job:
    """An LRU cache of libCacheSim whose every decision is a Python hook.

    Raises:
        NotImplementedError: libcachesim is not installed.
    """
    try:
        import libcachesim
    except ImportError:
        raise NotImplementedError("libcachesim is not installed: pip install libcachesim") from None
    draws = numpy.random.PCG64(1).random_raw(requests) >> numpy.uint64(32)
    objects = (draws * numpy.uint64(_OBJECTS) >> numpy.uint64(32)) + numpy.uint64(1)
    record = numpy.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    trace = numpy.zeros(requests, dtype=record)
    trace["time"], trace["id"], trace["size"], trace["next"] = 1, objects, 1, -2
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, "requests.oracleGeneral")
    trace.tofile(path)
    lru = _Lru()

    def hit(state: _Lru, request: Any) -> None:
        state.order.move_to_end(request.obj_id)

    def miss(state: _Lru, request: Any) -> None:
        state.misses += 1
        state.order[request.obj_id] = None

    def evict(state: _Lru, request: Any) -> int:
        return state.order.popitem(last=False)[0]

    def remove(state: _Lru, identity: int) -> None:
        state.order.pop(identity, None)

    cache = libcachesim.PluginCache(
        _CAPACITY, lambda _: lru, hit, miss, evict, remove, lambda _: None, hashpower=16
    )
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)

    def end() -> float:
        folder.cleanup()
        expected = _lru_misses(objects.tolist())
        if lru.misses != expected:
            raise RuntimeError(f"libCacheSim missed {lru.misses} times, an LRU {expected}")
        return lru.misses

    return Job(lambda: cache.process_trace(reader), requests, end)


def _lru_misses(objects: list[int]) -> int:
    order: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for identity in objects:
        if identity in order:
            order.move_to_end(identity)
            continue
        misses += 1
        order[identity] = None
        if len(order) > _CAPACITY:
            order.popitem(last=False)
    return misses
