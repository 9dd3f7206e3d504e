"""Conformance kit of the OnlineStore port: derive a test class per adapter, say how to open it and look behind it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from headrace.core.errors import StoreError
from headrace.core.keys import JoinedKeys
from headrace.stores.online.base import OnlineStore
from headrace.testing.capabilities import capability
from headrace.testing.processes import RECORDS, killed_after, started, write_generations

_KEYS = [b"%d" % key for key in range(RECORDS)]


def _fetched(store: OnlineStore, keys: Sequence[bytes]) -> tuple[list[bytes | None], bytes]:
    """What is fetched, as `read` gives it."""
    found = store.fetch(JoinedKeys.of(keys))
    assert len(found.begins) == len(keys) + 1
    assert len(found.sizes) == len(keys)
    assert found.begins[-1] == -1
    assert len(found.words) >= 1
    return [found.record(key) for key in range(len(keys))], found.position


class OnlineStoreTests(ABC):
    """What every online store does. Override `open` and `raw_records`."""

    port = "OnlineStore"

    @abstractmethod
    def open(self, place: Path) -> OnlineStore:
        """Open the store that lies at `place`, an absent folder at first."""

    @abstractmethod
    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        """All stored records, read without the methods of the adapter, without what holds the position."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """Where the store lies."""
        return tmp_path / "online"

    @pytest.fixture
    def store(self, place: Path) -> Iterator[OnlineStore]:
        """The open store, empty."""
        store = self.open(place)
        yield store
        store.close()

    @capability("records and position in one write")
    def test_an_empty_store_has_nothing(self, store: OnlineStore) -> None:
        assert store.read([b"a", b"b"]) == _fetched(store, [b"a", b"b"]) == ([None, None], b"")
        assert [store.position(), store.count(), list(store.scan())] == [b"", 0, []]

    @capability("records and position in one write")
    def test_records_come_back_in_the_order_of_the_keys_asked(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"b", b"2"), (b"a", b"1"), (b"c", b"")], b"p1")
        assert store.read([b"c", b"x", b"a", b"a"]) == ([b"", None, b"1", b"1"], b"p1")
        assert store.read([]) == ([], b"p1")
        assert _fetched(store, [b"c", b"x", b"a", b"a"]) == ([b"", None, b"1", b"1"], b"p1")
        assert _fetched(store, []) == ([], b"p1")
        assert self.raw_records(store, place) == {b"a": b"1", b"b": b"2", b"c": b""}

    @capability("records and position in one write")
    def test_a_write_replaces_adds_and_deletes_in_one_step(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1"), (b"b", b"2")], b"p1")
        store.write([(b"b", None), (b"c", b"3"), (b"a", b"one"), (b"never", None)], b"p2")
        assert self.raw_records(store, place) == {b"a": b"one", b"c": b"3"}
        assert store.read([b"a", b"b", b"c"]) == ([b"one", None, b"3"], b"p2")
        assert store.count() == 2

    @capability("records and position in one write")
    def test_the_last_of_several_records_of_one_key_wins(self, store: OnlineStore) -> None:
        store.write([(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None)], b"p")
        assert store.read([b"a", b"b"]) == ([b"2", None], b"p")

    @capability("records and position in one write")
    def test_a_write_of_nothing_moves_the_position(self, store: OnlineStore) -> None:
        store.write([(b"a", b"1")], b"p1")
        store.write([], b"p2" * 500)
        assert store.read([b"a"]) == ([b"1"], b"p2" * 500)
        assert store.position() == b"p2" * 500

    @capability("revisions beside the writer")
    def test_a_revision_leaves_the_position_to_its_writer(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1")], b"p1")
        store.revise([b"a", b"b"], lambda records: [(b"a", (records[0] or b"") + b"2"), (b"b", b"3")])
        assert store.position() == b"p1"
        store.write([(b"c", b"4")], b"p2")
        store.revise([b"b"], lambda records: [(b"b", None)])
        assert store.position() == b"p2"
        assert self.raw_records(store, place) == {b"a": b"12", b"c": b"4"}
        with pytest.raises(ZeroDivisionError):
            store.revise([b"a"], lambda records: [(b"a", bytes(1 // 0))])
        assert self.raw_records(store, place) == {b"a": b"12", b"c": b"4"}

    @capability("revisions beside the writer")
    def test_a_revision_of_an_empty_store_leaves_it_without_a_position(self, store: OnlineStore) -> None:
        store.revise([], lambda records: [(b"a", b"1")])
        assert store.read([b"a"]) == ([b"1"], b"")

    @capability("read, change and write as one step")
    def test_an_update_writes_what_the_change_makes_of_the_records(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1"), (b"b", b"2")], b"p1")
        seen: list[list[bytes | None]] = []

        def change(records: list[bytes | None], position: bytes) -> tuple[list[tuple[bytes, bytes | None]], bytes]:
            seen.append(records)
            return [(b"c", b"3"), (b"a", None), (b"b", b"two")], b"p2"

        store.update([b"b", b"c", b"a"], change)
        assert seen == [[b"2", None, b"1"]]
        assert self.raw_records(store, place) == {b"b": b"two", b"c": b"3"}
        assert store.position() == b"p2"

    @capability("read, change and write as one step")
    def test_an_update_is_told_the_position_that_it_stands_on(self, store: OnlineStore) -> None:
        seen: list[bytes] = []

        def change(records: list[bytes | None], position: bytes) -> tuple[dict[bytes, bytes | None], bytes]:
            seen.append(position)
            return {b"a": b"1"}, position + b"+"

        for _ in range(3):
            store.update([b"a"], change)
        assert seen == [b"", b"+", b"++"]

    @capability("read, change and write as one step")
    def test_an_update_writes_no_record_that_it_was_not_given(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1")], b"p1")
        with pytest.raises(StoreError, match="no others"):
            store.update([b"a"], lambda records, position: ([(b"a", b"2"), (b"b", b"2")], b"p2"))
        assert self.raw_records(store, place) == {b"a": b"1"}
        assert store.position() == b"p1"

    @capability("revisions beside the writer")
    def test_revisions_beside_a_writer_undo_nothing_and_are_not_undone(self, store: OnlineStore, place: Path) -> None:
        def more(record: bytes | None) -> bytes:
            return b"%d" % (int(record or b"0") + 1)

        def write() -> None:
            for number in range(60):
                store.update(
                    [b"written", b"both"],
                    lambda records, position, number=number: (  # type: ignore[misc]
                        [(b"written", more(records[0])), (b"both", more(records[1]))],
                        b"%d" % number,
                    ),
                )

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        for _ in range(60):
            store.revise([b"both", b"revised"], lambda found: [(b"both", more(found[0])), (b"revised", more(found[1]))])
        thread.join()
        assert self.raw_records(store, place) == {b"written": b"60", b"revised": b"60", b"both": b"120"}
        assert (store.position(), store.count()) == (b"59", 3)

    @capability("read, change and write as one step")
    def test_an_update_whose_change_fails_writes_nothing(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1")], b"p1")

        def change(records: list[bytes | None], position: bytes) -> tuple[list[tuple[bytes, bytes | None]], bytes]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.update([b"a"], change)
        with pytest.raises(StoreError, match="1 to 500 bytes"):
            store.update([b"a"], lambda records, position: ([(b"a", b"2"), (b"k" * 501, b"x")], b"p2"))
        assert self.raw_records(store, place) == {b"a": b"1"}
        assert store.position() == b"p1"
        store.write([(b"a", b"2")], b"p2")
        assert store.read([b"a"]) == ([b"2"], b"p2")

    @capability("scans of one snapshot")
    def test_scanning_gives_all_records_in_key_order_and_no_position(self, store: OnlineStore) -> None:
        keys = [b"\xff" * 500, b"a", b"\x00", b"a\x00", b"b", b"\xff", b"a" * 500]
        store.write([(key, key[:3]) for key in keys], b"position")
        assert list(store.scan()) == [(key, key[:3]) for key in sorted(keys)]
        assert store.count() == len(keys)

    @capability("scans of one snapshot")
    def test_a_scan_is_of_one_snapshot(self, store: OnlineStore) -> None:
        store.write([(key, b"old") for key in _KEYS], b"p1")
        scan = store.scan()
        seen = [next(scan)]
        store.write([(key, b"new") for key in _KEYS] + [(b"later", b"new")], b"p2")
        seen += scan
        assert seen == [(key, b"old") for key in sorted(_KEYS)]

    @capability("sweeps beside the writer")
    def test_a_sweep_gives_every_record_and_no_position(self, store: OnlineStore) -> None:
        assert list(store.sweep()) == []
        keys = [b"\xff" * 500, b"a", b"\x00", b"a\x00", b"b", b"\xff", b"a" * 500]
        store.write([(key, key[:3]) for key in keys], b"position")
        assert dict(store.sweep()) == {key: key[:3] for key in keys}

    @capability("sweeps beside the writer")
    def test_a_sweep_goes_on_while_the_store_is_written_to(self, store: OnlineStore) -> None:
        store.write([(key, b"old") for key in _KEYS], b"p0")
        sweep, seen = store.sweep(), []
        for number, found in enumerate(sweep, 1):
            seen.append(found)
            store.write([(key, b"new") for key in _KEYS] + [(b"later%d" % number, b"new")], b"p%d" % number)
        assert {key for key, _ in seen} >= set(_KEYS)
        assert {record for _, record in seen} <= {b"old", b"new"}

    @capability("a bad key refuses the whole write")
    def test_a_key_that_does_not_fit_refuses_the_whole_write(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1")], b"p1")
        for key in (b"", b"k" * 501):
            with pytest.raises(StoreError, match="1 to 500 bytes"):
                store.write([(b"a", b"2"), (key, b"x"), (b"b", b"2")], b"p2")
        assert self.raw_records(store, place) == {b"a": b"1"}
        assert store.position() == b"p1"

    @capability("large records")
    def test_records_may_be_large(self, store: OnlineStore) -> None:
        records = [(b"%03d" % size, bytes([size % 251]) * (size * 700)) for size in range(1, 200, 7)]
        store.write(records, b"p")
        assert store.read([key for key, _ in records])[0] == [record for _, record in records]
        assert _fetched(store, [key for key, _ in records])[0] == [record for _, record in records]
        store.write([(key, b"small") for key, _ in records], b"q")
        assert store.read([key for key, _ in records])[0] == [b"small"] * len(records)

    @capability("threads read one snapshot")
    def test_threads_read_one_snapshot_while_another_writes(self, store: OnlineStore) -> None:
        failures: list[object] = []
        done = threading.Event()

        def watch() -> None:
            last, turn = b"", 0
            while not done.is_set():
                turn += 1
                records, position = _fetched(store, _KEYS) if turn % 2 else store.read(_KEYS)
                if position < last or any(record != (position or None) for record in records):
                    failures.append((last, position, records))
                last = position

        threads = [threading.Thread(target=watch, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(300):
            text = number.to_bytes(8, "big")
            store.write([(key, text) for key in _KEYS], text)
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []

    @capability("revisions beside the writer")
    def test_threads_see_a_revision_whole(self, store: OnlineStore) -> None:
        failures: list[object] = []
        done = threading.Event()
        note = b"\xff\xffnote"
        store.write([(key, b"0") for key in (*_KEYS, note)], b"p")

        def watch() -> None:
            while not done.is_set():
                records, position = store.read([*_KEYS, note])
                if len(set(records)) != 1 or position != b"p":
                    failures.append((records, position))

        threads = [threading.Thread(target=watch, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(100):
            text = b"%d" % number
            store.revise(_KEYS, lambda found, text=text: [(key, text) for key in (*_KEYS, note)])  # type: ignore[misc]
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []

    @capability("wiping what was deleted")
    def test_wiping_changes_nothing_that_is_read(self, store: OnlineStore) -> None:
        store.write([(b"%05d" % n, b"record %d " % n * (n % 90)) for n in range(2_000)], b"1")
        store.write([(b"%05d" % n, None if n % 3 else b"new") for n in range(0, 2_000, 2)], b"2")
        held = list(store.scan())
        store.wipe()
        assert list(store.scan()) == held
        assert (store.position(), store.count()) == (b"2", len(held))
        store.write([(b"00001", b"again")], b"3")
        assert store.read([b"00001"]) == ([b"again"], b"3")
        assert isinstance(store.remains(), list)

    @capability("threads read one snapshot")
    def test_a_closed_store_refuses(self, store: OnlineStore) -> None:
        store.close()
        for refused in (
            lambda: store.read([b"a"]),
            lambda: store.fetch(JoinedKeys.of([b"a"])),
            lambda: store.write([], b"p"),
            lambda: store.update([], lambda records, position: ([], b"p")),
            store.position,
            store.count,
            lambda: list(store.scan()),
        ):
            with pytest.raises(StoreError, match="closed"):
                refused()
        store.close()


class DurableOnlineStoreTests(OnlineStoreTests):
    """What a store does that outlives its process and is shared. Override `opener` too."""

    @abstractmethod
    def opener(self, place: Path) -> Callable[[], OnlineStore]:
        """Something that can be pickled and opens the store at `place` in another process."""

    @capability("everything is there after reopening")
    def test_everything_is_there_after_reopening(self, store: OnlineStore, place: Path) -> None:
        store.write([(b"a", b"1"), (b"b", b"2")], b"p1")
        store.sync()
        store.close()
        store = self.open(place)
        assert store.read([b"a", b"b"]) == ([b"1", b"2"], b"p1")
        store.close()

    @capability("several processes read beside the writer")
    def test_one_process_may_open_it_twice(self, store: OnlineStore, place: Path) -> None:
        other = self.open(place)
        store.write([(b"a", b"1")], b"p1")
        assert other.read([b"a"]) == ([b"1"], b"p1")
        other.write([(b"a", b"2")], b"p2")
        other.close()
        assert store.read([b"a"]) == ([b"2"], b"p2")

    @capability("kill -9 of the writer")
    def test_reads_beside_another_process_are_whole_and_a_kill_leaves_them_so(
        self, store: OnlineStore, place: Path
    ) -> None:
        with started(write_generations, self.opener(place)) as (_, pipe):
            pipe.recv_bytes()
            seen = [_whole(*read(_KEYS)) for _ in range(250) for read in (store.read, partial(_fetched, store))]
        assert seen == sorted(seen)
        for reports in (1, 25):
            reported = killed_after(write_generations, self.opener(place), reports=reports)
            again = self.open(place)  # as the next writer does: it must see whatever the killed one has committed
            generation = _whole(*again.read(_KEYS))
            again.close()
            assert generation >= reported
            assert self.raw_records(store, place) == dict(zip(_KEYS, _generation(generation), strict=True))
        store.write([(b"after", b"1")], b"p")
        assert store.count() == RECORDS + 1


def _generation(number: int) -> list[bytes]:
    return [number.to_bytes(8, "big") * (1 + (number * key) % 90) for key in range(RECORDS)]


def _whole(records: list[bytes | None], position: bytes) -> int:
    """The number of the write that records and position are of; fails if they are not all of one."""
    number = int.from_bytes(position, "big")
    assert records == _generation(number)
    return number
