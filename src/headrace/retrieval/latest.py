"""Rows of tables over history: which one holds for each request, and its values, a column at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.aggregations.latest import latest_rows, order_ties, take_words
from headrace.aggregations.runs import sort_runs
from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, Column, IntArray, nulls
from headrace.core.schema import DType
from headrace.features.plan import TablePlan
from headrace.retrieval.asked import Asked, AskedKeys, frozen, ints
from headrace.retrieval.binding import BoundSource
from headrace.retrieval.past import AVAILABLE, DELETED, EVENT_TIME, ORDER, Known
from headrace.retrieval.spill import CODE, parts_by_key

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
    """Read a table for each row that asks, into `words` and `valid` [features, rows], which hold zeros and False.

    `limits` are the first write orders not known, by row (negative: all are). Returned are the features that are no
    words: texts and lists.
    """
    n = len(asked.t)
    objects = {f.name: nulls(f.dtype, n) for f in table.features if f.dtype in (DType.STRING, DType.LIST)}
    if not n:
        return objects
    keys = asked.keys(source.binding.request_keys)
    for low, high, rows, codes in _parts(table, past, asked, keys):
        if not rows.num_rows:
            continue
        chosen = _chosen(table, rows, codes, keys, low, high, limits)
        for index, field in enumerate(table.features):
            array = rows[field.name].combine_chunks()
            if field.name in objects:
                held, found = objects[field.name], chosen >= 0
                part = from_arrow(array.take(pa.array(chosen[found])), field.dtype, field.name)
                held.values[found] = part.values
                held.mask()[found] = part.mask()
                valid[index] = held.mask()
                continue
            gaps = array.null_count > 0
            present = np.asarray(array.is_valid()) if gaps else _NO_GAPS
            bits = _bits(array, field.dtype)
            take_words(bits, present, gaps, field.dtype is DType.FLOAT, chosen, words[index], valid[index])
    return objects


def _parts(
    table: TablePlan, past: Known, asked: Asked, keys: AskedKeys
) -> Iterator[tuple[int, int, pa.Table, npt.NDArray[np.int32]]]:
    """Rows by ranges of keys, `(low, high, rows, codes)`: one range of all, unless the history is too large."""
    since = until = None
    if table.schema.time_field is not None:
        until = int(asked.t.max())
        # A row that the time to live hides at every t may be left out: those it replaced are hidden as well.
        since = None if table.ttl_us is None else int(asked.t.min()) - table.ttl_us
    names = [part.name for part in table.key]

    def codes_of(rows: pa.Table) -> npt.NDArray[np.int32]:
        return keys.codes_of([rows[name] for name in names], rows.num_rows)

    most = past.most_rows(len(table.features))
    if past.count_rows(table, since, until) > most:
        batches = past.row_batches(table, names, since, until), past.row_batches(table, None, since, until)
        for low, high, rows in parts_by_key(*batches, codes_of, keys.size, most):
            yield low, high, rows, np.array(rows[CODE])
        return
    whole = past.rows(table, since, until)
    if whole is not None:
        yield 0, keys.size + 1, whole, codes_of(whole)


def _chosen(
    table: TablePlan,
    rows: pa.Table,
    codes: npt.NDArray[np.int32],
    keys: AskedKeys,
    low: int,
    high: int,
    limits: IntArray,
) -> IntArray:
    """For each request of the keys `low` to `high - 1` the row that holds, by its place in `rows`; -1 for none."""
    times, writes = ints(rows[EVENT_TIME]), ints(rows[ORDER])
    order, sorted_times, edges = sort_runs(codes, times, low, high)
    if not order_ties(order, sorted_times, edges, writes):
        written = np.argsort(writes, kind="stable")
        order, sorted_times, edges = sort_runs(codes[written], frozen(times[written]), low, high)
        order = written[order]
    chosen = np.full(len(limits), -1, np.int64)
    available, deleted = ints(rows[AVAILABLE]), np.array(rows[DELETED])
    latest_rows(
        order, sorted_times, edges, bool((available > times).any()), available, bool((limits >= 0).any()), writes,
        bool(deleted.any()), deleted, keys.order, keys.times, keys.edges[low : high + 1],
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
