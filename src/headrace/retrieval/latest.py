"""Rows of tables over history: which one holds for each request, and its values, a column at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from headrace.aggregations.latest import latest_rows, order_ties, take_words
from headrace.aggregations.runs import sort_runs
from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, Column, IntArray
from headrace.core.schema import DType
from headrace.features.plan import TablePlan
from headrace.retrieval.asked import Asked, AskedKeys, frozen, ints
from headrace.retrieval.binding import BoundSource
from headrace.retrieval.past import AVAILABLE, DELETED, EVENT_TIME, ORDER, Known

_NO_GAPS = np.ones(1, np.bool_)


def read_latest(
    source: BoundSource,
    table: TablePlan,
    past: Known,
    asked: Asked,
    limits: IntArray,
    words: IntArray,
    valid: BoolArray,
) -> Mapping[str, Column]:
    """Read a table for each row that asks, into `words` and `valid` [features, rows].

    `limits` are the first write orders not known, by row (negative: all are). Returned are the features that are no
    words: texts and lists.
    """
    t, n = asked.t, len(asked.t)
    rows = None
    if n:
        # A row that the time to live hides at every t may be left out: those it replaced are hidden as well.
        since = None if table.ttl_us is None else int(t.min()) - table.ttl_us
        rows = past.rows(table, since, None if table.schema.time_field is None else int(t.max()))
    if rows is None or not rows.num_rows:
        valid[:] = False
        words[:] = 0
        return {}
    keys = asked.keys(source.binding.request_keys)
    chosen = _chosen(table, rows, keys, limits)
    objects: dict[str, Column] = {}
    for index, field in enumerate(table.features):
        if field.dtype in (DType.STRING, DType.LIST):
            places = pa.array(chosen, mask=chosen < 0)
            objects[field.name] = from_arrow(rows[field.name].combine_chunks().take(places), field.dtype, field.name)
            words[index] = 0
            valid[index] = objects[field.name].mask()
            continue
        array = rows[field.name].combine_chunks()
        gaps = array.null_count > 0
        present = np.asarray(array.is_valid()) if gaps else _NO_GAPS
        take_words(
            _bits(array, field.dtype), present, gaps, field.dtype is DType.FLOAT, chosen, words[index], valid[index]
        )
    return objects


def _chosen(table: TablePlan, rows: pa.Table, keys: AskedKeys, limits: IntArray) -> IntArray:
    """For each request the row that holds, by its place in `rows`; -1 for none."""
    codes = keys.codes_of([rows[part.name] for part in table.key], rows.num_rows)
    times, writes = ints(rows[EVENT_TIME]), ints(rows[ORDER])
    order, sorted_times, edges = sort_runs(codes, times, 0, keys.size + 1)
    if not order_ties(order, sorted_times, edges, writes):
        written = np.argsort(writes, kind="stable")
        order, sorted_times, edges = sort_runs(codes[written], frozen(times[written]), 0, keys.size + 1)
        order = written[order]
    chosen = np.empty(len(limits), np.int64)
    available, deleted = ints(rows[AVAILABLE]), np.array(rows[DELETED])
    latest_rows(
        order, sorted_times, edges, bool((available > times).any()), available, bool((limits >= 0).any()), writes,
        bool(deleted.any()), deleted, keys.order, keys.times, keys.edges,
        -1 if table.ttl_us is None else table.ttl_us, limits, chosen,
    )  # fmt: skip
    return chosen


def _bits(array: pa.Array, dtype: DType) -> IntArray:
    """The words of a column, read-only; what stands where it is null has no meaning."""
    wanted = pa.float64() if dtype is DType.FLOAT else pa.int64()
    if array.type != wanted:
        array = array.cast(wanted)
    if array.null_count:
        array = _filled(array)
    return frozen(np.asarray(array).view(np.int64))


def _filled(array: pa.Array) -> pa.Array:
    """The array's values without its nulls: the same memory, where a null has some value."""
    return pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)


__all__ = ["read_latest"]
