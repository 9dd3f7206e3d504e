"""The adapters of the online store against their kit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
import pytest

from headrace.core.errors import StoreError
from headrace.stores.online.base import OnlineStore
from headrace.stores.online.lmdb import LmdbOnlineStore
from headrace.stores.online.memory import MemoryOnlineStore
from headrace.testing.online_store import DurableOnlineStoreTests, OnlineStoreTests


class TestMemoryOnlineStore(OnlineStoreTests):
    def open(self, place: Path) -> OnlineStore:
        return MemoryOnlineStore()

    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        assert isinstance(store, MemoryOnlineStore)
        return dict(store._records or {})


class TestLmdbOnlineStore(DurableOnlineStoreTests):
    def open(self, place: Path) -> OnlineStore:
        return LmdbOnlineStore(place)

    def opener(self, place: Path) -> Callable[[], OnlineStore]:
        return partial(LmdbOnlineStore, place)

    def raw_records(self, store: OnlineStore, place: Path) -> dict[bytes, bytes]:
        copy = place.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        shutil.copyfile(place / "data.mdb", copy / "data.mdb")
        with lmdb.open(str(copy), map_size=1 << 30) as env, env.begin() as txn:
            return {bytes(key): bytes(value) for key, value in txn.cursor() if len(key) <= 500}

    def test_a_readonly_store_reads_what_others_write_and_refuses_to_write(self, place: Path) -> None:
        with pytest.raises(StoreError, match="holds no online store"):
            LmdbOnlineStore(place, readonly=True)
        store = LmdbOnlineStore(place)
        reader = LmdbOnlineStore(place, readonly=True)
        store.write([(b"a", b"1")], b"p")
        assert reader.read([b"a"]) == ([b"1"], b"p")
        with pytest.raises(StoreError, match="without readonly"):
            reader.write([], b"q")
        reader.close()
        assert store.position() == b"p"
        store.close()

    def test_a_full_map_is_reported_with_the_cure_and_stores_nothing(self, place: Path) -> None:
        store = LmdbOnlineStore(place, map_size=1 << 20)
        store.write([(b"a", b"1")], b"p")
        with pytest.raises(StoreError, match="larger map_size"):
            store.write([(b"a", b"2"), *((b"%d" % key, b"x" * 30_000) for key in range(100))], b"q")
        assert store.read([b"a", b"0"]) == ([b"1", None], b"p")
        store.close()

    def test_a_synced_store_keeps_what_it_was_given(self, place: Path) -> None:
        store = LmdbOnlineStore(place, sync=True)
        store.write([(b"a", b"1")], b"p")
        store.close()
        unsynced = LmdbOnlineStore(place)
        assert unsynced.read([b"a"]) == ([b"1"], b"p")
        with pytest.raises(StoreError, match="without sync"):
            LmdbOnlineStore(place, sync=True)
        unsynced.close()
