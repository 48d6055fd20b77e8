"""The columns of a trace while it is read: in memory if it is short, in temporary files if not.

A trace of 50 million events has 1.7 GB of columns. In files that are mapped they take memory only
while somebody looks at them, and the system can have that back at any time.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.core.tracewords import COLUMNS
from hintbench.errors import TraceError

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_ROWS_IN_MEMORY: Final = 4_000_000

Columns = dict[str, Any]
_BLOCK_BYTES: Final = 1 << 20
_ALIGNMENT: Final = 64
_PADDING: Final = 0xD935
"""The extra field that zip files use for alignment."""
_ZIP64_BYTES: Final = 20
"""The extension for large files in a local header."""


class TraceColumns:
    """Collects the columns of a trace piece by piece.

    Attributes:
        rows: How many there are by now.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._parts: list[Columns] = []
        self._files: dict[str, IO[bytes]] = {}

    def add(self, part: Columns) -> None:
        """Append rows.

        Args:
            part: For each name in COLUMNS an array of its type, all equally long.

        Raises:
            TraceError: A temporary file cannot be written.
        """
        self.rows += len(part["kind"])
        self._parts.append(part)
        if self.rows > MOST_ROWS_IN_MEMORY:
            self._spill()

    def whole(self) -> Columns:
        """All rows: arrays, or maps of temporary files that vanish with them."""
        if not self._files:
            return {
                name: np.concatenate([part[name] for part in self._parts])
                if self._parts
                else np.empty(0, dtype=dtype)
                for name, dtype in COLUMNS.items()
            }
        self._spill()
        columns = {}
        for name, file in self._files.items():
            file.flush()
            columns[name] = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=COLUMNS[name])
            file.close()
        self._files.clear()
        return columns

    def _spill(self) -> None:
        """Move what is in memory to the files."""
        try:
            for name in COLUMNS:
                file = self._files.get(name)
                if file is None:
                    # It lives as long as this reading, and then as its map.
                    file = self._files[name] = tempfile.TemporaryFile()  # noqa: SIM115
                for part in self._parts:
                    file.write(part[name])
        except OSError as error:
            where = tempfile.gettempdir()
            raise TraceError(
                f"a long trace needs {self.rows * 33 >> 20} MiB for temporary files in {where}:"
                f" {error.strerror}; TMPDIR names another place"
            ) from error
        self._parts.clear()


def save_aligned(file: IO[bytes], **arrays: npt.NDArray[Any]) -> None:
    """As `numpy.savez`, but what is mapped later begins where numbers may begin.

    Args:
        file: Where to, from its beginning.
        arrays: By name.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            # Behind the fixed part, the name and the extension for large files stands padding; the
            # array's own header is a multiple of the alignment.
            header = file.tell() + 30 + len(member.filename) + _ZIP64_BYTES
            padding = -(header + 4) % _ALIGNMENT
            member.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
            with archive.open(member, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, array, allow_pickle=False)


def mapped(path: Path, name: str, archive: zipfile.ZipFile) -> Any | None:
    """One array of an uncompressed archive of numpy's, without reading it.

    What is written to it stays in memory.

    Args:
        path: The archive.
        name: The array's name.
        archive: The same, open.

    Returns:
        The array; None when it is compressed, not aligned, or empty, and must be read.

    Raises:
        KeyError: There is no such array.
        ValueError, zipfile.BadZipFile: It is damaged.
    """
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        if read is None:
            return None
        shape, _, dtype = read(file)
        header = file.tell()
        if len(shape) != 1 or dtype.hasobject or shape[0] == 0:
            return None
        if header + shape[0] * dtype.itemsize != member.file_size:
            raise ValueError(f"{name} is cut off")
        # Reading it to its end compares the checksum.
        while file.read(_BLOCK_BYTES):
            pass
    offset = _data_offset(path, member) + header
    if offset % dtype.alignment:
        return None
    return np.memmap(path, dtype=dtype, mode="c", offset=offset, shape=shape).view(np.ndarray)


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose length only it says."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\3\4":
        raise ValueError("a part of the archive does not begin where it should")
    name_length = int.from_bytes(header[26:28], "little")
    extra_length = int.from_bytes(header[28:30], "little")
    return member.header_offset + 30 + name_length + extra_length
