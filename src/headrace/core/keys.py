"""Entity keys: canonical bytes, compared by declared type, byte for byte (design 4.1).

A stored key is the parts (a type letter, the length, the bytes) and then the eight bytes of the version of the group or
table. Entity before group: records of one entity lie side by side.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.core.columns import IntArray
from headrace.core.schema import DType

_LONGEST = 480


def encode_part(value: Any, dtype: DType) -> bytes:
    """Bytes of one part of a key; `value` must not be None. Text is UTF-8; numbers are big-endian int64."""
    if dtype is DType.STRING:
        data = str(value).encode()
        letter = b"s"
    elif dtype is DType.BOOL:
        data, letter = (b"\x01" if value else b"\x00"), b"b"
    else:
        data, letter = int(value).to_bytes(8, "big", signed=True), b"t" if dtype is DType.TIMESTAMP else b"i"
    return letter + len(data).to_bytes(4, "big") + data


def entity_encoder(dtypes: Sequence[DType]) -> Callable[[tuple[Any, ...]], bytes]:
    """A function from the values of a key (none of them None) to bytes; the empty key is empty bytes."""
    types = tuple(dtypes)

    def encode(parts: tuple[Any, ...]) -> bytes:
        return b"".join([encode_part(value, dtype) for value, dtype in zip(parts, types, strict=True)])

    return encode


def decode_entity(data: bytes) -> tuple[Any, ...] | None:
    """The values of a key from its entity bytes; None of a long one, which a record's key holds but the hash of."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        letter, size = data[at : at + 1], int.from_bytes(data[at + 1 : at + 5], "big")
        part = data[at + 5 : at + 5 + size]
        at += 5 + size
        if at > len(data) or letter not in b"sbti":
            return None
        if letter == b"s":
            found.append(part.decode())
        else:
            number = int.from_bytes(part, "big", signed=letter != b"b")
            found.append(bool(number) if letter == b"b" else number)
    return tuple(found)


def key_encoder(dtypes: Sequence[DType], version: str) -> Callable[[tuple[Any, ...]], bytes]:
    """A function from the values of a key (none of them None) to the key of their online record; see `record_key`."""
    encode, end = entity_encoder(dtypes), _suffix(version)
    if tuple(dtypes) in ((DType.INT,), (DType.TIMESTAMP,)):
        head = encode_part(0, dtypes[0])[:-8]
        return lambda parts: head + parts[0].to_bytes(8, "big", signed=True) + end

    if tuple(dtypes) == (DType.STRING,):

        def text(parts: tuple[Any, ...]) -> bytes:
            data: bytes = parts[0].encode()
            if len(data) > _LONGEST - 5:
                return record_key(encode(parts), version)
            return b"s" + len(data).to_bytes(4, "big") + data + end

        return text

    def longer(parts: tuple[Any, ...]) -> bytes:
        entity = encode(parts)
        return entity + end if len(entity) <= _LONGEST else record_key(entity, version)

    return longer


@dataclass(frozen=True, slots=True)
class JoinedKeys:
    """Keys one after another: `sizes` are the bytes of each."""

    joined: bytes
    sizes: IntArray

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> JoinedKeys:
        """These keys."""
        return cls(b"".join(keys), np.fromiter(map(len, keys), np.int64, len(keys)))

    def __len__(self) -> int:
        return len(self.sizes)

    def __add__(self, other: JoinedKeys) -> JoinedKeys:
        return JoinedKeys(self.joined + other.joined, np.concatenate([self.sizes, other.sizes]))

    def listed(self) -> list[bytes]:
        """Each for itself."""
        ends = np.cumsum(self.sizes).tolist()
        return [self.joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class NumberKeys:
    """Makes joined keys of records whose entities are one number each, INT or TIMESTAMP; a kind is (type, version).

    Without a version they are entity bytes, as `entity_encoder` makes them, with one what `key_encoder` makes.
    """

    def __init__(self, kinds: Sequence[tuple[DType, str]]) -> None:
        heads = [encode_part(0, dtype)[:-8] for dtype, _ in kinds]
        ends = [_suffix(version) for _, version in kinds]
        self._at = len(heads[0])
        self._pack = struct.Struct(">" + "".join(f"{self._at}sq{len(end)}s" for end in ends)).pack
        self._blank = [part for head, end in zip(heads, ends, strict=True) for part in (head, 0, end)]
        blanks = [head + bytes(8) + end for head, end in zip(heads, ends, strict=True)]
        self._blanks = np.frombuffer(b"".join(blanks), np.uint8).reshape(len(kinds), 1, -1)
        self._sizes = np.array([len(blank) for blank in blanks], np.int64)

    def of_row(self, numbers: Sequence[int]) -> JoinedKeys:
        """The keys of one number of each kind."""
        parts = self._blank.copy()
        parts[1::3] = numbers
        return JoinedKeys(self._pack(*parts), self._sizes)

    def of_rows(self, numbers: Sequence[IntArray]) -> JoinedKeys:
        """The keys of a column of each kind, of equal lengths: all of the first kind, then all of the next."""
        table = self.table(numbers)
        return JoinedKeys(table.tobytes(), np.full(table.shape[0] * table.shape[1], table.shape[2]))

    def table(self, numbers: Sequence[IntArray]) -> npt.NDArray[np.uint8]:
        """Their bytes [kinds, rows, bytes]."""
        whole = np.array(numbers, ">i8")
        table = np.empty((*whole.shape, self._blanks.shape[2]), np.uint8)
        table[:] = self._blanks
        table[:, :, self._at : self._at + 8] = whole.view(np.uint8).reshape(*whole.shape, 8)
        return table


def encode_numbers(values: IntArray, dtype: DType, version: str = "") -> list[bytes]:
    """The keys of a column of numbers, each for itself; see `NumberKeys`."""
    table = NumberKeys([(dtype, version)]).table([values])
    found: list[bytes] = table.view(f"V{table.shape[2]}").ravel().tolist()
    return found


def record_keys(entities: Sequence[bytes], version: str) -> list[bytes]:
    """Keys of the online records of entities; see `record_key`."""
    end = _suffix(version)
    return [entity + end if len(entity) <= _LONGEST else record_key(entity, version) for entity in entities]


def record_key(entity: bytes, version: str) -> bytes:
    """Key of an online record: entity bytes (hashed beyond 480) and the version's eight bytes."""
    if len(entity) > _LONGEST:
        entity = entity[: _LONGEST - 33] + b"\xff" + hashlib.blake2b(entity, digest_size=32).digest()
    return entity + _suffix(version)


@lru_cache(maxsize=10_000)
def _suffix(version: str) -> bytes:
    return bytes.fromhex(version)
