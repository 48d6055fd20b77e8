"""Long traces: columns in temporary files, and imported files that are mapped."""

import numpy as np
import pytest

from hintbench.errors import TraceError
from hintbench.traces import SAMPLE, read_trace, save_trace
from hintbench.traces import columns as trace_columns
from hintbench.traces.columns import TraceColumns

LINE = "  a-1 [000] .... 1.%06d: mm_page_free: page=0x0 pfn=0x%x order=0\n"
NAMES = ("time_ns", "pfn", "flags", "aux", "pid", "cpu", "kind", "order", "migratetype")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text("".join(LINE % (number, number % 77) for number in range(5000)))
    return path


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def small_chunks(monkeypatch):
    monkeypatch.setattr("hintbench.traces.input._CHUNK_BYTES", 4096)
    monkeypatch.setattr(trace_columns, "MOST_ROWS_IN_MEMORY", 1000)


def test_a_long_text_goes_through_files(text, monkeypatch):
    expected = read_trace(text)
    small_chunks(monkeypatch)
    held = []
    spill = TraceColumns._spill
    monkeypatch.setattr(
        TraceColumns,
        "_spill",
        lambda self: (held.append(sum(len(part["kind"]) for part in self._parts)), spill(self)),
    )
    found = read_trace(text)
    assert same(found, expected)
    # Once the first thousand rows are through, never more than one chunk is held.
    assert len(held) > 20
    assert max(held[1:]) < 100
    # Columns can still be changed, as those of old kernels are.
    assert read_trace(text, "old").migratetype.tolist() == expected.migratetype.tolist()


def test_no_room_for_the_files(text, monkeypatch):
    small_chunks(monkeypatch)

    def refuse():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(TraceError, match=r"temporary files in .*: No space left.*TMPDIR"):
        read_trace(text)


def test_an_imported_trace_is_mapped(text, tmp_path):
    trace = read_trace(text)
    path = tmp_path / "imported"
    save_trace(trace, path)
    found = read_trace(path)
    assert same(found, trace)
    assert all(not getattr(found, name).flags.owndata for name in NAMES)
    # What is written to the columns is nobody else's.
    found.order[:] = 3
    assert same(read_trace(path), trace)


def test_a_compressed_one_is_still_read(text, tmp_path):
    trace = read_trace(text)
    path = tmp_path / "imported"
    save_trace(trace, path)
    with np.load(path) as arrays, open(tmp_path / "old", "wb") as file:
        np.savez_compressed(file, **{name: arrays[name] for name in arrays.files})
    assert same(read_trace(tmp_path / "old"), trace)


def test_a_damaged_column_is_noticed(text, tmp_path):
    path = tmp_path / "imported"
    save_trace(read_trace(text), path)
    content = bytearray(path.read_bytes())
    place = content.index(b"pfn.npy") + 5000
    content[place] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(TraceError, match="is not a whole imported trace"):
        read_trace(path)


def test_columns_of_a_saved_trace_can_be_mapped_by_any_core(tmp_path):
    # Compiled cores take numbers that begin anywhere; the interpreted one cannot.
    saved = tmp_path / "sample.trace"
    save_trace(read_trace(SAMPLE), saved)
    trace = read_trace(saved)
    for name in trace_columns.COLUMNS:
        column = getattr(trace, name)
        assert column.ctypes.data % column.itemsize == 0, name
        assert memoryview(column).format in "BbhHiIlL", name
        assert column.base is not None, "it was read, not mapped"
