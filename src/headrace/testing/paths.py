"""Every way to a value, side by side: the oracle, history, and online, over three runs of the same log."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.core.columns import Column
from headrace.core.positions import EMPTY_POSITION, Position
from headrace.core.schema import DType
from headrace.core.time import MIN_US, to_iso
from headrace.features.plan import ProjectPlan, ViewPlan
from headrace.ingestion.materialize import HORIZON_US
from headrace.retrieval.history import ServedAt
from headrace.retrieval.rows import FeatureBlock
from headrace.testing.arrivals import Arrival, plain_values
from headrace.testing.oracle import KnownAt, RawEvent, TableRow, judge, view_row, with_derived
from headrace.testing.runs import Run

_SHOWN = 10
RowValues = dict[str, Any]


@dataclass(slots=True)
class Answer:
    """Rows that every path agrees on, as columns hold them, and the position that the online store reflected."""

    rows: list[RowValues]
    position: Position = EMPTY_POSITION


class Paths:
    """All paths over what was given, for one plan. Runs are kept: a second read of the same log costs only the read."""

    def __init__(self, plan: ProjectPlan, arrivals: Sequence[Arrival]) -> None:
        self.plan = plan
        self._arrivals = arrivals
        self._runs: dict[tuple[str, int, int, bool], Run] = {}
        self._records: dict[str, list[RawEvent]] = {name: [] for name in plan.streams}
        self.table_rows: dict[str, list[TableRow]] = {name: [] for name in plan.tables}
        written = 0
        for arrival in arrivals:
            if arrival.is_row:
                self.table_rows[arrival.source].append(_table_row(plan, arrival, written))
                written += 1
            else:
                of_stream = self._records[arrival.source]
                of_stream.append(RawEvent(0, len(of_stream), arrival.arrival_us, arrival.values))
        judged = {name: judge(plan.streams[name], records) for name, records in self._records.items()}
        # Derived of all that is known, and as each event arrived.
        self._events = with_derived(plan, judged, self.table_rows)
        self._logged = with_derived(plan, judged, self.table_rows, self._known_at(arrivals))

    def read(self, view: ViewPlan, request: Mapping[str, Column], *, served: bool = False) -> Answer:
        """The view's columns for each request; raises AssertionError naming columns and paths if paths disagree.

        `served` reads each row as it was known at its own time, else everything that was given is known.
        """
        t = request[view.request.time_field or ""].values
        if not served:
            return self._agreed(view, request, self._arrivals, None)
        found = Answer([])
        for row in range(len(t)):
            one = {name: column.take(np.array([row])) for name, column in request.items()}
            known = [arrival for arrival in self._arrivals if arrival.arrival_us < t[row]]
            answer = self._agreed(view, one, known, self.positions(int(t[row])))
            found.rows += answer.rows
            found.position = answer.position
        return found

    def positions(self, as_of_us: int) -> tuple[dict[str, list[int]], int]:
        """What had arrived before `as_of_us`: the first offset not known of each stream, and of the table rows."""
        raw = {
            name: [sum(record.arrival_us < as_of_us for record in records)] for name, records in self._records.items()
        }
        streams = {topic: raw[self.plan.root(topic)] for topic in self.plan.topics()}
        return streams, sum(arrival.is_row and arrival.arrival_us < as_of_us for arrival in self._arrivals)

    def _known_at(self, arrivals: Sequence[Arrival]) -> KnownAt:
        """By raw stream and offset: what there was just after that event had arrived."""
        found: KnownAt = {}
        ends, rows = dict.fromkeys(self.plan.streams, 0), 0
        for arrival in arrivals:
            if arrival.is_row:
                rows += 1
                continue
            ends[arrival.source] += 1
            streams = {topic: [ends[self.plan.root(topic)]] for topic in self.plan.topics()}
            found[arrival.source, 0, ends[arrival.source] - 1] = (streams, rows)
        return found

    def _agreed(
        self,
        view: ViewPlan,
        request: Mapping[str, Column],
        known: Sequence[Arrival],
        positions: tuple[dict[str, list[int]], int] | None,
    ) -> Answer:
        t = request[view.request.time_field or ""].values
        n = len(t)
        newest_us = max((arrival.arrival_us for arrival in known), default=MIN_US)
        # The narrowest horizon that still answers: records then hold as little as they ever may.
        needed_us = max(newest_us - int(t.min()), 0) if n else 0
        wide_us = max(needed_us, HORIZON_US)
        served = None if positions is None else _served_at(positions, n)
        whole = self._arrivals
        # What a derived record holds depends on when it was derived: for a read as served that is as it arrived.
        live = served is not None and bool(self.plan.derived)
        readers: dict[str, Callable[[], FeatureBlock]] = {
            "history": lambda: self._run("at_once", whole, wide_us, live).history(view, request, served),
            "online": lambda: self._run("at_once", known, wide_us, live).online(view, request),
            "history after restarts": lambda: self._run("with_restarts", whole, needed_us, live).history(
                view, request, served
            ),
            "online after restarts": lambda: self._run("with_restarts", known, needed_us, live).online(view, request),
        }
        shuffled: dict[str, Callable[[], FeatureBlock]] = {
            "history of shuffled and repeated input": lambda: self._run("shuffled", known, needed_us).history(
                view, request
            ),
            "online of shuffled and repeated input": lambda: self._run("shuffled", known, needed_us).online(
                view, request
            ),
        }
        if not live:
            readers |= shuffled
        if served is None and self.plan.derived and known:
            readers["online after deriving anew"] = lambda: self._anew(wide_us).online(view, request)
        blocks = {path: _named(path, read) for path, read in readers.items()}
        rows = {"oracle": self._oracle(view, request, positions)}
        rows |= {path: _rows(block) for path, block in blocks.items()}
        _compare(view, request, rows)
        return Answer(rows["online"], blocks["online"].position)

    def _run(self, how: str, known: Sequence[Arrival], horizon_us: int, live: bool = False) -> Run:
        key = (how, horizon_us, len(known), live)
        if key not in self._runs:
            self._runs[key] = getattr(Run(self.plan, horizon_us, live=live), how)(known)
        return self._runs[key]

    def _anew(self, horizon_us: int) -> Run:
        """Derived as it arrived, late look-ups missing, and then derived anew."""
        key = ("derived_anew", horizon_us, len(self._arrivals), True)
        if key not in self._runs:
            self._runs[key] = Run(self.plan, horizon_us, live=True).at_once(self._arrivals).derived_anew()
        return self._runs[key]

    def _oracle(
        self, view: ViewPlan, request: Mapping[str, Column], positions: tuple[dict[str, list[int]], int] | None
    ) -> list[RowValues]:
        times = request[view.request.time_field or ""].values.tolist()
        streams, tables = (None, None) if positions is None else positions
        events = self._events if positions is None else self._logged
        return [
            view_row(self.plan, view, plain_values(request, row), t, events, self.table_rows, streams, tables)
            for row, t in enumerate(times)
        ]


def _named(path: str, read: Callable[[], FeatureBlock]) -> FeatureBlock:
    try:
        return read()
    except Exception as error:
        error.add_note(f"while reading by the path: {path}")
        raise


def _table_row(plan: ProjectPlan, arrival: Arrival, offset: int) -> TableRow:
    always = arrival.time_us is None
    return TableRow(offset, arrival.arrival_us, arrival.key(plan), arrival.time_us, arrival.values, backfilled=always)


def _served_at(positions: tuple[dict[str, list[int]], int], n: int) -> ServedAt:
    streams, tables = positions
    return ServedAt(
        {name: np.array([ends] * n, np.int64) for name, ends in streams.items()}, np.full(n, tables, np.int64)
    )


def _rows(block: FeatureBlock) -> list[RowValues]:
    columns = {name: block.column(name) for name in block.names}
    return [plain_values(columns, row) for row in range(len(block))]


def _compare(view: ViewPlan, request: Mapping[str, Column], rows: Mapping[str, Sequence[RowValues]]) -> None:
    """Raise AssertionError unless each value has the same bits on every path."""
    found: list[str] = []
    for row in range(len(rows["oracle"])):
        for column in view.visible:
            by_value: dict[Any, list[str]] = {}
            for path, values in rows.items():
                by_value.setdefault(_bits(values[row][column.name]), []).append(path)
            if len(by_value) > 1:
                said = "; ".join(
                    f"{_shown(rows[paths[0]][row][column.name], column.dtype)} by {', '.join(paths)}"
                    for paths in by_value.values()
                )
                found.append(f"{column.name} {_asked(view, request, row)}: {said}")
    if found:
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise AssertionError("\n".join(["paths to the same value disagree:", *found[:_SHOWN], *more]))


def _bits(value: Any) -> Any:
    """Two values are equal only if they have one type and the same bits."""
    if isinstance(value, list):
        return ("list", *(_bits(item) for item in value))
    if isinstance(value, dict):
        return ("dict", *((_bits(key), _bits(item)) for key, item in value.items()))
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    return (type(value).__name__, value)


def _shown(value: Any, dtype: DType) -> str:
    return to_iso(value) if dtype is DType.TIMESTAMP and value is not None else repr(value)


def _asked(view: ViewPlan, request: Mapping[str, Column], row: int) -> str:
    asked = plain_values(request, row)
    keys = dict.fromkeys(name for binding in view.bindings for name in binding.request_keys)
    of = "".join(f", {name}={asked[name]!r}" for name in keys)
    return f"at {to_iso(asked[view.request.time_field or ''])}{of}"
