"""The offline store without an entity: archived events, histories of tables, archived predictions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from headrace.erasure.events import erased_values
from headrace.erasure.subject import Fields, Subject, fields_of
from headrace.features.plan import ProjectPlan
from headrace.retrieval.predictions import FEATURE_PREFIX, REQUEST_ID, REQUEST_PREFIX
from headrace.retrieval.stored import WIDENED
from headrace.stores.offline.base import OfflineStore


@dataclass(frozen=True)
class ArchiveErasure:
    """Finds and edits what the offline store has of one entity, table by table."""

    plan: ProjectPlan
    offline: OfflineStore
    subject: Subject

    def count(self, table: str) -> int:
        """How many rows of a table are the entity's."""
        where = self._where(table)
        if where is None:
            return 0
        batches = self.offline.batches(table, self._columns(table))
        return sum(rows.filter(where).num_rows for rows in batches)

    def erase(self, table: str) -> int:
        """Edit or take out the entity's rows of a table, and whatever versions of it came before; returns how many."""
        where = self._where(table)
        if where is None:
            return 0
        found = self.offline.rewrite(table, where, lambda rows: self._changed(table, rows))
        self.offline.forget(table)
        return found

    def edited(self, table: str, rows: pa.Table) -> pa.Table:
        """Rows of the archive of a stream as they will be."""
        return self._events(fields_of(self.plan, table.partition("/")[2], self.subject.entity), rows)

    def _columns(self, table: str) -> list[str]:
        """The columns that tell whose a row is."""
        held = self.offline.columns(table)
        texts = [name for name, kind in held.items() if _is_text(kind)]
        kind, _, name = table.partition("/")
        if kind == "events":
            fields = fields_of(self.plan, name, self.subject.entity)
            if fields.declared:
                # An id of an erased event may stand in another event, which goes on without it.
                return [c for c in held if c in fields.roles or (c in fields.references and c in texts)]
            return self._texts(texts)
        if kind == "tables":
            declared = self.plan.tables.get(name.rpartition("-")[0])
            if declared is None:
                return self._texts([one for one in texts if not one.startswith("_")])
            return [p.name for p in declared.key if p.entity == self.subject.entity and p.name in held]
        if kind == "predictions":
            model = self.plan.models.get(name)
            views = () if model is None else self.plan.views_of(name)
            roles = {n for v in views for f in v.request if f.entity == self.subject.entity for n in f.names}
            own = [c for c in held if c.removeprefix(REQUEST_PREFIX) in roles and c.startswith(REQUEST_PREFIX)]
            named = [c for c in texts if c.startswith((REQUEST_PREFIX, FEATURE_PREFIX)) or c == REQUEST_ID]
            return list(dict.fromkeys([*own, *self._texts(named)]))
        return self._texts(texts)

    def _texts(self, names: Sequence[str]) -> list[str]:
        return list(names) if isinstance(self.subject.value, str) else []

    def _where(self, table: str) -> ds.Expression | None:
        """Which rows are meant; None if none can be."""
        held, kind = self.offline.columns(table), table.partition("/")[0]
        conditions = []
        for name in self._columns(table):
            field = pc.field(name)
            own = kind == "events" and name in fields_of(self.plan, table.partition("/")[2], self.subject.entity).roles
            if own or kind == "tables" or not _is_text(held[name]):
                if pa.types.is_integer(held[name]) == isinstance(self.subject.value, int):
                    conditions.append(field == pa.scalar(self.subject.value, held[name]))
            else:
                conditions.append(pc.match_substring_regex(field, self.subject.pattern))
        return reduce(operator.or_, [pc.coalesce(one, pc.scalar(False)) for one in conditions]) if conditions else None

    def _changed(self, table: str, rows: pa.Table) -> pa.Table:
        kind, _, name = table.partition("/")
        if kind == "tables":
            return rows.slice(0, 0)
        if kind == "predictions":
            return rows.filter(pa.array(~self._asked(rows, name)))
        return self._events(fields_of(self.plan, name, self.subject.entity), rows)

    def _asked(self, rows: pa.Table, model: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which predictions are the entity's; a text that only contains the key, as part of a longer word, is not."""
        mine = np.zeros(rows.num_rows, np.bool_)
        for name in self._columns(f"predictions/{model}"):
            mine |= [value == self.subject.value or self.subject.named_in(value) for value in rows[name].to_pylist()]
        return mine

    def _events(self, fields: Fields, rows: pa.Table) -> pa.Table:
        hit = np.zeros(rows.num_rows, np.bool_)
        for name in rows.column_names:
            if name in fields.roles or (not fields.declared and _is_text(rows[name].type)):
                hit |= [value == self.subject.value for value in rows[name].to_pylist()]
        columns = {}
        for name in rows.column_names:
            column = rows[name]
            if name not in _KEPT:
                field = name.removesuffix(WIDENED)
                values = erased_values(column.to_pylist(), field, hit, self.subject, fields)
                column = pa.chunked_array([pa.array(values, column.type)])
            columns[name] = column
        return pa.table(columns)


_KEPT = frozenset({"day"})
"""Columns that are the store's own."""


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
