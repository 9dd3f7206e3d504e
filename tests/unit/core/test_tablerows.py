"""Batches of table rows come back as they were written."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.core.columns import column_of
from headrace.core.errors import SchemaError
from headrace.core.events import EventBlock, encode_block
from headrace.core.schema import DType
from headrace.core.tablerows import TableRows, decode_table_rows, encode_table_rows
from headrace.core.time import NULL_US


@pytest.mark.parametrize("n", [1, 3, 100])
def test_a_batch_comes_back_as_it_was(n: int) -> None:
    rows = TableRows(
        "weather",
        "00ff00ff00ff00ff",
        n,
        [(f"k{i}", i, i % 2 == 0) for i in range(n)],
        np.arange(n, dtype=np.int64) - 2,
        np.full(n, NULL_US),
        {
            "wind": column_of(DType.FLOAT, [None if i % 3 else i / 7 for i in range(n)]),
            "gusts": column_of(DType.INT, [2**62 + i for i in range(n)]),
            "note": column_of(DType.STRING, [None if i % 2 else "ä" for i in range(n)]),
            "taste": column_of(DType.LIST, [[0.5, i] for i in range(n)]),
        },
        np.arange(n) % 2 == 1,
    )
    back = decode_table_rows(encode_table_rows(rows))
    assert (back.table, back.version, back.n, back.keys) == (rows.table, rows.version, n, rows.keys)
    assert back.event_time_us.tolist() == rows.event_time_us.tolist()
    assert back.available_us.tolist() == rows.available_us.tolist()
    assert back.deleted.tolist() == rows.deleted.tolist()
    for name, column in rows.columns.items():
        assert back.columns[name].dtype is column.dtype
        assert str(back.columns[name].to_pylist()) == str(column.to_pylist())


def test_other_bytes_are_refused() -> None:
    for payload in (b"", b"nonsense", encode_block(EventBlock(1, {"a": column_of(DType.INT, [1])}))):
        with pytest.raises(SchemaError, match="table rows"):
            decode_table_rows(payload)
