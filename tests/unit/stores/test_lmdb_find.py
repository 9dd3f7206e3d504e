"""Keys looked up side by side in LMDB's pages are found as LMDB finds them, one by one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
import numpy as np
import pytest

from headrace.core.errors import StoreError
from headrace.core.keys import JoinedKeys, NumberKeys
from headrace.core.lmdb_map import FOUND, STALE, UNKNOWN, PageMap
from headrace.core.schema import DType
from headrace.stores.online import lmdb as adapter
from headrace.stores.online.base import OnlineStore
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.lmdb_find import find_records
from headrace.testing.processes import started, write_generations

MAP_SIZE = 1 << 28
SIZES = (0, 1, 7, 8, 9, 100, 560, 2_000, 4_080, 4_081, 30_000)


def some_key(rng: random.Random) -> bytes:
    """Few letters, so that keys share what they begin with; lengths about where words end, and any."""
    length = rng.choice((1, 2, 7, 8, 9, 15, 16, 17, 21, 24, rng.randint(1, 500)))
    return (
        bytes(rng.choices((0, 1, 97, 255), k=length)) if rng.random() < 0.5 else b"same begin " + rng.randbytes(length)
    )


def neighbours(key: bytes) -> list[bytes]:
    """Keys that are nearly this one."""
    last = key[-1]
    near = [key + b"\0", key + key[:3], key[:-1], key[:-1] + bytes([last ^ 1]), bytes([key[0] ^ 0x80]) + key[1:]]
    return [one for one in near if 1 <= len(one) <= 500]


def found_in(pages: PageMap, transaction: int, keys: list[bytes]) -> list[bytes | None]:
    """The records of these keys by the compiled look-up, which has to know the file."""
    joined, sizes = np.frombuffer(b"".join(keys), np.uint8), np.array([len(key) for key in keys], np.int64)
    became, words, begins, lengths = find_records(pages.address, pages.size, transaction, joined, sizes)
    assert became == FOUND
    held = words.tobytes()
    return [
        None if begin < 0 else held[8 * begin : 8 * begin + length]
        for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True)
    ]


@pytest.mark.parametrize("keys_at_once", [3, 1_500])
def test_what_is_found_in_a_snapshot_is_what_lmdb_finds(tmp_path: Path, keys_at_once: int) -> None:
    rng = random.Random(keys_at_once)
    with lmdb.open(str(tmp_path), map_size=MAP_SIZE, sync=False) as env:
        pages = PageMap(tmp_path / "data.mdb", MAP_SIZE)
        snapshots, depths = [], set()
        for _ in range(6):
            with env.begin(write=True) as txn:
                for _ in range(keys_at_once):
                    txn.put(some_key(rng), rng.randbytes(rng.choice(SIZES)))
                gone = [key for key, _ in txn.cursor() if rng.random() < 0.2]
                for key in gone:
                    txn.delete(key)
            snapshots.append(env.begin())
            depths.add(env.stat()["depth"])
        txn = snapshots[-1]
        keys = [key for key, _ in txn.cursor()]
        asked = [one for key in rng.sample(keys, min(len(keys), 1_000)) for one in (key, *neighbours(key))]
        rng.shuffle(asked)
        assert found_in(pages, txn.id(), asked) == [txn.get(key) for key in asked]
        assert found_in(pages, txn.id(), asked[:1]) == [txn.get(asked[0])]
        assert found_in(pages, snapshots[-2].id(), asked) == [snapshots[-2].get(key) for key in asked]
        assert max(depths) == (1 if keys_at_once == 3 else 3), "trees of one page, and with branches above branches"
        number = snapshots[0].id()
        became, *_ = find_records(
            pages.address, pages.size, number, np.frombuffer(b"a", np.uint8), np.ones(1, np.int64)
        )
        assert became == STALE, "its meta page has been written over"
        for txn in snapshots:
            txn.abort()
        pages.close()


def test_an_empty_tree_holds_nothing(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=MAP_SIZE) as env, env.begin() as txn:
        pages = PageMap(tmp_path / "data.mdb", MAP_SIZE)
        assert found_in(pages, txn.id(), [b"a", b"b"]) == [None, None]
        pages.close()


def test_a_damaged_file_is_left_to_lmdb_and_nothing_outside_of_it_is_read(tmp_path: Path) -> None:
    rng = random.Random(5)
    with lmdb.open(str(tmp_path), map_size=MAP_SIZE) as env:
        with env.begin(write=True) as txn:
            records = {b"%06d" % n: rng.randbytes(rng.choice(SIZES)) for n in range(400)}
            for key, record in records.items():
                txn.put(key, record)
        with env.begin() as txn:
            number = txn.id()
    file = np.memmap(tmp_path / "data.mdb", np.uint8, "r+")
    # Whoever reads memory that is mapped beyond the end of the file is killed.
    pages = PageMap(tmp_path / "data.mdb", MAP_SIZE)
    joined, sizes = np.frombuffer(b"".join(records), np.uint8), np.full(len(records), 6, np.int64)
    became = set()
    for _ in range(2_000):
        head = 4096 * rng.randrange(2, len(file) // 4096) + rng.randrange(200)
        at = rng.choice((rng.randrange(16, 160), rng.randrange(4096, 4096 + 160), head))
        span = slice(at, at + rng.choice((1, 2, 8)))
        whole = file[span].copy()
        file[span] = rng.choice((0, 1, 127, 255))
        status, words, begins, lengths = find_records(pages.address, len(file), number, joined, sizes)
        became.add(status)
        assert status != FOUND or (begins + (lengths + 7) // 8 <= len(words)).all()
        file[span] = whole
    assert became == {FOUND, STALE, UNKNOWN}
    assert found_in(pages, number, list(records)) == list(records.values())
    pages.close()


def test_a_key_of_no_bytes_is_left_to_lmdb_which_refuses_it(tmp_path: Path) -> None:
    store = LmdbOnlineStore(tmp_path)
    store.write([(b"a", b"1")], b"p")
    with pytest.raises(StoreError, match="1 to 500 bytes"):
        store.fetch(JoinedKeys.of([b"a", b""]))
    assert store.fetch(JoinedKeys.of([b"k" * 600])).record(0) is store.read([b"k" * 600])[0][0] is None
    store.close()


def test_a_record_that_many_keys_name_is_there_once(tmp_path: Path) -> None:
    store = LmdbOnlineStore(tmp_path)
    records = {b"%d" % n: b"%d" % n * (n % 5) * 8 for n in range(40)}
    store.write(list(records.items()), b"p")
    asked = random.Random(3).choices([*records, b"none"], k=5_000)
    found = store.fetch(JoinedKeys.of(asked))
    assert [found.record(place) for place in range(len(asked))] == [records.get(key) for key in asked]
    assert len(found.words) <= sum(map(len, records.values())) // 8 + 1
    store.close()


def test_what_was_prepared_is_all_that_a_fetch_needs_compiled(tmp_path: Path) -> None:
    store = LmdbOnlineStore(tmp_path)
    store.prepare()
    compiled = list(find_records.signatures)
    store.write([(b"a", b"1")], b"p")
    assert store.fetch(JoinedKeys.of([b"a"])).record(0) == b"1"
    assert store.fetch(NumberKeys([(DType.INT, "")]).of_row([7])).record(0) is None
    assert list(find_records.signatures) == compiled
    assert len(compiled) == 1
    store.close()


def gone(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second map."""
    monkeypatch.setattr("headrace.core.lmdb_env.map_pages", lambda path, size: None)


