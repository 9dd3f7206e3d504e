"""Keys of the records that a view reads for its requests, all of them one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headrace.core.columns import Column, IntArray
from headrace.core.keys import JoinedKeys, join_numbers, key_encoder, numbers_joiner
from headrace.core.schema import DType
from headrace.retrieval.binding import BoundSource

_NUMBERS = ((DType.INT,), (DType.TIMESTAMP,))


class RecordKeys:
    """Makes the keys that the bindings of a view read."""

    def __init__(self, sources: Sequence[BoundSource]) -> None:
        self._sources = [
            (source, source.binding.request_keys, key_encoder(source.key_dtypes, source.version)) for source in sources
        ]
        self._fields = sorted({name for _, named, _ in self._sources for name in named})
        # Mostly all keys are numbers, and of one row they are made in one go.
        self._numbers = [named[0] for source, named, _ in self._sources if source.key_dtypes in _NUMBERS]
        self._all_numbers = len(self._numbers) == len(sources)
        if self._all_numbers:
            self._joined = numbers_joiner([(source.key_dtypes[0], source.version) for source in sources])
            self._in_turn = np.arange(len(sources)).reshape(1, -1)

    def of(self, request: Mapping[str, Column], n: int) -> tuple[JoinedKeys, IntArray]:
        """The keys for `n` requests, and which of them each binding of each row reads [n, bindings] (-1: none).

        A key is named as often as it is read.
        """
        return self._of_one(request) if n == 1 else self._of_many(request, n)

    def _of_one(self, request: Mapping[str, Column]) -> tuple[JoinedKeys, IntArray]:
        if self._all_numbers:
            columns = [request[name] for name in self._numbers]
            if not [column for column in columns if column.valid is not None]:
                return self._joined([column.values.item() for column in columns]), self._in_turn
        plain = {}
        for name in self._fields:
            column = request[name]
            plain[name] = column.values.item() if column.valid is None or column.valid[0] else None
        keys: list[bytes] = []
        places: list[int] = []
        for _, named, encode in self._sources:
            parts = tuple([plain[name] for name in named])
            if None in parts:
                places.append(-1)
                continue
            places.append(len(keys))
            keys.append(encode(parts))
        return JoinedKeys.of(keys), np.array([places], np.int64)

    def _of_many(self, request: Mapping[str, Column], n: int) -> tuple[JoinedKeys, IntArray]:
        joined: list[bytes] = []
        sizes: list[IntArray] = []
        places = np.empty((len(self._sources), n), np.int64)
        named_so_far = 0
        for b, (source, named, encode) in enumerate(self._sources):
            if source.key_dtypes in _NUMBERS and request[named[0]].valid is None:
                made = join_numbers(request[named[0]].values, source.key_dtypes[0], source.version)
                places[b] = np.arange(named_so_far, named_so_far + n)
            else:
                rows = zip(*[request[name].to_pylist() for name in named], strict=True) if named else [()] * n
                keys = [None if None in parts else encode(parts) for parts in rows]
                made = JoinedKeys.of([key for key in keys if key is not None])
                there = np.array([key is not None for key in keys], np.bool_)
                places[b] = np.where(there, np.cumsum(there) + (named_so_far - 1), -1)
            joined.append(made.joined)
            sizes.append(made.sizes)
            named_so_far += len(made)
        together = JoinedKeys(b"".join(joined), np.concatenate(sizes) if sizes else np.zeros(0, np.int64))
        return together, np.ascontiguousarray(places.T)


__all__ = ["RecordKeys"]
