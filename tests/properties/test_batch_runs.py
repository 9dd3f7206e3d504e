"""What runs of a batch table write, against a slow rule: a row is new unless it is what stands at its place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.schema import DType, Field, Schema
from headrace.core.tablerows import decode_table_rows
from headrace.core.time import NULL_US, SimulatedClock
from headrace.engines.batch import runner as runners
from headrace.engines.batch.base import BatchEngine
from headrace.engines.batch.runner import BatchRunner
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import KeyPart, TablePlan

Row = tuple[str | None, int, float | None, str | None]
"""Key, event time, a number, a text."""
Place = tuple[str, int]


class Given(BatchEngine):
    """Gives rows in batches of two."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def run(self, table: TablePlan, *, now_us: int | None = None, since_us: int | None = None) -> pa.Table:
        columns = list(zip(*self.rows, strict=True)) or [()] * 4
        types = (pa.string(), pa.timestamp("us", "UTC"), pa.float64(), pa.large_string())
        names = ("user", "at", "n", "text")
        return pa.table({name: pa.array(list(c), kind) for name, kind, c in zip(names, types, columns, strict=True)})

    def batches(
        self, table: TablePlan, rows: int, *, now_us: int | None = None, since_us: int | None = None
    ) -> Iterator[pa.Table]:
        whole = self.run(table)
        yield from [whole.slice(at, 2) for at in range(0, max(whole.num_rows, 1), 2)]

    def close(self) -> None:
        """Nothing to do."""


def plan(*, timed: bool) -> TablePlan:
    fields = [Field("user", DType.STRING), Field("n", DType.FLOAT, nullable=True)]
    fields.append(Field("text", DType.STRING, nullable=True))
    if timed:
        fields.append(Field("at", DType.TIMESTAMP))
    schema = Schema("t", tuple(fields), "at" if timed else None)
    return TablePlan("t", "0a" * 8, schema, (KeyPart("user", DType.STRING, None),), "select", None, None, None, 0, ())


def encoded(row: Row) -> bytes:
    return msgspec.msgpack.encode(row[2:])


class Slow:
    """The rule, with a dictionary of dictionaries."""

    def __init__(self) -> None:
        self.stands: dict[str, dict[int, bytes]] = {}

    def put(self, row: Row) -> None:
        self.stands.setdefault(str(row[0]), {})[row[1]] = encoded(row)

    def run(self, rows: list[Row]) -> list[Row]:
        owned = sorted((row for row in rows if row[0] is not None), key=lambda r: (str(r[0]), r[1], encoded(r)))
        last = {(row[0], row[1]): encoded(row) for row in owned}
        new = [r for r in owned if self.stands.get(str(r[0]), {}).get(r[1]) != last[r[0], r[1]]]
        for row in new:
            self.put(row)
        for user in {str(row[0]) for row in owned}:
            held = self.stands[user]
            returned = {row[1] for row in owned if row[0] == user} | {max(held)}
            self.stands[user] = {at: value for at, value in held.items() if at in returned}
        return new

    def begin_anew(self, log: list[Row]) -> None:
        self.stands = {}
        for row in log:
            self.put(row)


def log_rows(log: MemoryEventLog) -> list[Row]:
    found: list[Row] = []
    for batch in log.read("tables", 0, 0, 10**9):
        rows = decode_table_rows(batch.payload)
        columns = [rows.columns[name].to_pylist() for name in ("n", "text")]
        times = rows.event_time_us.tolist()
        found += [(key[0], at, n, text) for key, at, n, text in zip(rows.keys, times, *columns, strict=True)]
    return found


USERS = st.sampled_from(["a", "b", "é", "", None])
ROWS = st.tuples(USERS, st.integers(1, 3), st.sampled_from([None, 0.0, 1.5]), st.sampled_from([None, "", "x"]))
STEPS = st.lists(
    st.tuples(st.sampled_from(["run", "run", "put", "again", "anew"]), st.lists(ROWS, max_size=6)), max_size=8
)