def small(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that has been outgrown."""
    monkeypatch.setattr("headrace.core.lmdb_env.map_pages", lambda path, size: PageMap(path, 8192))


def late(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that are always faster."""
    none = np.zeros(2, np.int64)
    monkeypatch.setattr(adapter, "_finder", lambda: lambda *given: (STALE, none, none, none))


@pytest.mark.parametrize("spoil", [gone, small, late])
def test_where_pages_cannot_be_read_lmdb_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[OnlineStore, pytest.MonkeyPatch], None]
) -> None:
    store = LmdbOnlineStore(tmp_path)
    store.write([(b"a", b"12345678"), (b"b", b"1")], b"p")
    spoil(store, monkeypatch)
    found = store.fetch(JoinedKeys.of([b"b", b"c", b"a"]))
    assert [found.record(key) for key in (0, 1, 2, -1)] == [b"1", None, b"12345678", None]
    assert (found.begins.tolist(), found.sizes.tolist(), found.position) == ([0, -1, 1, -1], [1, 0, 8], b"p")
    store.close()


def test_a_map_grows_with_the_store_and_outlives_a_fork_and_a_resize(tmp_path: Path) -> None:
    store = LmdbOnlineStore(tmp_path, map_size=1 << 20)
    store.write([(b"a", b"1")], b"1")
    assert store.fetch(JoinedKeys.of([b"a"])).record(0) == b"1"
    if (child := os.fork()) == 0:
        larger = lmdb.open(str(tmp_path), map_size=1 << 24)
        with larger.begin(write=True) as txn:
            txn.put(b"a", b"2" * (1 << 21))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert store.fetch(JoinedKeys.of([b"a"])).record(0) == b"2" * (1 << 21)
    store.close()


def test_fetches_beside_a_writer_in_another_process_are_whole(tmp_path: Path) -> None:
    keys = [b"%d" % key for key in range(20)]
    store = LmdbOnlineStore(tmp_path)
    with started(write_generations, partial(LmdbOnlineStore, tmp_path)) as (_, pipe):
        pipe.recv_bytes()
        last = 0
        for _ in range(500):
            found = store.fetch(JoinedKeys.of(keys))
            number = int.from_bytes(found.position, "big")
            text = number.to_bytes(8, "big")
            assert [found.record(key) for key in range(20)] == [text * (1 + (number * key) % 90) for key in range(20)]
            assert number >= last
            last = number
    store.close()
