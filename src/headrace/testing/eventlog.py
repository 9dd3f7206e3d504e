"""Conformance kit of the EventLog port: derive a test class per adapter and say how to open it and look behind it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.core.errors import LogError, LogMoved, NotFound
from headrace.eventlog.base import Append, EventLog, LogBatch
from headrace.testing.capabilities import capability
from headrace.testing.processes import append_numbered, append_pairs, create_and_append, finished, killed_after, started


class UnrulyClock:
    """A clock that shows what it is told, also an earlier time than before."""

    def __init__(self, now_us: int = 1_000) -> None:
        self.now = now_us

    def now_us(self) -> int:
        return self.now


class EventLogTests(ABC):
    """What every event log does. Override `open` and `raw_batches`."""

    port = "EventLog"

    @abstractmethod
    def open(self, place: Path, clock: UnrulyClock) -> EventLog:
        """Open the log that lies at `place`, an empty folder at first."""

    @abstractmethod
    def raw_batches(self, log: EventLog, place: Path, topic: str, partition: int) -> list[LogBatch]:
        """All stored batches of a partition, read without the methods of the adapter."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the log lies."""
        return tmp_path / "log"

    @pytest.fixture
    def clock(self) -> UnrulyClock:
        """The log's clock."""
        return UnrulyClock()

    @pytest.fixture
    def log(self, place: Path, clock: UnrulyClock) -> Iterator[EventLog]:
        """The open log, with topic "t" of two partitions."""
        log = self.open(place, clock)
        log.create("t", 2)
        yield log
        log.close()

    @capability("batches as given, offsets without gaps")
    def test_batches_are_stored_as_given_with_continuous_offsets(self, log: EventLog, place: Path) -> None:
        assert log.append([Append("t", 0, b"a", 3), Append("t", 1, b"b")]) == [0, 0]
        assert log.append([Append("t", 0, b"", 1), Append("t", 0, b"\0c" * 40_000, 5)]) == [3, 4]
        expected = [
            LogBatch("t", 0, 0, 3, 1_000, b"a"),
            LogBatch("t", 0, 3, 1, 1_000, b""),
            LogBatch("t", 0, 4, 5, 1_000, b"\0c" * 40_000),
        ]
        assert self.raw_batches(log, place, "t", 0) == expected
        assert log.read("t", 0, 0) == expected
        assert log.read("t", 1, 0) == [LogBatch("t", 1, 0, 1, 1_000, b"b")]
        assert [log.begin("t", 0), log.end("t", 0), log.end("t", 1)] == [0, 9, 1]

    @capability("batches as given, offsets without gaps")
    def test_a_partition_starts_empty(self, log: EventLog) -> None:
        assert [log.begin("t", 1), log.end("t", 1), log.last("t", 1), log.read("t", 1, 0)] == [0, 0, None, []]
        assert log.append([]) == []

    @capability("appends all or none")
    def test_an_append_with_one_bad_item_stores_nothing(self, log: EventLog, place: Path) -> None:
        log.append([Append("t", 0, b"before")])
        with pytest.raises(NotFound, match='"u"'):
            log.append([Append("t", 0, b"lost"), Append("u", 0, b"lost")])
        with pytest.raises(NotFound, match="partitions 0 to 1"):
            log.append([Append("t", 0, b"lost"), Append("t", 2, b"lost")])
        with pytest.raises(LogError, match="at least 1"):
            log.append([Append("t", 1, b"lost"), Append("t", 0, b"lost", 0)])
        assert [batch.payload for batch in self.raw_batches(log, place, "t", 0)] == [b"before"]
        assert self.raw_batches(log, place, "t", 1) == []
        assert log.append([Append("t", 0, b"after")]) == [1]

    @capability("fenced appends")
    def test_an_append_may_demand_its_offset(self, log: EventLog, place: Path) -> None:
        assert log.append([Append("t", 0, b"a", 3, base=0), Append("t", 0, b"b", base=3)]) == [0, 3]
        for wrong in (0, 3, 5, 10**9):
            with pytest.raises(LogMoved, match=f"t/0 goes on at offset 4, its writer has left it at {wrong}"):
                log.append([Append("t", 1, b"lost"), Append("t", 0, b"lost", base=wrong)])
        with pytest.raises(LogMoved):
            log.append([Append("t", 0, b"lost", 2, base=4), Append("t", 0, b"lost", base=4)])
        assert log.append([Append("t", 1, b"c", base=0), Append("t", 0, b"d", base=4)]) == [0, 4]
        assert [batch.payload for batch in self.raw_batches(log, place, "t", 0)] == [b"a", b"b", b"d"]
        assert [batch.payload for batch in self.raw_batches(log, place, "t", 1)] == [b"c"]

    @capability("arrival never goes back")
    def test_arrival_is_the_clock_and_never_goes_back_within_a_partition(
        self, log: EventLog, clock: UnrulyClock
    ) -> None:
        for now, partition in [(5_000, 0), (2_000, 0), (2_000, 1), (6_000, 0), (-3, 1)]:
            clock.now = now
            log.append([Append("t", partition, b"x")])
        assert [batch.arrival_us for batch in log.read("t", 0, 0)] == [5_000, 5_000, 6_000]
        assert [batch.arrival_us for batch in log.read("t", 1, 0)] == [2_000, 2_000]

    @capability("arrival never goes back")
    def test_arrival_may_lie_before_1970(self, log: EventLog, clock: UnrulyClock) -> None:
        clock.now = -(10**15)
        log.append([Append("t", 0, b"x")])
        assert log.read("t", 0, 0)[0].arrival_us == -(10**15)

    @capability("bounded reads from any offset")
    def test_reading_starts_with_the_batch_that_holds_the_offset(self, log: EventLog) -> None:
        log.append([Append("t", 0, b"%d" % number, 4) for number in range(5)])
        bases = {offset: [batch.base for batch in log.read("t", 0, offset)] for offset in (0, 3, 4, 18, 19, 20, 99)}
        whole = [0, 4, 8, 12, 16]
        assert bases == {0: whole, 3: whole, 4: whole[1:], 18: [16], 19: [16], 20: [], 99: []}

    @capability("bounded reads from any offset")
    def test_reading_stops_after_max_records_but_gives_one_batch_at_least(self, log: EventLog) -> None:
        log.append([Append("t", 0, b"x", 4) for _ in range(5)])
        assert [len(log.read("t", 0, 4, limit)) for limit in (0, 1, 4, 5, 8, 100)] == [1, 1, 1, 2, 2, 4]

    @capability("batches as given, offsets without gaps")
    def test_what_does_not_exist_is_named(self, log: EventLog) -> None:
        with pytest.raises(NotFound, match='no topic "tt"; near names: t'):
            log.read("tt", 0, 0)
        for refused in (
            lambda: log.read("t", 2, 0),
            lambda: log.read("t", -1, 0),
            lambda: log.begin("u", 0),
            lambda: log.end("u", 0),
            lambda: log.last("u", 0),
            lambda: log.trim("u", 0, 1),
            lambda: log.commit("g", "u", 0, 1),
        ):
            with pytest.raises(NotFound):
                refused()
        with pytest.raises(LogError, match="-1"):
            log.read("t", 0, -1)

    @capability("batches as given, offsets without gaps")
    def test_creating_a_topic_again_changes_nothing(self, log: EventLog) -> None:
        log.append([Append("t", 1, b"x")])
        log.create("t", 2)
        assert log.end("t", 1) == 1
        with pytest.raises(LogError, match="exists with 2 partitions, not 3"):
            log.create("t", 3)
        assert log.topics() == {"t": 2}

    @capability("topics of any name")
    def test_topic_names_may_be_almost_anything(self, log: EventLog) -> None:
        names = ["a/b", "a/b/0", "ß 漢", "headrace", "x" * 128]
        for number, name in enumerate(names):
            log.create(name)
            log.append([Append(name, 0, b"%d" % number)])
        assert log.topics() == {"t": 2, **dict.fromkeys(names, 1)}
        assert [log.read(name, 0, 0)[0].payload for name in names] == [b"0", b"1", b"2", b"3", b"4"]
        for name, partitions in [("", 1), ("a\0b", 1), ("x" * 129, 1), ("none", 0)]:
            with pytest.raises(LogError):
                log.create(name, partitions)

    @capability("batches as given, offsets without gaps")
    def test_the_last_batch(self, log: EventLog) -> None:
        log.append([Append("t", 0, b"a", 7), Append("t", 0, b"b", 2)])
        assert log.last("t", 0) == LogBatch("t", 0, 7, 2, 1_000, b"b")

    @capability("positions of consumer groups")
    def test_committed_offsets_are_kept_per_group_and_never_go_back(self, log: EventLog) -> None:
        assert log.committed("g", "t", 0) == 0
        for offset in (5, 3, 8, 0):
            log.commit("g", "t", 0, offset)
        log.commit("g", "t", 1, 2)
        log.commit("h", "t", 0, 0)
        assert [log.committed("g", "t", 0), log.committed("g", "t", 1), log.committed("h", "t", 1)] == [8, 2, 0]
        assert log.groups() == {("g", "t", 0): 8, ("g", "t", 1): 2, ("h", "t", 0): 0}
        with pytest.raises(LogError):
            log.commit("g", "t", 0, -1)
        with pytest.raises(LogError):
            log.commit("", "t", 0, 1)

    @capability("retention")
    def test_trimming_drops_whole_batches_only(self, log: EventLog, place: Path) -> None:
        log.append([Append("t", 0, b"%d" % number, 4) for number in range(5)])
        assert log.trim("t", 0, 3) == 0
        assert log.trim("t", 0, 11) == 8
        assert [batch.base for batch in self.raw_batches(log, place, "t", 0)] == [8, 12, 16]
        assert [log.begin("t", 0), log.end("t", 0)] == [8, 20]
        assert [batch.base for batch in log.read("t", 0, 9)] == [8, 12, 16]
        with pytest.raises(LogError, match="begins at 8"):
            log.read("t", 0, 7)
        assert log.trim("t", 0, 2) == 8

    @capability("retention")
    def test_offsets_and_arrivals_go_on_after_everything_was_trimmed(self, log: EventLog, clock: UnrulyClock) -> None:
        log.append([Append("t", 0, b"x", 4)])
        assert log.trim("t", 0, 1_000) == 4
        assert [log.begin("t", 0), log.end("t", 0), log.last("t", 0), log.read("t", 0, 4)] == [4, 4, None, []]
        with pytest.raises(LogError, match="begins at 4"):
            log.read("t", 0, 3)
        clock.now = 1
        assert log.append([Append("t", 0, b"y")]) == [4]
        assert log.read("t", 0, 4) == [LogBatch("t", 0, 4, 1, 1_000, b"y")]
        assert log.trim("t", 0, 5) == 5

    @capability("batches rewritten in place (erasure)")
    def test_a_rewritten_batch_keeps_its_place_and_arrival(
        self, log: EventLog, place: Path, clock: UnrulyClock
    ) -> None:
        for number in range(6):
            clock.now = 1_000 + number
            log.append([Append("t", part, b"batch %d of %d" % (number, part), 3) for part in range(2)])
        log.trim("t", 0, 3)
        if not log.editable:
            with pytest.raises(LogError, match="cannot be edited"):
                log.rewrite("t", 0, lambda batch: b"")
            return
        before = [self.raw_batches(log, place, "t", part) for part in range(2)]
        asked = []

        def change(batch: LogBatch) -> bytes | None:
            asked.append(batch)
            return b"longer " * 2_000 if batch.base == 6 else b"" if batch.base == 9 else None

        assert log.rewrite("t", 0, change) == 2
        assert asked == before[0]
        new = {6: b"longer " * 2_000, 9: b""}
        expected = [
            LogBatch(b.topic, b.partition, b.base, b.count, b.arrival_us, new.get(b.base, b.payload)) for b in before[0]
        ]
        assert self.raw_batches(log, place, "t", 0) == expected == log.read("t", 0, 3, 1_000)
        assert self.raw_batches(log, place, "t", 1) == before[1]
        log.wipe()
        assert log.read("t", 0, 3, 1_000) == expected
        assert log.append([Append("t", 0, b"on")]) == [18]

    @capability("threads")
    def test_threads_append_and_read_at_once(self, log: EventLog, place: Path) -> None:
        failures: list[BaseException] = []

        def work(writer: int) -> None:
            try:
                for number in range(100):
                    log.append([Append("t", 0, b"%d:%d" % (writer, number), 2)])
                    base = log.end("t", 0) - 2
                    assert log.read("t", 0, base)[0].base == base
                    log.commit("g", "t", 0, base)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(writer,), daemon=True) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        _assert_numbered(self.raw_batches(log, place, "t", 0), writers=4, batches_each=100)

    @capability("threads")
    def test_a_closed_log_refuses(self, log: EventLog) -> None:
        log.close()
        for refused in (log.topics, lambda: log.append([Append("t", 0, b"x")]), lambda: log.read("t", 0, 0)):
            with pytest.raises(LogError, match="closed"):
                refused()
        log.close()