@given(steps=STEPS, timed=st.booleans())
def test_runs_write_what_is_new_in_order_and_nothing_else(steps: list[tuple[str, list[Row]]], timed: bool) -> None:
    clock, engine, slow, table = SimulatedClock(10), Given(), Slow(), plan(timed=timed)
    log = MemoryEventLog(clock)
    runner = BatchRunner(engine, log, clock)
    expected: list[Row] = []
    for kind, rows in steps:
        given_rows = rows if timed else [(user, NULL_US, n, text) for user, _, n, text in rows]
        if kind == "put":
            owned = [row for row in given_rows if row[0] is not None]
            names = ("user", "at", "n", "text") if timed else ("user", "", "n", "text")
            puts = [{name: v for name, v in zip(names, row, strict=True) if name} for row in owned]
            if puts:
                runner.put_rows(table, puts)
            for row in sorted(owned, key=lambda r: (str(r[0]), r[1], encoded(r))):
                slow.put(row)
                expected.append(row)
        elif kind == "anew":
            runner = BatchRunner(engine, log, clock)
            slow.begin_anew(expected)
        else:
            if kind == "run":
                engine.rows = rows
            returned = [row if timed else (row[0], NULL_US, *row[2:]) for row in engine.rows]
            expected += slow.run(returned)
            report = runner.run(table)
            assert report.rows == len(engine.rows)
            assert report.null_keys == sum(row[0] is None for row in engine.rows)
            assert report.rows == report.unchanged + report.appended + report.null_keys
        assert log_rows(log) == expected


@given(rows=st.lists(ROWS, min_size=1, max_size=12), pieces=st.integers(1, 4), stop_after=st.integers(0, 3))
def test_a_run_that_is_stopped_goes_on_where_it_was(rows: list[Row], pieces: int, stop_after: int) -> None:
    clock, engine, table = SimulatedClock(10), Given(), plan(timed=True)
    engine.rows = rows
    whole = MemoryEventLog(clock)
    BatchRunner(engine, whole, clock).run(table)
    log = MemoryEventLog(clock)
    before, saved = runners.PIECE, runners._SAVED_FROM
    runners.PIECE, runners._SAVED_FROM = pieces, 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            asked = iter([False] * stop_after)
            first = BatchRunner(engine, log, clock, folder=Path(folder)).run(table, stop=lambda: next(asked, True))
            assert first.appended == min(stop_after * pieces, first.appended + first.left)
            second = BatchRunner(engine, log, clock, folder=Path(folder)).run(table)
            if len({row[:2] for row in rows}) == len(rows):  # else the rest of a place is told from its last row
                assert second.appended == first.left
                assert log_rows(log) == log_rows(whole)
            third = BatchRunner(engine, log, clock, folder=Path(folder)).run(table)
            assert (third.appended, third.left) == (0, 0)
    finally:
        runners.PIECE, runners._SAVED_FROM = before, saved


def test_fingerprints_of_another_log_are_not_believed(tmp_path: Path) -> None:
    clock, engine, table = SimulatedClock(10), Given(), plan(timed=True)
    engine.rows = [("a", 1, 1.0, "x"), ("b", 1, 2.0, "y")]
    before = runners._SAVED_FROM
    runners._SAVED_FROM = 1
    try:
        log = MemoryEventLog(clock)
        assert BatchRunner(engine, log, clock, folder=tmp_path).run(table).appended == 2
        (file,) = tmp_path.iterdir()
        clock.advance_to(20)
        other = MemoryEventLog(clock)  # of the same length, but not with these rows
        other_runner = BatchRunner(engine, other, clock)
        other_runner.put_rows(table, [{"user": "c", "at": 1, "n": 1.0}, {"user": "d", "at": 1, "n": 1.0}])
        assert BatchRunner(engine, other, clock, folder=tmp_path).run(table).appended == 2
        file.write_bytes(file.read_bytes()[:-3])
        assert BatchRunner(engine, log, clock, folder=tmp_path).run(table).appended == 0
    finally:
        runners._SAVED_FROM = before
