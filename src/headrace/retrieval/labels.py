"""The truth of requests: labels joined to request ids, the latest event winning (design api rules, labels).

Whenever it happened: the truth of a request does not depend on which other requests are read with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.core.arrow import from_arrow
from headrace.core.columns import BoolArray, FloatArray, IntArray
from headrace.core.schema import Schema
from headrace.engines.stream.admitted import ARRIVAL, OFFSET, PARTITION
from headrace.features.evaluate import evaluate
from headrace.features.nodes import references
from headrace.features.plan import LabelPlan, ProjectPlan
from headrace.retrieval.history import below_positions, derive_again
from headrace.retrieval.past import Past


@dataclass(frozen=True, slots=True)
class Labels:
    """Truth per request: `values` float64 [n] (BOOL as 0 and 1), `known` bool [n], `known_us` int64 [n] its arrival."""

    values: FloatArray
    known: BoolArray
    known_us: IntArray


def label_fields(label: LabelPlan) -> list[str]:
    """Fields of the label's stream that a join needs."""
    where = references(label.where) if label.where is not None else set()
    return sorted({label.join_field, *references(label.node), *where})


def evaluate_labels(label: LabelPlan, project: ProjectPlan, rows: pa.Table) -> tuple[FloatArray, BoolArray]:
    """Label values of events of the label's stream: float64 [n], and which of them bring a truth: are not null, and
    meet the label's condition."""
    schema = project.stream(label.stream).schema
    scope = {name: from_arrow(rows[name], schema[name].dtype, name) for name in label_fields(label)}
    column = evaluate(label.node, scope, rows.num_rows)
    valid = column.mask()
    if label.where is not None:
        condition = evaluate(label.where, scope, rows.num_rows)
        valid = valid & condition.values & condition.mask()
    return column.values.astype(np.float64), valid


def event_order(schema: Schema, rows: pa.Table) -> IntArray:
    """Row numbers of events in their order: time, id, partition, offset (design 4.7)."""
    names = [schema.time_field or "", *([schema.id_field] if schema.id_field else []), PARTITION, OFFSET]
    return np.asarray(pc.sort_indices(rows, [(name, "ascending") for name in names])).astype(np.int64)


def labels_of(
    past: Past,
    project: ProjectPlan,
    label: LabelPlan,
    request_ids: Sequence[Any] | pa.Array,
    *,
    below: Mapping[str, list[int]] | None = None,
) -> Labels:
    """Join the truth to requests by id; `below` limits it to events below these positions of the label's stream."""
    derived, schema = project.derived.get(label.stream), project.stream(label.stream).schema
    fields = label_fields(label)
    if schema.id_field is not None:
        fields = sorted({*fields, schema.id_field})
    if derived is None or past.logged:
        rows = past.events(label.stream, fields)
    else:
        rows = derive_again(past, project, derived, fields, below=below)
    if below is not None:
        rows = rows.filter(below_positions(rows, below.get(label.stream, [])))
    values, valid = evaluate_labels(label, project, rows)
    valid &= np.asarray(rows[label.join_field].is_valid())
    rows, values = rows.filter(pa.array(valid)), values[valid]
    asked = pa.array(request_ids, rows[label.join_field].type)
    both = pa.chunked_array([*rows[label.join_field].chunks, asked], type=asked.type).combine_chunks()
    encoded = pc.dictionary_encode(both)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
    n = rows.num_rows
    order = event_order(schema, rows)
    latest = np.full(len(encoded.dictionary) + 1, -1, np.int64)
    # Assignment in event order: of several events of one request the last one stays.
    latest[codes[:n][order]] = order
    chosen = latest[codes[n:]]
    known = (chosen >= 0) & (codes[n:] >= 0)
    at = np.where(known, chosen, 0)
    arrivals = np.asarray(rows[ARRIVAL], dtype=np.int64)
    if not n:
        return Labels(np.full(len(asked), np.nan), known, np.zeros(len(asked), np.int64))
    return Labels(np.where(known, values[at], np.nan), known, np.where(known, arrivals[at], 0))
