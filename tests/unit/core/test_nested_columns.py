"""Lists and maps, as aggregations give them, through Arrow, pandas, Polars, JSON and the prediction log."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headrace.app.rows import python_value, python_values
from headrace.core.arrow import ARROW_TYPES, from_arrow, to_arrow
from headrace.core.columns import Column, column_of, nulls
from headrace.core.schema import SCALARS, DType, list_of, map_of
from headrace.monitoring.skew import compare
from headrace.retrieval.prediction_blocks import ScoredBlock, decode_stored, encode_predictions
from headrace.retrieval.rows import FeatureBlock, Rows
from headrace.serving.openapi import _TYPES
from headrace.serving.replies import feature_rows

AT_US = 1_767_312_000_000_000
AT = datetime(2026, 1, 2, tzinfo=timezone.utc)
ONE: dict[DType, Any] = {
    DType.INT: 2**60,
    DType.FLOAT: 0.1,
    DType.BOOL: True,
    DType.STRING: "é",
    DType.TIMESTAMP: AT_US,
    DType.DURATION: 90,
}
NESTED = sorted(dtype for dtype in DType if dtype.is_nested)


def sample(dtype: DType) -> list[Any]:
    """A value, an empty one, a null, and of a map one with a null item."""
    if len(dtype.parts) == 1:
        return [[ONE[dtype.parts[0]]] * 2, [], None]
    key, item = (ONE[part] for part in dtype.parts)
    return [{key: item}, {}, None, {key: None}]


def test_every_scalar_has_its_list_and_its_counts() -> None:
    for dtype in SCALARS:
        assert list_of(dtype).parts == (dtype,)
        assert map_of(dtype, DType.INT).parts == (dtype, DType.INT)
        assert not dtype.is_nested
    assert (DType.STRING.is_object, DType.LIST.is_object, DType.INT.is_object) == (True, True, False)


@pytest.mark.parametrize("dtype", NESTED)
def test_arrow_and_back(dtype: DType) -> None:
    column = column_of(dtype, sample(dtype))
    array = to_arrow(column)
    assert array.type == ARROW_TYPES[dtype]
    assert from_arrow(array, dtype).to_pylist() == column.to_pylist() == sample(dtype)
    assert to_arrow(nulls(dtype, 2)).null_count == 2
    assert column.take(np.array([2, 0])).to_pylist() == [None, sample(dtype)[0]]


def test_lists_of_one_length_stay_lists() -> None:
    column = column_of(DType.LIST_INT, [[1, 2], [3, 4]])
    assert column.values.shape == (2,)
    assert column.to_pylist() == [[1, 2], [3, 4]]


def test_rows_leave_as_arrow_pandas_and_polars() -> None:
    rows = Rows(
        {
            "seen": column_of(DType.LIST_TIMESTAMP, [[AT_US], []]),
            "shops": column_of(DType.MAP_STRING_INT, [{"a": 1, "b": 2}, None]),
        }
    )
    assert rows.to_arrow().schema.field("shops").type == pa.map_(pa.string(), pa.int64())
    assert rows.to_pandas()["shops"].tolist() == [[("a", 1), ("b", 2)], None]
    assert rows.to_polars()["seen"].to_list() == [[AT], []]
    assert pl.DataFrame(rows.to_polars()).height == 2


def test_python_values_have_times_as_times() -> None:
    assert python_value([AT_US], DType.LIST_TIMESTAMP) == [AT]
    assert python_value({AT_US: 90, 0: None}, DType.MAP_TIMESTAMP_DURATION) == {
        AT: timedelta(microseconds=90),
        datetime(1970, 1, 1, tzinfo=timezone.utc): None,
    }
    column = column_of(DType.MAP_STRING_FLOAT, [None, {"a": 0.5}])
    assert [python_values({"x": column}, row)["x"] for row in (0, 1)] == [None, {"a": 0.5}]


def block_of(**columns: Column) -> FeatureBlock:
    n = len(next(iter(columns.values())))
    valid = np.stack([column.mask() for column in columns.values()], axis=1)
    dtypes = tuple(column.dtype for column in columns.values())
    return FeatureBlock(tuple(columns), dtypes, np.zeros((n, len(columns)), np.int64), valid, columns)


def test_json_has_objects_with_text_keys() -> None:
    block = block_of(
        ints=column_of(DType.MAP_INT_INT, [{-7: 3}]),
        floats=column_of(DType.MAP_FLOAT_INT, [{0.5: 1}]),
        flags=column_of(DType.MAP_BOOL_FLOAT, [{False: None, True: 1.5}]),
        times=column_of(DType.MAP_TIMESTAMP_TIMESTAMP, [{AT_US: AT_US, 0: None}]),
        texts=column_of(DType.MAP_STRING_DURATION, [{"a": 90}]),
        seen=column_of(DType.LIST_TIMESTAMP, [[AT_US]]),
        last=column_of(DType.LIST_FLOAT, [[0.1, 2.0]]),
        none=column_of(DType.LIST_STRING, [None]),
    )
    (row,) = feature_rows(block)
    assert msgspec.json.decode(msgspec.json.encode(row)) == {
        "ints": {"-7": 3},
        "floats": {"0.5": 1},
        "flags": {"false": None, "true": 1.5},
        "times": {"2026-01-02T00:00:00Z": "2026-01-02T00:00:00Z", "1970-01-01T00:00:00Z": None},
        "texts": {"a": 90},
        "seen": ["2026-01-02T00:00:00Z"],
        "last": [0.1, 2.0],
        "none": None,
    }


@pytest.mark.parametrize("dtype", NESTED)
def test_the_prediction_log_keeps_them_and_the_audit_compares_them(dtype: DType) -> None:
    values = sample(dtype)
    served = block_of(x=column_of(dtype, values))
    n = len(values)
    block = ScoredBlock(
        "m",
        [f"p{i}" for i in range(n)],
        [None] * n,
        np.zeros(n, np.int64),
        0,
        {},
        served,
        {1: np.zeros(n)},
        1,
        "v",
        "1",
    )
    stored = decode_stored(encode_predictions(block)).objects["x"]
    assert stored == values
    assert compare(block.ids, block_of(x=column_of(dtype, stored)), served).differing == 0
    assert compare(block.ids, block_of(x=column_of(dtype, [values[1], *stored[1:]])), served).differing == 1
    assert compare(block.ids, block_of(x=column_of(dtype, [None, *stored[1:]])), served).differing == 1


@pytest.mark.parametrize("dtype", NESTED)
def test_the_description_of_the_service_knows_them(dtype: DType) -> None:
    assert _TYPES[dtype]["type"] == ("array" if len(dtype.parts) == 1 else "object")
