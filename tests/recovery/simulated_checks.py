"""What must be true of a simulated world that has come to rest; the values are the oracle's, which shares no code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from headrace.aggregations.layout import layout_of
from headrace.aggregations.records import in_order_of_words
from headrace.app.backfill import PUBLISHED
from headrace.app.reconciling import reconciler
from headrace.core.columns import Column
from headrace.core.derived import decode_derived
from headrace.core.events import decode_block
from headrace.core.positions import Position, decode_position, decode_state, state_key
from headrace.core.tablerows import decode_table_rows
from headrace.core.time import US_PER_SECOND
from headrace.engines.stream.commits import DEAD_LETTERS, TABLES, WINDOWS, decode_dead_letters
from headrace.engines.stream.worker import ComputeWorker, committed_positions, read_heads
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.eventlog.memory import MemoryEventLog
from headrace.ingestion.backfill import left_out
from headrace.ingestion.expected import Share
from headrace.ingestion.materialize import OnlineIngest
from headrace.retrieval.history import HistoryReader, served_at
from headrace.retrieval.online import OnlineReader
from headrace.retrieval.past import ORDER, events_table, rows_table
from headrace.retrieval.rows import FeatureBlock
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.testing.arrivals import plain_values
from headrace.testing.oracle import Event, KnownAt, RawEvent, TableRow, clock, judge, verdicts, view_row, with_derived
from tests.properties.world import bits
from tests.recovery.faults import JumpingClock
from tests.recovery.simulated import HORIZON_S, Answer, Simulation, request_of
from tests.recovery.simulated_shop import PROJECT, streamed

_CODES = {0: "counted", 1: "duplicate", 2: "late", 3: "dead"}
Events = Mapping[str, Sequence[Event]]


def check(world: Simulation) -> None:
    """Raise AssertionError unless nothing is lost, doubled or wrong in a bit."""
    raw, features = world.raw.whole(), world.features
    records = {name: _records(raw, name) for name in PROJECT.streams}
    _check_published(world, records)
    _check_judged(world, records)
    rows = _table_rows(features)
    judged = {name: judge(PROJECT.streams[name], records[name]) for name in records}
    logged = with_derived(PROJECT, judged, rows, _known_at(world, raw))
    _check_derived(world, raw, logged)
    _check_positions(world, records)
    _check_reads(world, logged, with_derived(PROJECT, judged, rows), rows)
    _check_undisturbed(world, raw)


def _all(log: EventLog, topic: str) -> list[LogBatch]:
    if topic not in log.topics():
        return []
    return [batch for p in range(log.topics()[topic]) for batch in log.read(topic, p, log.begin(topic, p), 10**9)]


def _records(raw: EventLog, name: str) -> list[RawEvent]:
    """What the raw topic holds, as the oracle takes it."""
    schema, found = PROJECT.streams[name].schema, []
    for batch in _all(raw, name):
        block = decode_block(batch.payload, schema)
        bad = {malformed.row for malformed in block.malformed}
        values = {field: column.to_pylist() for field, column in block.columns.items()}
        for row in range(block.n):
            fields = None if row in bad else {field: items[row] for field, items in values.items()}
            found.append(RawEvent(batch.partition, batch.base + row, batch.arrival_us, fields))
    return found


def _table_rows(features: EventLog) -> dict[str, list[TableRow]]:
    """The rows of tables, as the oracle takes them."""
    found: dict[str, list[TableRow]] = {name: [] for name in PROJECT.tables}
    for batch in _all(features, TABLES):
        rows = decode_table_rows(batch.payload)
        for row in range(rows.n):
            fields = {name: column.to_pylist()[row] for name, column in rows.columns.items()}
            written, at = int(rows.available_us[row]), int(rows.event_time_us[row])
            found[rows.table].append(TableRow(batch.base + row, written, tuple(rows.keys[row]), at, fields))
    return found


def _check_published(world: Simulation, records: Mapping[str, Sequence[RawEvent]]) -> None:
    """What was acknowledged is there, once; what nobody answered for is there at most once."""
    visits = Counter(record.fields["at"] for record in records["visit"] if record.fields is not None)
    assert set(world.acknowledged) <= visits.keys(), "an acknowledged visit is lost"
    assert visits.keys() <= {*world.acknowledged, *world.doubtful}
    assert not visits or max(visits.values()) == 1, "a visit is there twice"
    held = {record.fields["order_id"] for record in records["order"] if record.fields is not None}
    assert world.ordered <= held, "an acknowledged order is lost"


def _check_judged(world: Simulation, records: Mapping[str, Sequence[RawEvent]]) -> None:
    """Each event was read once by compute, has the oracle's verdict, and is in the archive or among the letters."""
    ends: dict[str, list[int]] = {}
    found: dict[str, dict[tuple[int, int], str]] = {name: {} for name in PROJECT.streams}
    for _, head in read_heads(world.features, 0, 10**9):
        for name, span in head.streams.items():
            assert span.begin == ends.get(name, [0] * world.partitions), (
                f"compute left out or repeated events of {name}"
            )
            ends[name] = span.end
            if name in found:
                spans = enumerate(zip(span.begin, span.end, strict=True))
                found[name] |= {(p, offset): "counted" for p, (low, high) in spans for offset in range(low, high)}
                found[name] |= {(p, offset): _CODES[code] for p, offset, code in span.exceptions}
    letters = Counter(
        (letter.stream, letter.partition, letter.offset)
        for batch in _all(world.features, DEAD_LETTERS)
        for letter in decode_dead_letters(batch.payload)
    )
    dead = Counter()
    for name, of_stream in records.items():
        said = verdicts(PROJECT.streams[name], of_stream)
        wanted = {(record.partition, record.offset): code for record, code in zip(of_stream, said, strict=True)}
        assert found[name] == wanted, f"verdicts of {name}"
        dead.update((name, *place) for place, code in wanted.items() if code == "dead")
        kept = {(record.partition, record.offset) for record in of_stream if record.fields is not None}
        assert _archived(world, name) == Counter(kept), f"the archive of {name}"
    assert letters == dead, "dead letters"
    for table in PROJECT.tables.values():
        held = rows_table(table)
        orders = world.offline.scan(held)[ORDER].to_pylist() if held in world.offline.tables() else []
        assert sorted(orders) == list(range(world.features.end(TABLES, 0))), "the archive of rows"


