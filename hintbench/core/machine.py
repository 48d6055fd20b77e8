"""The loop: whoever has the lowest clock takes one step.

Order of steps at one virtual time: host, interrupt, task, then vCPUs by number.  The loop leaves
to Python only for events and for hooks that somebody implements.
"""

import cython

from hintbench.core.vcpu import place_words

if cython.compiled:
    from cython.cimports.cpython.exc import PyErr_CheckSignals
    from cython.cimports.hintbench.core.allocation import (
        after_slow_path,
        begin_allocation,
        direct_take_step,
        find_zone,
        refill_step,
        reserve_step,
    )
    from cython.cimports.hintbench.core.constants import (
        ALLOCATE,
        COMPUTE,
        FREE,
        IDLE,
        IDLE_UNTIL,
        MANY_VCPUS,
        NEVER,
        ORDER_MASK,
        PAYER_THREAD,
        SLOT_FAILED,
        TOUCH,
    )
    from cython.cimports.hintbench.core.directpath import run_direct
    from cython.cimports.hintbench.core.exact import exact_step
    from cython.cimports.hintbench.core.fastpath import look_ahead, run_fast
    from cython.cimports.hintbench.core.freeing import (
        begin_free,
        commit_free,
        direct_step,
        drain_step,
        end_free,
    )
    from cython.cimports.hintbench.core.handover import (
        finish_allocation,
        hand_over,
        touch_pages,
        wait_for_slot,
    )
    from cython.cimports.hintbench.core.preemption import Preemptions
    from cython.cimports.hintbench.core.simulation import Simulation
    from cython.cimports.hintbench.core.vcpu import (
        COMMIT_FREE,
        DIRECT_AGAIN,
        DIRECT_FREE,
        DIRECT_TAKE,
        DONE,
        DRAIN,
        DRAIN_AGAIN,
        EXACT,
        EXACT_AGAIN,
        FIND_ZONE,
        FINISH_ALLOCATION,
        FINISHED,
        HAND_OVER,
        IN_HOOK,
        READY,
        REFILL,
        RESERVE,
        SLOW_PATH,
        Vcpu,
    )
else:
    from hintbench.core.allocation import (
        after_slow_path,
        begin_allocation,
        direct_take_step,
        find_zone,
        refill_step,
        reserve_step,
    )
    from hintbench.core.constants import (
        ALLOCATE,
        COMPUTE,
        FREE,
        IDLE,
        IDLE_UNTIL,
        MANY_VCPUS,
        NEVER,
        ORDER_MASK,
        PAYER_THREAD,
        SLOT_FAILED,
        TOUCH,
    )
    from hintbench.core.directpath import run_direct
    from hintbench.core.exact import exact_step
    from hintbench.core.fastpath import look_ahead, run_fast
    from hintbench.core.freeing import (
        begin_free,
        commit_free,
        direct_step,
        drain_step,
        end_free,
    )
    from hintbench.core.handover import (
        finish_allocation,
        hand_over,
        touch_pages,
        wait_for_slot,
    )
    from hintbench.core.preemption import Preemptions
    from hintbench.core.simulation import Simulation
    from hintbench.core.vcpu import (
        COMMIT_FREE,
        DIRECT_AGAIN,
        DIRECT_FREE,
        DIRECT_TAKE,
        DONE,
        DRAIN,
        DRAIN_AGAIN,
        EXACT,
        EXACT_AGAIN,
        FIND_ZONE,
        FINISH_ALLOCATION,
        FINISHED,
        HAND_OVER,
        IN_HOOK,
        READY,
        REFILL,
        RESERVE,
        SLOW_PATH,
        Vcpu,
    )

# Declared, since a literal of more than 31 bits would be a Python object.
_CODE_MASK = cython.declare(cython.ulonglong, 0xFFFFFFFF)
_SIGNAL_CHECK_MASK = cython.declare(cython.longlong, 0xFFFF)


