"""One verdict per event: what counts, what is set aside with its reason, and what the commit says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from headrace.core.derived import OUTSIDE
from headrace.core.events import encode_block
from headrace.core.messages import encode_nothing
from headrace.core.rows import encode_rows
from headrace.core.schema import DType, Field, Schema
from headrace.core.time import US_PER_DAY, US_PER_HOUR, SimulatedClock
from headrace.engines.stream.commits import (
    DEAD_LETTERS,
    WINDOWS,
    Commit,
    DeadLetter,
    decode_commit,
    decode_dead_letters,
)
from headrace.engines.stream.verdicts import COUNTED, DEAD, DUPLICATE, LATE, PartitionState
from headrace.engines.stream.worker import ComputeWorker, committed_positions
from headrace.eventlog.base import Append
from headrace.eventlog.memory import MemoryEventLog
from headrace.features.plan import AggregateSpec, GroupPlan, KeyPart, ProjectPlan, StreamPlan

START = 100 * US_PER_DAY
FIELDS = (
    Field("order_id", DType.STRING),
    Field("user", DType.STRING, nullable=True),
    Field("shop", DType.INT, nullable=True),
    Field("taste", DType.LIST, nullable=True, size=2),
    Field("at", DType.TIMESTAMP),
)
COUNT = AggregateSpec("n", "count", None, None, None, 1, 0, DType.INT)
KEY = (KeyPart("user", DType.STRING, None), KeyPart("shop", DType.INT, None))
GROUP = GroupPlan("g", "00000000000000aa", "order", None, KEY, (), (COUNT,), (), ("n",))


class Stream:
    """A worker over one stream, fed batch by batch."""

    def __init__(self, folder: Path, lateness_us: int | None = None, with_id: bool = True) -> None:
        fields = FIELDS if with_id else FIELDS[1:]
        schema = Schema("order", fields, "at", "order_id" if with_id else None)
        self.plan = StreamPlan("order", schema, lateness_us=lateness_us)
        self.clock = SimulatedClock(START)
        self.raw, self.features = MemoryEventLog(self.clock), MemoryEventLog(self.clock)
        self.raw.create("order")
        self.project = ProjectPlan({"order": self.plan}, {"g": GROUP}, {}, {}, {})
        self.worker = ComputeWorker(self.project, self.raw, self.features, folder / "checkpoint")

    def send(self, *rows: Any, after_us: int = 0) -> Commit:
        """Publish rows in one batch and compute them."""
        self.clock.advance_to(self.clock.now_us() + after_us)
        block = encode_rows(self.plan.schema, rows)
        self.raw.append([Append("order", 0, encode_block(block), len(rows))])
        self.worker.step()
        last = self.features.last(WINDOWS, 0)
        assert last is not None
        return decode_commit(last.payload)

    def dead(self) -> list[DeadLetter]:
        found = self.features.read(DEAD_LETTERS, 0, 0)
        return [letter for batch in found for letter in decode_dead_letters(batch.payload)]


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(tmp_path)


def order(name: str | None, at: int = START, **fields: Any) -> dict[str, Any]:
    return {"order_id": name, "user": "ann", "shop": 1, "at": at} | fields


def verdicts(commit: Commit, count: int) -> list[int]:
    """The verdicts of the last `count` events of the commit."""
    codes = {offset: code for _, offset, code in commit.streams["order"].exceptions}
    end = commit.streams["order"].end[0]
    return [codes.get(offset, COUNTED) for offset in range(end - count, end)]


def test_a_malformed_event_is_set_aside_and_the_rest_of_its_batch_goes_on(stream: Stream) -> None:
    stream.send(order("a"))
    commit = stream.send(order("b"), order("c", shop="seven"), "no row at all", order("d"))
    assert verdicts(commit, 4) == [COUNTED, DEAD, DEAD, COUNTED]
    assert commit.groups[GROUP.version].counts == [2]
    mistyped, stranger = stream.dead()
    assert (mistyped.stream, mistyped.partition, mistyped.offset) == ("order", 0, 2)
    assert (mistyped.field, mistyped.reason) == ("shop", 'expected int, got str "seven"')
    assert msgspec.json.decode(mistyped.payload)["shop"] == "seven"
    assert mistyped.arrival_us == START
    assert (stranger.offset, stranger.payload) == (3, b'"no row at all"')


@pytest.mark.parametrize("missing", ["order_id", "at"])
def test_a_null_id_or_time_is_a_dead_letter_that_names_the_field(stream: Stream, missing: str) -> None:
    commit = stream.send({**order("a"), missing: None}, order("b"))
    assert verdicts(commit, 2) == [DEAD, COUNTED]
    assert [letter.field for letter in stream.dead()] == [missing]


def test_an_event_from_the_future_is_a_dead_letter_with_its_whole_content(stream: Stream) -> None:
    limit = START + US_PER_HOUR
    commit = stream.send(order("a", limit), order("b", limit + 1, taste=[0.5, 1.0]))
    assert verdicts(commit, 2) == [COUNTED, DEAD]
    [letter] = stream.dead()
    assert (letter.offset, letter.field) == (1, "at")
    assert "more than 1h after its arrival at 1970-04-11T00:00:00Z" in letter.reason
    assert msgspec.json.decode(letter.payload) == order("b", limit + 1, taste=[0.5, 1.0])


def test_dead_letters_move_no_clock_and_register_no_id(stream: Stream) -> None:
    stream.send(order("a", START - 5))
    commit = stream.send(order("b", START + 2 * US_PER_HOUR), order("b", START - 7))
    assert verdicts(commit, 2) == [DEAD, COUNTED]
    assert commit.streams["order"].clocks_us == [START - 5]


def test_dead_letters_of_one_batch_lie_in_the_order_of_their_offsets(stream: Stream) -> None:
    stream.send(order("a", START + 2 * US_PER_HOUR), order(None), order("c", START + 2 * US_PER_HOUR), "?")
    assert [letter.offset for letter in stream.dead()] == [0, 1, 2, 3]


def test_the_first_of_several_events_of_one_id_wins_whatever_they_hold(stream: Stream) -> None:
    commit = stream.send(order("a", START - 9), order("b"), order("a", START - 1, user="bob"))
    assert verdicts(commit, 3) == [COUNTED, COUNTED, DUPLICATE]
    assert verdicts(stream.send(order("a", START, shop=2)), 1) == [DUPLICATE]


def test_an_id_may_come_again_when_the_clock_has_passed_the_horizon(stream: Stream) -> None:
    """A duplicate moves the clock but does not prolong the horizon."""
    stream.send(order("a"))
    day = stream.send(order("a", START + US_PER_DAY), after_us=US_PER_DAY)
    assert verdicts(day, 1) == [DUPLICATE]
    assert day.streams["order"].clocks_us == [START + US_PER_DAY]
    assert verdicts(stream.send(order("a", START + US_PER_DAY + 1), after_us=1), 1) == [COUNTED]


def test_late_is_what_lies_more_than_the_lateness_behind_the_clock(tmp_path: Path) -> None:
    stream = Stream(tmp_path, lateness_us=10)
    commit = stream.send(order("a"), order("b", START - 10), order("c", START - 11))
    assert verdicts(commit, 3) == [COUNTED, COUNTED, LATE]
    # What came too late has not counted, so its id is still free.
    assert verdicts(stream.send(order("c")), 1) == [COUNTED]
    assert stream.dead() == []


def test_without_a_declared_id_equal_events_all_count(tmp_path: Path) -> None:
    stream = Stream(tmp_path, with_id=False)
    row = {"user": "ann", "shop": 1, "at": START}
    assert stream.send(row, row).groups[GROUP.version].counts == [2]


def test_a_null_part_of_a_key_belongs_to_nobody_and_is_counted_once(stream: Stream) -> None:
    commit = stream.send(
        order("a", user=None), order("b", shop=None), order("c", user=None, shop=None), order("d", user="")
    )
    assert commit.null_keys == 3
    assert commit.groups[GROUP.version].counts == [1]
    assert stream.dead() == []


def test_a_restarted_worker_knows_the_ids_and_the_clock_of_before(stream: Stream, tmp_path: Path) -> None:
    stream.send(order("a", START - 5))
    stream.worker.checkpoint()
    stream.send(order("b", START - 3))
    stream.worker = ComputeWorker(stream.project, stream.raw, stream.features, tmp_path / "checkpoint")
    commit = stream.send(order("a"), order("b"), order("c", START - 9))
    assert verdicts(commit, 3) == [DUPLICATE, DUPLICATE, COUNTED]
    assert commit.streams["order"].clocks_us == [START]


def test_offsets_at_which_no_event_stands_move_nothing_and_are_no_dead_letters(stream: Stream, tmp_path: Path) -> None:
    stream.send(order("a", START - 5))
    stream.raw.append([Append("order", 0, encode_nothing(3), 3)])
    commit = stream.send(order("b", START - 3), order("a", START - 3))
    assert commit.streams["order"].begin == [1]
    assert commit.positions == {"order": [6]}
    assert verdicts(commit, 5) == [DEAD, DEAD, DEAD, COUNTED, DUPLICATE]
    assert commit.streams["order"].clocks_us == [START - 3]
    assert commit.groups[GROUP.version].counts == [1]
    assert stream.dead() == []
    stream.raw.append([Append("order", 0, encode_nothing(2), 2)])  # and nothing else
    assert stream.worker.step() == 2
    assert committed_positions(stream.features) == {"order": [8]}
    stream.worker = ComputeWorker(stream.project, stream.raw, stream.features, tmp_path / "none")
    assert verdicts(stream.send(order("b")), 1) == [DUPLICATE]


def test_a_topic_that_has_lost_its_beginning_is_read_from_what_is_left(stream: Stream, tmp_path: Path) -> None:
    for name in "abc":
        stream.raw.append([Append("order", 0, encode_block(encode_rows(stream.plan.schema, [order(name)])))])
    stream.raw.trim("order", 0, 1)
    features = MemoryEventLog(stream.clock)
    worker = ComputeWorker(stream.project, stream.raw, features, tmp_path / "new")
    assert worker.step() == 2
    last = features.last(WINDOWS, 0)
    assert last is not None
    assert decode_commit(last.payload).streams["order"].begin == [1]
    # Nor does a worker without a checkpoint ask for what is gone.
    stream.raw.trim("order", 0, 2)
    stream.features, stream.worker = features, ComputeWorker(stream.project, stream.raw, features, tmp_path / "again")
    assert verdicts(stream.send(order("c"), order("d")), 2) == [DUPLICATE, COUNTED]


def test_what_a_derived_stream_leaves_out_moves_its_clock_as_little_as_a_dead_letter() -> None:
    """The archive does not hold it, so a backfill could not know."""
    state = PartitionState()
    times, arrivals = np.array([10, 100, 50, 90, 40]), np.full(5, 200)
    judged = state.follow(times, arrivals, np.array([COUNTED, OUTSIDE, LATE, DEAD, COUNTED], np.uint8))
    assert judged.clocks.tolist() == [10, 10, 50, 50, 50]
    assert state.clock_us == 50