def _archived(world: Simulation, name: str) -> Counter[tuple[int, int]]:
    if events_table(name) not in world.offline.tables():
        return Counter()
    rows = world.offline.scan(events_table(name), ["_partition", "_offset"]).to_pylist()
    return Counter((row["_partition"], row["_offset"]) for row in rows)


def _known_at(world: Simulation, raw: EventLog) -> KnownAt:
    """What each derived record says that its look-ups saw."""
    found: KnownAt = {}
    for topic in PROJECT.derived:
        for batch in _all(raw, topic):
            saw = decode_derived(batch.payload).position
            streams = {name: saw.streams.get(name, [0] * world.partitions) for name in PROJECT.topics()}
            for offset in range(batch.base, batch.end):
                found[PROJECT.root(topic), batch.partition, offset] = (streams, saw.tables)
    return found


def _check_derived(world: Simulation, raw: EventLog, logged: Events) -> None:
    """Every event of a source was derived once, with the oracle's values, and is archived."""
    for topic, derived in PROJECT.derived.items():
        names = list(derived.stream.schema.first_names)
        wanted = {(e.partition, e.offset): {n: bits(e.row[n]) for n in names} for e in logged[topic]}
        found = {}
        for batch in _all(raw, topic):
            held = decode_derived(batch.payload)
            block = decode_block(held.block, derived.stream.schema)
            values = {name: block.columns[name].to_pylist() for name in names}
            assert block.n == batch.count
            for row in np.flatnonzero(held.codes() == 0).tolist():
                found[batch.partition, batch.base + row] = {name: bits(values[name][row]) for name in names}
        for partition in range(world.partitions):
            assert world.raw.end(topic, partition) == world.raw.end(derived.source, partition), f"{topic} is not whole"
        assert found == wanted, f"records of {topic}"
        assert set(_archived(world, topic).values()) <= {1}, f"the archive of {topic}"
        assert _archived(world, topic).keys() >= found.keys(), f"the archive of {topic}"


def _check_positions(world: Simulation, records: Mapping[str, Sequence[RawEvent]]) -> None:
    ends = {t: [world.raw.end(PROJECT.root(t), p) for p in range(world.partitions)] for t in PROJECT.topics()}
    some = {topic: end for topic, end in ends.items() if any(end)}
    position = decode_position(world.online.position())
    assert {name: end for name, end in committed_positions(world.features).items() if any(end)} == some
    assert {name: end for name, end in position.streams.items() if any(end)} == some
    assert position.tables == world.features.end(TABLES, 0)
    assert position.windows == world.features.end(WINDOWS, 0)
    for name, of_stream in records.items():
        newest = clock(PROJECT.streams[name], of_stream)
        assert newest is None or position.clock_us[name] == newest, f"the clock of {name}"
    state = decode_state(world.online.read([state_key(world.plan.groups["ordered"].version)])[0][0])
    assert ("order" not in some) or (state is not None and state.at == some["order"])


