"""The data file of an LMDB environment, mapped for reading beside LMDB's own map."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

FOUND, STALE, UNKNOWN = range(3)
"""What became of a look-up in mapped pages: done; the snapshot's meta page has been written over since; the file is
laid out in another way."""
_PROT_READ, _MAP_SHARED = 1, 1


class PageMap:
    """The data file of an environment, mapped for reading as far as it may ever grow.

    Attributes:
        address: where the file begins in memory.
        size: bytes that may be read at most, and as far as the file goes.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Raises OSError if the file cannot be opened or mapped."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.size = size
        arguments = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
        self._libc.mmap.argtypes, self._libc.mmap.restype = arguments, ctypes.c_void_p
        self._libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            address = self._libc.mmap(None, size, _PROT_READ, _MAP_SHARED, file, 0)
        finally:
            os.close(file)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        self.address: Final = int(address)

    def close(self) -> None:
        """Give the address space back; nobody may use the address any more."""
        self._libc.munmap(self.address, self.size)


def map_pages(path: Path, size: int) -> PageMap | None:
    """The mapped file; None where that is not possible: no POSIX, 32 bits, other byte order, no address space."""
    if os.name != "posix" or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return None
    try:
        return PageMap(path, size)
    except OSError:
        return None
