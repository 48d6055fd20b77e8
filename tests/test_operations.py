"""Operation tapes: the packing of codes, and what is refused."""

import numpy as np
import pytest

from hintbench import operations
from hintbench.core import constants
from hintbench.operations import Flag, Migratetype, Operation, OperationBlock


def test_packing_is_as_the_core_reads_it():
    block = operations.allocate(
        [7, 8],
        order=[0, 9],
        migratetype=Migratetype.RECLAIMABLE,
        flags=Flag.ZERO | Flag.NO_KSWAPD,
        time_ns=123,
    )
    flags = constants.FLAG_ZERO | constants.FLAG_NO_KSWAPD
    assert block.code.tolist() == [flags | 2 << 8, flags | 2 << 8 | 9 << 4]
    assert block.value.tolist() == [7, 8]
    assert block.time_ns.tolist() == [123, 123]
    assert (block.code.dtype, block.value.dtype, block.time_ns.dtype) == (
        np.dtype("uint32"),
        np.dtype("int32"),
        np.dtype("int64"),
    )


def test_every_part_of_a_code_comes_back():
    for order in range(11):
        for migratetype in Migratetype:
            for flag in Flag:
                block = operations.allocate(0, order=order, migratetype=migratetype, flags=flag)
                assert block.operation.tolist() == [Operation.ALLOCATE]
                assert block.order.tolist() == [order]
                assert block.migratetype.tolist() == [migratetype]
                assert block.flags.tolist() == [flag]


def test_scalars_and_arrays_give_the_same():
    one = operations.concatenate([operations.free(3), operations.free([4])])
    both = operations.free(np.array([3, 4]))
    assert one.code.tolist() == both.code.tolist()
    assert one.value.tolist() == both.value.tolist()


def test_pauses_carry_their_duration():
    pauses = [operations.compute([5, 6]), operations.idle(7), operations.idle_until(8)]
    block = operations.concatenate(pauses)
    kinds = [Operation.COMPUTE, Operation.COMPUTE, Operation.IDLE, Operation.IDLE_UNTIL]
    assert block.operation.tolist() == kinds
    assert block.time_ns.tolist() == [5, 6, 7, 8]


def test_nothing_is_an_empty_block():
    assert len(operations.concatenate([])) == 0
    assert len(operations.free([])) == 0
    assert len(operations.allocate(np.arange(0), order=3)) == 0


def test_interleaving_alternates():
    block = operations.interleave(operations.free([1, 2]), operations.touch([3, 4]))
    assert block.value.tolist() == [1, 3, 2, 4]
    assert block.operation.tolist() == [Operation.FREE, Operation.TOUCH] * 2
    with pytest.raises(ValueError, match="blocks of 1 and 2 operations cannot alternate"):
        operations.interleave(operations.free([1]), operations.free([1, 2]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operations.allocate(0, order=11), r"order must be whole numbers in 0\.\.10"),
        (lambda: operations.allocate(0, order=1.5), "order must be whole numbers"),
        (lambda: operations.allocate(0, migratetype=4), r"migratetype must .* 0\.\.3"),
        (lambda: operations.allocate(0, flags=1), "flags must be made of Flag"),
        (lambda: operations.free(-1), "slots must be whole numbers"),
        (lambda: operations.free([0.5]), "slots must be whole numbers"),
        (lambda: operations.free(1 << 31), "slots must be whole numbers"),
        (lambda: operations.idle(-1), "duration_ns must be whole numbers"),
        (lambda: operations.idle_until(-1), "time_ns must be whole numbers"),
        (lambda: operations.free([1, 2], time_ns=-5), "time_ns must be whole numbers"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_block_checks_its_arrays():
    code, value, time_ns = (np.zeros(2, kind) for kind in ("uint32", "int32", "int64"))
    with pytest.raises(ValueError, match="code must be a one-dimensional array of uint32"):
        OperationBlock(code.astype("int64"), value, time_ns)
    with pytest.raises(ValueError, match="value must be a one-dimensional array of int32"):
        OperationBlock(code, value.reshape(1, 2), time_ns)
    with pytest.raises(ValueError, match="equally long"):
        OperationBlock(code, value, time_ns[:1])