def _check_reads(world: Simulation, logged: Events, corrected: Events, rows: Mapping[str, Sequence[TableRow]]) -> None:
    """What was read on the way is right where it stood; what is read now is right, online and in history."""
    for answer in world.answers:
        _compare(world, answer, logged, rows, answer.block.position)
    for answer in world.answers[-3:]:  # the last have most to say, and each takes a while
        again = HistoryReader(answer.view, answer.plan, world.parts.past).read(
            answer.request, served_at(answer.block.position, len(answer.block))
        )
        _same(again, answer.block)
    request = _last_request(world)
    for name in ("streamed", "scheduled"):
        plan, view = world.plan, world.plan.views[name]
        online = OnlineReader(view, plan, world.online, horizon_us=HORIZON_S * US_PER_SECOND).read(request)
        _compare(world, Answer(plan, view, request, online), logged, rows, None)
        history = HistoryReader(view, plan, world.parts.past)
        _compare(world, Answer(plan, view, request, history.read(request)), corrected, rows, None)
        _same(history.read(request, served_at(online.position, len(online))), online)


def _last_request(world: Simulation) -> dict[str, Column]:
    """Everybody, at two times that the online store must be able to answer."""
    clocks = decode_position(world.online.position()).clock_us
    written = [int(decode_table_rows(batch.payload).available_us.max()) for batch in _all(world.features, TABLES)]
    newest = max([0, *clocks.values(), *written])
    return request_of([newest, newest + 30_000_000])


def _same(left: FeatureBlock, right: FeatureBlock) -> None:
    assert np.array_equal(left.valid, right.valid), "as served is not as it was served"
    assert np.array_equal(left.words, right.words), "as served is not as it was served"


def _compare(
    world: Simulation,
    answer: Answer,
    events: Events,
    rows: Mapping[str, Sequence[TableRow]],
    position: Position | None,
) -> None:
    plan, view, request, block = answer.plan, answer.view, answer.request, answer.block
    values = {name: block.column(name).to_pylist() for name in block.names}
    streams = None
    if position is not None:
        streams = {name: position.streams.get(name, [0] * world.partitions) for name in plan.topics()}
        own = position.groups.get(plan.groups["ordered"].version)
        if own is not None:
            streams["order"] = [*own, *[0] * (world.partitions - len(own))]
    for row in range(len(block)):
        asked = plain_values(request, row)
        known = None if position is None else position.tables
        wanted = view_row(plan, view, asked, asked["at"], events, rows, streams, known)
        got = {name: values[name][row] for name in block.names}
        wanted = {name: wanted[name] for name in got}
        wrong = {n: (got[n], wanted[n]) for n in got if bits(got[n]) != bits(wanted[n])}
        assert not wrong, f"{asked} at {position}: {wrong}"


def _check_undisturbed(world: Simulation, raw: EventLog) -> None:
    """Fresh workers over the same raw and derived events leave the same bytes, and answer the same."""
    again, stood = MemoryEventLog(clock := JumpingClock(0)), MemoryOnlineStore()
    plan = streamed(world.plan)
    again.create(TABLES)
    for batch in _all(world.features, TABLES):
        clock.us = batch.arrival_us
        again.append([Append(TABLES, 0, batch.payload, batch.count)])
    compute = ComputeWorker(plan, raw, again, world.folder / "none")
    while compute.step():
        pass
    ingest = OnlineIngest(plan, again, stood, horizon_us=HORIZON_S * US_PER_SECOND)
    while ingest.step():
        pass
    # Of definitions that were dropped records may be left, and how far they were.
    ends = tuple(bytes.fromhex(source.version) for source in (*plan.groups.values(), *plan.tables.values()))
    # What was backfilled may lack what no window reaches; reconciliation knows what.
    lacking = tuple(bytes.fromhex(version) for version in left_out(world.online, list(plan.groups.values())))
    ends = tuple(end for end in ends if end not in lacking)
    found = {key: record for key, record in world.online.scan() if key.endswith(ends) and not _is_state(key)}
    wanted = {key: record for key, record in stood.scan() if key.endswith(ends) and not _is_state(key)}
    assert found.keys() == wanted.keys()
    layouts = {bytes.fromhex(group.version): layout_of(group) for group in plan.groups.values()}
    backfilled = {end for end in layouts if world.catalog.setting(PUBLISHED + end.hex()) is not None}
    for key, record in wanted.items():
        have, end = found[key], key[-8:]
        if end in backfilled:  # which meets events of one time in another order
            have, record = (in_order_of_words(layouts[end], one) for one in (have, record))
        assert have == record, f"record {key!r}"
    seen = reconciler(world.parts, kept=False).run(Share(0, 1), repair=False)
    assert seen.wrong == 0, f"reconciliation finds fault with what is right: {seen}"
    horizon_us, request = HORIZON_S * US_PER_SECOND, _last_request(world)
    for view in plan.views.values():
        block = OnlineReader(view, world.plan, world.online, horizon_us=horizon_us).read(request)
        _same(OnlineReader(view, plan, stood, horizon_us=horizon_us).read(request), block)


def _is_state(key: bytes) -> bool:
    """True of what says how far a group is."""
    return key.startswith(b"\xff\xff")
