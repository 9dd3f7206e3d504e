"""Rows of tables in the feature log without those of an entity; the others keep their offsets, their write order."""

from __future__ import annotations

import numpy as np

from headrace.core.columns import BoolArray
from headrace.core.tablerows import TableRows, decode_table_rows, encode_table_rows
from headrace.erasure.events import Edited
from headrace.erasure.subject import Subject
from headrace.features.plan import ProjectPlan


def erased_rows(payload: bytes, subject: Subject, plan: ProjectPlan) -> Edited | None:
    """A batch of rows without the entity's, and how many those were; None if it has none.

    Of a table that is not declared any more, rows go of which any part of the key is the erased one.
    """
    if not subject.may_be_in(payload):
        return None
    rows = decode_table_rows(payload)
    gone = _of_entity(rows, subject, plan)
    if not gone.any():
        return None
    left = np.flatnonzero(~gone)
    return Edited(
        encode_table_rows(
            TableRows(
                rows.table,
                rows.version,
                len(left),
                [rows.keys[row] for row in left.tolist()],
                rows.event_time_us[left],
                rows.available_us[left],
                {name: column.take(left) for name, column in rows.columns.items()},
                rows.deleted[left],
                rows.orders(0)[left],
            )
        ),
        int(gone.sum()),
    )


def rows_of(payload: bytes, base: int, subject: Subject, plan: ProjectPlan) -> list[int]:
    """The offsets of the entity's rows in a batch at `base`, for logs that cannot be edited."""
    rows = decode_table_rows(payload)
    found: list[int] = rows.orders(base)[_of_entity(rows, subject, plan)].tolist()
    return found


def _of_entity(rows: TableRows, subject: Subject, plan: ProjectPlan) -> BoolArray:
    table = plan.tables.get(rows.table)
    parts = None if table is None else [at for at, part in enumerate(table.key) if part.entity == subject.entity]
    return np.fromiter(
        (subject.value in (key if parts is None else [key[at] for at in parts]) for key in rows.keys), np.bool_, rows.n
    )
