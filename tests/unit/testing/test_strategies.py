"""The random histories and plans are legal, and hold what they are meant to hold."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from headrace.features.plan import GroupPlan, StreamPlan
from headrace.testing import strategies
from headrace.testing.oracle import RawEvent, TableRow, group_row, judge, verdicts

STREAMS = strategies.streams()
LOGS = STREAMS.flatmap(lambda stream: st.tuples(st.just(stream), strategies.histories(stream)))
quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(LOGS)
def test_logs_have_gapless_offsets_and_arrivals_that_never_go_back(log: tuple[StreamPlan, list[RawEvent]]) -> None:
    _, records = log
    for partition in {record.partition for record in records}:
        own = [record for record in records if record.partition == partition]
        assert [record.offset for record in own] == list(range(len(own)))
        assert [record.arrival_us for record in own] == sorted(record.arrival_us for record in own)


@quick
@given(LOGS)
def test_an_id_always_routes_to_one_partition(log: tuple[StreamPlan, list[RawEvent]]) -> None:
    stream, records = log
    if stream.schema.id_field is None:
        return
    homes = {(r.fields[stream.schema.id_field], r.partition) for r in records if r.fields is not None}
    assert len(homes) == len({name for name, _ in homes})


@quick
@given(STREAMS.flatmap(lambda s: st.tuples(st.just(s), strategies.histories(s, malformed=False))))
def test_without_malformed_records_there_are_no_dead_letters(log: tuple[StreamPlan, list[RawEvent]]) -> None:
    assert "dead" not in verdicts(*log)


@quick
@given(STREAMS.flatmap(strategies.group_plans))
def test_groups_keep_the_rules_of_hop_resolution_and_delay(group: GroupPlan) -> None:
    for spec in group.aggregates:
        assert spec.hop_us % group.resolution_us == 0
        assert spec.window_us is None or spec.window_us % spec.hop_us == 0
        assert spec.delay_us >= 0
    aggregated, derived = [spec.name for spec in group.aggregates], [spec.name for spec in group.derived]
    assert list(group.order) == aggregated + derived


@quick
@given(LOGS, st.data())
def test_every_group_can_be_read_at_every_drawn_time_and_position(
    log: tuple[StreamPlan, list[RawEvent]], data: st.DataObject
) -> None:
    stream, records = log
    group = data.draw(strategies.group_plans(stream))
    t = data.draw(strategies.read_times(records, group))
    position = data.draw(strategies.positions(records))
    for entity in strategies.entities_of(stream, group, records)[:3]:
        row = group_row(group, entity, t, judge(stream, records), position)
        assert tuple(row) == group.order


def found(strategy: st.SearchStrategy[Any], wanted: Any) -> bool:
    """True: `find` raises NoSuchExample if nothing drawn is as wanted."""
    find(strategy, wanted, settings=settings(max_examples=2_000, phases=[Phase.generate], database=None, deadline=None))
    return True


def test_each_verdict_occurs() -> None:
    for verdict in ("counted", "duplicate", "late", "dead"):
        assert found(LOGS, lambda log, verdict=verdict: verdict in verdicts(*log))


def test_ties_disorder_and_times_before_1970_occur() -> None:
    def times(log: tuple[StreamPlan, list[RawEvent]]) -> list[int]:
        return [event.event_time_us for event in judge(*log)]

    assert found(LOGS, lambda log: len(times(log)) > len(set(times(log))) > 2)
    assert found(LOGS, lambda log: any(time < 0 for time in times(log)))
    assert found(
        LOGS,
        lambda log: any(
            a.partition == b.partition and a.offset < b.offset and a.event_time_us > b.event_time_us
            for a in judge(*log)
            for b in judge(*log)
        ),
    )


def test_tables_hold_ties_deletions_and_rows_written_after_newer_ones() -> None:
    def tied(rows: list[TableRow]) -> bool:
        return len({(row.key, row.event_time_us) for row in rows}) < len(rows)

    tables = strategies.table_histories()
    assert found(tables, tied)
    assert found(tables, lambda rows: any(row.fields is None for row in rows))
    assert found(tables, lambda rows: any(a.event_time_us > b.event_time_us for a, b in itertools.pairwise(rows)))
