"""Keys of the records that a view reads for its requests, all of them one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headrace.core.columns import Column, IntArray
from headrace.core.keys import JoinedKeys, NumberKeys, key_encoder
from headrace.core.schema import DType
from headrace.retrieval.binding import BoundSource

_NUMBERS = ((DType.INT,), (DType.TIMESTAMP,))


class RecordKeys:
    """Makes the keys that the bindings of a view read."""

    def __init__(self, sources: Sequence[BoundSource]) -> None:
        self._sources = [
            (
                tuple(source.binding.request_keys),
                key_encoder(source.key_dtypes, source.version),
                NumberKeys([(source.key_dtypes[0], source.version)]) if source.key_dtypes in _NUMBERS else None,
            )
            for source in sources
        ]
        self._fields = sorted({name for named, _, _ in self._sources for name in named})
        # Mostly all keys are numbers, and are made in one go.
        self._numbers: NumberKeys | None = None
        if sources and all(numbers is not None for _, _, numbers in self._sources):
            self._numbers = NumberKeys([(source.key_dtypes[0], source.version) for source in sources])
        self._named = [named[0] for named, _, _ in self._sources if named]
        self._in_turn = np.arange(len(sources)).reshape(1, -1)

    def of(self, request: Mapping[str, Column], n: int) -> tuple[JoinedKeys, IntArray]:
        """The keys for `n` requests, and which of them each binding of each row reads [n, bindings] (-1: none).

        A key is named as often as it is read.
        """
        if self._numbers is not None:
            columns = [request[name] for name in self._named]
            if not [column for column in columns if column.valid is not None]:
                if n == 1:
                    return self._numbers.of_row([column.values.item() for column in columns]), self._in_turn
                keys = self._numbers.of_rows([column.values for column in columns])
                return keys, np.ascontiguousarray(np.arange(len(keys)).reshape(len(columns), n).T)
        return self._of_one(request) if n == 1 else self._of_many(request, n)

    def _of_one(self, request: Mapping[str, Column]) -> tuple[JoinedKeys, IntArray]:
        plain = {}
        for name in self._fields:
            column = request[name]
            plain[name] = column.values.item() if column.valid is None or column.valid[0] else None
        keys: list[bytes] = []
        places: list[int] = []
        for named, encode, _ in self._sources:
            parts = tuple([plain[name] for name in named])
            if None in parts:
                places.append(-1)
                continue
            places.append(len(keys))
            keys.append(encode(parts))
        return JoinedKeys.of(keys), np.array([places], np.int64)

    def _of_many(self, request: Mapping[str, Column], n: int) -> tuple[JoinedKeys, IntArray]:
        joined: list[bytes] = []
        sizes = [np.zeros(0, np.int64)]
        places = np.empty((len(self._sources), n), np.int64)
        so_far = 0
        for b, (named, encode, numbers) in enumerate(self._sources):
            if numbers is not None and request[named[0]].valid is None:
                made = numbers.of_rows([request[named[0]].values])
                places[b] = np.arange(so_far, so_far + n)
            else:
                rows = zip(*[request[name].to_pylist() for name in named], strict=True) if named else [()] * n
                keys = [None if None in parts else encode(parts) for parts in rows]
                made = JoinedKeys.of([key for key in keys if key is not None])
                there = np.array([key is not None for key in keys], np.bool_)
                places[b] = np.where(there, np.cumsum(there) + (so_far - 1), -1)
            joined.append(made.joined)
            sizes.append(made.sizes)
            so_far += len(made)
        return JoinedKeys(b"".join(joined), np.concatenate(sizes)), np.ascontiguousarray(places.T)


__all__ = ["RecordKeys"]
