"""Look-ups of many keys at once in the file of an LMDB environment, compiled.

LMDB looks up one key after the other, and each waits for memory some ten times: for a page of the tree, a key in it,
the record. Here all keys go down the tree side by side, and what a key needs next is asked of memory before it is
needed, so that they wait together. The walk reads the tree of a snapshot that a read transaction of LMDB's own holds,
as LMDB 0.9 lays it out (`lmdb.h`, `mdb.c`: data version 1, 64 bits). A file that is laid out in another way it leaves
to LMDB.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from headrace.core.lmdb_map import FOUND, STALE, UNKNOWN

_MAGIC, _VERSION = 0xBEEFC0DE, 1
# Bytes of a page before what it holds, and where the header says what it is and how far its list of nodes goes.
_HEADER, _FLAGS, _LOWER = 16, 10, 12
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
# Of a meta page: the size of pages; flags, depth and root of the main tree; its last page; its transaction.
_PAGE_SIZE, _TREE_FLAGS, _DEPTH, _ROOT, _LAST, _TRANSACTION = 40, 92, 94, 128, 136, 144
# Of a node: what its key follows; flags of a value that lies on pages of its own, or is no plain value.
_NODE, _BIG, _OTHER = 8, 1, 6
_MOST_LEVELS = 32
_SIDE_BY_SIDE: Final = 32
"""Keys that go down the tree together: so many that memory is busy, and what they need stays near."""
_LINE = 64
_SPREAD: Final = 0x9E3779B97F4A7C1
"""Odd, with bits all over: places that lie side by side come to slots far apart."""


def _loader(bits: int) -> Any:
    """A compiled function that loads so many bits from any address, as an int64."""

    def load(typingctx, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            value = builder.load(pointer, align=1)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return types.int64(types.int64), codegen

    return intrinsic(load)


def _swapped(typingctx, word):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bswap(args[0])

    return types.uint64(types.int64), codegen


def _prefetched(typingctx, address):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [builder.inttoptr(args[0], byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


_load1, _load2, _load4, _load8 = _loader(8), _loader(16), _loader(32), _loader(64)
_in_order: Any = intrinsic(_swapped)
"""Eight loaded bytes as a number that compares as the bytes do."""
_ask_for: Any = intrinsic(_prefetched)
"""Has memory bring what lies at an address, which may be any, and does not wait."""


@njit(cache=True, inline="always")
def _compare(one, one_size, two, two_size):  # type: ignore[no-untyped-def]
    """Below, at or above 0 as the bytes at address `one` are less than, equal to or greater than those at `two`."""
    common = min(one_size, two_size)
    at = 0
    while at + 8 <= common:
        a, b = _load8(one + at), _load8(two + at)
        if a != b:
            return -1 if _in_order(a) < _in_order(b) else 1
        at += 8
    if at < common and common >= 8:
        # The last eight, of which some are known to be equal.
        a, b = _load8(one + common - 8), _load8(two + common - 8)
        if a != b:
            return -1 if _in_order(a) < _in_order(b) else 1
    elif at < common:
        while at < common:
            a, b = _load1(one + at), _load1(two + at)
            if a != b:
                return -1 if a < b else 1
            at += 1
    return one_size - two_size


@njit(cache=True, inline="always")
def _nodes(page):  # type: ignore[no-untyped-def]
    """How many nodes a page has."""
    return (_load2(page + _LOWER) - _HEADER) >> 1


@njit(cache=True, inline="always")
def _node(page, index):  # type: ignore[no-untyped-def]
    """Where in a page a node begins."""
    return _load2(page + _HEADER + 2 * index)


@njit(cache=True, inline="always")
def _not_after(page, page_size, low, nodes, key, size):  # type: ignore[no-untyped-def]
    """Of the sorted nodes from `low` on, the place after the last whose key is not greater, and if it is equal.

    A place of -1 is that of a node that does not lie within its page.
    """
    high = nodes
    while low < high:
        middle = (low + high) >> 1
        node = _node(page, middle)
        if node > page_size - _NODE:
            return -1, False
        has = _load2(page + node + 6)
        if node + _NODE + has > page_size:
            return -1, False
        order = _compare(key, size, page + node + _NODE, has)
        if order == 0:
            return middle + 1, True
        if order > 0:
            low = middle + 1
        else:
            high = middle
    return low, False


@njit(cache=True, inline="always")
def _sound(page, page_size, kind):  # type: ignore[no-untyped-def]
    """True if a page is of that kind and its nodes lie within it."""
    lower = _load2(page + _LOWER)
    return _load2(page + _FLAGS) & ~16 == kind and _HEADER < lower <= page_size and lower & 1 == 0


@njit(cache=True, nogil=True)
def find_records(base, mapped, transaction, keys, sizes):  # type: ignore[no-untyped-def]
    """Look up keys, one after another in `keys` with `sizes` bytes each, in the main tree of a snapshot.

    `base` is where the file is mapped, `mapped` bytes at most, and `transaction` the number of a read transaction that
    is open. Returns what
    became of it (FOUND, STALE, UNKNOWN), the words of the records found one after another, each from a word of its own
    on, where each key's record begins among them (-1: there is none), and how many bytes it has.
    """
    n = len(sizes)
    begins = np.full(n, -1, np.int64)
    lengths = np.zeros(n, np.int64)
    nothing = np.zeros(1, np.int64)
    page_size = _load4(base + _PAGE_SIZE)
    if _load4(base + _HEADER) != _MAGIC or _load4(base + _HEADER + 4) != _VERSION:
        return UNKNOWN, nothing, begins, lengths
    if page_size & (page_size - 1) or not 256 <= page_size <= min(1 << 16, mapped >> 1):
        return UNKNOWN, nothing, begins, lengths
    meta = base + (transaction & 1) * page_size
    # The root may be that of the next snapshot but one, just being written: its pages are kept as long as ours are.
    flags, depth, root, last = (
        _load2(meta + _TREE_FLAGS), _load2(meta + _DEPTH), _load8(meta + _ROOT), _load8(meta + _LAST),
    )  # fmt: skip
    if _load8(meta + _TRANSACTION) != transaction:
        return STALE, nothing, begins, lengths
    if root == -1:
        return FOUND, nothing, begins, lengths
    end_of_file = (last + 1) * page_size
    if flags != 0 or not 1 <= depth <= _MOST_LEVELS or not 2 <= root <= last or not 0 < last < mapped // page_size:
        return UNKNOWN, nothing, begins, lengths
    wanted = np.empty(n, np.int64)
    at = keys.ctypes.data
    for k in range(n):
        wanted[k] = at
        at += sizes[k]
        if sizes[k] < 1:
            return UNKNOWN, nothing, begins, lengths
    places = np.empty(n, np.int64)
    for first in range(0, n, _SIDE_BY_SIDE):
        end = min(n, first + _SIDE_BY_SIDE)
        for k in range(first, end):
            places[k] = base + root * page_size
        for _ in range(depth - 1):
            for k in range(first, end):
                page = places[k]
                if not _sound(page, page_size, _BRANCH):
                    return UNKNOWN, nothing, begins, lengths
                # The first key of such a page stands for all that are less.
                after, _ = _not_after(page, page_size, 1, _nodes(page), wanted[k], sizes[k])
                node = _node(page, after - 1) if after > 0 else page_size
                if node > page_size - _NODE:
                    return UNKNOWN, nothing, begins, lengths
                child = _load4(page + node) | _load2(page + node + 4) << 32
                if not 2 <= child <= last:
                    return UNKNOWN, nothing, begins, lengths
                places[k] = base + child * page_size
                _ask_for(places[k])
        for k in range(first, end):
            page = places[k]
            if not _sound(page, page_size, _LEAF):
                return UNKNOWN, nothing, begins, lengths
            nodes = _nodes(page)
            for index in range(min(nodes, 16)):
                _ask_for(page + _node(page, index if nodes <= 16 else index * nodes >> 4))
        for k in range(first, end):
            page = places[k]
            after, equal = _not_after(page, page_size, 0, _nodes(page), wanted[k], sizes[k])
            if after < 0:
                return UNKNOWN, nothing, begins, lengths
            places[k] = 0
            if not equal:
                continue
            node = page + _node(page, after - 1)
            flags, lengths[k] = _load2(node + 4), _load4(node)
            place = node + _NODE + sizes[k]
            if flags & _OTHER:
                return UNKNOWN, nothing, begins, lengths
            if flags & _BIG:
                big = _load8(place) if place + 8 <= page + page_size else np.int64(0)
                if not 2 <= big <= last:
                    return UNKNOWN, nothing, begins, lengths
                place = base + big * page_size + _HEADER
                if place + lengths[k] > base + end_of_file:
                    return UNKNOWN, nothing, begins, lengths
            elif place + lengths[k] > page + page_size:
                return UNKNOWN, nothing, begins, lengths
            places[k] = place
            for ahead in range(0, min(lengths[k], 16 * _LINE), _LINE):
                _ask_for(place + ahead)
    # A record that several keys name is there once: of a hot one, or of a group with no key, there could be very many.
    slots = 16
    while slots < 2 * n:
        slots *= 2
    taken = np.full(slots, -1, np.int64)
    total = 0
    for k in range(n):
        if not places[k]:
            continue
        slot = ((places[k] >> 3) * _SPREAD >> 24) & (slots - 1)
        while taken[slot] >= 0 and places[taken[slot]] != places[k]:
            slot = (slot + 1) & (slots - 1)
        if taken[slot] < 0:
            taken[slot] = k
            begins[k] = total
            total += (lengths[k] + 7) >> 3
        else:
            begins[k], places[k] = begins[taken[slot]], 0
    words = np.empty(max(total, 1), np.int64)
    for k in range(n):
        if not places[k]:
            continue
        place, to, whole = places[k], begins[k], lengths[k] >> 3
        for word in range(whole):
            words[to + word] = _load8(place + 8 * word)
        rest = np.int64(0)
        for byte in range(lengths[k] & 7):
            rest |= _load1(place + 8 * whole + byte) << 8 * byte
        if lengths[k] & 7:
            words[to + whole] = rest
    return FOUND, words, begins, lengths