class DurableEventLogTests(EventLogTests):
    """What a log does that outlives its process and is shared. Override `opener` and `raw_damage` too."""

    @abstractmethod
    def opener(self, place: Path) -> Callable[[], EventLog]:
        """Something that can be pickled and opens the log at `place` in another process."""

    @abstractmethod
    def raw_damage(self, place: Path, payload: bytes) -> None:
        """Change some bytes of a stored payload behind the adapter's back."""

    @capability("everything is there after reopening")
    def test_everything_is_there_after_reopening(self, log: EventLog, place: Path, clock: UnrulyClock) -> None:
        log.append([Append("t", 0, b"a", 3), Append("t", 1, b"b")])
        log.commit("g", "t", 0, 2)
        log.append([Append("t", 1, b"c")])
        log.trim("t", 1, 2)
        log.sync()
        log.close()
        clock.now = 1
        log = self.open(place, clock)
        assert [log.topics(), log.groups()] == [{"t": 2}, {("g", "t", 0): 2}]
        assert log.read("t", 0, 0) == [LogBatch("t", 0, 0, 3, 1_000, b"a")]
        assert log.append([Append("t", 0, b"d"), Append("t", 1, b"e")]) == [3, 2]
        assert log.read("t", 1, 2) == [LogBatch("t", 1, 2, 1, 1_000, b"e")]
        log.close()

    @capability("several processes write and read")
    def test_one_process_may_open_it_twice(self, log: EventLog, place: Path, clock: UnrulyClock) -> None:
        other = self.open(place, clock)
        assert other.topics() == {"t": 2}
        assert [log.append([Append("t", 0, b"a", 2)]), other.append([Append("t", 0, b"b")])] == [[0], [2]]
        assert log.append([Append("t", 0, b"c")]) == [3]
        other.create("u")
        assert log.append([Append("u", 0, b"x")]) == [0]
        other.close()
        assert [batch.payload for batch in log.read("t", 0, 0)] == [b"a", b"b", b"c"]

    @capability("fenced appends")
    def test_of_two_writers_that_demand_the_same_offset_one_is_told(
        self, log: EventLog, place: Path, clock: UnrulyClock
    ) -> None:
        other = self.open(place, clock)
        for number in range(4):
            first, second = (log, other) if number % 2 else (other, log)
            assert first.append([Append("t", 0, b"%d" % number, base=number)]) == [number]
            with pytest.raises(LogMoved):
                second.append([Append("t", 0, b"lost", base=number), Append("t", 1, b"lost")])
        other.close()
        assert [batch.payload for batch in self.raw_batches(log, place, "t", 0)] == [b"0", b"1", b"2", b"3"]
        assert self.raw_batches(log, place, "t", 1) == []

    @capability("fenced appends")
    def test_a_demand_is_measured_by_where_the_log_ends_now(
        self, log: EventLog, place: Path, clock: UnrulyClock
    ) -> None:
        other = self.open(place, clock)
        for number, writer in enumerate((log, log, other, log, other, other, log)):
            assert writer.append([Append("t", 0, b"%d" % number, base=number)]) == [number]
        other.close()

    @capability("a damaged batch is told")
    def test_a_damaged_batch_is_reported_and_never_returned(self, log: EventLog, place: Path) -> None:
        for payload, count in ((b"whole", 1), (b"to be damaged" * 30, 2), (b"next", 1)):
            log.append([Append("t", 0, payload, count)])  # each by itself: a checksum may be that of a whole append
        log.sync()
        self.raw_damage(place, b"to be damaged" * 30)
        with pytest.raises(LogError, match="offset 1 of t/0 is damaged"):
            log.read("t", 0, 0)
        assert log.read("t", 0, 0, max_records=1)[0].payload == b"whole"
        assert log.read("t", 0, 3)[0].payload == b"next"

    @capability("several processes write and read")
    def test_a_topic_of_another_process_is_found(self, log: EventLog, place: Path) -> None:
        with pytest.raises(NotFound):
            log.read("elsewhere", 1, 0)
        with started(create_and_append, self.opener(place), "elsewhere", b"hello") as (process, pipe):
            pipe.recv_bytes()
            assert log.topics()["elsewhere"] == 2
            assert log.read("elsewhere", 1, 0)[0].payload == b"hello"
            assert log.append([Append("elsewhere", 1, b"back")]) == [1]
            finished(process)

    @capability("several processes write and read")
    def test_two_processes_write_while_a_third_writes_and_tails(self, log: EventLog, place: Path) -> None:
        seen: list[LogBatch] = []
        with (
            started(append_numbered, self.opener(place), "t", 0, 150) as (first, _),
            started(append_numbered, self.opener(place), "t", 1, 150) as (second, _),
        ):
            for number in range(150):
                log.append([Append("t", 0, b"2:%d" % number, 1 + number % 3)])
                seen += log.read("t", 0, seen[-1].end if seen else 0, max_records=10)
            while first.is_alive() or second.is_alive():
                seen += log.read("t", 0, seen[-1].end if seen else 0, max_records=10)
            finished(first)
            finished(second)
        seen += log.read("t", 0, seen[-1].end)
        _assert_numbered(seen, writers=3, batches_each=150)
        assert self.raw_batches(log, place, "t", 0) == seen

    @capability("kill -9 of a writer")
    def test_a_killed_writer_leaves_a_log_without_gaps(self, log: EventLog, place: Path, clock: UnrulyClock) -> None:
        log.create("u")
        for reports in (1, 40, 7):
            reported = killed_after(append_pairs, self.opener(place), "t", "u", reports=reports)
            pairs, singles = self.raw_batches(log, place, "t", 0), self.raw_batches(log, place, "u", 0)
            assert len(pairs) == len(singles) > reported
            assert [batch.base for batch in pairs] == [3 * number for number in range(len(pairs))]
            assert [int.from_bytes(batch.payload[:8], "big") for batch in pairs] == list(range(len(pairs)))
            assert [batch.payload for batch in pairs] == [batch.payload for batch in singles]
            # Only who opens the log is sure to see what a dead writer has stored and told nobody.
            with closing(self.open(place, clock)) as again:
                assert again.read("t", 0, 0, max_records=10**9) == pairs
        end = log.end("t", 0)
        assert log.append([Append("t", 0, b"after")]) == [end]


def _assert_numbered(batches: list[LogBatch], *, writers: int, batches_each: int) -> None:
    """No gap in the offsets, and each writer's batches complete and in their order."""
    end = 0
    for batch in batches:
        assert batch.base == end
        end = batch.end
    payloads = [batch.payload.split(b":") for batch in batches]
    for writer in range(writers):
        assert [int(n) for w, n in payloads if int(w) == writer] == list(range(batches_each))