@cython.cfunc
def _touch(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """TOUCH: the owner touches all pages of a slot."""
    pfn: cython.int = sim.slots[vcpu.slot]
    order: cython.int
    before: cython.longlong
    if pfn < 0 and pfn != SLOT_FAILED:
        return wait_for_slot(sim, vcpu)
    vcpu.position += 1
    if pfn != SLOT_FAILED:
        order = sim.pages.state[pfn] & ORDER_MASK
        before = sim.backing.backed_pages(pfn, order)
        touch_pages(sim, vcpu, pfn, order, False)
        sim.backing.used.change(sim.clock.now, (1 << order) - before)
    return end_free(sim, vcpu)


@cython.cfunc
def _finish(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """The tape has ended."""
    vcpu.phase = FINISHED
    vcpu.idle = True
    sim.running -= 1
    vcpu.finished_ns = sim.clock.now
    if sim.clock.now > sim.last_ns:
        sim.last_ns = sim.clock.now
    return sim.block(vcpu)


@cython.cfunc
@cython.inline
def _next_operation(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """Start the operation at the tape's head, if its time has come."""
    word: cython.ulonglong
    code: cython.uint
    operation: cython.int
    when: cython.longlong = 0
    if vcpu.position >= vcpu.length and not vcpu.next_block():
        return _finish(sim, vcpu)
    vcpu.idle = False
    word = vcpu.words[vcpu.position]
    code = word & _CODE_MASK
    operation = code & 15
    if vcpu.timed:
        when = vcpu.times[vcpu.position]
    if operation == COMPUTE or operation == IDLE:
        vcpu.position += 1
        if operation == IDLE:
            vcpu.idle = True
            vcpu.idle_ns += when
        sim.clock.now += when
        return sim.requeue(vcpu)
    if when > sim.clock.now:
        # Recorded for later: until then the vCPU is idle.
        vcpu.idle = True
        vcpu.idle_ns += when - sim.clock.now
        sim.clock.now = when
        return sim.requeue(vcpu)
    vcpu.started = sim.clock.now
    look_ahead(sim, vcpu)
    if operation == ALLOCATE:
        vcpu.slot = word >> 32
        vcpu.order = (code >> 4) & 15
        vcpu.migratetype = (code >> 8) & 7
        vcpu.flags = code
        vcpu.position += 1
        return begin_allocation(sim, vcpu)
    if operation == FREE:
        vcpu.slot = word >> 32
        return begin_free(sim, vcpu)
    if operation == TOUCH:
        vcpu.slot = word >> 32
        return _touch(sim, vcpu)
    if operation == IDLE_UNTIL:
        # Its time has come, above.
        vcpu.position += 1
        return sim.requeue(vcpu)
    return exact_step(sim, vcpu)


@cython.cfunc
@cython.inline
def _step(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """Let one vCPU do what is next for it, at its sim.clock."""
    phase: cython.int = vcpu.phase
    sim.stepping = vcpu.number
    sim.clock.now = sim.winner.keys[vcpu.number]
    sim.clock.cpu = vcpu.number
    sim.clock.payer = PAYER_THREAD
    sim.clock.context = vcpu.number
    if vcpu.clearing:
        vcpu.clearing = False
        sim.clearing -= 1
    if phase == READY:
        return _next_operation(sim, vcpu)
    if phase == REFILL:
        return refill_step(sim, vcpu)
    if phase == DRAIN:
        return drain_step(sim, vcpu, False)
    if phase == HAND_OVER:
        return hand_over(sim, vcpu)
    if phase == DIRECT_TAKE:
        return direct_take_step(sim, vcpu)
    if phase == DIRECT_FREE:
        return direct_step(sim, vcpu, False)
    return _late_step(sim, vcpu, phase)


@cython.cfunc
def _late_step(sim: Simulation, vcpu: Vcpu, phase: cython.int) -> cython.int:
    """The phases that follow a hook which waited, and the rarer ones."""
    if phase == IN_HOOK:
        if not sim.driver.resume_hook(vcpu):
            return 0
        sim.clock.payer = PAYER_THREAD
        vcpu.phase = vcpu.after
        return _late_step(sim, vcpu, vcpu.phase)
    if phase == FIND_ZONE:
        return find_zone(sim, vcpu)
    if phase == RESERVE:
        return reserve_step(sim, vcpu)
    if phase == FINISH_ALLOCATION:
        return finish_allocation(sim, vcpu)
    if phase == COMMIT_FREE:
        return commit_free(sim, vcpu)
    if phase == DRAIN_AGAIN:
        return drain_step(sim, vcpu, True)
    if phase == DIRECT_AGAIN:
        return direct_step(sim, vcpu, True)
    if phase == SLOW_PATH:
        return after_slow_path(sim, vcpu)
    if phase == EXACT or phase == EXACT_AGAIN:
        return exact_step(sim, vcpu)
    if phase == DONE:
        return end_free(sim, vcpu)
    raise RuntimeError(f"vCPU {vcpu.number} has no step for phase {phase}")


@cython.ccall
def step_vcpu(sim: Simulation, number: cython.int) -> cython.int:
    """One step of one vCPU, whoever has the lowest clock.

    Also inside the step of another one, whose clock has been put off until then.

    Raises:
        RuntimeError: the vCPU itself is being stepped.
    """
    outer: cython.int = sim.stepping
    sim.check_stepping()
    if number == outer:
        raise RuntimeError(f"vCPU {number} is being stepped already")
    try:
        return _step(sim, cython.cast(Vcpu, sim.vcpus[number]))
    finally:
        sim.stepping = outer


@cython.ccall
def run_tapes(sim: Simulation) -> cython.bint:
    """Run until every tape has ended.

    Returns:
        False when nothing can run any more although tapes have not ended: they wait for each
        other, or for something that never comes.
    """
    first: cython.int
    key: cython.longlong
    delay: cython.longlong
    winner = sim.winner
    mask: cython.int = winner.leaves - 1
    preemptions: Preemptions = sim.clock.preemptions
    sim.check_stepping()
    if len(sim.vcpus) >= MANY_VCPUS and cython.cast(Vcpu, sim.vcpus[0]).room == 0:
        place_words(sim.vcpus)
    while sim.running > 0:
        first = winner.tree[1] & mask
        key = winner.keys[first]
        if sim.next_event_ns <= key:
            if sim.next_event_ns == NEVER:
                return False
            sim.run_event()
            continue
        vcpu: Vcpu = cython.cast(Vcpu, sim.vcpus[first])
        # After an operation of a higher order the next is expected to be one, too.
        if vcpu.order == 0:
            if vcpu.phase == READY and run_fast(sim):
                continue
        elif (sim.direct_orders >> vcpu.order) & 1 and run_direct(sim):
            continue
        sim.progress += 1
        if cython.compiled:
            if sim.progress & _SIGNAL_CHECK_MASK == 0:
                PyErr_CheckSignals()
        if preemptions is not None:
            delay = preemptions.at_step()
            if delay:
                winner.set(first, key + delay)
                continue
        _step(sim, vcpu)
    sim.stepping = -1
    return True


@cython.ccall
def run_until(sim: Simulation, until_ns: cython.longlong) -> cython.Py_ssize_t:
    """Let everybody take the steps that begin at ``until_ns`` or before; how many there were.

    Also inside a step of a vCPU whose clock has been put off until then.

    Raises:
        RuntimeError: that vCPU would be stepped inside its own step.
    """
    first: cython.int
    key: cython.longlong
    delay: cython.longlong
    steps: cython.longlong = 0
    outer: cython.int = sim.stepping
    winner = sim.winner
    mask: cython.int = winner.leaves - 1
    preemptions: Preemptions = sim.clock.preemptions
    sim.check_stepping()
    while True:
        first = winner.tree[1] & mask
        key = winner.keys[first]
        if sim.next_event_ns <= key:
            if sim.next_event_ns > until_ns:
                break
            sim.run_event()
            steps += 1
            continue
        if key > until_ns:
            break
        sim.progress += 1
        steps += 1
        if preemptions is not None:
            delay = preemptions.at_step()
            if delay:
                winner.set(first, key + delay)
                continue
        _step(sim, cython.cast(Vcpu, sim.vcpus[first]))
    sim.stepping = outer
    return steps
